"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

import utils
from tests.engine.test_checkpoint import Stop


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), utils.replacing(path) as temporary:
        temporary.write_text("half")
        raise Stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_an_error_of_a_worker_process_is_one_sentence_too() -> None:
    """PyTorch raises it anew with that process's traceback before it."""
    from torch._utils import ExceptionWrapper

    try:
        raise utils.UserError("a.png: not an image; remove it")
    except utils.UserError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(utils.UserError) as caught:
        wrapped.reraise()
    assert "Traceback" in caught.value.args[0]
    assert str(caught.value) == "a.png: not an image; remove it"


def test_a_bar_is_for_those_who_look(capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for file, drawn in ((io.StringIO(), False), (Terminal(), True)):
        assert list(utils.progress_bar(range(3), "counting", file=file)) == [0, 1, 2]
        assert ("counting" in file.getvalue()) is drawn
