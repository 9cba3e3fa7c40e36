"""What a run draws: names as they are written, pictures as the network sees them."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from engine.plots import captioned_figure, confusion_figure, plot_curves, plot_layers, plot_search
from images import read_image
from inspection.charts import curves_together
from tests.helpers import train

NAMES: tuple[str, ...] = (
    "100%_$",
    "$x^$",
    "$$cash$$",
    "_a_b_",
    "x_{",
    "two\nlines",
    r"\frac",
    "t\tb",
    " ",
    "l" * 300,
)


def drawn_without_a_warning(figure: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()


def test_names_are_no_formulas() -> None:
    figure = confusion_figure(np.eye(len(NAMES), dtype=int), NAMES)
    drawn_without_a_warning(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == ["100%_$", "$x^$", "$$cash$$", "_a_b_", "x_{"]
    assert labels[5:8] == ["two lines", r"\frac", "t b"]
    assert len(labels[9]) <= 40 and "…" in labels[9]


def test_letters_that_no_font_has_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import drawing

    monkeypatch.setattr(drawing, "_installed", lambda: ())
    drawing._font_of.cache_clear()
    names = ("\u732b", "\u72ac", "\U0001f431\ufe0f", "\ud55c\uae00", "caf\u00e9", "\udcff")
    figure = confusion_figure(np.eye(6, dtype=int), names)
    drawn_without_a_warning(figure)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    drawing._font_of.cache_clear()
    assert labels[:2] == [r"\u732b", r"\u72ac"] and labels[4:] == ["caf\u00e9", r"\udcff"]
    assert len(set(labels)) == 6


def test_letters_are_drawn_in_a_font_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    import drawing

    other = font_manager.findfont("STIXGeneral")
    own = drawing._characters(font_manager.findfont(drawing.OWN_FONT))
    letter = chr(min(c for c in drawing._characters(other) - own if c > 0x2000))
    monkeypatch.setattr(drawing, "_installed", lambda: (("STIXGeneral", other),))
    drawing._font_of.cache_clear()
    figure = confusion_figure(np.eye(2, dtype=int), (letter, "b"))
    drawn_without_a_warning(figure)
    label = figure.axes[0].get_xticklabels()[0]
    drawing._font_of.cache_clear()
    assert label.get_text() == letter and "STIXGeneral" in label.get_fontfamily()


def test_pictures_are_shown_as_the_network_sees_them(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4000, 1600).astype("uint16").reshape(40, 40)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    turned = Image.new("RGB", (60, 30), "red")
    exif = turned.getexif()
    exif[0x112] = 6
    turned.save(tmp_path / "b.jpg", exif=exif)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "c.png")
    paths = sorted(tmp_path.glob("*.*"))
    figure = captioned_figure(
        [(path, "$x_ 0.5") for path in [*paths, tmp_path / "gone.png"]], (0, 8000)
    )
    drawn_without_a_warning(figure)
    for axes, path in zip(figure.axes, paths, strict=False):
        assert (np.asarray(axes.images[0].get_array()) == read_image(path, (0, 8000))).all()
        assert axes.get_title() == "$x_ 0.5"
    assert not figure.axes[3].images


def test_curves_of_which_one_is_not_known_are_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_curves([{"epoch": 1, "train_loss": 1.0}], None, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plot_curves([{"epoch": 1, "train_loss": 1.0}], None, path),
        lambda path: plot_search([], path),
        lambda path: plot_layers([{"block": 1.0}], 0.5, path),
    ],
    ids=["curves.png", "search.png", "layers.png"],
)
def test_a_picture_that_can_not_be_drawn_is_said_in_a_line(
    draw: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import drawing
    import utils

    said: list[str] = []
    monkeypatch.setattr(drawing, "_failed", set())
    monkeypatch.setattr(utils.log, "info", lambda text, *values: said.append(text % values))
    (tmp_path / "a").write_text("no folder")
    draw(tmp_path / "a" / "x.png")
    name = request.node.callspec.id
    assert len(said) == 1 and said[0].startswith(f"{name} is not drawn (")
    assert "\n" not in said[0]


def test_a_run_ends_though_nothing_can_be_drawn(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import matplotlib.figure

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no pen")

    monkeypatch.setattr(matplotlib.figure.Figure, "subplots", broken)
    with caplog.at_level(logging.INFO):
        assert train(config_file, "train.max_epochs=1") == 0
    log = (config_file.parent / "logs/tiny/run.log").read_text()
    assert "curves.png is not drawn (no pen)" in log and "Traceback" not in log
    assert "TensorBoard's confusion matrix is not drawn (no pen)" in log


def test_a_legend_has_names_that_begin_with_an_underscore() -> None:
    rows = [{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 0.5}]
    charts = curves_together({"_mine": rows, "$x_1$": rows})
    svg = str(charts[0]["svg"])
    assert ">_mine<" in svg and ">$x_1$<" in svg
