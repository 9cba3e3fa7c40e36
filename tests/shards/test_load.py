"""What shards hold, however they are named: each picture once, in the parts and classes said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Preprocessing, TrainConfig
from dataset import Split, labels_of, make_loaders, write_split
from engine.parts import Batches
from images import read_unchanged
from shards.index import Index, Shard, rows_of, write_rows
from shards.packed import Packed
from tests.helpers import CPU, flip, pictures_of
from tests.shards.helpers import png, sample_files, shards_of, split_of, tar_of
from transforms import EpochSampler, streams_for
from utils import UserError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return shards_of(pictures_of(tmp_path / "pictures", 8), tmp_path / "out")


def contents(split: Split, part: str) -> list[tuple[bytes, str]]:
    return sorted((s.content(), split.classes[s.label]) for s in split.part(part))


def test_the_same_pictures_as_in_the_folder(tmp_path: Path, out: Path) -> None:
    folder = split_of(tmp_path / "pictures", tmp_path)
    packed = split_of(out, tmp_path)
    for part in ("train", "val", "test"):
        assert contents(packed, part) == contents(folder, part)
    assert packed.counts() == folder.counts() and packed.root == out
    assert {s.sha256 for s in packed.samples} == {s.sha256 for s in folder.samples}
    sample = packed.part("val")[0]
    assert packed.path_of(sample).startswith("val-000000.tar/0000000")
    np.testing.assert_array_equal(read_unchanged(sample), read_unchanged(
        next(s for s in folder.samples if s.sha256 == sample.sha256)))  # fmt: skip


def test_near_duplicates_share_their_group(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 6)
    folder = split_of(pictures, tmp_path)
    groups = {s.sha256: s.group[:16] for s in folder.samples}
    packed = split_of(shards_of(pictures, tmp_path / "out"), tmp_path)
    assert {s.sha256: s.group for s in packed.samples} == groups


def test_patterns(tmp_path: Path, out: Path) -> None:
    every = split_of(out, tmp_path)
    tars = sorted(path.name for path in out.glob("train-*.tar"))
    last = len(tars) - 1
    spelled = [
        f"{out}/{{train,val}}-*.tar",
        f"{out}/train-{{000000..{last:06}}}.tar::{out}/val-{{000000..000001}}.tar",
    ]
    for pattern in spelled:
        found = split_of(pattern, tmp_path)
        assert [s.sha256 for s in found.samples] == [s.sha256 for s in every.samples]
        assert found.root == out and found.path_of(found.samples[0]).startswith("train-000000.tar/")
    train = split_of(f"{out}/train-*.tar", tmp_path, val_fraction=0.3)
    there = [s.sha256 for part in ("train", "val") for s in train.part(part)]
    assert sorted(there) == sorted(s.sha256 for s in every.part("train"))
    assert all(counts["val"] == 2 for counts in train.counts().values())
    for wrong, why in (
        (f"{out}/train-{{000000..000099}}.tar", "no such shard"),
        (f"{out}/none-*.tar", "no such shard"),
        (f"{out}/train-{{9..1}}.tar", "counts down"),
        (f"{out}/train-{{0..99999999}}.tar", "more than 1,000,000 shards"),
        (f"{out}/{tars[0]}::{out}/{tars[0]}", "twice"),
    ):
        with pytest.raises(UserError, match=why):
            split_of(wrong, tmp_path)


def test_some_classes_alone(tmp_path: Path, out: Path) -> None:
    found = split_of(out, tmp_path, classes=("red", "blue"))
    assert found.classes == ("blue", "red") and set(labels_of(found.part("train"))) == {0, 1}
    every = split_of(tmp_path / "pictures", tmp_path, classes=("red", "blue"))
    assert {s.sha256 for s in found.samples} == {s.sha256 for s in every.samples}
    with pytest.raises(UserError, match="'read' is no class .* did you mean 'red'"):
        split_of(out, tmp_path, classes=("read", "blue"))


# ------------------------------------------------------------------- an epoch, each picture once


def seen(split: Split, train: TrainConfig, epoch: int, first: int = 0) -> list[tuple[bytes, int]]:
    """The training pictures that an epoch shows, from a place in it on, as they are in the file."""
    loader = make_loaders(split, train, Preprocessing(), 3, CPU)["train"]
    loader.sampler.begin(epoch, first)  # type: ignore[attr-defined]
    samples = split.part("train")
    return [(samples[index].content(), draw) for index, draw in loader.sampler]


@pytest.mark.parametrize("window", [1, 5, 1000])
def test_an_epoch_shows_each_picture_once(tmp_path: Path, out: Path, window: int) -> None:
    train = TrainConfig(base_dir=str(out), data=str(tmp_path), mode="scratch",
                        shuffle_buffer=window)  # fmt: skip
    split = split_of(out, tmp_path)
    expected = Counter(s.content() for s in split.part("train"))
    orders = []
    for epoch in (1, 2):
        keys = seen(split, train, epoch)
        assert Counter(content for content, _ in keys) == expected and set(expected.values()) == {1}
        assert {draw for _, draw in keys} == {epoch}
        for first in (1, 7, len(keys) - 1):
            assert seen(split, train, epoch, first) == keys[first:]
        orders.append([content for content, _ in keys])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("first", [0, 8])
@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_show_each_picture_once_together(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, processes: int, first: int
) -> None:
    """Also from the middle of an epoch on."""
    train = TrainConfig(base_dir=str(out), mode="scratch", shuffle_buffer=5, batch_size=4)
    split = split_of(out, tmp_path)
    order = seen(split, train, 2)
    samples, shares = split.part("train"), []
    for name, value in (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        sampler = make_loaders(split, train, Preprocessing(), 3, CPU)["train"].sampler
        sampler.begin(2, first)  # type: ignore[attr-defined]
        batches = Batches(sampler, train.batch_size, False)  # type: ignore[arg-type]
        shares += [samples[key[0]].content() for batch in batches for key in batch]
    assert Counter(shares) == Counter(content for content, _ in order[first:])
    assert max(Counter(shares).values()) == 1 and len(shares) == len(samples) - first


def test_shards_are_read_one_after_the_other() -> None:
    lots, window = [50, 0, 70, 30], 20
    starts = np.cumsum([0, *lots])
    sampler = EpochSampler(150, seed=3, lots=lots, window=window)
    orders = []
    for epoch in range(1, 9):
        sampler.begin(epoch)
        order = np.array([index for index, _ in sampler])
        assert sorted(order) == [*range(150)]
        lot = np.searchsorted(starts, order, side="right") - 1
        turns = sorted({0, 2, 3}, key=lambda which: np.median(np.flatnonzero(lot == which)))
        place = {
            i: p for p, i in enumerate(i for w in turns for i in range(starts[w], starts[w + 1]))
        }
        assert max(abs(place[i] - at) for at, i in enumerate(order)) <= window
        orders.append(tuple(turns))
    assert len({*orders}) > 2


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_each_process_reads_shards_of_its_own(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """But for the few at which the order of the shards is cut, whatever the epoch."""
    lots, size = [10] * 80 + [7], 8
    starts = np.cumsum([0, *lots])
    read: list[set[int]] = []
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for name, value in (("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        sampler = EpochSampler(807, seed=3, lots=lots, window=16, size=size)
        sampler.begin(3)
        own = [index for batch in Batches(sampler, size, False) for index, _ in batch]
        assert abs(len(own) - 807 / processes) < size
        read.append(set((np.searchsorted(starts, own, side="right") - 1).tolist()))
    assert set.union(*read) == {*range(81)}
    streams = 8
    assert sum(map(len, read)) <= 81 + streams + processes


def test_batches_are_mixed_from_several_shards_in_equal_shares() -> None:
    lots, size = [100] * 40, 16
    sampler = EpochSampler(4000, seed=0, lots=lots, window=400, size=size)
    sampler.begin(1)
    order = [index for index, _ in sampler]
    assert sorted(order) == [*range(4000)]
    shards = [{index // 100 for index in order[at : at + size]} for at in range(0, 3984, size)]
    assert min(map(len, shards)) > 8, "sixteen streams, some of them in one shard's two halves"
    place = {index: at for at, index in enumerate(order)}
    spans = [max(own) - min(own) for own in ([place[i] for i in range(n, n + 100)]
             for n in range(0, 4000, 100))]  # fmt: skip
    cut = sum(span > 2 * 100 * 16 + 400 for span in spans)
    assert cut <= 16, "a shard is read in one go, but for those that two streams share"


def test_streams_are_a_power_of_two_that_divides_a_batch() -> None:
    found = [streams_for(*of) for of in ((16, 99), (16, 3), (12, 99), (7, 99), (256, 99), (4, 0))]
    assert found == [16, 2, 4, 1, 16, 1]


def test_with_workers_as_without(tmp_path: Path, out: Path) -> None:
    """A process that was forked off reads through files of its own."""
    split = split_of(out, tmp_path)
    split.samples[0].content()  # a file is open by now
    found = []
    for workers in (0, 2):
        train = TrainConfig(base_dir=str(out), mode="scratch", num_workers=workers, batch_size=4)
        loader = make_loaders(split, train, Preprocessing(image_size=16), 3, CPU)["train"]
        found.append([images for images, _ in loader])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_pickled_they_are_small_and_the_same(tmp_path: Path, out: Path) -> None:
    split = split_of(out, tmp_path)
    split.samples[0].content()
    again = pickle.loads(pickle.dumps(split))
    assert [s.content() for s in again.samples] == [s.content() for s in split.samples]


def test_the_memory_is_that_of_a_few_numbers_a_picture(tmp_path: Path) -> None:
    """Rows stay on the disk: a hundred thousand pictures take less than 40 bytes each."""
    n, shards = 100_000, 10
    tmp_path.mkdir(exist_ok=True)
    each = n // shards
    made = []
    for number in range(shards):
        digest = [hash((number, i)).to_bytes(8, "big", signed=True) * 4 for i in range(each)]
        rows = [(512, 9, i % 2, digest[i], digest[i][:8], False, b"%08d.png" % i)
                for i in range(each)]  # fmt: skip
        made.append(Shard(f"{number}.tar", "val" if number == 9 else "train", each, 2048, "a" * 64))
        write_rows(tmp_path / f"{number}.npy", rows_of(rows))
        (tmp_path / f"{number}.tar").write_bytes(bytes(2048))
    Index(("a", "b"), tuple(made)).write(tmp_path)
    del rows, digest
    tracemalloc.start()
    split = split_of(tmp_path, tmp_path)
    train = TrainConfig(base_dir=str(tmp_path), mode="scratch")
    loader = make_loaders(split, train, Preprocessing(), 3, CPU)["train"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(loader.sampler) == 90_000 and split.counts()["a"]["val"] == 5_000  # type: ignore[arg-type]
    assert peak < 40 * n


# ----------------------------------------------------------------------------- what is wrong


def test_what_does_not_fit_the_index(tmp_path: Path, out: Path) -> None:
    index = out / "index.json"
    said = json.loads(index.read_text())
    for key, value, why in (
        ("classes", ["red"], "has one class only|a class that the index does not name"),
        ("classes", ["red", "red", "x"], "its classes are no names"),
        ("shards", "many", "is no index of shards"),
        ("shards", [{"name": "../x.tar"}], "is no index of shards"),
        ("shards", [said["shards"][0] | {"name": "/x.tar"}], "is no name of a shard"),
        ("shards", [said["shards"][0]] * 2, "it has a shard twice"),
        ("shards", [said["shards"][0] | {"count": -1}], "a number that can't be"),
        ("shards", [said["shards"][0] | {"count": 3}], "rows, and the index says 3"),
        ("shards", [said["shards"][0] | {"bytes": 4}], "has .* bytes, and the index says 4"),
    ):
        index.write_text(json.dumps(said | {key: value}, indent=1))
        with pytest.raises(UserError, match=why):
            split_of(out, tmp_path)
    index.write_text(json.dumps(said, indent=1))
    tar = out / "train-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:-1])
    with pytest.raises(UserError, match="bytes, and the index says .*; remove it; tools.shard"):
        split_of(out, tmp_path)
    tar.unlink()
    with pytest.raises(UserError, match="is not there, and the index names it"):
        split_of(out, tmp_path)
    tar.write_bytes(content)
    rows = out / "train-000000.npy"
    before = rows.read_bytes()
    for wrong in (b"", b"no rows", before[:-5]):
        rows.write_bytes(wrong)
        with pytest.raises(UserError, match=r"train-000000.npy can't be used: .*; make the shards"):
            split_of(out, tmp_path)
    found = np.load(out / "val-000000.npy")
    found["offset"][0] = 2**63
    write_rows(out / "val-000000.npy", found)
    rows.write_bytes(before)
    with pytest.raises(UserError, match="pictures beyond the end of val-000000.tar"):
        split_of(out, tmp_path)


def test_a_picture_that_was_changed_since(tmp_path: Path, out: Path) -> None:
    split = split_of(out, tmp_path)
    sample = split.part("train")[0]
    flip(out / "train-000000.tar", sample.where[1] + 60)  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"train-000000.tar/.*\.png was changed while it was in use"
    ):
        read_unchanged(sample)


def test_what_shards_do_not_take_is_one_sentence(tmp_path: Path, out: Path) -> None:
    for keys in ({"labels": "x.csv"}, {"groups": r"(\d+)"}, {"new_images": "train"}):
        with pytest.raises(UserError, match="is for folders; shards have their parts and labels"):
            split_of(out, tmp_path, **keys)


def test_what_is_said_of_a_run_to_go_on_from_is_taken(tmp_path: Path, out: Path) -> None:
    with pytest.raises(
        UserError, match="OUT train.split=logs/RUN/split.csv train.new_images=train"
    ):
        split_of(out, tmp_path, from_run="one")


def test_a_split_of_an_earlier_run(tmp_path: Path, out: Path) -> None:
    split = split_of(out, tmp_path)
    write_split(tmp_path / "split.csv", split)
    assert len(split_of(out, tmp_path, split=str(tmp_path / "split.csv")).samples) == 24
    lines = (tmp_path / "split.csv").read_text().splitlines(keepends=True)
    for changed in (lines[:-1], [*lines[:3], *lines[4:]], [*lines, lines[-1]]):
        (tmp_path / "split.csv").write_text("".join(changed))
        with pytest.raises(UserError, match="does not hold what .*split.csv lists: .*tar/"):
            split_of(out, tmp_path, split=str(tmp_path / "split.csv"))


# ------------------------------------------------------------------------- tars of others


def test_tars_of_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "train-0.tar", sample_files(4))
    other = {f"x{n}.json": json.dumps({"label": n % 2 + 1}).encode() for n in range(4)}
    other |= {f"x{n}.png": png("red", 50 + n) for n in range(4)} | {"._x1.png": b"", "a.jsonl": b""}
    tar_of(tmp_path / "in" / "val_1.tar", dict(sorted(other.items())))
    for _ in range(2):
        split = split_of(tmp_path / "in", tmp_path)
        assert split.classes == ("0", "1", "2")
        assert split.counts() == {
            "0": {"train": 4, "val": 0, "test": 0},
            "1": {"train": 4, "val": 2, "test": 0},
            "2": {"train": 4, "val": 2, "test": 0},
        }
        found = {split.path_of(s): (s.content(), s.label) for s in split.samples}
        assert found["train-0.tar/green/002.png"] == (png("green", 2), 1)
        assert found["val_1.tar/x3.png"] == (png("red", 53), 2) and len(found) == 16
        kept = sorted((tmp_path / "shards" / "scanned").iterdir())
        assert len(kept) == 4
        for path in kept:  # the second time nothing is read
            os.utime(path, (1, 1))
    assert all(path.stat().st_mtime == 1 for path in kept)


def test_texts_as_classes_and_parts_that_are_drawn(tmp_path: Path) -> None:
    files = {}
    for name in ("blue", "red"):
        for number in range(10):
            files |= {f"{name}{number}.txt": f"{name}\n".encode(), f"{name}{number}.png":
                      png(name, number // 2)}  # fmt: skip
    tar = tar_of(tmp_path / "all.tar", files)
    split = split_of(tar, tmp_path)
    assert split.classes == ("blue", "red") and isinstance(split.samples, Packed)
    assert all(c["val"] == 2 and c["train"] == 8 for c in split.counts().values())
    held = {s.sha256 for s in split.part("val")}
    assert not held & {s.sha256 for s in split.part("train")}, "copies stay together"
    other = split_of(tar, tmp_path, seed=5, test_fraction=0.2)
    assert all(c["val"] == c["test"] == 2 for c in other.counts().values())
    assert "near-duplicates are not looked for" in " ".join(split.notes)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "train-0.tar", sample_files(4))
    tar_of(tmp_path / "in" / "val-0.tar", sample_files(1))
    split = split_of(tmp_path / "in", tmp_path)
    assert len(split.part("train")) == 9 and len(split.part("val")) == 3
    assert "3 pictures are the same as held-out ones, and are not used" in split.notes


HOSTILE = {
    "absolute": ({"/etc/passwd.png": png("red", 0)}, "a file that would lie outside of it"),
    "above": ({"a/../../b.png": png("red", 0)}, "a file that would lie outside of it"),
    "no label": ({"a.png": png("red", 0)}, "a has no class: no .cls, .json or .txt"),
    "a novel": ({"a.png": png("red", 0), "a.txt": b"x" * 300}, "a.txt names no class"),
    "a bomb": ({"a.png": png("red", 0), "a.json": b"[" * 100_000}, "a.json names no class"),
    "no pictures": ({"a.txt": b"x", "a.mp3": b"y"}, "has no pictures"),
    "nothing": ({}, "has no pictures"),
    "one class": ({"a.png": png("red", 0), "a.cls": b"1"}, "has one class only"),
    "no picture": ({"a.png": b"none", "a.cls": b"1"}, r"a.png \(not an image\)|has no pictures"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tars_end_in_a_sentence(tmp_path: Path, what: str) -> None:
    files, why = HOSTILE[what]
    with pytest.raises(UserError, match=why):
        split_of(tar_of(tmp_path / "a.tar", files), tmp_path)


def test_a_tar_that_was_cut(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a.tar", sample_files(2))
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a.tar can't be used: it was cut"):
        split_of(tar, tmp_path)
    tar.write_bytes(b"\x1f\x8b" + bytes(5000))
    with pytest.raises(UserError, match=r"a.tar can't be used: no tar"):
        split_of(tar, tmp_path)


def test_unreadable_pictures_are_named_or_left_out(tmp_path: Path) -> None:
    files = sample_files(4) | {"red/x.png": png("red", 0)[:-70], "red/x.cls": b"2"}
    tar = tar_of(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match=r"1 unreadable: .*a.tar/red/x.png .*on_bad_image to skip"):
        split_of(tar, tmp_path)
    split = split_of(tar, tmp_path, on_bad_image="skip")
    assert len(split.samples) == 12 and split.unused[0][0].name == "x.png"


def test_a_folder_of_tars_and_folders_stays_a_folder(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 3)
    shutil.copy(tar_of(tmp_path / "a.tar", sample_files(1)), pictures / "a.tar")
    assert not isinstance(split_of(pictures, tmp_path).samples, Packed)


def test_sets_that_were_drawn_apart_share_no_held_out_picture(tmp_path: Path) -> None:
    """Each set's own parts are apart; one's training part may hold the other's validation."""
    pictures = pictures_of(tmp_path / "pictures", 12)
    one = shards_of(pictures, tmp_path / "one")
    other = shards_of(pictures, tmp_path / "other", "train.seed=1")
    both = split_of(f"{one}/train-*.tar::{other}/val-*.tar", tmp_path)
    held = {s.sha256 for s in both.part("val")}
    assert held and not held & {s.sha256 for s in both.part("train")}
    assert any("held-out" in note for note in both.notes)


def test_shards_that_are_not_finished_are_not_trained_on(tmp_path: Path, out: Path) -> None:
    (out / "index.json").unlink()
    for named in (out, f"{out}/train-*.tar"):
        with pytest.raises(UserError, match="no index.json: it was stopped there"):
            split_of(named, tmp_path)
