"""Files that appear whole or not at all."""

from __future__ import annotations

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
