"""The charts of a report: SVG that stands in a page, in the page's font and colours.

matplotlib draws in stand-ins for colours, which become the page's variables: one drawing is legible
on light and on dark.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any

import numpy as np
from markupsafe import Markup

from metrics import wilson
from system.filenames import shown

INK, MUTED, LINE, HIT, MISS = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = tuple(f"#0607{i:02x}" for i in range(8))
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", HIT: "hit", MISS: "miss"} | {
    colour: f"s{i}" for i, colour in enumerate(SERIES)
}
DASHES = ("-", "--", "-.", ":")  # runs are told apart without colour as well
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names come from outside; a $ is a dollar
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
SIZE = (4.3, 2.7)  # inches: small, so that the text is legible where a phone fits it to its width
CONFIDENCE = {
    False: "confidence (probability of the answer)",
    True: "confidence (calibrated probability of the answer)",
}
BELOW: Any = {"loc": "outside lower center", "ncols": 3}  # a legend, where it hides nothing
LONGEST = 30  # characters in a legend
MOST_POINTS = 300  # of a curve: a picture each would make a page of megabytes
MARKED = 40  # points of a line; more of them would hide it

Line = tuple[str, str, str, str]  # a column of metrics.csv, its label, colour and dashes
PANELS: dict[str, tuple[Line, ...]] = {
    "Loss": (("train_loss", "training", HIT, "-"), ("val_loss", "validation", MISS, "--")),
    "Accuracy": (
        ("train_accuracy", "training", HIT, "-"),
        ("val_accuracy", "validation", MISS, "--"),
    ),
    "Learning rate": (("lr", "learning rate", HIT, "-"),),
    "Gradient norm": (
        ("grad_norm_mean", "mean", HIT, "-"),
        ("grad_norm_max", "largest", MISS, "--"),
    ),
}
COMPARED = {
    "Validation loss": "val_loss",
    "Validation accuracy": "val_accuracy",
    "Training loss": "train_loss",
    "Training accuracy": "train_accuracy",
    "Learning rate": "lr",
    "Gradient norm": "grad_norm_mean",
}


def curves(
    rows: Sequence[dict[str, Any]], kept: int | None, unit: str = "epoch", word: str = "kept"
) -> list[dict[str, Any]]:
    """A chart for each of PANELS that was measured, with the kept epoch marked by the `word`."""
    charts = []
    for title, lines in PANELS.items():
        drawn = [(points(rows, column), *rest) for column, *rest in lines]
        if chart := _lines(title, [line for line in drawn if line[0]], unit, kept, word):
            charts.append(chart)
    return charts


def curves_together(runs: dict[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A chart for each of COMPARED that was measured, a line a run."""
    charts = []
    for title, column in COMPARED.items():
        lines = [
            (found, shortened(name), SERIES[i % len(SERIES)], DASHES[i % len(DASHES)])
            for i, (name, rows) in enumerate(runs.items())
            if (found := points(rows, column))
        ]
        if chart := _lines(title, lines, "epoch", None):
            charts.append(chart)
    return charts


def shortened(name: str) -> str:
    """A name that leaves a legend room for its chart: names differ at their ends."""
    name = " ".join(name.split()) or repr(name)
    return name if len(name) <= LONGEST else f"{name[:8]}…{name[9 - LONGEST :]}"


def points(rows: Sequence[dict[str, Any]], column: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]


def _lines(
    title: str, lines: list[Any], unit: str, kept: int | None, word: str = "kept"
) -> dict[str, Any] | None:
    """A chart of (points, label, colour, dashes); None without lines."""
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    if not lines:
        return None
    with rc_context(STYLE):
        figure, axes = _figure()
        for found, _, colour, dashes in lines:
            mark = "o" if len(found) <= MARKED else None
            axes.plot(*zip(*found, strict=True), dashes, lw=1.7, marker=mark, ms=2.6, color=colour)
        if title == "Learning rate":
            axes.yaxis.set_major_formatter("{x:g}")
        if kept:
            axes.axvline(kept, color=MUTED, ls=":", lw=1.2, label=f"{word}: {unit} {kept}")
        axes.set_title(title, pad=8)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=7))
        _grid(axes)
        if len(lines) > 1:
            _legend(axes, [label for _, label, *_ in lines])
        ends = [f"{label} ends at {found[-1][1]:.4g}" for found, label, *_ in lines]
        return {"svg": as_svg(figure, f"{title} by {unit}: {'; '.join(ends)}")}


def _legend(axes: Any, labels: Sequence[str]) -> None:
    """The legend of the lines that were drawn first, and of what has a label of its own."""
    more, theirs = axes.get_legend_handles_labels()
    handles, labels = [*axes.lines[: len(labels)], *more], [*labels, *theirs]
    legend = axes.legend(handles, [" "] * len(handles), loc="best", handlelength=2.4)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)  # now: one that begins with _ would be left out


def by_layer(rows: Sequence[dict[str, float]], guess: float | None) -> dict[str, Any]:
    """What each block alone tells of the classes, with its 95 % interval."""
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    blocks, right = ([row[key] for row in rows] for key in ("block", "left_out_accuracy"))
    low, high = ([row[end] for row in rows] for end in ("low", "high"))
    with rc_context(STYLE):
        figure, axes = _figure()
        axes.fill_between(blocks, low, high, color=HIT, alpha=0.25, lw=0, label="95 %")
        axes.plot(blocks, right, "-", lw=1.7, marker="o", ms=3, color=HIT, label="one block alone")
        if guess is not None:
            axes.axhline(guess, color=MUTED, ls=":", lw=1.2, label="a guess")
        axes.set(ylim=(0, 1.02), xlabel="leaving block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.legend(**BELOW)
        axes.set_title("Accuracy by layer", pad=8)
        _grid(axes)
        best = max(rows, key=lambda row: row["left_out_accuracy"])
        said = (
            f"Accuracy by layer: block {blocks[0]:.0f} {right[0]:.3f}, the best is block "
            f"{best['block']:.0f} with {best['left_out_accuracy']:.3f}"
        )
        return {"svg": as_svg(figure, said)}


def by_images(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy by the number of training pictures, with its 95 % interval; dashed and hollow what
    is not `measured`, but predicted of more pictures than there are."""
    from matplotlib import rc_context
    from matplotlib.ticker import NullLocator

    measured = [row for row in rows if row["measured"]]
    beyond = [*measured[-1:], *(row for row in rows if not row["measured"])]
    with rc_context(STYLE):
        figure, axes = _figure()
        for found, dashes, label in ((measured, "-", "measured"), (beyond, "--", "predicted")):
            if len(found) < 2 and found is not measured:
                continue
            images, right, low, high = (
                [row[key] for row in found] for key in ("images", "accuracy", "low", "high")
            )
            axes.fill_between(images, low, high, color=HIT, alpha=0.2, lw=0)
            colour, fill = (HIT, HIT) if dashes == "-" else (MISS, "none")
            axes.plot(images, right, dashes, lw=1.7, color=colour, marker="o", ms=4, mfc=fill)
            axes.lines[-1].set_label(label)
        axes.set_xscale("log")
        ticks = [row["images"] for row in rows]
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="training pictures (log scale)")
        figure.legend(**BELOW)
        axes.set_title("Accuracy by training pictures", pad=8)
        _grid(axes)
        ends = [f"{row['images']:,} pictures {row['accuracy']:.3f}" for row in rows]
        return {"svg": as_svg(figure, f"Accuracy by training pictures: {'; '.join(ends)}")}


def reliability(found: dict[str, Any], calibrated: bool = False) -> dict[str, Any]:
    """Accuracy by confidence, a bar a bin, and how far it is from the bin's mean confidence."""
    from matplotlib import rc_context

    bins, there = len(found["images"]), found["images"] > 0
    left = np.arange(bins)[there] / bins
    sure, right = found["confidence"][there], found["accuracy"][there]
    with rc_context(STYLE):
        figure, axes = _figure()
        bars = axes.bar(left, right, 0.92 / bins, align="edge", color=HIT, alpha=0.8, lw=0)
        (perfect,) = axes.plot((0, 1), (0, 1), "--", color=MUTED, lw=1.1)
        axes.vlines(left + 0.46 / bins, right, sure, color=MISS, lw=1.6)
        (dots,) = axes.plot(left + 0.46 / bins, sure, "o", color=MISS, ms=4)
        axes.set(xlim=(0, 1), ylim=(0, 1.04), xlabel=CONFIDENCE[calibrated])
        figure.legend([bars, dots, perfect], ["accuracy", "mean confidence", "perfect"], **BELOW)
        axes.set_title("Right how often, when so sure", pad=8)
        _grid(axes)
        of = " of calibrated probabilities" if calibrated else ""
        said = (
            f"Reliability diagram{of}: mean confidence {found['mean_confidence']:.3f}, accuracy "
            f"{found['mean_accuracy']:.3f}"
        )
        return {"svg": as_svg(figure, said)}


def confidences(found: dict[str, Any], calibrated: bool = False) -> dict[str, Any]:
    """How many right and wrong answers there are by confidence."""
    from matplotlib import rc_context
    from matplotlib.ticker import LogLocator

    images, right = found["images"], found["right"]
    bins, wrong = len(images), images - right
    left = np.arange(bins) / bins
    with rc_context(STYLE):
        figure, axes = _figure()
        axes.bar(left + 0.02 / bins, right, 0.48 / bins, align="edge", color=HIT, label="right")
        axes.bar(left + 0.5 / bins, wrong, 0.48 / bins, align="edge", color=MISS, label="wrong")
        axes.set_yscale("log")  # a few mistakes must be seen beside a thousand right answers
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if images.max() < 100 else (1,)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.set(xlim=(0, 1), ylim=(0.7, 1.6 * images.max()), xlabel=CONFIDENCE[calibrated])
        figure.legend(**BELOW)
        axes.set_title("Pictures, by how sure (log scale)", pad=8)
        _grid(axes)
        half = bins // 2
        said = (
            f"Answers by confidence: {right.sum()} right and {wrong.sum()} wrong, of the wrong "
            f"{wrong[half:].sum()} with a probability above {half / bins:.2f}"
        )
        return {"svg": as_svg(figure, said)}


def risk_by_coverage(rows: Sequence[dict[str, Any]], marked: float | None) -> dict[str, Any]:
    """The share of wrong answers by the share that is answered, the surest first, with its 95 %
    interval; a dotted line where the share `marked` is answered."""
    from matplotlib import rc_context

    step = math.ceil(len(rows) / MOST_POINTS)
    rows = rows[-1::-step][::-1]  # the last, of all pictures, among them
    shares, wrong = ([row[key] for row in rows] for key in ("share", "wrong_share"))
    spans = [wilson(row["wrong_share"], row["answered"]) for row in rows]
    top = 1.25 * max(*wrong, spans[-1][1])
    with rc_context(STYLE):
        figure, axes = _figure()
        low, high = zip(*spans, strict=True)
        band: Any = {"step": "post", "color": HIT, "alpha": 0.2, "lw": 0}
        axes.fill_between(shares, low, high, label="95 % interval", **band)
        axes.step(shares, wrong, where="post", lw=1.7, color=HIT, label="wrong answers")
        axes.plot(shares[-1:], wrong[-1:], "o", ms=4, color=HIT)
        if marked is not None:
            axes.axvline(
                marked, color=MUTED, ls=":", lw=1.2, label=f"{100 * marked:.0f} % answered"
            )
        axes.set(xlim=(0, 1.02), ylim=(0, min(1.02, top)))
        axes.set(xlabel="share of the pictures that is answered, the surest first")
        axes.xaxis.set_major_formatter(_percent)
        axes.yaxis.set_major_formatter(_percent)
        figure.legend(**BELOW)
        axes.set_title("Wrong answers, when only the surest count", pad=8)
        _grid(axes)
        half = next(row for row in rows if row["share"] >= 0.5)
        said = (
            f"Risk by coverage: of all answers {100 * wrong[-1]:.1f} % are wrong, of the surest "
            f"{100 * half['share']:.0f} % {100 * half['wrong_share']:.1f} %"
        )
        return {"svg": as_svg(figure, said)}


def _percent(share: float, _: Any) -> str:
    return f"{100 * share:g} %"


def _grid(axes: Any) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # never opens a window
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def as_svg(figure: Any, said: str) -> Markup:
    """A figure as an element of a page, with `said` for who can't see it."""
    from matplotlib import rc_context

    file = StringIO()
    # What it refers to by id is named after it: a page holds several.
    with rc_context({"svg.hashsalt": shown(said)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's fonts have letters of their own
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<![&\w])#[0-9a-f]{6}\b", _variable, svg)
    svg = re.sub(r"(font: (?:[\w.]+ )*?)([\d.]+)px [^\";]*", r"\1\2px system-ui, sans-serif", svg)
    view = re.search(r'viewBox="[^"]+"', svg)
    assert view is not None
    head = f'<svg class="chart" role="img" aria-label="{escape(said)}" {view[0]}>'
    return Markup(head + svg[svg.index(">") + 1 :])  # noqa: S704


def _variable(colour: re.Match[str]) -> str:
    name = VARIABLES.get(colour[0])
    return f"var(--{name})" if name else colour[0]
