"""Pictures of the table of results: accuracy by layer, and by pictures a class.

    python -m benchmarks.results --fast --column layers --data DIR
    python -m benchmarks.by_layer

Reads layers.csv of seed 0's runs, which benchmarks.results left, into benchmarks/results/layers.csv
(what a ridge regression on one block alone gets right of the training pictures, each left out).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.learning_curve import by_size
from benchmarks.machine import RESULTS, ROOT
from benchmarks.results import LOGS, ROWS
from utils import command_line, replacing, write_csv

FIELDS = ("row", "block", "left_out_accuracy", "low", "high")
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKS = "os^Dv*"
SIZED = {
    "ours": "ours",
    "block": "last block alone",
    "layers": "ridge over layers alone",
    "timm": "timm, last block (SGD)",
    "logistic": "logistic regression",
}


def main(argv: list[str] | None = None) -> int:
    rows = [found for name in ROWS for found in read(name)]
    write_csv(RESULTS / "layers.csv", rows, FIELDS)
    plot(rows, ROOT / "docs" / "layers.png")
    plot_sizes(results.read(RESULTS / "results.csv"), ROOT / "docs" / "by-size.png")
    return 0


def read(name: str) -> list[dict[str, Any]]:
    path = Path(LOGS) / name / "layers-seed0" / "layers.csv"
    if not path.exists():
        print(f"{path}: not there; run benchmarks.results --fast --column layers first")
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{"row": name, **row} for row in csv.DictReader(file)]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour, mark in zip(ROWS, COLOURS, MARKS, strict=True):
        mine = [row for row in rows if row["row"] == name]
        blocks = [int(row["block"]) for row in mine]
        accuracies = [float(row["left_out_accuracy"]) for row in mine]
        axes.plot(blocks, accuracies, f"{mark}-", ms=4, color=colour, label=name)
    axes.set(xlabel="leaving block", ylabel="accuracy, left out", ylim=(0, 1.02))
    axes.set_xticks(range(1, 12))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title("What one block alone tells of the classes (ViT-S/14)", fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_sizes(cells: results.Cells, path: Path) -> None:
    """signdigits with 5, 20 and 50 pictures a class: means and standard deviations over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes, sizes = figure.subplots(), (5, 20, 50)
    for (column, name), colour, mark in zip(SIZED.items(), COLOURS, MARKS, strict=False):
        found = [cells[f"signdigits-{size}", column] for size in sizes]
        means, spreads = ([float(cell[key]) for cell in found] for key in ("mean", "std"))
        axes.errorbar(sizes, means, spreads, fmt=f"{mark}-", color=colour, capsize=3, label=name)
    by_size(axes, sizes, "signdigits, by photos a class")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
