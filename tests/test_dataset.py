"""Folders of images: nothing dropped in silence, splits that do not leak, transforms, loaders."""

from __future__ import annotations

import csv
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config import Preprocessing
from config_file import load_config
from dataset import load_split, make_loaders, write_split
from system.filenames import name_of
from tests.helpers import SHARED_DATA, picture, pictures_of, prepared, reached, settings
from transforms import EpochSampler, eval_transform
from utils import UserError

CPU = torch.device("cpu")


# --------------------------------------------------------------------------------------- folders


def test_classes_counts_and_a_stratified_split(image_folder: Path) -> None:
    split = load_split(settings(image_folder, val_fraction=0.25))
    assert split.classes == ("blue", "green", "red")
    assert split.counts() == {n: {"train": 9, "val": 3, "test": 0} for n in split.classes}
    again = load_split(settings(image_folder, val_fraction=0.25))
    assert again.samples == split.samples
    other = load_split(settings(image_folder, val_fraction=0.25, seed=1))
    assert other.samples != split.samples


def test_every_file_that_is_not_used_is_named(image_folder: Path) -> None:
    (image_folder / "notes.txt").write_text("x")
    (image_folder / ".hidden").mkdir()
    (image_folder / "red" / ".DS_Store").write_text("x")
    (image_folder / "red" / "list.csv").write_text("x")
    picture("red", 1).save(image_folder / "loose.png")
    split = load_split(settings(image_folder))
    reasons = {path.name: reason for path, reason in split.unused}
    assert set(reasons) == {"notes.txt", "list.csv", "loose.png"}
    files = {path for path in image_folder.glob("*/*.png")}
    assert {sample.path for sample in split.samples} == files


def parts_folder(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    index = 0
    for part, classes in counts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for _ in range(count):
                picture(name, index).save(root / part / name / f"{index}.png")
                index += 1
    return root


def test_own_parts_are_kept(tmp_path: Path) -> None:
    counts = {"train": {"red": 4, "blue": 5}, "val": {"red": 2, "blue": 2}, "test": {"red": 3}}
    split = load_split(settings(parts_folder(tmp_path, counts)))
    assert split.counts() == {
        "blue": {"train": 5, "val": 2, "test": 0},
        "red": {"train": 4, "val": 2, "test": 3},
    }
    assert split.notes == ("no test images of blue",)


def test_val_is_cut_from_train_where_there_is_only_a_test_folder(tmp_path: Path) -> None:
    counts = {"train": {"red": 10, "blue": 10}, "test": {"red": 3, "blue": 3}}
    split = load_split(settings(parts_folder(tmp_path, counts)))
    assert split.counts()["red"] == {"train": 8, "val": 2, "test": 3}


def test_a_class_that_one_part_lacks_shifts_no_index(tmp_path: Path) -> None:
    counts = {"train": {"blue": 4, "green": 4, "red": 4}, "val": {"green": 2, "red": 2}}
    split = load_split(settings(parts_folder(tmp_path, counts)))
    assert split.classes == ("blue", "green", "red")
    for sample in split.samples:
        assert sample.path.parent.name == split.classes[sample.label]
    assert "no val images of blue" in split.notes


def test_a_class_may_be_called_train(image_folder: Path) -> None:
    (image_folder / "train").mkdir()
    for i in range(12, 24):
        picture("red", i).save(image_folder / "train" / f"{i}.png")
    assert "train" in load_split(settings(image_folder)).classes


def test_identical_files_share_their_part(image_folder: Path) -> None:
    for i in range(11):
        (image_folder / "red" / f"{i + 1:02}.png").unlink()
    for i in range(20):
        picture("red", i % 4).save(image_folder / "red" / f"copy{i}.png")
    for seed in range(5):
        split = load_split(settings(image_folder, seed=seed))
        part: dict[str, set[str]] = {}
        for sample in split.samples:
            part.setdefault(sample.sha256, set()).add(sample.part)
        assert all(len(parts) == 1 for parts in part.values())
        assert all(min(c["train"], c["val"]) > 0 for c in split.counts().values())
        assert any("byte-identical" in note for note in split.notes)


def test_a_held_out_image_is_not_trained_on(tmp_path: Path) -> None:
    counts = {"train": {"red": 4, "blue": 4}, "val": {"red": 2, "blue": 2}}
    root = parts_folder(tmp_path, counts)
    held_out = next((root / "val" / "red").iterdir())
    shutil.copy(held_out, root / "train" / "red" / "copy.png")
    split = load_split(settings(root))
    assert {path.name: reason for path, reason in split.unused} == {
        "copy.png": f"the same file as val/red/{held_out.name}"
    }


def test_one_picture_under_two_classes_is_named(image_folder: Path) -> None:
    shutil.copy(image_folder / "red" / "00.png", image_folder / "blue" / "wrong.png")
    split = load_split(settings(image_folder))
    assert any("blue/wrong.png, red/00.png" in note for note in split.notes)
    both = [s.part for s in split.samples if s.path.name == "wrong.png"]
    both += [s.part for s in split.samples if s.path == image_folder / "red" / "00.png"]
    assert both == ["train", "train"]


def test_split_csv_is_written_and_used_again(image_folder: Path, tmp_path: Path) -> None:
    split = load_split(settings(image_folder, seed=3))
    write_split(tmp_path / "split.csv", split)
    rows = list(csv.DictReader((tmp_path / "split.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "part", "sha256"] and len(rows) == 36
    picture("red", 99).save(image_folder / "red" / "new.png")
    again = load_split(settings(image_folder, split=str(tmp_path / "split.csv")))
    assert again.samples == split.samples
    assert [path.name for path, _ in again.unused] == ["new.png"]


def test_a_split_of_another_folder(image_folder: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "split.csv", load_split(settings(image_folder)))
    (image_folder / "red" / "00.png").unlink()
    picture("red", 50).save(image_folder / "red" / "01.png")
    with pytest.raises(UserError) as caught:
        load_split(settings(image_folder, split=str(tmp_path / "split.csv")))
    assert "red/00.png (not there)" in str(caught.value)
    assert "red/01.png (changed)" in str(caught.value)


@pytest.mark.skipif(not (SHARED_DATA / "characters5").is_dir(), reason="no real pictures here")
def test_real_pictures() -> None:
    split = load_split(settings(SHARED_DATA / "characters5"))
    assert set(split.classes) == {"ame", "bae", "calli", "gura", "ina"}
    assert all(c == {"train": 120, "val": 30, "test": 100} for c in split.counts().values())
    parts = {part: {s.sha256 for s in split.part(part)} for part in ("train", "val", "test")}
    assert not parts["train"] & parts["val"] and not parts["train"] & parts["test"]


# ------------------------------------------------------------------------- some, and new images


def test_some_of_the_classes(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "empty").mkdir()
    (image_folder / "green" / "text.jpg").write_text("not an image")
    split = load_split(settings(image_folder, classes=["red", "blue"]))
    assert split.classes == ("blue", "red") and len(split.samples) == 24
    assert split.notes == ("left out by train.classes: empty, green",)
    with pytest.raises(UserError, match="'reds' is no class of .*did you mean 'red'"):
        load_split(settings(image_folder, classes=["reds", "blue"]))
    (image_folder / "green").rename(image_folder / "green, or so")
    with pytest.raises(UserError, match='it has blue, empty, "green, or so", red'):
        load_split(settings(image_folder, classes=["or so", "blue"]))


def test_some_of_the_classes_of_a_split(image_folder: Path, tmp_path: Path) -> None:
    everything = load_split(settings(image_folder))
    write_split(tmp_path / "all.csv", everything)
    train = settings(image_folder, classes=["red", "blue"], split=str(tmp_path / "all.csv"))
    some = load_split(train)
    parts = {s.path: s.part for s in everything.samples}
    assert len(some.samples) == 24 and all(parts[s.path] == s.part for s in some.samples)
    write_split(tmp_path / "some.csv", some)
    again = load_split(settings(image_folder, classes=["red", "blue"]), tmp_path / "some.csv")
    assert again.samples == some.samples
    with pytest.raises(UserError, match=r"no image of 'green'; 'train.classes=\[blue, red\]' l"):
        load_split(settings(image_folder, split=str(tmp_path / "some.csv")))
    shutil.rmtree(image_folder / "green")
    assert load_split(train).samples == some.samples


def test_new_images_train_and_the_old_val_stays(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    old = load_split(settings(image_folder))
    write_split(file, old)
    picture("red", 99).save(image_folder / "red" / "new.png")
    held_out = next(s.path for s in old.part("val"))
    shutil.copy(held_out, held_out.with_name("copy.png"))
    train = settings(image_folder, split=str(file), new_images="train")
    split = load_split(train)
    assert split.part("val") == old.part("val")
    assert {s.path.name for s in split.samples} - {s.path.name for s in old.samples} == {"new.png"}
    assert [p.name for p, reason in split.unused if "the same file as" in reason] == ["copy.png"]
    assert len(load_split(train, file).samples) == 36, "a run that goes on takes no more"
    assert any(
        "new_images" in n for n in load_split(settings(image_folder, new_images="train")).notes
    )


def test_a_class_that_is_held_out_and_not_trained(tmp_path: Path) -> None:
    counts = {"train": {"red": 4, "blue": 4}, "val": {"reds": 2, "blue": 2}}
    for part, classes in counts.items():
        for name, count in classes.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                seed = 10 * len(part + name) + i
                picture("red", seed).save(tmp_path / part / name / f"{i}.png")
    with pytest.raises(UserError, match="val has 'reds', train has 'red'?"):
        load_split(settings(tmp_path))
    (tmp_path / "val" / "reds").rename(tmp_path / "val" / "zebra")
    with pytest.raises(UserError, match="val has 'zebra', train has no images of it"):
        load_split(settings(tmp_path))


def test_copies_are_named_across_parts_and_classes(tmp_path: Path) -> None:
    counts = {"train": {"red": 4, "blue": 4}, "val": {"red": 2, "blue": 2}}
    root = parts_folder(tmp_path, counts)
    held_out = next((root / "val" / "red").iterdir())
    shutil.copy(held_out, root / "train" / "red" / "copy.png")
    wrong = next((root / "train" / "blue").iterdir())
    shutil.copy(wrong, root / "train" / "red" / "wrong.png")
    notes = load_split(settings(root)).notes
    said = "\n".join(notes)
    assert "2 images are byte-identical" in notes[0]
    assert "1 images lie in several parts" not in said and "1 image lies in several parts" in said
    assert f"train/red/copy.png, val/red/{held_out.name}" in said
    assert f"train/blue/{wrong.name}, train/red/wrong.png" in said


def test_copies_that_a_split_sets_apart_are_named(image_folder: Path, tmp_path: Path) -> None:
    shutil.copy(image_folder / "red" / "00.png", image_folder / "red" / "copy.png")
    file = tmp_path / "split.csv"
    write_split(file, load_split(settings(image_folder)))
    rows = list(csv.DictReader(file.read_text().splitlines()))
    parts = {"red/00.png": "train", "red/copy.png": "val"}
    lines = [",".join(rows[0])]
    lines += [",".join({**r, "part": parts.get(r["path"], r["part"])}.values()) for r in rows]
    file.write_text("\n".join(lines))
    notes = load_split(settings(image_folder, split=str(file))).notes
    assert any("several parts" in n and "red/00.png, red/copy.png" in n for n in notes)


# ----------------------------------------------------------------------------------------- names

ODD = [b"caf\xe9", b"two\nlines", b'"a", b', b"$x$", b"caf\xc3\xa9", b"end "]


def odd_folder(root: Path) -> Path:
    for k, name in enumerate(ODD):
        folder = os.fsencode(root) + b"/" + name
        os.makedirs(folder)
        for i in range(4):
            file = os.fsdecode(folder + b"/" + bytes([65 + i, 0xE9, 10, 44, 34]) + b".png")
            picture("red", 10 * k + i, (8, 8)).save(file)
    return root


def test_any_name_is_written_and_found_again(tmp_path: Path) -> None:
    root, file = odd_folder(tmp_path / "odd"), tmp_path / "split.csv"
    split = load_split(settings(root, seed=1))
    assert {r"caf\xe9", r"two\x0alines", "$x$", "café"} < set(split.classes)
    write_split(file, split)
    assert load_split(settings(root, split=str(file))).samples == split.samples
    assert all((root / name_of(split.path_of(s))) == s.path for s in split.samples)
    some = load_split(settings(root, classes=[r"caf\xe9", r"two\x0alines"]))
    assert len(some.samples) == 8


def test_a_split_of_a_system_that_spells_in_another_normal_form(tmp_path: Path) -> None:
    root, file = tmp_path / "images", tmp_path / "split.csv"
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for k, name in enumerate((nfd, "b")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            picture("red", 10 * k + i, (8, 8)).save(root / name / f"{nfd}{i}.png")
    parts = {s.sha256: s.part for s in load_split(settings(root)).samples}
    write_split(file, load_split(settings(root)))
    for path in list((root / nfd).iterdir()):
        path.rename(path.with_name(unicodedata.normalize("NFC", path.name)))
    (root / nfd).rename(root / nfc)
    again = load_split(settings(root, split=str(file)))
    assert {s.sha256: s.part for s in again.samples} == parts


def test_a_split_that_is_cut_off(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("path,label,part,sha256\nred/00.png,red\n")
    with pytest.raises(UserError, match="is no split file"):
        load_split(settings(image_folder, split=str(tmp_path / "split.csv")))


# ---------------------------------------------------------------------------------------- errors


def test_missing_empty_and_single_class_folders(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_split(settings(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images in class folders"):
        load_split(settings(tmp_path / "empty"))
    (image_folder / "bare").mkdir()
    with pytest.raises(UserError, match="no images in the class folder bare"):
        load_split(settings(image_folder))
    for name in ("bare", "blue", "green"):
        shutil.rmtree(image_folder / name)
    with pytest.raises(UserError, match="one class only"):
        load_split(settings(image_folder))


def test_images_without_class_folders(tmp_path: Path) -> None:
    picture("red", 0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is not in a class folder"):
        load_split(settings(tmp_path))


def test_a_class_with_one_image(image_folder: Path) -> None:
    for i in range(1, 12):
        (image_folder / "red" / f"{i:02}.png").unlink()
    with pytest.raises(UserError, match="class red has 1 different image"):
        load_split(settings(image_folder))


def spoil(image_folder: Path) -> None:
    (image_folder / "red" / "text.jpg").write_text("not an image")
    (image_folder / "red" / "empty.png").write_bytes(b"")
    content = (image_folder / "blue" / "00.png").read_bytes()
    (image_folder / "blue" / "cut.png").write_bytes(content[: len(content) // 2])


def test_unreadable_images_are_all_listed(image_folder: Path) -> None:
    spoil(image_folder)
    with pytest.raises(UserError) as caught:
        load_split(settings(image_folder))
    message = str(caught.value)
    assert message.startswith("3 unreadable images")
    for name in ("text.jpg", "empty.png", "cut.png", "on_bad_image"):
        assert name in message


def test_unreadable_images_can_be_skipped(image_folder: Path) -> None:
    spoil(image_folder)
    split = load_split(settings(image_folder, on_bad_image="skip"))
    assert len(split.samples) == 36 and len(split.unused) == 3
    assert all(reason.startswith("unreadable") for _, reason in split.unused)


def test_a_class_of_unreadable_images_only(image_folder: Path) -> None:
    for path in (image_folder / "red").iterdir():
        path.write_text("no")
    with pytest.raises(UserError, match="no readable images in the class folder red"):
        load_split(settings(image_folder, on_bad_image="skip"))


# --------------------------------------------------------------------------- transforms, loaders

PREPROCESSING = Preprocessing(image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def test_evaluation_keeps_proportions_and_normalises() -> None:
    pixels = torch.full((3, 64, 128), 51, dtype=torch.uint8)
    pixels[:, :, :20] = 255  # further out than the central square
    out = eval_transform(PREPROCESSING)(pixels)
    assert out.shape == (3, 32, 32)
    expected = (0.2 - torch.tensor(PREPROCESSING.mean)) / torch.tensor(PREPROCESSING.std)
    torch.testing.assert_close(out, expected[:, None, None].expand(3, 32, 32), atol=1e-5, rtol=0)


def test_grey_input() -> None:
    pixels = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8)
    assert eval_transform(PREPROCESSING, 1)(pixels).shape == (1, 32, 32)


def batches(root: Path, epoch: int, **changes: Any) -> list[torch.Tensor]:
    train = settings(root, batch_size=8, **changes)
    loaders = make_loaders(load_split(train), train, PREPROCESSING, 3, CPU)
    loaders["train"].sampler.epoch = epoch  # type: ignore[attr-defined]
    return [images for images, _ in loaders["train"]]


def test_a_run_is_repeatable_whatever_the_workers(image_folder: Path) -> None:
    first = batches(image_folder, 1)
    torch.manual_seed(7)
    for other in (batches(image_folder, 1), batches(image_folder, 1, num_workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], batches(image_folder, 2)[0])
    assert not torch.equal(first[0], batches(image_folder, 1, seed=1)[0])


def test_decoding_on_the_fly_gives_the_same(image_folder: Path, monkeypatch: Any) -> None:
    first = batches(image_folder, 1)
    monkeypatch.setattr("images.CACHE_SHARE", 0.0)
    split = load_split(settings(image_folder))
    assert not split.decoded
    assert all(torch.equal(a, b) for a, b in zip(first, batches(image_folder, 1), strict=True))


def test_the_sampler_draws_every_index_once() -> None:
    sampler = EpochSampler(10, seed=0)
    sampler.epoch = 3
    assert sorted(index for index, _ in sampler) == list(range(10))
    assert {epoch for _, epoch in sampler} == {3}


def test_held_out_images_are_kept_apart(untuned: Path) -> None:
    config, _ = load_config(untuned, ["train.test_fraction=0.25", "train.val_fraction=0.25"])
    parts = [{s.sha256 for s in load_split(config.train).part(p)} for p in ("train", "val", "test")]
    assert [len(part) for part in parts] == [36, 18, 18]
    assert len(set.union(*parts)) == 72
    result = reached(untuned, "train.test_fraction=0.25", "train.lr=3e-4", "train.max_epochs=30")
    assert result["verdict_numbers"]["part"] == "test"
    low, high = result["test_interval"]
    assert low <= result["test_accuracy"] <= high and high - low > 0.1


def test_a_balanced_sampler_shows_each_class_equally_often() -> None:
    labels = [0] * 20 + [1] * 3 + [2]
    sampler = EpochSampler(24, seed=0, balance=labels)
    indices = [index for index, _ in sampler]
    assert np.bincount(np.array(labels)[indices]).tolist() == [8, 8, 8]
    rare = [i for i in indices if labels[i] == 1]
    assert {rare.count(i) for i in (20, 21, 22)} == {2, 3}, "all, before any comes again"
    sampler.epoch = 2
    assert [index for index, _ in sampler] != indices


@pytest.mark.usefixtures("new_files_are_remembered")
def test_new_pictures_leave_the_validation_part_nearly_as_it_was(finetune: Path) -> None:
    before = {s.sha256 for s in prepared(finetune)[1].part("val")}
    for i in range(12, 17):
        picture("red", i).save(finetune.parent / "images" / "red" / f"{i}.png")
    after = {s.sha256 for s in prepared(finetune)[1].part("val")}
    assert len(before) == 6 and len(after) == 7 and len(before - after) <= 1
    assert {s.sha256 for s in prepared(finetune, "train.seed=1")[1].part("val")} != after


def test_of_many_that_can_not_be_read_a_few_are_named(image_folder: Path) -> None:
    for i in range(40):
        (image_folder / "red" / f"bad{i:02}.png").write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        load_split(settings(image_folder))
    message = str(caught.value)
    assert message.startswith("40 unreadable images: ") and "bad04.png" in message
    assert "bad05.png" not in message and "; and 35 more; remove them, or set" in message


@pytest.mark.parametrize(
    ("inside", "overrides", "words"),
    [
        ((), {}, "no images in the class folders"),
        (("broken.png",), {"on_bad_image": "skip"}, "no readable images in the class folder"),
        (("broken.png",), {}, "300 unreadable images"),
        (("broken.png",), {"classes": ("0000", "none")}, "'none' is no class of"),
    ],
)
def test_a_message_never_lists_all_there_is(
    tmp_path: Path, inside: tuple[str, ...], overrides: dict[str, Any], words: str
) -> None:
    root = pictures_of(tmp_path / "images", each=3)
    for i in range(300):
        (root / f"{i:04}").mkdir()
        for name in inside:
            (root / f"{i:04}" / name).write_text("no picture")
    with pytest.raises(UserError) as caught:
        load_split(settings(root, **overrides))
    message = str(caught.value)
    assert words in message and len(message.replace(str(root), "")) < 800, message
    assert message.count("0") < 120
