"""A board with two classes, and short ways to build a set of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.safebooru.server import FakeBoard
from tools.safebooru import board as client
from tools.safebooru.__main__ import main

WANTED = "classes: [rei, asuka]\nwant: [solo]\nrefuse: [comic]\nratings: [safe, general]\n"
Build = Callable[..., str]


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.0)
    monkeypatch.setattr(client, "TIMEOUT_S", (5, 0.3))
    monkeypatch.delenv(client.KEY, raising=False)
    monkeypatch.delenv(client.USER, raising=False)
    fake = FakeBoard()
    yield fake
    fake.close()


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    file = tmp_path / "wanted.yaml"
    file.write_text(WANTED)
    return file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a set"


@pytest.fixture
def build(board: FakeBoard, wanted: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    """Build the set, so many pictures a class; what is printed."""

    def run(per_class: int = 2, *more: str) -> str:
        args = ["--out", str(out), "--per-class", str(per_class), "--pause", "0"]
        main([*args, "--base-url", board.url, "--wanted", str(wanted), *more])
        return capsys.readouterr().out

    return run
