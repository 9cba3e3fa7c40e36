"""What programs make of a path that is empty, as of a shell's variable that is not set: "" is the
working directory to pathlib, and was read, and written to."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from config import ConfigError
from layout.paths import spread
from tests.helpers import REPO
from utils import UserError

EMPTY = [
    ("training", ["--config", ""]),
    ("training", ["--resume", ""]),
    ("training", ["train.base_dir="]),
    ("training", ["train.checkpoint= ", "train.split="]),
    ("test", ["--checkpoint", ""]),
    ("test", ["--config", ""]),
    ("tools.attention", ["a.jpg", "--checkpoint", ""]),
    ("tools.attention", ["a.jpg", "--checkpoint", "last", "--out", ""]),
    ("tools.audit", [""]),
    ("tools.audit", ["pictures", "--weights", ""]),
    ("tools.audit", ["--apply", ""]),
    ("tools.audit", ["--undo", ""]),
    ("tools.bakeoff", ["", "a", "b"]),
    ("tools.baseline", ["knn", "--config", ""]),
    ("tools.compare", [""]),
    ("tools.compare", ["last", "--out", ""]),
    ("tools.draw_pilots", ["--out", ""]),
    ("tools.export", ["", "--to", "onnx", "--out", "there"]),
    ("tools.export", ["last", "--to", "onnx", "--out", ""]),
    ("tools.predict", ["a.jpg", "--checkpoint", ""]),
    ("tools.predict", ["a.jpg", "--out", ""]),
    ("tools.predict", ["a.jpg", "--sort-into", ""]),
    ("tools.quickstart_weights", ["--out", ""]),
    ("tools.repeat", ["--config", ""]),
    ("tools.report", [""]),
    ("tools.safebooru", ["--out", ""]),
    ("tools.shard", ["", "shards"]),
    ("tools.shard", ["pictures", ""]),
    ("tools.show", [""]),
]


@pytest.mark.parametrize(("program", "words"), EMPTY)
def test_an_empty_path_is_none(
    program: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    place = REPO / program.replace(".", "/")
    module = importlib.import_module(f"{program}.__main__" if place.is_dir() else program)
    with pytest.raises((UserError, ConfigError, SystemExit)) as stopped:
        module.main(words)
    said = f"{stopped.value} {capsys.readouterr().err}"
    assert "is named" in said or "are named" in said
    assert not list(tmp_path.iterdir())


def test_nor_is_an_empty_picture() -> None:
    with pytest.raises(UserError, match="nothing is named"):
        list(spread([""]))


def test_arguments_that_are_paths_say_so() -> None:
    """`type=a_path`, not `type=Path`."""
    files = [*REPO.glob("tools/**/*.py"), REPO / "training.py", REPO / "test.py"]
    assert not [file for file in files if "type=Path" in file.read_text()]
