"""tools.attention draws panels."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import training
from config import ConfigError
from pretrained.write import save_model
from tests.helpers import COLOURS, picture
from tests.inspection.test_attention_maps import network
from tools import attention
from utils import command_line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a network with three named classes, under weights, and its logs."""
    folder = tmp_path_factory.mktemp("runs")
    net = network()
    net.classes = tuple(COLOURS)
    save_model(folder / "weights/tiny/best.safetensors", net)
    save_model(folder / "headless.safetensors", network(num_classes=0))
    (folder / "logs/tiny").mkdir(parents=True)
    (folder / "logs/tiny/config.yaml").write_text("train: {save_path: weights}\n")
    for name in COLOURS:
        (folder / "images" / name).mkdir(parents=True)
        for i, suffix in enumerate(("png", "jpg")):
            picture(name, i).save(folder / "images" / name / f"1.{suffix}")
    (folder / "images/blue/broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments: str) -> int:
    return command_line(lambda: attention.main(list(arguments)), ConfigError)


def test_a_run_and_then_its_maps(
    config_file: Path,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    training.main(["--config", str(config_file), "train.max_epochs=1", "train.verdict=false"])
    capsys.readouterr()
    image = image_folder / "red/03.png"
    assert run(str(image), "--checkpoint", "last") == 0
    said = capsys.readouterr().out.splitlines()
    panel = Path("logs/tiny/attention/03.png")
    assert said[0].startswith(f"{image}: ") and said[0].split()[1] in COLOURS
    assert 1 / 3 <= float(said[0].split()[2]) <= 1
    assert said[1] == f"1 panel: {panel}" and panel.is_file()


@pytest.mark.parametrize(
    "checkpoint", ["tiny", "logs/tiny", "weights/tiny", "weights/tiny/best.safetensors", "last"]
)
def test_a_checkpoint_by_each_of_its_names(
    checkpoint: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    best = attention.find_checkpoint(checkpoint)
    assert best.resolve() == (trained / "weights/tiny/best.safetensors").resolve()
    assert attention.output_folder(best) == Path("logs/tiny/attention")


def test_a_folder_has_a_panel_an_image_and_names_what_it_skips(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert run("images", "--checkpoint", "tiny", "--out", "maps", "--class", "green") == 0
    said = capsys.readouterr().out
    assert "images/blue/broken.jpg: skipped, it can't be read (not an image)" in said
    assert said.rstrip().endswith("6 panels: maps")
    panels = {p.relative_to("maps").as_posix() for p in Path("maps").rglob("*.png")}
    # 1.jpg comes first, and 1.png may not have its panel's name.
    assert panels == {f"{name}/{file}" for name in COLOURS for file in ("1.png", "1.png.png")}
    shutil.rmtree("maps")


def test_a_panel_does_not_distort(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disc in a wide picture is as wide as it is high in the panel."""
    monkeypatch.chdir(trained)
    y, x = np.mgrid[:200, :400]
    disc = ((x - 200) ** 2 + (y - 100) ** 2 < 60**2)[..., None]
    pixels = np.where(disc, (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    net = attention.load_classifier(Path("weights/tiny/best.safetensors"))
    attention.show(net, pixels, None, "a $disc$ of $1", trained / "panel.png")
    panel = np.asarray(Image.open(trained / "panel.png").convert("RGB")).astype(int)
    red = (panel[..., 0] > 200) & (panel[..., 1] < 60) & (panel[..., 2] < 60)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert high > 80 and abs(high - wide) <= 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.jpg", "--checkpoint", "tiny"], "nowhere.jpg: no such file or folder"),
        (["weights", "--checkpoint", "tiny"], "weights holds no images"),
        (["notes.txt", "--checkpoint", "tiny"], "none of 1 images can be read"),
        (["images", "--checkpoint", "tny"], "tny: no such weights; did you mean weights/tiny"),
        (["images", "--checkpoint", "notes.txt"], "notes.txt is not a weights file"),
        (["images", "--checkpoint", "headless.safetensors"], "has no head"),
        (["images", "--checkpoint", "tiny", "--class", "gren"], "did you mean green?"),
        (["images", "--checkpoint", "tiny", "--class", "42"], "it has blue, green, red"),
    ],
)
def test_errors_are_sentences(
    arguments: list[str],
    sentence: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained)
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and sentence in said and "Traceback" not in said


def test_last_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("x.jpg", "--checkpoint", "last") == 2
    assert "logs holds no run with weights" in capsys.readouterr().err


def test_so_many_of_a_folder_are_spread_over_it(trained: Path) -> None:
    found = attention.find_images([str(trained / "images")], 3)
    assert [place.parts[0] for _, place in found] == list(COLOURS)


def test_paths_are_those_that_predict_takes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns, `~`, a list; a picture that is named twice is one."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("HOME", str(trained))
    stdin = SimpleNamespace(buffer=io.BytesIO(b"images/red/1.png\n"), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    given = ["-", "images/red/1.[pj]*", "~/images/blue/1.png", "images/../images/red/1.jpg"]
    found = attention.find_images(given, None)
    assert [(str(path), str(place)) for path, place in found] == [
        ("images/red/1.png", "1.png"),
        ("images/red/1.jpg", "1.jpg"),
        (str(trained / "images/blue/1.png"), "1.png"),
    ]
