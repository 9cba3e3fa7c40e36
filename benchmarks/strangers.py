"""Whether a network knows what it has not learned, and is as sure as it is right.

    python -m benchmarks.strangers [--data DIR]

Strangers: trained on one set of pictures, asked about another's, held-out pictures of its own
beside them: the area under the ROC curve of `unlike`, and the share of the strangers, and of its
own, that are flagged from 0.95 (the default) and from 0.99 on. Near strangers: trained on four of
characters5's classes, asked about the fifth, each in turn. Calibration: the error of the answers
before and after the temperature of a class head (`train.head=class`; a head over layers, and the
mean of both, have theirs by their fit), five seeds of three sets, on pictures without a part in it.

Untouched defaults but for the verdict, the report and the training on all pictures. Resumable:
benchmarks/results/strangers.csv and calibration.csv are written after each run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.folders import few_shots
from benchmarks.machine import RESULTS
from classifier import Answer, Classifier
from config_file import load_config
from filing.csv_files import read_csv
from layout.tree import read_tree
from tools.repeat import finished
from utils import command_line, write_csv

MOST = 400  # pictures of a set that are asked
WORK = Path("logs") / "strangers"
BARE = ["train.verdict=false", "train.report=false", "train.refit=false"]
CONFIGS = {
    "characters5": "configs/characters5.yaml",
    "hymenoptera": "configs/hymenoptera.yaml",
    "signdigits": "configs/signdigits-50.yaml",
    "pilots": "configs/quickstart.yaml",
}
SEEDS = 5
FALSE_ALARMS = 0.05
STRANGERS_CSV, CALIBRATION_CSV = RESULTS / "strangers.csv", RESULTS / "calibration.csv"
NEAR = "near: four classes of characters5"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strangers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="data", help="holds the sets of pictures (data)")
    parser.add_argument("--pilots", default="data/pilots", help="the drawn pilots (data/pilots)")
    args = parser.parse_args(argv)
    sets = {name: Path(args.data) / name for name in CONFIGS} | {"pilots": Path(args.pilots)}
    few_shots(sets["signdigits"], WORK.parent / "signdigits-50", 50, 0)
    known = sets | {"signdigits": WORK.parent / "signdigits-50"}
    strangers(known, sets)
    near(sets["characters5"])
    calibrate(known, sets)
    print(told())
    return 0


def strangers(known: dict[str, Path], sets: dict[str, Path]) -> None:
    """A row of strangers.csv for each set that is trained on and each other that is asked."""
    rows = read(STRANGERS_CSV)
    there = {(row["known"], row["strangers"]) for row in rows}
    for name in ("characters5", "hymenoptera", "pilots"):
        others = [other for other in sets if other != name and (name, other) not in there]
        if not others:
            continue
        trained(name, known[name], "0")
        own = asked(name, held_out(name))
        for other in others:
            rows.append(row_of(name, other, own, asked(name, some(sets[other], MOST))))
            write_csv(STRANGERS_CSV, rows)


def near(root: Path) -> None:
    """Rows for each class of a set: trained on the others, asked about it."""
    rows = read(STRANGERS_CSV)
    there = {row["strangers"] for row in rows if row["known"] == NEAR}
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    for left in classes:
        if left in there:
            continue
        rest = ",".join(name for name in classes if name != left)
        run = trained("characters5", root, f"without-{left}", f"train.classes=[{rest}]")
        rows.append(
            row_of(NEAR, left, asked(run, held_out(run)), asked(run, some(root / "test" / left)))
        )
        write_csv(STRANGERS_CSV, rows)


def calibrate(known: dict[str, Path], sets: dict[str, Path]) -> None:
    """Rows of calibration.csv: the error before and after, by set and seed."""
    rows = read(CALIBRATION_CSV)
    there = {(row["set"], int(row["seed"])) for row in rows}
    for name in ("characters5", "hymenoptera", "signdigits"):
        for seed in range(SEEDS):
            if (name, seed) in there:
                continue
            folder = known[name]
            if name == "signdigits":
                folder = few_shots(sets[name], WORK.parent / f"signdigits-50-{seed}", 50, seed)
            more = (f"train.seed={seed}", "train.head=class")
            found = summary(name, folder, f"class-{seed}", *more)
            part = "test" if found["test_accuracy"] is not None else "val"
            sure = found["certainty"]
            row = {"set": name, "seed": seed, "part": part, "temperature": sure["temperature"]}
            row["before"] = sure[f"{part}_calibration_error"]
            row["after"] = sure[f"{part}_calibration_error_calibrated"]
            rows.append(row | {"accuracy": found[f"{part}_accuracy"]})
            write_csv(CALIBRATION_CSV, rows)


def summary(name: str, folder: Path, run: str, *more: str) -> dict[str, Any]:
    options = [f"train.base_dir={folder}", f"train.data={WORK}", f"train.run_name={name}-{run}"]
    options += [f"train.log_path={WORK}", f"train.save_path={WORK / 'weights'}", *BARE, *more]
    return finished(CONFIGS[name], options)


def trained(name: str, folder: Path, run: str, *more: str) -> str:
    summary(name, folder, run, *more)
    return f"{name}-{run}"


def held_out(run: str) -> list[Path]:
    """The pictures of a run that it neither learned nor knows distances of: its test part, or, of
    a run without one, its validation part, whose distances are the known ones."""
    name = run if (WORK / run).is_dir() else f"{run}-0"
    rows = read_csv(WORK / name / "predictions.csv")
    parts = {row["part"] for row in rows}
    part = "test" if "test" in parts else "val"
    root = Path(load_config(WORK / name / "config.yaml")[0].train.base_dir)
    return [root / row["path"] for row in rows if row["part"] == part][:MOST]


def some(folder: Path, most: int = MOST) -> list[Path]:
    """Pictures below a folder, evenly spread."""
    found = sorted(read_tree(folder).every_picture())
    if len(found) <= most:
        return found
    return [found[(2 * i + 1) * len(found) // (2 * most)] for i in range(most)]


def asked(run: str, pictures: Iterable[Path]) -> list[float]:
    name = run if (WORK / "weights" / run).is_dir() else f"{run}-0"
    classifier = Classifier(WORK / "weights" / name)
    likeness = classifier.certainty and classifier.certainty.likeness
    assert likeness is not None
    found = []
    for _, answer in classifier.stream(pictures):
        assert isinstance(answer, Answer) and answer.unlike is not None
        found.append(answer.unlike)
    return found


def row_of(known: str, strangers: str, own: list[float], others: list[float]) -> dict[str, Any]:
    alarms = 1 - FALSE_ALARMS
    return {
        "known": known,
        "strangers": strangers,
        "own_pictures": len(own),
        "strange_pictures": len(others),
        "auroc": round(auroc(own, others), 4),
        "flagged_at_0.95": share(others, alarms),
        "own_flagged_at_0.95": share(own, alarms),
        "flagged_at_0.99": share(others, 0.99),
        "own_flagged_at_0.99": share(own, 0.99),
    }


def share(unlike: list[float], threshold: float) -> float:
    return round(float(np.mean(np.array(unlike) >= threshold)), 4)


def auroc(known: list[float], strange: list[float]) -> float:
    """How likely a strange picture's value is above a known one's; ties count half."""
    a, b = np.array(known), np.array(strange)
    above = (b[:, None] > a).mean() + (b[:, None] == a).mean() / 2
    return float(above)


def read(path: Path) -> list[dict[str, Any]]:
    return read_csv(path) if path.exists() else []


def told() -> str:
    """Both tables as text."""
    lines = []
    for row in read(STRANGERS_CSV):
        lines.append(
            f"{row['known']:<36}{row['strangers']:<14}AUROC {float(row['auroc']):.3f}, flagged "
            f"{float(row['flagged_at_0.95']):.3f} (own {float(row['own_flagged_at_0.95']):.3f})"
        )
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in read(CALIBRATION_CSV):
        by_set.setdefault(row["set"], []).append(row)
    for name, rows in by_set.items():
        said = []
        for when in ("before", "after"):
            values = [float(row[when]) for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            said.append(f"{when} {statistics.fmean(values):.4f} ± {spread:.4f}")
        lines.append(f"{name}: calibration error {', '.join(said)} ({len(rows)} seeds)")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
