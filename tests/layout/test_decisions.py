"""train.labels: a table decides what a picture is called, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset import load_split, write_split
from tests.helpers import settings
from utils import UserError


def decisions(folder: Path, *rows: str) -> str:
    file = folder / "decisions.csv"
    file.write_text("\n".join(["path,decision,label", *rows]) + "\n", encoding="utf-8-sig")
    return str(file)


def test_decisions_take_the_place_of_the_folders_names(image_folder: Path, tmp_path: Path) -> None:
    rows = ["red/00.png,relabel,blue", "red/01.png,leave out,", "green/02.png,keep,"]
    file = decisions(tmp_path, *rows)
    before = sorted(image_folder.rglob("*"))
    split = load_split(settings(image_folder, labels=file))
    labels = {split.path_of(s): split.classes[s.label] for s in split.samples}
    assert labels["red/00.png"] == "blue" and labels["green/02.png"] == "green"
    assert "red/01.png" not in labels and len(labels) == 35
    assert (image_folder / "red/01.png", f"left out by {file}") in split.unused
    assert f"train.labels: 1 relabelled, 1 left out; by {file}" in split.notes
    assert sorted(image_folder.rglob("*")) == before
    assert split.counts()["blue"]["train"] + split.counts()["blue"]["val"] == 13


def test_every_row_that_can_not_be_followed_is_named(image_folder: Path, tmp_path: Path) -> None:
    file = decisions(
        tmp_path,
        "red/99.png,relabel,blue",
        "red/00.png,relabel,bleu",
        "red/01.png,drop,",
        "red/02.png,relabel,blue",
        "red/02.png,leave out,",
    )
    with pytest.raises(UserError) as caught:
        load_split(settings(image_folder, labels=file))
    assert str(caught.value) == (
        f"{file} has 4 rows that can't be followed: red/99.png: it is not in {image_folder}; "
        "red/00.png: there is no class 'bleu'; did you mean 'blue'?; red/01.png: the decision "
        "'drop' is none of relabel, leave out, keep; red/02.png: it is decided twice"
    )


def test_one_picture_in_two_spellings_is_decided_once(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "red" / "00.png").rename(image_folder / "red" / "caf\u00e9.png")
    rows = ["red/caf\u00e9.png,leave out,", "red/cafe\u0301.png,keep,"]
    with pytest.raises(UserError, match="it is decided twice"):
        load_split(settings(image_folder, labels=decisions(tmp_path, *rows)))
    file = decisions(tmp_path, *(row.replace("keep", "leave out") for row in rows))
    assert len(load_split(settings(image_folder, labels=file)).samples) == 35


def test_an_unreadable_picture_can_be_left_out(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "red" / "00.png").write_bytes(b"no image")
    file = decisions(tmp_path, "red/00.png,leave out,")
    assert len(load_split(settings(image_folder, labels=file)).samples) == 35


def test_a_class_that_decisions_empty(image_folder: Path, tmp_path: Path) -> None:
    file = decisions(tmp_path, *(f"red/{i:02}.png,leave out," for i in range(12)))
    with pytest.raises(UserError, match="leaves no picture of red"):
        load_split(settings(image_folder, labels=file))
    some = settings(image_folder, labels=file, classes=["green", "blue"])
    assert len(load_split(some).samples) == 24


def test_classes_that_are_not_trained(image_folder: Path, tmp_path: Path) -> None:
    file = decisions(tmp_path, "blue/00.png,relabel,red", "red/01.png,relabel,blue")
    split = load_split(settings(image_folder, labels=file, classes=["green", "blue"]))
    assert len(split.samples) == 23
    assert [path.name for path, _ in split.unused] == ["00.png"]
    why = "not used, as train.classes leaves their new class out: 1 to red"
    assert f"train.labels: 0 relabelled, 0 left out; {why}; by {file}" in split.notes


def test_an_earlier_split_takes_decisions_that_came_later(
    image_folder: Path, tmp_path: Path
) -> None:
    first = load_split(settings(image_folder))
    write_split(tmp_path / "split.csv", first)
    file = decisions(tmp_path, "red/00.png,relabel,blue", "red/01.png,leave out,")
    again = load_split(settings(image_folder, labels=file, split=str(tmp_path / "split.csv")))
    parts = [{split.path_of(s): s.part for s in split.samples} for split in (first, again)]
    assert parts[1] == {path: part for path, part in parts[0].items() if path != "red/01.png"}
    (moved,) = (s for s in again.samples if again.path_of(s) == "red/00.png")
    assert again.classes[moved.label] == "blue"


def test_a_table_that_is_none(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file of decisions \(columns path, decision, label\)"):
        load_split(settings(image_folder, labels=str(tmp_path / "gone.csv")))


def test_of_a_folder_that_grows_decided_pictures_may_be_gone(
    image_folder: Path, tmp_path: Path
) -> None:
    write_split(tmp_path / "split.csv", load_split(settings(image_folder)))
    file = decisions(tmp_path, "red/77.png,leave out,", "red/00.png,relabel,blue")
    earlier = {"labels": file, "split": str(tmp_path / "split.csv")}
    again = load_split(settings(image_folder, **earlier, new_images="train"))
    assert f"1 of the pictures in {file} are not there any more" in again.notes
    assert (image_folder / "red/77.png", f"{file} decides of it, and it is gone") in again.unused
    with pytest.raises(UserError, match="red/77.png: it is not in"):
        load_split(settings(image_folder, **earlier))
