"""Accuracy by the number of pictures a class: ours, its two halves, each on five draws.

    python -m benchmarks.learning_curve [--data DIR]
    python -m benchmarks.learning_curve --full      full fine-tuning too: hours on a CPU
    python -m benchmarks.learning_curve --full --bf16   and that in bfloat16

5, 10, 20, 50 and 100 pictures a class of characters5 and signdigits, drawn anew five times, a fifth
of them for validation, and the same pictures to test on each time: characters5's own test part, and
80 a class of signdigits, which no draw contains. Untouched defaults but for `train.head`. Full
fine-tuning is tools.baseline's timm-full, of as many epochs as make 900 steps, at least 50 and at
most 300.

Resumable: benchmarks/results/learning-curve.csv is written after each run, and what is in it is not
run again. docs/learning-curve.png is drawn of what is there.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.folders import linked
from benchmarks.machine import RESULTS, ROOT
from config import BATCH
from filing.csv_files import read_csv
from tools.repeat import finished
from utils import command_line, replacing, write_csv

SIZES, DRAWS, TESTED = (5, 10, 20, 50, 100), 5, 80
SETS = {"characters5": "configs/characters5.yaml", "signdigits": "configs/signdigits-50.yaml"}
WAYS = {
    "ours": [],
    "last block": ["train.head=class"],
    "ridge over layers": ["train.head=layers"],
    "full fine-tuning": [],
}
FULL, FULL_STEPS, FULL_EPOCHS = "full fine-tuning", 900, (50, 300)
BARE = ["train.verdict=false", "train.report=false", "train.refit=false"]
WORK, FIELDS = Path("logs") / "learning-curve", ("set", "size", "draw", "way", "accuracy", "kind")
CSV = RESULTS / "learning-curve.csv"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="data", help="holds characters5 and signdigits")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each size (5)")
    parser.add_argument("--full", action="store_true", help="full fine-tuning too")
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="full fine-tuning by bfloat16 autocast: 1.6 times the speed on CPUs with AVX-512 BF16",
    )
    args = parser.parse_args(argv)
    rows = read()
    there = {(row["set"], int(row["size"]), int(row["draw"]), row["way"]) for row in rows}
    ways = WAYS | {FULL: [f"train.bf16={str(args.bf16).lower()}"]}
    for draw, size, name in itertools.product(range(args.draws), SIZES, SETS):
        folder = drawn(Path(args.data) / name, name, size, draw)
        for way, options in ways.items():
            if (name, size, draw, way) in there or (way == FULL and not args.full):
                continue
            rows.append(measure(folder, name, size, draw, way, options))
            print(rows[-1], flush=True)
            write_csv(CSV, rows, FIELDS)
    plot(rows, ROOT / "docs" / "learning-curve.png")
    return 0


def read() -> list[dict[str, Any]]:
    return read_csv(CSV) if CSV.exists() else []


def drawn(source: Path, name: str, size: int, draw: int) -> Path:
    """A folder of links to so many pictures a class, and to those to test on."""
    test = source / "test"

    def some(classes: dict[str, list[Path]]) -> Iterator[tuple[str, Path]]:
        for label, files in classes.items():
            order = np.random.default_rng([0, *label.encode()]).permutation(len(files)).tolist()
            held = [] if test.is_dir() else order[:TESTED]
            rest = order[len(held) :]
            turns = np.random.default_rng([draw + 1, *label.encode()]).permutation(len(rest))
            yield from (("train", files[rest[turn]]) for turn in turns[:size])
            yield from (("test", files[index]) for index in held)
            if test.is_dir():
                yield from (("test", file) for file in sorted((test / label).iterdir()))

    folder = Path("data") / "shots" / f"curve-{name}-{size}-{draw}"
    return linked(source / "train" if test.is_dir() else source, folder, some)


def measure(
    folder: Path, name: str, size: int, draw: int, way: str, options: Sequence[str]
) -> dict[str, Any]:
    run = f"{name}-{size}-{draw}-{way.replace(' ', '-')}"
    places = [f"train.log_path={WORK}", f"train.save_path={WORK / 'weights'}"]
    options = [*options, f"train.base_dir={folder}", f"train.data={WORK / name}"]
    options.append(f"train.run_name={run}")
    if not (WORK / run / "summary.json").exists():
        shutil.rmtree(WORK / run, ignore_errors=True)
        shutil.rmtree(WORK / "weights" / run, ignore_errors=True)
    baseline = "timm-full" if way == FULL else None
    if baseline:
        options.append(f"train.max_epochs={full_epochs(folder)}")
    found = finished(SETS[name], [*options, *places, *BARE], baseline)
    shutil.rmtree(WORK / "weights" / run, ignore_errors=True)
    kind = "bf16" if "train.bf16=true" in options else found.get("head") or ""
    row = (name, size, draw, way, round(found["test_accuracy"], 4), kind)
    return dict(zip(FIELDS, row, strict=True))


def full_epochs(folder: Path) -> int:
    """Those of full fine-tuning: of all pictures to train on a fifth validates."""
    learned = 0.8 * sum(1 for _ in (folder / "train").glob("*/*"))
    fewest, most = FULL_EPOCHS
    return min(most, max(fewest, round(FULL_STEPS * BATCH / learned)))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Means and standard deviations by size, a panel a set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    colours = dict(zip(WAYS, ("#0072B2", "#D55E00", "#009E73", "#666666"), strict=True))
    marks = dict(zip(WAYS, ("o-", "s--", "^:", "d-."), strict=True))
    for axes, name in zip(figure.subplots(1, len(SETS)), SETS, strict=True):
        for way in WAYS:
            points = []
            for size in SIZES:
                mine = (str(size), name, way)
                found = [
                    float(r["accuracy"])
                    for r in rows
                    if (str(r["size"]), r["set"], r["way"]) == mine
                ]
                if found:
                    spread = statistics.stdev(found) if len(found) > 1 else 0.0
                    points.append((size, statistics.fmean(found), spread))
            if points:
                sizes, means, spreads = zip(*points, strict=True)
                # No line over sizes that were not measured.
                mark = marks[way] if sizes == SIZES else marks[way][0]
                label = way if any(spreads) else f"{way} (one draw)"
                axes.errorbar(
                    sizes, means, spreads, fmt=mark, color=colours[way], capsize=3, label=label
                )
        by_size(axes, SIZES, name)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def by_size(axes: Any, sizes: Sequence[int], title: str) -> None:
    """What accuracies by pictures a class stand on."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="pictures a class (a fifth of them validation)", ylabel="test accuracy")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")


if __name__ == "__main__":
    raise SystemExit(command_line(main))
