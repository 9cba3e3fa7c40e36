"""Classes and parts of folders as people have them."""

from __future__ import annotations

import os
import unicodedata
from itertools import count
from pathlib import Path

import pytest

from layout.parts import lay_out, part_of
from system.filenames import text_of
from tests.helpers import picture
from utils import UserError

NUMBERS = count()


def tree(root: Path, folders: str, images: int = 3) -> Path:
    """Folders, each with some pictures of its own; one that ends in / stays empty."""
    for name in folders.split():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(0 if name.endswith("/") else images):
            number = next(NUMBERS)
            picture("red", number, (8, 8)).save(root / name / f"{number}.png")
    return root


def found(root: Path, classes: set[str] | None = None) -> dict[tuple[str, str | None], int]:
    """How many pictures each class has in each part."""
    counts: dict[tuple[str, str | None], int] = {}
    for item in lay_out(root, classes).found:
        key = item.class_name, item.part
        counts[key] = counts.get(key, 0) + 1
    return counts


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        lay_out(root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[(n, "train") for n in ("Train", "TRAINING", "training_set", "train2017")],
        *[(n, "val") for n in ("Valid", "dev", "eval", "ValidationSet")],
        *[(n, "test") for n in ("Testing", "seg_test", "test-images")],
        *[(n, None) for n in ("trains", "steam train", "cat", "train-test", "été", "image")],
    ],
)
def test_the_names_of_parts(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        ("Training", "Testing", "test"),
        ("Train", "Test", "test"),
        ("train", "Val", "val"),
        ("train", "eval", "val"),
        ("train", "dev", "val"),
        ("training_set/training_set", "test_set/test_set", "test"),
        ("train/images", "valid/images", "val"),
        ("wrapped/train", "wrapped/val", "val"),
    ],
)
def test_parts_are_found(tmp_path: Path, one: str, other: str, part: str) -> None:
    root = tree(tmp_path, f"{one}/a {one}/b {other}/a {other}/b")
    counts = {(name, p): 3 for name in "ab" for p in ("train", part)}
    assert found(root) == counts and not lay_out(root).unused


@pytest.mark.parametrize(
    "folders",
    ["PetImages/a PetImages/b", "x/y/a x/y/b docs/", "a/summer a/winter b/summer b/winter"],
)
def test_classes_are_found(tmp_path: Path, folders: str) -> None:
    each = 6 if "summer" in folders else 3
    assert found(tree(tmp_path, folders)) == {("a", None): each, ("b", None): each}


def test_which_folder_was_taken_is_said(tmp_path: Path) -> None:
    notes = lay_out(tree(tmp_path, "PetImages/a PetImages/b/deep")).notes
    assert f"the classes are taken from {tmp_path}/PetImages, within it" in notes
    assert "pictures in deeper folders count for their class: b (deep)" in notes


@pytest.mark.parametrize(
    "folders",
    ["bus car train", "bus/s bus/w car/s car/w train/s train/w"]
    + ["bus car train train/old", "bus car train/steam train/diesel"],
)
def test_a_class_may_be_called_train(tmp_path: Path, folders: str) -> None:
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir(parents=True)
    assert {name for name, part in found(tree(tmp_path, folders))} == {"bus", "car", "train"}
    assert {part for name, part in found(tmp_path)} == {None}


def test_what_could_be_a_class_or_a_part_is_asked(tmp_path: Path) -> None:
    said = refused(tree(tmp_path, "train/a train/b plane"))
    assert "train.classes=[plane, train]" in said and "name it as train.base_dir" in said
    assert set(found(tmp_path, {"plane", "train"})) == {("plane", None), ("train", None)}
    assert set(found(tmp_path, {"a", "b"})) == {("a", "train"), ("b", "train")}


def test_parts_inside_the_class_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/train a/val b/train b/val")
    assert found(root) == {(name, part): 3 for name in "ab" for part in ("train", "val")}


def test_parts_inside_some_class_folders_are_warned_of(tmp_path: Path) -> None:
    """With those classes alone they are used."""
    tree(tmp_path, "cat/train cat/val dog/train dog/val bird/train")
    layout = lay_out(tmp_path)
    (warning,) = (note for note in layout.notes if note.startswith("warning"))
    assert "the parts within cat, dog are not used, as bird has none" in warning
    assert {item.part for item in layout.found} == {None}
    layout = lay_out(tmp_path, {"cat", "dog"})
    assert {item.part for item in layout.found} == {"train", "val"}
    assert not any(note.startswith("warning") for note in layout.notes)


def test_a_class_of_seasons_alone_in_a_part_stays_a_class(tmp_path: Path) -> None:
    counts = found(tree(tmp_path, "train/a train/b val/a/summer val/a/winter"))
    assert counts == {("a", "train"): 3, ("b", "train"): 3, ("a", "val"): 6}


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ("s/train/a s/train/b s/val/a s/val/b t/a t/b", "did you mean {root}/s or {root}/t?"),
        ("train test", "{root}/train holds its pictures without class folders"),
        ("val/a val/b test/a test/b", "no folder to train on"),
    ],
)
def test_what_is_no_set_is_refused_with_the_remedy(tmp_path: Path, folders: str, said: str) -> None:
    assert said.format(root=tmp_path) in refused(tree(tmp_path, folders))


def test_the_largest_set_is_suggested_first_and_the_program_is_none(tmp_path: Path) -> None:
    small = "a/train/x a/train/y a/val/x a/val/y"
    root = tree(tmp_path, f"{small} vit/data/p vit/data/q vit/test/p vit/test/q")
    tree(root, "z/train/x z/train/y z/val/x z/val/y", 9)
    assert f"{tmp_path}/vit" in refused(root)
    (tmp_path / "vit" / "training.py").touch()
    assert refused(root).endswith(f"did you mean {tmp_path}/z or {tmp_path}/a?")


def test_a_class_folder_alone_points_at_the_one_above(tmp_path: Path) -> None:
    assert f"then it takes {tmp_path})" in refused(tree(tmp_path, "cat dog") / "cat")


def test_parts_beside_the_named_one_are_mentioned(tmp_path: Path) -> None:
    tree(tmp_path, "train/a train/b val/a val/b")
    notes = lay_out(tmp_path / "train").notes
    assert notes == [f"val beside it is not used: train.base_dir={tmp_path} takes all parts"]


def test_sets_one_folder_too_high_are_mentioned(tmp_path: Path) -> None:
    (note,) = lay_out(tree(tmp_path, "s/a s/b t/c t/d")).notes
    assert f"did you mean {tmp_path}/s, with the classes a, b ...?" in note


# -------------------------------------------------------------------------------- alike names

NFC, NFD = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def test_parts_in_two_normal_forms_share_their_class(tmp_path: Path) -> None:
    counts = found(tree(tmp_path, f"train/{NFC} train/b val/{NFD} val/b"))
    assert counts == {(name, part): 3 for name in (NFC, "b") for part in ("train", "val")}


@pytest.mark.parametrize("other", [NFD, f"{NFC} ", f"{NFC}\u200b"])
def test_classes_that_look_the_same_are_refused(tmp_path: Path, other: str) -> None:
    tree(tmp_path, f"{NFC} b x")
    (tmp_path / "x").rename(tmp_path / other)
    said = refused(tmp_path)
    assert "names look the same" in said and ascii(other) in said


def test_classes_that_differ_by_case_are_named(tmp_path: Path) -> None:
    layout = lay_out(tree(tmp_path, "A a b"))
    assert layout.names == {"A", "a", "b"}
    assert layout.notes == ["A and a differ by case alone, and are taken as 2 classes"]


def test_a_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    tree(tmp_path, "a b")
    os.rename(os.fsencode(tmp_path / "a"), os.fsencode(tmp_path) + b"/caf\xe9\n")
    layout = lay_out(tmp_path)
    assert layout.names == {r"caf\xe9\x0a", "b"}
    assert all(item.path.is_file() for item in layout.found)
    assert {text_of(item.path.parent.name) for item in layout.found} == layout.names
