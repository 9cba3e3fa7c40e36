"""Downloads, against a local server that breaks off, resumes, refuses and lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import utils
from filing.fetching import download
from tests.file_server import Server, served
from utils import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(monkeypatch)


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    server.files["w.bin"] = bytes(range(256)) * 1000
    download(f"{server.url}/w.bin", tmp_path / "deep" / "w.bin")
    assert (tmp_path / "deep" / "w.bin").read_bytes() == server.files["w.bin"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.bin"]


def test_broken_mid_file_it_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.files["w.bin"] = bytes(range(256)) * 4000
    server.break_after = [600_000, 100_000]
    download(f"{server.url}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == server.files["w.bin"]
    ranges = [wanted for _, wanted in server.asked]
    assert (
        ranges[0] is None and all(r and int(r[6:-1]) > 0 for r in ranges[1:]) and len(ranges) == 3
    )


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.files["w.bin"] = bytes(range(256)) * 4000
    server.break_after = [300_000, 0, 0]
    with pytest.raises(UserError, match=r"can't be reached .* put it at .*w\.bin"):
        download(f"{server.url}/w.bin", tmp_path / "w.bin")
    assert not (tmp_path / "w.bin").exists() and (tmp_path / "w.bin.part").stat().st_size > 0
    download(f"{server.url}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == server.files["w.bin"]


@pytest.mark.parametrize(("tags", "heeds"), [(True, True), (True, False), (False, True)])
def test_another_version_is_not_put_behind_the_beginning_of_one(
    server: Server, tmp_path: Path, tags: bool, heeds: bool
) -> None:
    """Nor where the server does not say which it has, or takes no notice of If-Range."""
    server.files["w.bin"], server.tags, server.heeds = b"old " * 250_000, tags, heeds
    server.break_after = [300_000, 0, 0]
    with pytest.raises(UserError, match="can't be reached"):
        download(f"{server.url}/w.bin", tmp_path / "w.bin")
    server.files["w.bin"] = b"new " * 250_000
    download(f"{server.url}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == server.files["w.bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["w.bin"]


def test_a_server_that_can_not_resume_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.files["w.bin"] = bytes(range(256)) * 4000
    server.ranges, server.break_after = False, [300_000]
    download(f"{server.url}/w.bin", tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == server.files["w.bin"]


def test_a_finished_part_and_one_that_is_too_long(server: Server, tmp_path: Path) -> None:
    server.files["w.bin"] = b"content"
    for leftover in (b"content", b"longer than content"):
        (tmp_path / "w.bin.part").write_bytes(leftover)
        download(f"{server.url}/w.bin", tmp_path / "w.bin")
        assert (tmp_path / "w.bin").read_bytes() == b"content"


def test_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answered 404"):
        download(f"{server.url}/none", tmp_path / "w.bin")


def test_offline_says_which_file_to_put_where(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"without a network, fetch it elsewhere .*here\.npz"):
        download(f"{server.url}/w.npz", tmp_path / "here.npz")


def test_no_disk_space(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["w.bin"] = b"x" * 1000
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(utils.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="no disk space for"):
        download(f"{server.url}/w.bin", tmp_path / "w.bin")
