"""What `class_weights` and `balanced_sampler` do for a set with a 20:1 imbalance.

    python -m benchmarks.imbalance [--data DIR] [--seeds 3]

Ten classes of signdigits with 100, 72, 51 ... 5 photos to train on (a geometric row from 20:1 to
1:1), and 80 others of each class to test on. Which class is how rare is drawn by the seed. A class
head alone, three times; the head over layers; and finetune mode's defaults (`auto`), twice. All
share a seed's token cache, and a finished run is not run again. Prints a table and writes
benchmarks/results/imbalance.csv: balanced accuracy is the mean of the classes' recalls, which on a
test part of equal classes is the accuracy as well; `rarest` is the mean recall of the three rarest.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.folders import linked
from benchmarks.machine import RESULTS
from tools.repeat import finished
from utils import command_line, write_csv

MOST, LEAST, TESTED = 100, 5, 80
BLOCK = "train.head=class"
WAYS = {
    "none": [BLOCK],
    "class_weights": [BLOCK, "train.class_weights=balanced"],
    "balanced_sampler": [BLOCK, "train.balanced_sampler=true"],
    "layers": ["train.head=layers"],
    "auto": [],
    "auto-class_weights": ["train.class_weights=balanced"],
}
PLACES = {"log_path": "logs", "save_path": "weights", "data": "data"}
CONFIG, WORK = "configs/signdigits-50.yaml", Path("logs") / "imbalance"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        folder = draw(
            Path(args.data) / "signdigits", Path("data/shots") / f"imbalance-{seed}", seed
        )
        for way, overrides in WAYS.items():
            rows.append({"way": way, "seed": seed, **measure(folder, way, overrides, seed)})
            print(rows[-1], flush=True)
    write_csv(RESULTS / "imbalance.csv", rows)
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        means = {k: statistics.fmean(r[k] for r in mine) for k in ("balanced", "rarest")}
        print(f"{way:<20}balanced accuracy {means['balanced']:.3f}, rarest {means['rarest']:.3f}")
    return 0


def sizes(classes: int) -> list[int]:
    """How many photos each class has to train on, the most first."""
    return [round(n) for n in np.geomspace(MOST, LEAST, classes)]


def draw(source: Path, target: Path, seed: int) -> Path:
    """A folder of links, train/ unequal and test/ equal."""
    random = np.random.default_rng(seed)

    def unequal(classes: dict[str, list[Path]]) -> Iterator[tuple[str, Path]]:
        names = random.permutation(sorted(classes)).tolist()
        for name, n in zip(names, sizes(len(names)), strict=True):
            order = random.permutation(len(classes[name]))
            for i, index in enumerate(order[: n + TESTED]):
                yield "train" if i < n else "test", classes[name][index]

    return linked(source, target, unequal)


def measure(folder: Path, way: str, overrides: list[str], seed: int) -> dict[str, float]:
    """A run, and the recalls of its classes on the test part."""
    name = f"{way}-seed{seed}"
    places = [f"train.{key}={WORK / value}" for key, value in PLACES.items()]
    options = [f"train.base_dir={folder}", f"train.seed={seed}", f"train.run_name={name}"]
    finished(
        CONFIG,
        [*options, *places, "train.verdict=false", "train.report=false", "train.refit=false"]
        + overrides,
        None,
    )
    shutil.rmtree(WORK / "weights" / name, ignore_errors=True)
    found = recalls(WORK / "logs" / name / "predictions.csv")
    rare = sorted(found, key=lambda c: len(list((folder / "train" / c).iterdir())))[:3]
    return {
        "balanced": round(statistics.fmean(found.values()), 4),
        "rarest": round(statistics.fmean(found[c] for c in rare), 4),
    }


def recalls(predictions: Path) -> dict[str, float]:
    """The share of each class's test photos that the run's network gets right."""
    hits: dict[str, list[bool]] = {}
    with open(predictions, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["part"] == "test":
                hits.setdefault(row["label"], []).append(row["label"] == row["predicted"])
    return {name: statistics.fmean(right) for name, right in hits.items()}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imbalance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="data", help="holds signdigits")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
