"""Where a run may not write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config import TrainConfig
from config_rules import places_that_clash
from tests.helpers import fail, train


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
        ({"log_path": "to-pics"}, ["train.log_path"]),
        ({"save_path": "pics"}, ["train.save_path"]),
        ({"data": "pics", "log_path": "pics/logs", "save_path": "pics/weights"}, []),
        ({"base_dir": "none", "data": "none"}, []),
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
    """Without a name it tried one after the other, for ever."""
    home = config_file.parent
    places = [f"train.log_path={home}/images", f"train.save_path={home}/images"]
    said = fail(config_file, *places, *more)
    assert "images is save_path, too; each needs a folder of its own" in said
    assert "is the folder of pictures; runs need one of their own" in said
    assert sorted(os.listdir(home / "images")) == ["blue", "green", "red"]


@pytest.mark.parametrize("parts", [False, True])
def test_what_is_written_among_the_pictures_is_no_class(finetune: Path, parts: bool) -> None:
    """A second run, and its own resume, ended: no images in the class folder cache."""
    images = finetune.parent / "images"
    if parts:
        images.rename(finetune.parent / "train")
        (images / "val").mkdir(parents=True)
        (finetune.parent / "train").rename(images / "train")
        for name in ("blue", "green", "red"):
            (images / "val" / name).mkdir()
            for i in range(2):
                old = images / "train" / name / f"{i:02}.png"
                old.rename(images / "val" / name / old.name)
    places = [f"train.{key}={images}/{key}" for key in ("log_path", "save_path")]
    places += [f"train.data={images}", "train.lr=1e-3", "train.max_epochs=1"]
    for run in ("one", "two"):
        assert train(finetune, *places, f"train.run_name={run}") == 0
    assert train(finetune, *places, "--resume", "two", "train.max_epochs=2") == 0
