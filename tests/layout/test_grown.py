"""A folder that has grown since the split that it is split by: which part what is new gets."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from dataset import Split, load_split, write_split
from tests.helpers import picture, scene, settings
from utils import UserError, sha256_of

PATIENT = r"(patient\d+)"


def add(root: Path, classes: tuple[str, ...], patients: range, numbers: range) -> None:
    """Pictures of some patients, of the colours by which classes are called here."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for patient in patients:
            for i in numbers:
                one = picture(name, 1000 * patient + i)
                one.save(root / name / f"patient{patient:02}_{i}.png")


def parts_of_patients(split: Split) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for sample in split.samples:
        found[sample.path.name[:9]].add(sample.part)
    return found


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    root = tmp_path / "patients"
    add(root, ("blue", "red"), range(10), range(3))
    return root


def first_split(root: Path, **keys: Any) -> tuple[Split, dict[str, Any]]:
    """The split of a folder, and the settings by which one that has grown is split as it is."""
    first = load_split(settings(root, **keys))
    write_split(root.parent / "split.csv", first)
    return first, keys | {"split": str(root.parent / "split.csv"), "new_images": "train"}


def test_new_pictures_are_where_their_group_is(patients: Path) -> None:
    first, grown = first_split(patients, groups=PATIENT, test_fraction=0.2)
    before = parts_of_patients(first)
    assert all(len(parts) == 1 for parts in before.values())
    add(patients, ("blue", "red"), range(10), range(3, 5))
    add(patients, ("blue", "red"), range(20, 22), range(2))  # of none: they are trained on
    split = load_split(settings(patients, **grown))
    parts = parts_of_patients(split)
    assert {name: parts[name] for name in before} == before
    assert parts["patient20"] == parts["patient21"] == {"train"}
    held = sum(2 * 2 for part in before.values() if part != {"train"})
    assert f"new images held out with their groups: {held}" in split.notes
    assert not any(note.startswith("warning") for note in split.notes)


def test_a_new_class_follows_the_groups_that_are_known(patients: Path) -> None:
    first, grown = first_split(patients, groups=PATIENT, test_fraction=0.2)
    before = parts_of_patients(first)
    add(patients, ("green",), range(10), range(2))
    split = load_split(settings(patients, **grown))
    assert parts_of_patients(split) == before and "new classes: green" in split.notes
    add(patients, ("green",), range(30, 32), range(1))  # too few to draw of
    parts = parts_of_patients(load_split(settings(patients, **grown)))
    assert parts["patient30"] == parts["patient31"] == {"train"}
    add(patients, ("green",), range(30, 45), range(1))
    split = load_split(settings(patients, **grown))
    fresh = [p for name, p in parts_of_patients(split).items() if name not in before]
    assert {"train"} in fresh and {"val"} in fresh and {"test"} in fresh


def test_a_new_group_of_known_and_new_classes_is_in_one_part(patients: Path) -> None:
    _, grown = first_split(patients, groups=PATIENT, test_fraction=0.2)
    add(patients, ("blue", "green"), range(20, 40), range(2))
    split = load_split(settings(patients, **grown))
    parts = parts_of_patients(split)
    assert all(len(found) == 1 for found in parts.values())
    assert {part for n in range(20, 40) for part in parts[f"patient{n}"]} == {
        "train",
        "val",
        "test",
    }
    assert not any(note.startswith("warning") for note in split.notes)


def test_pictures_moved_to_a_new_class_keep_their_part(patients: Path) -> None:
    """And of other new classes parts are drawn all the same."""
    first, grown = first_split(patients, test_fraction=0.2)
    (patients / "crimson").mkdir()
    red = [s for s in first.samples if first.classes[s.label] == "red"]
    moved = [s for s in red if s.part == "train"][:6] + [s for s in red if s.part == "test"][:1]
    for sample in moved:
        sample.path.rename(patients / "crimson" / sample.path.name)
    add(patients, ("green",), range(20, 40), range(1))
    for number in range(12):
        picture("blue", 7000 + number).save(patients / "crimson" / f"new{number}.png")
    split = load_split(settings(patients, **grown))
    parts = {s.sha256: s.part for s in split.samples}
    assert all(parts[s.sha256] == s.part for s in first.samples)
    counts = split.counts()
    assert counts["green"] == {"train": 12, "val": 4, "test": 4}
    assert counts["crimson"]["val"] > 0 and counts["crimson"]["test"] > 1
    assert not any("is not used" in note for note in split.notes)
    assert any(note.startswith("7 files by another name") for note in split.notes)


def test_a_split_that_does_not_grow_stays_as_it_is(patients: Path, tmp_path: Path) -> None:
    """Though labels make a class that it doesn't name."""
    first, _ = first_split(patients)
    (patients / "crimson").mkdir()
    picture("red", 9999).save(patients / "crimson" / "new.png")
    taken = [s for s in first.part("train") if first.classes[s.label] == "red"][:10]
    rows = [f"red/{s.path.name},relabel,crimson" for s in taken]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,decision,label", *rows]))
    split = load_split(settings(patients, split=str(tmp_path / "split.csv"), labels=str(table)))
    assert {s.path: s.part for s in split.samples} == {s.path: s.part for s in first.samples}


def test_a_held_out_picture_of_a_class_that_is_left_out_is_not_trained_on(patients: Path) -> None:
    add(patients, ("green",), range(10), range(1))
    first, grown = first_split(patients)
    held = next(s for s in first.part("val") if first.classes[s.label] == "green")
    held.path.rename(patients / "red" / "was green.png")
    split = load_split(settings(patients, **grown, classes=["blue", "red"]))
    assert {s.sha256: s.part for s in split.samples}[held.sha256] == "val"


def test_near_duplicates_of_what_is_held_out_are_not_trained_on(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(15):
            scene(100 * number + i).save(root / name / f"{i:02}.png")
    first, grown = first_split(root)
    wanted = {}
    for sample in first.samples[::3]:
        number = 100 * sample.label + int(sample.path.stem)
        mirrored = sample.path.with_name(f"{sample.path.stem}m.png")
        ImageOps.mirror(scene(number)).save(mirrored)
        wanted[mirrored] = sample.part
    split = load_split(settings(root, **grown))
    assert {s.path: s.part for s in split.samples if s.path in wanted} == wanted
    assert {*wanted.values()} == {"train", "val"}
    assert not any(note.startswith("warning") for note in split.notes)


def test_a_held_out_picture_by_another_name_is_held_out(patients: Path) -> None:
    first, grown = first_split(patients, test_fraction=0.2)
    held = [s for s in first.samples if s.part != "train"][:4]
    for sample in held[1:]:
        sample.path.rename(sample.path.with_name("checked " + sample.path.name))
    other = {"blue": "red", "red": "blue"}[held[0].path.parent.name]
    held[0].path.rename(patients / other / "was elsewhere.png")
    split = load_split(settings(patients, **grown))
    parts = {s.sha256: (s.part, split.classes[s.label]) for s in split.samples}
    before = {s.sha256: (s.part, first.classes[s.label]) for s in first.samples}
    assert parts == before | {held[0].sha256: (held[0].part, other)}
    assert split.unused == ()
    assert any(note.startswith("4 files by another name, each in its part") for note in split.notes)


def test_groups_that_lie_in_several_given_parts_are_warned_of(tmp_path: Path) -> None:
    root = tmp_path / "given"
    for part, first in (("train", 0), ("val", 500)):
        add(root / part, ("blue", "red"), range(4), range(first, first + 1))
    add(root / "train", ("blue", "red"), range(7, 9), range(2))
    notes = load_split(settings(root, groups=PATIENT)).notes
    (said,) = (note for note in notes if note.startswith("train.groups"))
    assert said == (
        "train.groups: 24 images of 6 groups, which share their fold, though not always their part"
    )
    (warning,) = (note for note in notes if note.startswith("warning"))
    assert "4 groups of them lie in several parts, which are given and stay" in warning
    assert "train/blue/patient00_0.png" in warning


def test_a_copy_of_what_is_learned_is_learned(patients: Path) -> None:
    """Whatever its name says of its group, and whatever class it is put in."""
    first, grown = first_split(patients, groups=PATIENT, test_fraction=0.2)
    parts = parts_of_patients(first)
    held = next(name for name, part in parts.items() if part == {"test"})
    learned = [s for s in first.part("train") if first.classes[s.label] == "red"]
    copies = [patients / "red" / f"{held}_9.png", patients / "green" / f"{held}_8.png"]
    add(patients, ("green",), range(30, 50), range(1))
    for sample, copy in zip(learned, copies, strict=False):
        shutil.copy(sample.path, copy)
    tested = next(s for s in first.part("test"))
    shutil.copy(tested.path, patients / "green" / "again.png")
    split = load_split(settings(patients, **grown))
    found = {s.path: s.part for s in split.samples}
    assert [found[copy] for copy in copies] == ["train", "train"]
    assert split.unused == (
        (
            patients / "green" / "again.png",
            f"new, but the same file as {tested.path.relative_to(patients)}",
        ),
    )
    digests = {part: {s.sha256 for s in split.part(part)} for part in ("train", "val", "test")}
    assert not digests["train"] & (digests["val"] | digests["test"])


def test_a_group_in_several_parts_is_held_out(tmp_path: Path) -> None:
    """What is new of it, that is: the split says otherwise of the others. New classes' own parts
    stay."""
    root = tmp_path / "given"
    add(root / "train", ("blue", "red"), range(8), range(1))
    add(root / "test", ("blue", "red"), range(3), range(5, 6))
    _, grown = first_split(root, groups=PATIENT)
    new = [root / "train" / "red" / f"patient{n:02}_9.png" for n in (0, 7)]
    for number, path in enumerate(new):
        picture("red", 40_000 + number).save(path)
    add(root / "train", ("green",), range(10, 18), range(1))
    add(root / "test", ("green",), range(7, 8), range(7, 8))  # a patient who is learned
    found = {s.path: s.part for s in load_split(settings(root, **grown)).samples}
    assert [found[path] for path in new] == ["test", "train"]
    assert found[root / "test" / "green" / "patient07_7.png"] == "test"


def test_files_numbered_anew_after_one_is_gone(patients: Path) -> None:
    first, grown = first_split(patients, test_fraction=0.2)
    files = sorted((patients / "red").iterdir())
    lost = next(s for s in first.samples if s.path == files[0])
    files[0].unlink()
    for before, after in itertools.pairwise(files):
        after.rename(before)
    split = load_split(settings(patients, **grown))
    wanted = {s.sha256: s.part for s in first.samples if s is not lost}
    assert {s.sha256: s.part for s in split.samples} == wanted
    assert any("are gone, and others have their names" in note for note in split.notes)
    assert split.unused == ()


def test_a_new_picture_in_the_place_of_one_that_moved(patients: Path) -> None:
    first, grown = first_split(patients, test_fraction=0.2)
    held = next(s for s in first.samples if s.part == "test")
    held.path.rename(held.path.with_name("moved.png"))
    picture("red", 99_999).save(held.path)
    split = load_split(settings(patients, **grown))
    parts = {s.path: s.part for s in split.samples}
    assert (
        parts[held.path.with_name("moved.png")] == "test" and len(parts) == len(first.samples) + 1
    )
    wanted = {s.sha256: s.part for s in first.samples}
    assert {s.sha256: s.part for s in split.samples if s.path != held.path} == wanted


def test_of_several_parts_a_moved_file_is_in_the_last(tmp_path: Path) -> None:
    root = tmp_path / "given"
    add(root / "train", ("blue", "red"), range(8), range(1))
    add(root / "test", ("blue", "red"), range(20, 23), range(1))
    copy = root / "test" / "red" / "copy.png"
    shutil.copy(root / "train" / "red" / "patient00_0.png", copy)
    first, grown = first_split(root)
    rows = [(s.path, s.part) for s in first.samples if s.sha256 == sha256_of(copy)]
    assert rows == [(copy, "test")], "what is trained on gives way"
    page = root.parent / "split.csv"
    row = next(line for line in page.read_text().splitlines() if "copy.png" in line)
    other = row.replace("test/red/copy.png", "train/red/a.png").replace(",test,", ",train,")
    later = row.replace("test/red/copy.png", "train/red/z.png").replace(",test,", ",train,")
    page.write_text(page.read_text() + f"{other}\n{later}\n")
    copy.rename(root / "train" / "red" / "renamed.png")
    (root / "train" / "red" / "patient00_0.png").unlink()
    found = {s.path.name: s.part for s in load_split(settings(root, **grown)).samples}
    assert found["renamed.png"] == "test"


def test_files_that_are_numbered_anew_keep_their_parts(patients: Path) -> None:
    """A name that is another picture's by now is that one's."""
    first, grown = first_split(patients, test_fraction=0.2)
    files = sorted((patients / "red").iterdir())
    for number, path in enumerate(files):
        path.rename(path.with_name(f"moving{number}"))
    for number, path in enumerate(files):
        path.with_name(f"moving{number}").rename(files[(number + 1) % len(files)])
    picture("red", 77_777).save(patients / "red" / "new.png")
    split = load_split(settings(patients, **grown))
    parts = {s.sha256: s.part for s in split.samples}
    before = {s.sha256: s.part for s in first.samples}
    assert {digest: parts[digest] for digest in before} == before
    assert len(parts) == len(before) + 1 and split.unused == ()
    held = next(s.path for s in first.samples if s.part == "test")
    picture("blue", 88_888).save(held)
    with pytest.raises(UserError, match=r"\(changed\).*without train.split and train.from_run"):
        load_split(settings(patients, **grown))
