"""Wrong labels that were planted: how many an audit finds, and what that is worth.

    python -m benchmarks.noise [--data DIR] [--seeds 3]

A share of the labels of all pictures but the test part's is made wrong: drawn uniformly, or, where
`similar` is said, the class that the pictures of a class are most taken for. The audit doubts them
(audit/labels.py); beside it stand the plain margin of the first answers, and cleanlab on those and
on the audit's own. The accuracies are those of a ridge regression over layers, on the test part,
whose labels nobody touched: as planted, without what is flagged, with what is flagged relabelled as
is suggested, and with no label planted. The quick start's weights. Prints a table and writes
benchmarks/results/noise.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audit.features import Seen, look_at
from audit.labels import SUSPECT, doubts, left_out_answers, margin_of
from benchmarks.machine import RESULTS
from certainty.sure import binned_error
from config import ConfigError
from config_file import load_config
from dataset import load_split
from engine.ridge import Basis, fit_ridge
from engine.start import begin, report_data
from tokens.plan import known_files
from utils import UserError, command_line, write_csv

WEIGHTS = "weights/vit-s14.safetensors"
SETS = {  # each with a test part that nothing is chosen on
    "pilots": ["train.test_fraction=0.2"],
    "signdigits": ["train.test_fraction=0.2"],
    "characters5": [],
}
KINDS = (("uniform", 0.05), ("uniform", 0.1), ("uniform", 0.2), ("similar", 0.1))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    rows: list[dict[str, Any]] = []
    for name in args.sets:
        folder = Path("data/pilots") if name == "pilots" else Path(args.data) / name
        seen = looked_at(folder, SETS[name])
        learned = torch.from_numpy(np.flatnonzero(seen.parts != "test"))
        basis, truth = seen.basis(learned), seen.labels[learned]
        for kind, share in KINDS:
            for seed in range(args.seeds):
                planted, bad = plant(basis, truth, len(seen.split.classes), kind, share, seed)
                row = {"set": name, "kind": kind, "share": share, "seed": seed}
                row |= found(basis, seen.features[learned], planted, bad, truth)
                row |= worth(seen, learned, planted, truth, row.pop("doubts"))
                rows.append(row)
        write_csv(RESULTS / "noise.csv", rows)
        for kind, share in KINDS:
            mine = [r for r in rows if (r["set"], r["kind"], r["share"]) == (name, kind, share)]
            print(line(mine), flush=True)
    return 0


def looked_at(folder: Path, more: list[str]) -> Seen:
    """Every picture of a folder, as the quick start's network sees it."""
    words = [f"train.base_dir={folder}", f"train.checkpoint={WEIGHTS}", "vit.dim=224", *more]
    config, _ = load_config("config.yaml", [*words, "train.mode=finetune", "train.head=layers"])
    device = begin(config.train)
    split = load_split(config.train, known=known_files(config.train))
    report_data(split)
    return look_at(config, split, device)


def plant(
    basis: Basis, truth: Tensor, classes: int, kind: str, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The labels (n,) with a share of them made wrong, and which (n,)."""
    generator = np.random.default_rng(1_000 + seed)  # not what the audit itself plants by
    bad = torch.zeros(len(truth), dtype=torch.bool)
    bad[torch.from_numpy(generator.permutation(len(truth))[: round(share * len(truth))])] = True
    labels = truth.clone()
    if kind == "similar":
        answers = left_out_answers(basis, F.one_hot(truth, classes).double(), truth)[0].exp()
        taken_for = torch.stack([answers[truth == c].mean(0) for c in range(classes)])
        labels[bad] = taken_for.fill_diagonal_(-1).argmax(1)[truth[bad]]
    else:
        steps = torch.from_numpy(generator.integers(1, classes, len(truth)))
        labels[bad] = ((truth + steps) % classes)[bad]
    return labels, bad


def found(
    basis: Basis, seen_by: Tensor, labels: Tensor, bad: Tensor, truth: Tensor
) -> dict[str, Any]:
    """How well the planted labels are found, by ours and by others: cleanlab on the answers of one
    ridge regression of the features `seen_by` it (n, P), as a user would, and on our own."""
    from sklearn.metrics import average_precision_score

    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        raise UserError("this benchmark compares with cleanlab: pip install cleanlab") from None
    classes = int(truth.max()) + 1
    started = time.perf_counter()
    ours = doubts(basis, labels, classes)
    seconds = time.perf_counter() - started
    plain = fit_ridge(seen_by, labels, classes).left_out.double().log_softmax(1)
    wrong, y = bad.numpy(), labels.numpy()
    first, last = (x.exp().numpy() for x in (plain, ours.answers.double()))
    orders = {
        "ap": ours.margin.numpy(),
        "ap_plain_margin": margin_of(plain, labels)[0].numpy(),
        "ap_cleanlab": 1 - get_label_quality_scores(y, first, method="normalized_margin"),
        "ap_cleanlab_on_ours": 1 - get_label_quality_scores(y, last, method="normalized_margin"),
    }
    row = {name: float(average_precision_score(wrong, scores)) for name, scores in orders.items()}
    worst = ours.margin.argsort(descending=True)[: int(bad.sum())]
    flagged = ours.wrong >= SUSPECT
    issues = torch.from_numpy(find_label_issues(y, first))
    return row | {
        "precision_at_planted": bad[worst].double().mean().item(),
        "precision": share_of(bad, flagged),
        "recall": share_of(flagged, bad),
        "precision_cleanlab": share_of(bad, issues),
        "recall_cleanlab": share_of(issues, bad),
        "estimated": ours.wrong.double().mean().item(),
        "calibration_error": binned_error(ours.wrong.double(), bad),
        "suggestion_right": (ours.suggested == truth)[bad & flagged].double().mean().item(),
        "seconds": round(seconds, 2),
        "doubts": ours,
    }


def share_of(wanted: Tensor, among: Tensor) -> float:
    return (wanted & among).sum().item() / max(1, int(among.sum()))


def worth(
    seen: Seen, learned: Tensor, labels: Tensor, truth: Tensor, ours: Any
) -> dict[str, float]:
    """Accuracies on the test part, by what was learned."""
    features, test = seen.features[learned], torch.from_numpy(seen.parts == "test")
    asked, answers = seen.features[test], seen.labels[test]
    flagged = ours.wrong >= SUSPECT
    ways = {
        "as_planted": (features, labels),
        "left_out": (features[~flagged], labels[~flagged]),
        "relabelled": (features, torch.where(flagged, ours.suggested, labels)),
        "never_planted": (features, truth),
    }
    classes = int(truth.max()) + 1
    return {
        name: (fit_ridge(x, y, classes)(asked).argmax(1) == answers).double().mean().item()
        for name, (x, y) in ways.items()
    }


def line(rows: list[dict[str, Any]]) -> str:
    """One line of the table: means over the seeds."""
    mean = {
        key: statistics.fmean(row[key] for row in rows)
        for key, value in rows[0].items()
        if isinstance(value, float)
    }
    first = rows[0]
    return (
        f"{first['set']:<12}{first['kind']} {first['share']:.2f}: average precision "
        f"{mean['ap']:.3f} (plain {mean['ap_plain_margin']:.3f}, cleanlab "
        f"{mean['ap_cleanlab']:.3f}); flagged: precision {mean['precision']:.3f}, recall "
        f"{mean['recall']:.3f} (cleanlab {mean['precision_cleanlab']:.3f}, "
        f"{mean['recall_cleanlab']:.3f}); test accuracy {mean['as_planted']:.3f} -> left out "
        f"{mean['left_out']:.3f}, relabelled {mean['relabelled']:.3f}, never planted "
        f"{mean['never_planted']:.3f}"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="data", help="the folder of the sets of photos")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
