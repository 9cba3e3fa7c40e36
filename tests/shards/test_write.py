"""Shards as they are written: what is in them, the same bytes every time, and after a stop."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards import write as writing
from shards.index import read_index
from tests.helpers import REPO, picture, pictures_of
from tests.shards.helpers import shards_of, split_of
from tools import shard
from utils import UserError


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_in_them(tmp_path: Path) -> None:
    """Each picture once, byte for byte, in the part that a training on the folder gives it."""
    pictures = pictures_of(tmp_path / "pictures", 8)
    out = shards_of(pictures, tmp_path / "out", "train.test_fraction=0.2")
    folder = split_of(pictures, tmp_path, test_fraction=0.2)
    expected = {s.path.read_bytes(): (s.label, s.part) for s in folder.samples}
    index = read_index(out / "index.json")
    assert index.classes == folder.classes and index.counts == folder.counts()
    found = {}
    for listed in index.shards:
        with tarfile.open(out / listed.name) as tar:
            names = tar.getnames()
            for name in (n for n in names if n.endswith(".png")):
                content = tar.extractfile(name).read()  # type: ignore[union-attr]
                label = tar.extractfile(name[:-4] + ".cls").read()  # type: ignore[union-attr]
                assert found.setdefault(content, (int(label), listed.part)) and len(names) > 1
        assert 2 * listed.count == len(names) == len(set(names))
        assert hashlib.sha256((out / listed.name).read_bytes()).hexdigest() == listed.sha256
        assert (out / listed.name).stat().st_size == listed.bytes <= 40_000
    assert found == expected and len(index.shards) > 5


def test_the_webdataset_library_reads_them(tmp_path: Path) -> None:
    out = shards_of(pictures_of(tmp_path / "pictures", 4), tmp_path / "out")
    tars = sorted(str(path) for path in out.glob("*.tar"))
    data = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    found = [(image.size, label) for image, label in data]
    assert len(found) == 12 and {size for size, _ in found} == {(50, 40)}
    assert sorted(label for _, label in found) == 4 * [0] + 4 * [1] + 4 * [2]


def test_odd_names_are_safe_and_unique(tmp_path: Path) -> None:
    names = ["a.b.c.PNG", "ä ö.png", "ø\n.png", "x" * 200 + ".png", "$(rm -rf).png", "no_ending"]
    for label in ("one class", "Größe"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number, name in enumerate(names):
            own = picture("red", number + 10 * len(label), (16, 12))
            own.save(tmp_path / "pictures" / label / name, "PNG")
    out = shards_of(tmp_path / "pictures", tmp_path / "an out")
    found = []
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            found += tar.getnames()
    pictures = [name for name in found if not name.endswith(".cls")]
    assert len(pictures) == len({*pictures}) == 12
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.png", name) for name in pictures)
    split = split_of(out, tmp_path)
    assert len(split.samples) == 12 and split.classes == ("Größe", "one class")


def test_stopped_and_gone_on_with_they_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = pictures_of(tmp_path / "pictures", 8)
    whole = files_of(shards_of(pictures, tmp_path / "whole"))
    written: list[str] = []
    own = shard.write

    def stopped(*given):  # type: ignore[no-untyped-def]
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(given[0].name)
        return own(*given)

    monkeypatch.setattr(shard, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        shards_of(pictures, tmp_path / "out")
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert sorted(there) == written and not (tmp_path / "out" / "index.json").exists()
    monkeypatch.undo()
    shards_of(pictures, tmp_path / "out")
    assert files_of(tmp_path / "out") == whole
    for name, time in there.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == time, "finished ones stay"


KILLED = """
import os, signal, sys
from shards import write as writing
own, count = writing.unchanged, [0]
def content(sample):
    count[0] += 1
    if count[0] == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return own(sample)
writing.unchanged = content
from tools import shard
shard.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_in_the_middle_of_one(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 8)
    whole = files_of(shards_of(pictures, tmp_path / "whole"))
    words = [str(pictures), str(tmp_path / "out"), "--size", "40KB", f"train.data={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=REPO, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert any(name.endswith(".tmp") for name in left) and "train-000000.tar" in left
    shards_of(pictures, tmp_path / "out")
    assert files_of(tmp_path / "out") == whole


def test_verified(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 4)
    out = shards_of(pictures, tmp_path / "out")
    words = [str(pictures), str(out), "--size", "40KB", "--verify", f"train.data={tmp_path}"]
    assert shard.main(words) == 0
    tar = out / "train-000000.tar"
    content = tar.read_bytes()
    for position in (600, 5, len(content) - 3, content.index(b".cls")):
        changed = bytearray(content)
        changed[position] ^= 1
        tar.write_bytes(changed)
        with pytest.raises(UserError, match=r"train-000000.tar: .*remove these"):
            shard.main(words)
        with pytest.raises(UserError, match="is not what its folder would give"):
            shards_of(pictures, out)
    tar.write_bytes(content[:-600])
    with pytest.raises(UserError, match="train-000000.tar: it"):
        shard.main(words)
    tar.write_bytes(content)
    (out / "val-000000.npy").write_bytes(b"none")
    with pytest.raises(UserError, match="val-000000.tar: the index says otherwise"):
        shard.main(words)
    (out / "val-000000.tar").unlink()
    with pytest.raises(UserError, match="val-000000.tar is not there"):
        shard.main(words)


def test_what_is_asked_for_in_vain(tmp_path: Path) -> None:
    pictures = pictures_of(tmp_path / "pictures", 3)
    out = shards_of(pictures, tmp_path / "out")
    for size in ("0", "many", "5 pies", "-3MB", ""):
        with pytest.raises(UserError, match="is no size; 256MB"):
            shards_of(pictures, tmp_path / "other", size=size)
    with pytest.raises(UserError, match="--size: 256 of what\\? 256MB, say"):
        shards_of(pictures, tmp_path / "other", size="256")
    with pytest.raises(UserError, match=r"holds what is not of these shards \(train-00000"):
        shards_of(pictures, out, size="1GB")
    program = tmp_path / "shards"  # as this project has such a folder
    program.mkdir()
    (program / "__init__.py").touch()
    with pytest.raises(UserError, match="name a folder that is not there yet") as caught:
        shards_of(pictures, program)
    assert "remove" not in str(caught.value) and [p.name for p in program.iterdir()] == [
        "__init__.py"
    ]
    with pytest.raises(UserError, match="nosuchrun: no such run"):
        shard.main([str(pictures), str(tmp_path / "of a run"), "train.from_run=nosuchrun"])
    run = tmp_path / "logs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=r"train.split=.*split.csv'? train.new_images=train$"):
        shard.main([str(pictures), str(tmp_path / "of a run"), f"train.from_run={run}"])
    assert not (tmp_path / "of a run").exists()
    with pytest.raises(UserError, match="lies in .*pictures"):
        shards_of(pictures, pictures / "out")
    with pytest.raises(UserError, match="holds shards already"):
        shards_of(out, tmp_path / "more")
    with pytest.raises(UserError, match="no such folder"):
        shards_of(tmp_path / "none", tmp_path / "more")
    with pytest.raises(UserError, match="other.csv is a file; name a folder"):
        (tmp_path / "other.csv").touch()
        shards_of(tmp_path / "none, too", tmp_path / "other.csv")
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match=r"not of these shards \(mine.txt;"):
        shards_of(pictures, out)
    sizes = [shard.bytes_of(text) for text in ("256MB", "1.5gb", "2 KiB", "10K", "77B")]
    assert sizes == [256_000_000, 1_500_000_000, 2048, 10_000, 77]


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures_of(tmp_path / "pictures", 3)
    monkeypatch.setattr("utils.free_bytes", lambda folder: 10)
    with pytest.raises(UserError, match="no disk space for the shards in"):
        shards_of(pictures, tmp_path / "out")


def test_a_picture_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures_of(tmp_path / "pictures", 3)
    own = writing.plan

    def planned(*given):  # type: ignore[no-untyped-def]
        found = own(*given)
        picture("red", 99).save(pictures / "red" / "00.png")
        return found

    monkeypatch.setattr(shard, "plan", planned)
    with pytest.raises(UserError, match="was changed while it was in use"):
        shards_of(pictures, tmp_path / "out")


def test_greys_of_many_bits_are_shown_as_from_the_folder(tmp_path: Path) -> None:
    for label in ("dark", "light"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(4):
            values = np.random.default_rng([number, len(label)]).integers(0, 3000, (12, 16))
            Image.fromarray(values.astype(np.uint16)).save(
                tmp_path / "pictures" / label / f"{number}.png"
            )
    out = shards_of(tmp_path / "pictures", tmp_path / "out")
    split, folder = split_of(out, tmp_path), split_of(tmp_path / "pictures", tmp_path)
    assert {s.greys for s in split.samples} == {s.greys for s in folder.samples} == {(0, 4095)}
    assert {s.greys for s in split_of(out, tmp_path, greys=(0, 9)).samples} == {(0, 9)}
    assert json.loads((out / "index.json").read_text())["greys"] == [0, 4095]
