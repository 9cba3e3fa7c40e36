"""Shards of elsewhere, from a local server that breaks off and lies, and out of commands."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import unchanged
from shards.fetch import Wanted, is_that
from shards.place import Source
from tests.file_server import Server, served
from tests.helpers import pictures_of
from tests.shards.helpers import png, sample_files, shards_of, split_of, tar_of
from utils import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return shards_of(pictures_of(tmp_path / "pictures", 8), tmp_path / "out")


def serve(server: Server, folder: Path) -> None:
    server.files |= {f"set/{path.name}": path.read_bytes() for path in folder.iterdir()}


def asked(server: Server, ending: str) -> list[str]:
    found = [path for path, _ in server.asked if path.endswith(ending)]
    server.asked.clear()
    return found


def test_a_shard_is_fetched_when_it_is_read_and_once(
    server: Server, tmp_path: Path, out: Path
) -> None:
    serve(server, out)
    here = split_of(out, tmp_path)
    data = tmp_path / "data"
    split = split_of(f"{server.url}/set", data)
    assert asked(server, ".tar") == [], "the rows say all that is asked at the start"
    assert split.counts() == here.counts() and split.classes == here.classes
    train = split.part("train")
    assert train[0].content() == here.part("train")[0].content()
    assert asked(server, ".tar") == ["set/train-000000.tar"]
    server.break_after = [20_000, 3_000]  # the next breaks off twice
    assert [s.content() for s in split.samples] == [s.content() for s in here.samples]
    assert len(set(asked(server, ".tar"))) == len([*out.glob("*.tar")]) - 1
    again = split_of(f"{server.url}/set", data)
    assert [s.content() for s in again.samples] == [s.content() for s in here.samples]
    assert asked(server, ".tar") == [] and not [*data.rglob("*.part")]
    pattern = split_of(f"{server.url}/set/train-{{000000..000001}}.tar", data)
    assert {s.sha256 for s in pattern.samples} < {s.sha256 for s in here.part("train")}
    assert pattern.root == data / "shards" and pattern.samples[0].content()
    assert asked(server, ".tar") == []
    server.http.shutdown()
    server.http.server_close()
    offline = split_of(f"{server.url}/set", data)
    assert offline.counts() == here.counts() and "fetched before is used" in offline.notes[0]


def test_what_came_broken_is_fetched_again_and_then_a_sentence(
    server: Server, tmp_path: Path, out: Path
) -> None:
    serve(server, out)
    split = split_of(f"{server.url}/set", tmp_path / "data")
    whole = server.files["set/train-000000.tar"]
    server.files["set/train-000000.tar"] = whole[:700] + b"?" + whole[701:]
    with pytest.raises(UserError, match="its SHA-256 is another; it was tried 3 times"):
        split.samples[0].content()
    assert len(asked(server, ".tar")) == 3
    server.files["set/train-000000.tar"] = whole[:-1]
    with pytest.raises(UserError, match="has .* bytes; the index says"):
        split.samples[0].content()
    server.files["set/train-000000.tar"] = whole
    assert split.samples[0].content()
    server.files["set/train-000001.npy"] = b"others"
    with pytest.raises(UserError, match="train-000001.npy .*SHA-256 is another"):
        split_of(f"{server.url}/set", tmp_path / "other")
    with pytest.raises(UserError, match="none/index.json: the server answered 404"):
        split_of(f"{server.url}/none", tmp_path / "other")
    with pytest.raises(UserError, match=r"set/index.json does not name x-1.tar"):
        split_of(f"{server.url}/set/x-1.tar", tmp_path / "none")


def test_shards_are_kept_while_there_is_room(server: Server, tmp_path: Path, out: Path) -> None:
    serve(server, out)
    most = 2.5 * (out / "train-000000.tar").stat().st_size
    split = split_of(f"{server.url}/set", tmp_path / "data", shard_cache=most / 1e9)
    here = {path.read_bytes() for path in (tmp_path / "pictures").rglob("*.png")}
    for _ in range(2):
        assert {s.content() for s in split.samples} == here
        kept = [path.stat().st_size for path in (tmp_path / "data" / "shards").rglob("*.tar")]
        assert len(kept) >= 2 and sum(kept) <= most


def test_tars_of_others(server: Server, tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "t.tar", sample_files(6))
    server.files["a-0.tar?key=1"] = tar.read_bytes()
    for _ in range(2):
        split = split_of(f"{server.url}/a-0.tar?key=1", tmp_path / "data")
        assert len(split.samples) == 18 and split.classes == ("0", "1", "2")
        assert asked(server, "a-0.tar?key=1") == ([] if _ else ["a-0.tar?key=1"])
    assert split.samples[0].content().startswith(b"\x89PNG")


def test_out_of_a_command(tmp_path: Path, out: Path) -> None:
    here = split_of(out, tmp_path)
    count = len(here.part("train").lots) - 3  # type: ignore[attr-defined]
    place = shlex.quote(str(out))
    split = split_of(f"pipe:cat {place}/train-{{000000..{count:06}}}.tar", tmp_path / "data")
    assert split.classes == here.classes, "its index is asked for in the same way"
    assert {s.content() for s in split.samples} <= {s.content() for s in here.part("train")}
    (tmp_path / "o").mkdir()
    tar_of(tmp_path / "o" / "x-1.tar", sample_files(6))
    other = split_of(f"pipe:cat '{tmp_path}/o/x-1.tar'", tmp_path / "data")
    assert len(other.samples) == 18
    with pytest.raises(UserError, match="ended with status 1: cat: .*none.tar.*; it was tried 3"):
        split_of(f"pipe:cat {place}/o/none.tar", tmp_path / "none")
    with pytest.raises(UserError, match="names no tar"):
        split_of("pipe:cat", tmp_path)


def test_an_answer_that_is_no_index_is_none(server: Server, tmp_path: Path) -> None:
    """Of a host that answers each address, and of a command that always gives the same tar."""
    tar = tar_of(tmp_path / "x-1.tar", sample_files(6))
    server.files |= {"a/x-1.tar": tar.read_bytes(), "a/index.json": b"<html>not here</html>"}
    same = f"pipe:cat {shlex.quote(str(tar))} # x-1.tar"
    for number, address in enumerate((f"{server.url}/a/x-1.tar", same)):
        data = tmp_path / str(number)
        for _ in range(2):
            split = split_of(address, data)
            assert len(split.samples) == 18 and split.classes == ("0", "1", "2")
        assert not [*data.rglob("*index.json")]


def test_a_page_in_the_place_of_an_index_leaves_the_one_that_is_here(
    server: Server, tmp_path: Path, out: Path
) -> None:
    serve(server, out)
    data, address = tmp_path / "data", f"{server.url}/set"
    with pytest.raises(UserError, match=r"none/index.json: the server answered 404"):
        split_of(f"{server.url}/none", data)
    before = split_of(address, data).counts()
    server.files["set/index.json"] = b"<html>not here</html>"
    for _ in range(2):
        found = split_of(address, data)
        assert found.counts() == before
        assert "is no index of shards; the index that was fetched before is used" in found.notes[0]
    with pytest.raises(UserError, match=r"set/index.json is no index of shards"):
        split_of(address, tmp_path / "other")


@pytest.mark.parametrize("remote", [False, True])
def test_a_shard_that_was_changed_says_what_to_do(
    server: Server, tmp_path: Path, out: Path, remote: bool
) -> None:
    serve(server, out)
    split = split_of(f"{server.url}/set" if remote else str(out), tmp_path / "data")
    sample = split.samples[0]
    assert unchanged(sample) == sample.content()
    tar = sample.path.parent
    content = tar.read_bytes().replace(b"PNG", b"GNP")
    tar.unlink()
    tar.write_bytes(content)
    again = split_of(f"{server.url}/set" if remote else str(out), tmp_path / "data")
    way = rf"remove \S+{tar.name}, and it is fetched again$" if remote else "make the shards again$"
    with pytest.raises(UserError, match=f"was changed while it was in use; {way}"):
        unchanged(again.samples[0])


def test_a_set_that_was_made_anew_is_fetched_anew(
    server: Server, tmp_path: Path, out: Path
) -> None:
    """Under the same names, by the index that says so."""
    serve(server, out)
    data = tmp_path / "data"
    for sample in split_of(f"{server.url}/set", data).samples:
        sample.content()
    other = shards_of(pictures_of(tmp_path / "other", 9), tmp_path / "anew")
    serve(server, other)
    here = split_of(other, tmp_path)
    split = split_of(f"{server.url}/set", data)
    assert [unchanged(s) for s in split.samples] == [s.content() for s in here.samples]


@pytest.mark.parametrize("way", ["http", "pipe", "file"])
def test_what_was_found_in_a_tar_of_others_is_not_said_of_the_next(
    server: Server, tmp_path: Path, way: str
) -> None:
    """Of as many bytes, and a file with the same times."""
    files = sample_files(6)
    tar = tar_of(tmp_path / "a-0.tar", files)
    server.files["a-0.tar"] = tar.read_bytes()
    places = {"http": f"{server.url}/a-0.tar", "file": str(tar)}
    places["pipe"] = f"pipe:cat {shlex.quote(str(tar))} # a-0.tar"
    data, times = tmp_path / "data", tar.stat()
    before = split_of(places[way], data)
    turned = {key: {b"0": b"1", b"1": b"0"}.get(value, value) for key, value in files.items()}
    tar_of(tar, turned)
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    server.files["a-0.tar"] = tar.read_bytes()
    for kept in (data / "shards").glob("*/a-0.tar"):
        kept.unlink()
    after = split_of(places[way], data)
    labels = [
        {s.sha256: split.classes[s.label] for s in split.samples} for split in (before, after)
    ]
    swap = {"0": "1", "1": "0", "2": "2"}
    assert labels[1] == {digest: swap[label] for digest, label in labels[0].items()}


@pytest.mark.parametrize("content", [b"", b"<html>try again later</html>" * 40, None])
def test_what_is_no_whole_tar_does_not_stay(tmp_path: Path, content: bytes | None) -> None:
    """A command may end well in the middle; None: the tar is cut."""
    tar = tar_of(tmp_path / "a-0.tar", sample_files(6))
    whole, place = tar.read_bytes(), f"pipe:cat {shlex.quote(str(tar))} # a-0.tar"
    tar.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"can't be used: .*; it was tried 3 times"):
        split_of(place, tmp_path / "data")
    tar.write_bytes(whole)
    assert len(split_of(place, tmp_path / "data").samples) == 18


def test_of_several_pictures_of_a_sample_the_plain_one_is_taken(tmp_path: Path) -> None:
    files = sample_files(6)
    keys = [key for key in files if key.endswith(".png")]
    depth = {f"{key[:-4]}.depth.png": png("red", 99 + i) for i, key in enumerate(keys)}
    both = dict(sorted((files | depth).items()))
    split = split_of(tar_of(tmp_path / "both.tar", both), tmp_path)
    wanted = {hashlib.sha256(files[key]).hexdigest() for key in keys}
    assert {s.sha256 for s in split.samples} == wanted
    alone = {key: value for key, value in both.items() if key in depth or key.endswith(".cls")}
    assert len(split_of(tar_of(tmp_path / "depth.tar", alone), tmp_path).samples) > 0
    unclear = files | {f"{key[:-4]}.jpg": png("red", 99) for key in keys}
    tar = tar_of(tmp_path / "unclear.tar", dict(sorted(unclear.items())))
    with pytest.raises(UserError, match=r"several pictures, \S+.jpg, \S+.png: which is its own"):
        split_of(tar, tmp_path)


def test_a_kept_shard_of_another_size_is_not_the_indexs(tmp_path: Path) -> None:
    """Where an index says no SHA-256, its bytes tell."""
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(1024))
    assert is_that(Wanted(Source(path), bytes=1024)) and is_that(Wanted(Source(path)))
    assert not is_that(Wanted(Source(path), bytes=2048))
