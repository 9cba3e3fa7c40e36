"""The benchmark of shards: its pictures, and that it counts what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.shards import CLASSES, draw, empty_files, measured
from tests.shards.helpers import shards_of, split_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


@linux
def test_the_pictures_are_counted_in_a_folder_and_in_shards(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 60)
    out = shards_of(tmp_path / "pictures", tmp_path / "out")
    split = split_of(tmp_path / "pictures", tmp_path)
    assert len({s.sha256 for s in split.samples}) == 60 and len(split.part("val")) == CLASSES
    for folder in (tmp_path / "pictures", out):
        assert measured("start", folder, tmp_path)["pictures"] == 60
        assert measured("loader", folder, tmp_path)["pictures"] == 50


@linux
def test_empty_files_are_found(tmp_path: Path) -> None:
    empty_files(tmp_path / "empty", 300)
    assert measured("scan", tmp_path / "empty", tmp_path)["pictures"] == 300
