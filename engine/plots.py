"""The pictures of a run: curves, the grid of a search, and what TensorBoard shows."""

from __future__ import annotations

import contextlib
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from decoding.greys import Greys
from drawing import drawn, legible, style
from images import read_image
from metrics import shares
from utils import replacing

LEAST_LOSS = 1e-6  # of search.csv's digits
PALE = 0.35  # of what was tried for less


@drawn("curves.png")
def plot_curves(
    rows: list[dict[str, Any]], best_epoch: int | None, path: Path, kept: str = "kept: the best"
) -> None:
    """Draw the losses, the accuracies and the learning rate by epoch into a PNG; `kept` says what
    the epoch is that is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = (
        ("Loss", {"train_loss": "training", "val_loss": "validation"}),
        ("Accuracy", {"train_accuracy": "training", "val_accuracy": "validation"}),
        ("Learning rate", {"lr": "learning rate"}),
    )
    # Okabe and Ito's palette, which colour-blind readers can tell apart.
    colours = ("#0072B2", "#D55E00")
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for colour, (column, label) in zip(colours, lines.items(), strict=False):
            points = [(r["epoch"], r[column]) for r in rows if r.get(column) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=label)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="#777777", ls=":", lw=1, label=f"{kept} ({best_epoch})")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


@drawn("search.png")
def plot_search(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the grid of a search (search.csv's rows) into a PNG: a row for each trained part,
    optimiser and weight decay, a column a learning rate, the scores of the last round that it took
    part in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    def side(row: dict[str, Any]) -> tuple[str, str, float]:
        return row["part"], row["optim"], row["weight_decay"]

    last = {(side(r), r["lr"]): r for r in rows}  # later rounds come later
    sides = list(dict.fromkeys(side for side, _ in last))
    rates = sorted({lr for _, lr in last})
    most = max(r["steps"] for r in rows)
    grid = np.full((len(sides), len(rates)), np.nan)
    finals = np.zeros(grid.shape, dtype=bool)
    for (where, lr), row in last.items():
        cell = sides.index(where), rates.index(lr)
        grid[cell], finals[cell] = row["loss"], row["steps"] == most
    figure = Figure(figsize=(2.6 + 0.85 * len(rates), 1.9 + 0.6 * len(sides)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    grid = np.maximum(grid, LEAST_LOSS)  # where all is right and sure, it is 0
    known = grid[np.isfinite(grid)]
    least, most_loss = (known.min(), known.max()) if known.size else (1.0, 1.0)
    # Logarithmic: one setting that went wrong would leave all others the same colour.
    scale = LogNorm(least, max(most_loss, 1.01 * least))
    shade = np.where(finals, 1.0, PALE)
    image = axes.imshow(grid, cmap="cividis_r", aspect="auto", norm=scale, alpha=shade)
    middle = math.sqrt(least * most_loss)
    for (where, lr), row in last.items():
        y, x = sides.index(where), rates.index(lr)
        final, mark = finals[y, x], "\nchosen" if row["chosen"] else ""
        colour = "white" if final and middle <= row["loss"] < math.inf else "black"
        text = f"{row['accuracy']:.3f}\n{row['loss']:.3f}{mark}"
        weight = "bold" if final else "normal"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8, weight=weight)
    names = {"block": "last block and head", "head": "norm and head"}
    axes.set_xticks(range(len(rates)), [f"{lr:.2g}" for lr in rates])
    labels = [f"{names[part]}\n{optim}, decay {decay:g}" for part, optim, decay in sides]
    axes.set_yticks(range(len(sides)), labels)
    axes.set_xlabel("learning rate")
    title = "Accuracy and loss inside the training part"
    if any(row["steps"] < most for row in last.values()):
        title += "; bold: the finalists, tried for longer\nand on more pictures: pale ones are not "
        title += "compared with them"
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, label="loss")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


@drawn("layers.png")
def plot_layers(rows: list[dict[str, float]], chance: float, path: Path) -> None:
    """Draw what each block alone tells of the classes (layers.csv's rows) into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    blocks = [row["block"] for row in rows]
    low, high = ([row[end] for row in rows] for end in ("low", "high"))
    axes.fill_between(blocks, low, high, color="#0072B2", alpha=0.2, lw=0, label="95 %")
    accuracies = [row["left_out_accuracy"] for row in rows]
    axes.plot(blocks, accuracies, "o-", ms=4, color="#0072B2", label="one block alone")
    axes.axhline(chance, color="#777777", ls=":", lw=1, label="a guess")
    axes.set(xlabel="leaving block", ylabel="accuracy, left out", ylim=(0, 1.02))
    axes.set_title("What each block tells of the classes", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def confusion_figure(matrix: np.ndarray, classes: tuple[str, ...]) -> Any:
    """Counts of true classes (rows) by predicted ones, shaded by their share of the class."""
    from matplotlib.figure import Figure

    C = len(classes)
    side = min(3 + 0.5 * C, 16)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    of_class = shares(matrix)
    axes.imshow(of_class, cmap="cividis", vmin=0, vmax=1)
    if C <= 25:
        for (y, x), count in np.ndenumerate(matrix):
            colour = "black" if of_class[y, x] > 0.5 else "white"
            axes.text(x, y, str(count), ha="center", va="center", color=colour, fontsize=9)
    if C <= 60:
        names = [legible(name) for name in classes]
        how = style(names)
        axes.set_xticks(range(C), names, rotation=90, **how)
        axes.set_yticks(range(C), names, **how)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def captioned_figure(images: list[tuple[Path, str]], greys: Greys | None = None) -> Any:
    """Pictures, four in a row, each under its caption, as the network sees them (`read_image`)."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, (path, text) in zip(grid, images, strict=False):
        with contextlib.suppress(Exception):  # it may be gone by now, or damaged
            image = Image.fromarray(read_image(path, greys, None))
            image.thumbnail((240, 240))
            axes.imshow(np.asarray(image))
        caption = legible(text, 84)  # three lines
        axes.set_title(textwrap.fill(caption, 28), fontsize=8, **style([caption]))
    return figure
