"""table.csv and the pictures of what happens inside a network."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drawing import drawn
from inspection.checks import Report
from inspection.layers import Layer, Summary, minor
from model import VisionTransformer
from utils import replacing, write_csv

PICTURES: tuple[str, ...] = (
    "activations.png",
    "gradients.png",
    "updates.png",
    "attention_distance.png",
    "positions.png",
    "filters.png",
)


def save(report: Report, net: VisionTransformer, folder: Path) -> list[str]:
    """The table as CSV and the plots as PNG files; the names of those that were written."""
    moments = ("mean", "std", "norm", "largest", "outliers")
    rows = []
    for layer in report.layers:
        row: dict[str, Any] = {"layer": layer.name}
        for kind, summary in (("activation", layer.activation), ("gradient", layer.gradient)):
            row |= {f"{kind}_{m}": getattr(summary, m) if summary else None for m in moments}
        row |= {"gradient_to_weight": layer.gradient_ratio, "dead": layer.dead}
        row |= {
            "linear": layer.linear,
            "log10_update": layer.updates[-1] if layer.updates else None,
        }
        for kind, heads in (("entropy", layer.entropy), ("distance", layer.distance)):
            for which in ("min", "mean", "max"):
                value = None if heads is None else getattr(heads, which)().item()
                row[f"{kind}_{which}"] = value
        rows.append(row | {"marks": "; ".join(layer.marks)})
    write_csv(folder / "table.csv", rows)
    for name in PICTURES:  # an earlier look's are not this one's
        (folder / name).unlink(missing_ok=True)
    shown = [layer for layer in report.layers if not minor(layer.name)]
    activations = {layer.name: layer.activation for layer in shown}
    gradients = {layer.name: layer.gradient for layer in shown if layer.gradient}
    draw_histograms(activations, "Activations", folder / "activations.png")
    title = f"Gradients of what trains in step {report.gradient_step}"
    draw_histograms(gradients, title, folder / "gradients.png")
    draw_updates(shown, folder / "updates.png")
    draw_distances(report.layers, net.vit.dim, folder / "attention_distance.png")
    draw_positions(net.pos_embed, folder / "positions.png")
    draw_filters(net.patch_embed.proj.weight, folder / "filters.png")
    return [name for name in ("table.csv", *PICTURES) if (folder / name).exists()]


@contextlib.contextmanager
def figure_at(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches that is written to a PNG file at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


@drawn("a histogram")
def draw_histograms(rows: dict[str, Summary], title: str, path: Path) -> None:
    """A small histogram for each layer, counts on a log scale; a frozen one has none."""
    columns, height = 4, max(1, -(-len(rows) // 4))
    with figure_at(path, 3.4 * columns, 1.7 * height + 0.6) as figure:
        figure.suptitle(f"{title}, the middle 99.9 %, counts on a log scale")
        grid = figure.subplots(height, columns, squeeze=False).flatten()
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        for axes, (name, summary) in zip(grid, rows.items(), strict=False):
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=4)
            axes.ticklabel_format(axis="x", scilimits=(-3, 4))
            axes.xaxis.get_offset_text().set_fontsize(7)
            if not summary.norm > 0:
                text = "all zero" if summary.norm == 0 else "not finite"
                axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
                axes.set(xticks=[], yticks=[])
                continue
            axes.stairs([count + 1e-9 for count in summary.counts], summary.edges, fill=True)
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.5)


@drawn("updates.png")
def draw_updates(layers: list[Layer], path: Path) -> None:
    """log10 of update : weight by step, a line a layer, coloured by depth."""
    from matplotlib import colormaps

    layers = [layer for layer in layers if layer.updates]
    with figure_at(path, 8, 4.8) as figure:
        axes = figure.subplots()
        for i, layer in enumerate(layers):
            colour = colormaps["viridis"](0.92 * i / max(1, len(layers) - 1))
            style = "--" if layer.name.endswith("mlp") else "-"
            steps = range(1, len(layer.updates) + 1)
            axes.plot(steps, layer.updates, style, marker="o", ms=3, color=colour, label=layer.name)
        axes.axhline(-3, color="#777777", ls=":", label="about healthy")
        axes.set(xlabel="step", ylabel="log10(update : weight)", title="How much a step changes")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)


@drawn("attention_distance.png")
def draw_distances(layers: list[Layer], size: int, path: Path) -> None:
    """Each head's mean attention distance against depth (arXiv:2010.11929, figure 7, right)."""
    found = [layer.distance for layer in layers if layer.distance is not None]
    with figure_at(path, 7, 4.4) as figure:
        axes = figure.subplots()
        for block, heads in enumerate(found):
            axes.scatter([block] * len(heads), heads, s=22, color="#0072B2", alpha=0.7)
        means = [heads.mean().item() for heads in found]
        axes.plot(range(len(found)), means, color="#D55E00", label="mean of the heads")
        axes.set(xlabel="block", ylabel="mean attention distance (pixels)", ylim=(0, None))
        axes.set_title(f"How far each head looks (images of {size} pixels)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


@drawn("positions.png")
def draw_positions(pos_embed: Tensor, path: Path) -> None:
    """Cosine similarity of some patches' positions with all (the paper's figure 7, centre)."""
    table = F.normalize(pos_embed.detach()[0, 1:].float().cpu(), dim=-1)  # N-1 D
    g = math.isqrt(len(table))
    rows = sorted({round(x) for x in np.linspace(0, g - 1, min(g, 7))})
    k = len(rows)
    tiles = torch.full((k, g + 1, k, g + 1), math.nan)  # a gap between the maps
    maps = (table @ table.T).view(g, g, g, g)[rows][:, rows]  # k k g g
    tiles[:, :g, :, :g] = maps.permute(0, 2, 1, 3)
    with figure_at(path, 7.2, 6.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(tiles.flatten(2).flatten(0, 1)[:-1, :-1].numpy(), vmin=-1, vmax=1)
        middles = [i * (g + 1) + (g - 1) / 2 for i in range(k)]
        axes.set_xticks(middles, [row + 1 for row in rows])
        axes.set_yticks(middles, [row + 1 for row in rows])
        axes.set(xlabel="column of the patch", ylabel="row of the patch", frame_on=False)
        axes.set_title("Similarity of position embeddings: each map is one patch's with all")
        figure.colorbar(image, label="cosine similarity", shrink=0.8)


@drawn("filters.png")
def draw_filters(weight: Tensor, path: Path) -> None:
    """The first principal components of the patch embedding's filters (D, c, p, p)
    (arXiv:2010.11929, figure 7, left)."""
    flat = weight.detach().float().cpu().flatten(1)
    _, _, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    c, p = weight.shape[1:3]
    tiles = torch.ones(4, p + 1, 7, p + 1, c)  # a white gap between the filters
    for i, component in enumerate(components[:28]):
        low, high = component.min(), component.max()
        pixels = (component - low) / (high - low).clamp(min=1e-12)
        tiles[i // 7, :p, i % 7, :p] = pixels.view(c, p, p).permute(1, 2, 0)
    with figure_at(path, 7, 4.4) as figure:
        axes = figure.subplots()
        axes.imshow(
            tiles.flatten(2, 3).flatten(0, 1)[:-1, :-1].squeeze(-1).numpy(),
            cmap="gray",
            vmin=0,
            vmax=1,
        )
        axes.set_title("Patch embedding: the first principal components of its filters")
        axes.set_axis_off()
