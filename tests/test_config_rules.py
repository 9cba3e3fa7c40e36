"""Where a run may not write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config import TrainConfig
from config_rules import places_that_clash
from tests.helpers import fail


def clashes(home: Path, **places: str) -> list[str]:
    own = {"base_dir": "pics", "data": "data", "log_path": "logs", "save_path": "weights"} | places
    train = TrainConfig(**{key: str(home / place) for key, place in own.items()})
    return [found.partition(":")[0] for found in places_that_clash(train)]


@pytest.mark.parametrize(
    ("places", "wrong"),
    [
        ({}, []),
        ({"log_path": "weights"}, ["train.log_path"]),
        ({"log_path": "./data/../weights/"}, ["train.log_path"]),
        ({"log_path": "linked"}, ["train.log_path"]),
        ({"data": "pics"}, ["train.data"]),
        ({"data": "pics/data", "log_path": "pics/logs"}, ["train.data", "train.log_path"]),
        ({"save_path": "to-pics/weights"}, ["train.save_path"]),
        ({"data": "pics/.cache"}, []),  # hidden folders are no classes
        ({"data": "pics2", "log_path": "."}, []),
        ({"base_dir": "none", "data": "none"}, []),  # that it is not there is said elsewhere
    ],
)
def test_places_that_clash(tmp_path: Path, places: dict[str, str], wrong: list[str]) -> None:
    for name in ("pics", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "weights")
    (tmp_path / "to-pics").symlink_to(tmp_path / "pics")
    assert clashes(tmp_path, **places) == wrong


@pytest.mark.parametrize("more", [[], ["train.run_name=null"], ["--check"]])
def test_they_end_with_one_sentence_and_leave_nothing(config_file: Path, more: list[str]) -> None:
    home = config_file.parent
    places = [f"train.log_path={home}/images/logs", f"train.save_path={home}/images/logs"]
    said = fail(config_file, *places, *more)
    assert "images/logs is save_path, too; each needs a folder of its own" in said
    assert "train.save_path: " in said and "lies among the pictures (" in said
    assert sorted(os.listdir(home / "images")) == ["blue", "green", "red"]
