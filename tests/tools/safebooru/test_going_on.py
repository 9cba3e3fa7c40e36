"""A set that was changed by hand, or stopped anywhere, and gone on with."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import REPO
from tests.tools.safebooru import server
from tests.tools.safebooru.conftest import Build
from tests.tools.safebooru.server import HTML, FakeBoard, cut, scene
from tests.tools.safebooru.sets import (
    contents,
    files,
    many_faults,
    rows,
    two_classes,
    why,
    without_times,
)
from tools.safebooru import board as client
from tools.safebooru import gather
from utils import UserError


def command(board: FakeBoard, out: Path, wanted: Path, per_class: int) -> list[str]:
    program = [sys.executable, "-m", "tools.safebooru", "--out", str(out), "--pause", "0"]
    return [
        *program,
        "--base-url",
        board.url,
        "--wanted",
        str(wanted),
        "--per-class",
        f"{per_class}",
    ]


# ------------------------------------------------------------------------ by hand, and in the way


def test_a_picture_that_was_deleted_stays_away(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(2)
    (out / "rei/103.png").unlink()
    said = build(2)
    assert "removed by hand since the last run: 1;" in said and "--refetch" in said
    assert {f for f in files(out) if "rei/" in f} == {"rei/102.png", "rei/101.png"}
    assert why(out, 103) == "removed: removed by hand"
    board.asked.clear()
    build(2)
    assert not board.asked
    build(2, "--refetch")
    assert (out / "rei/103.png").is_file() and why(out, 103) == "taken: "


def test_a_manifest_alone_brings_the_same_set(
    board: FakeBoard, build: Build, out: Path, tmp_path: Path
) -> None:
    many_faults(board)
    build(5)
    other = tmp_path / "a friend's"
    other.mkdir()
    (other / "manifest.csv").write_bytes((out / "manifest.csv").read_bytes())
    board.add(999, "rei")
    assert "they are fetched again" in build(5, "--refetch", "--out", str(other))
    assert without_times(other) == without_times(out) and contents(other) == contents(out)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rei/103.png,rei", "../103.png,.."),
        ("rei/103.png,rei", "/tmp/103.png,/tmp"),
        ("rei/103.png", "rei/../mine.png"),
        ("images/4103/", "images/../../"),
        ("images/4103/", "index.php?x=/"),
        (",taken,", ",taken?,"),
        (",103,", ",x,"),
    ],
)
def test_a_manifest_leads_nowhere_else(
    old: str, new: str, board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board)
    build(1)
    text = (out / "manifest.csv").read_text()
    assert old in text
    (out / "manifest.csv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match="no manifest of this program, or was changed"):
        build(2, "--refetch")


def test_a_picture_that_was_put_back_is_known_again(
    board: FakeBoard, build: Build, out: Path, tmp_path: Path
) -> None:
    two_classes(board, 2)
    build(2)
    os.replace(out / "rei/101.png", tmp_path / "kept.png")
    build(2)
    os.replace(tmp_path / "kept.png", out / "rei/101.png")
    assert "back, after they had been removed: 1" in build(2)
    assert why(out, 101) == "taken: "


def test_a_file_that_the_manifest_does_not_know_is_left(
    board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board)
    build(1)
    (out / "rei/102.png").write_bytes(b"mine")
    (out / "rei/notes.txt").write_bytes(b"mine")
    (out / ".mine.tmp").write_bytes(b"mine")
    build(3)
    assert why(out, 102) == "failed: in the way: rei/102.png is another file"
    assert (out / "rei/102.png").read_bytes() == (out / "rei/notes.txt").read_bytes() == b"mine"
    assert (out / ".mine.tmp").read_bytes() == b"mine"
    (out / "rei/102.png").unlink()
    build(4)
    assert why(out, 102) == "taken: "


def test_a_folder_of_other_things_is_refused(build: Build, out: Path) -> None:
    out.mkdir()
    (out / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds other things .* choose another folder"):
        build()
    assert [p.name for p in out.iterdir()] == ["mine.jpg"]
    (out / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no manifest of this program"):
        build()
    assert (out / "manifest.csv").read_text() == "a,b\n1,2\n"


def test_a_set_is_of_one_board(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(1)
    with pytest.raises(UserError, match=r"pictures of http://127.* choose another --out"):
        build(1, "--base-url", "http://localhost:1")


# ------------------------------------------------------------------------ stopped, and going on


@pytest.mark.slow
def test_killed_it_ends_with_the_same_manifest(
    board: FakeBoard, build: Build, out: Path, wanted: Path, tmp_path: Path
) -> None:
    many_faults(board)
    build(9)
    whole, pictures = without_times(out), contents(out)
    assert {row["decision"] for row in whole} >= {"taken", "duplicate", "refused", "failed"}
    other = tmp_path / "killed"
    board.delay_s = 0.01
    with subprocess.Popen(command(board, other, wanted, 9), cwd=REPO) as run:
        asked_before = len(board.asked)
        while run.poll() is None and len(board.asked) < asked_before + 11:
            time.sleep(0.005)
        run.kill()
    assert run.returncode == -signal.SIGKILL and 0 < len(without_times(other)) < len(whole)
    build(9, "--out", str(other))
    assert without_times(other) == whole and contents(other) == pictures


class Killed(BaseException):
    """What nothing catches."""


def killed(*args: object, **keys: object) -> None:
    raise Killed


@pytest.mark.slow
def test_killed_at_every_request_it_ends_with_the_same_manifest(
    board: FakeBoard,
    build: Build,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off at its second request, going on cut off at its third, and so on."""
    many_faults(board)
    board.page = 100
    build(9)
    other, allowed, once = tmp_path / "killed", 0, client.Board._once

    def cut_off(self: client.Board, url: str, params: object) -> client.Answer:
        if self.requests == allowed:
            raise Killed
        return once(self, url, params)

    with monkeypatch.context() as patch:
        patch.setattr(client.Board, "_once", cut_off)
        for number in (1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7, 8, 9):
            allowed = number
            with pytest.raises(Killed):
                build(9, "--out", str(other))
    assert len(without_times(other)) > 15
    build(9, "--out", str(other))
    assert without_times(other) == without_times(out) and contents(other) == contents(out)


STEPS = ["writing the picture", "its name", "setting aside", "the row", "dropping"]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
def test_killed_between_any_two_steps(
    step: int, board: FakeBoard, build: Build, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of taking a picture in another's place fails once, and is done again."""

    board.add(2, "rei", image=scene(5))
    board.add(1, "rei", image=scene(5, (128, 96)))
    build(1)

    with monkeypatch.context() as patch:
        if step == 0:
            patch.setattr(Path, "write_bytes", killed)
        elif step == 1:
            patch.setattr(gather.os, "replace", killed)
        elif step == 2:
            real = os.replace
            patch.setattr(
                gather.os, "replace", lambda a, b: killed() if "dropped" in str(b) else real(a, b)
            )
        elif step == 3:
            patch.setattr(gather.Manifest, "put", killed)
        else:
            real_unlink = Path.unlink
            patch.setattr(
                Path,
                "unlink",
                lambda p, **k: killed() if "dropped" in p.name else real_unlink(p, **k),
            )
        with pytest.raises(Killed):
            build(2)
    build(2)
    assert {r: row["decision"] for r, row in rows(out).items()} == {2: "duplicate", 1: "taken"}
    assert files(out) == {"rei/1.png", "manifest.csv", "ATTRIBUTION.md"}
    assert not [p for p in (out / "rei").iterdir() if p.name[0] == "."]


@pytest.mark.parametrize("bytes_lost", [1, 2, 40, 130])
def test_a_row_that_was_cut_short_is_written_again(
    bytes_lost: int, board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board)
    board.posts[0]["source"] = "é"
    build(2)
    whole = without_times(out)
    content = (out / "manifest.csv").read_bytes()
    (out / "manifest.csv").write_bytes(content[:-bytes_lost])
    board.asked.clear()
    build(2)
    assert without_times(out) == whole and not board.files_asked()


def test_a_half_written_file_is_cleared_away(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(1)
    (out / "rei/.102.png.4711.tmp").write_bytes(b"half")
    (out / ".manifest.csv.4711.tmp").write_bytes(b"half")
    build(2)
    assert not list(out.rglob("*.tmp"))


def test_ctrl_c_says_how_to_go_on(
    board: FakeBoard, build: Build, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(board)
    once = client.Board._once

    def stopped(self: client.Board, url: str, params: object) -> client.Answer:
        if self.requests == 4:
            raise KeyboardInterrupt
        return once(self, url, params)

    monkeypatch.setattr(client.Board, "_once", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        build(4)
    said = str(caught.value)
    assert said.startswith(f"stopped: 3 of 8 pictures are in {out}; go on: python -m tools.safeb")
    assert "--per-class 4" in said and f"'{out}'" in said and (out / "ATTRIBUTION.md").is_file()


def test_two_runs_at_once(board: FakeBoard, build: Build, out: Path) -> None:
    from filelock import FileLock

    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(UserError, match="being filled by another run"):
        build(1)


def test_a_full_disk_and_a_long_name_are_sentences(
    board: FakeBoard, build: Build, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(board)
    for name in (out / ("x" * 300), out.parent / ("x" * 300)):
        with pytest.raises(UserError, match="too long a name"):
            build(1, "--out", str(name))
    build(1)
    monkeypatch.setattr("utils.free_bytes", lambda folder: 0)
    with pytest.raises(UserError, match=r"no disk space for .*rei/102\.png"):
        build(2)
    assert "rei/102.png" not in files(out)


def test_no_more_requests_than_allowed(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    with pytest.raises(UserError, match="3 requests were made, .* the same command goes on"):
        build(4, "--most-requests", "3")
    assert len(board.asked) == 3 and len(rows(out)) == 2
    build(4)
    assert len(files(out)) == 8 + 2


def test_a_picture_is_named_only_when_it_is_whole(
    board: FakeBoard, build: Build, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name that a file of a class ever gets is that of a whole picture."""
    path = board.add(1, "rei")
    board.faults[path] = [server.halved, cut, HTML]
    named: list[bytes] = []
    real = os.replace

    def replace(a: Path, b: Path) -> None:
        if Path(b).suffix == ".png":
            named.append(Path(a).read_bytes())
        real(a, b)

    monkeypatch.setattr("utils.os.replace", replace)
    build(1)
    assert named == [board.files[path]]
    Image.open(io.BytesIO(named[0])).load()
