"""Building a set from a board that lies, breaks off and is away; stopping it, and going on."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from dataset import load_split
from tests.helpers import REPO, settings
from tests.tools.safebooru import server
from tests.tools.safebooru.conftest import Build
from tests.tools.safebooru.server import HTML, FakeBoard, cut, encoded, scene, status, to
from tools.safebooru import board as client
from tools.safebooru import gather
from tools.safebooru.manifest import HEADER
from utils import UserError, read_csv


def rows(out: Path) -> dict[int, dict[str, str]]:
    return {int(row["post"]): row for row in read_csv(out / "manifest.csv")}


def files(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name[0] != "."}


def why(out: Path, post: int) -> str:
    row = rows(out)[post]
    return f"{row['decision']}: {row['reason']}"


def two_classes(board: FakeBoard, each: int = 4) -> None:
    for i in range(each):
        board.add(100 + i, "rei")
        board.add(200 + i, "asuka")


# ---------------------------------------------------------------------------------- a set


def test_a_set_is_a_folder_a_class(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    said = build(3)
    pictures = {f"rei/{i}.png" for i in (101, 102, 103)}
    pictures |= {f"asuka/{i}.png" for i in (201, 202, 203)}
    assert files(out) == {*pictures, "manifest.csv", "ATTRIBUTION.md"}
    assert [line.split() for line in said.splitlines()[1:3]] == [["rei", "3"], ["asuka", "3"]]
    assert f"next: python training.py 'train.base_dir={out}'" in said
    assert all(agent is not None and "vit-finetune" in agent for agent in board.agents)


def test_training_takes_it(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(4)
    split = load_split(settings(out))
    assert list(split.classes) == ["asuka", "rei"] and len(split.samples) == 8


def test_the_manifest_says_what_each_is(board: FakeBoard, build: Build, out: Path) -> None:
    source = "https://example.org/an artist's page"
    path = board.add(7, "rei", "blue_hair", kind="jpg", source=source, rating="safe")
    build(1)
    with open(out / "manifest.csv", newline="") as file:
        assert next(csv.reader(file)) == HEADER
    row, content = rows(out)[7], board.files[path]
    assert row | {"fetched_at": ""} == {
        "file": "rei/7.jpg",
        "class": "rei",
        "post": "7",
        "page": f"{board.url}/index.php?page=post&s=view&id=7",
        "url": board.url + path,
        "source": source,
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256((out / "rei/7.jpg").read_bytes()).hexdigest(),
        "bytes": str(len(content)),
        "width": "64",
        "height": "48",
        "tags": "rei blue_hair solo 1girl",
        "rating": "safe",
        "fetched_at": "",
        "decision": "taken",
        "reason": "",
    }
    assert row["fetched_at"].startswith("20") and row["fetched_at"].endswith("+00:00")


def test_attribution_is_written_beside_it(board: FakeBoard, build: Build, out: Path) -> None:
    board.add(1, "rei", source="https://example.org/1")
    board.add(2, "rei", source="](javascript:alert) <b>\n# mine")
    build()
    text = (out / "ATTRIBUTION.md").read_text()
    assert "They are not ours, nor yours, to pass on" in text and "redistribute none" in text
    page = f"{board.url}/index.php?page=post&s=view&id="
    assert f"- rei/1.png: {page}1, from https://example.org/1\n" in text
    assert f"- rei/2.png: {page}2\n" in text and "javascript" not in text


def test_tags_and_ratings_are_judged_here_too(board: FakeBoard, build: Build, out: Path) -> None:
    board.deaf = True
    board.add(1, "rei", "comic")
    board.add(2, "rei", "asuka")
    board.add(3, "rei", rating="questionable")
    board.add(4, "asuka")
    board.add(5, "rei", rating="")
    build()
    assert {p: row["decision"] for p, row in rows(out).items()} == {
        **dict.fromkeys((1, 2, 3, 5), "unwanted"),
        4: "taken",
    }
    assert why(out, 1) == "unwanted: refused tag: comic"
    assert why(out, 2) == "unwanted: another class as well: asuka"
    assert why(out, 3) == "unwanted: rating: questionable"
    assert why(out, 5) == "unwanted: rating: none"


def test_a_finished_set_asks_for_nothing(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(3)
    before = (out / "manifest.csv").read_bytes()
    board.asked.clear()
    build(3)
    build(2)
    assert not board.asked and (out / "manifest.csv").read_bytes() == before


def test_more_are_fetched_when_more_are_wanted(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    build(2)
    board.asked.clear()
    build(4)
    assert len(board.files_asked()) == 4 and len(files(out)) == 8 + 2


def test_a_dry_run_counts_and_writes_nothing(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    board.add(300, "rei", rating="explicit")
    said = build(6, "--dry-run")
    assert "to fetch: 8 pictures" in said and "1 rating" in said
    assert "the board has no more" in said
    assert not board.files_asked() and not out.exists()
    build(2)
    before = (out / "manifest.csv").read_bytes()
    board.asked.clear()
    said = build(3, "--dry-run")
    assert "to fetch: 2 pictures" in said and "2 decided before" in said
    assert not board.files_asked() and (out / "manifest.csv").read_bytes() == before


def test_a_class_that_the_board_has_too_few_of(board: FakeBoard, build: Build) -> None:
    two_classes(board, 2)
    assert build(3).count("(the board has no more; 3 were wanted)") == 2


def test_a_tag_that_the_board_does_not_know(board: FakeBoard, build: Build, wanted: Path) -> None:
    two_classes(board)
    wanted.write_text("classes: [rei, asuca]\n")
    assert "asuca         0  (the board has no post for 'asuca': check the tags;" in build(1)


def test_other_tags_are_judged_anew(
    board: FakeBoard, build: Build, out: Path, wanted: Path
) -> None:
    board.add(1, "rei", rating="questionable")
    with pytest.raises(UserError, match="no picture was taken"):
        build()
    assert rows(out)[1]["decision"] == "unwanted"
    wanted.write_text("classes: [rei]\nratings: [questionable]\n")
    build()
    assert rows(out)[1]["decision"] == "taken" and (out / "rei/1.png").is_file()


# ------------------------------------------------------------------------------- the board's faults


@pytest.mark.parametrize(
    "fault", [status(429), status(503), cut, server.stall, HTML, server.halved]
)
def test_a_passing_fault_changes_nothing(
    fault: server.Fault, board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board, 1)
    for path in (*board.files, server.API):
        board.faults[path] = [fault]
    build(1)
    assert files(out) >= {"rei/100.png", "asuka/200.png"}
    assert (out / "rei/100.png").read_bytes() in board.files.values()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1 << 16))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


FRAMES = [scene(1), scene(2)]
FILM = {"save_all": True, "append_images": FRAMES[1:]}


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (bomb(), "png", "too large: 60,000 x 60,000 are 3,600,000,000 pixels"),
        (encoded(FRAMES[0])[:-40], "png", "unreadable"),
        (b"", "png", "unreadable: an empty file"),
        (b"#!/bin/sh", "jpg", "unreadable"),
        (encoded(FRAMES[0], "gif", **FILM), "gif", "no still picture: it is animated"),
        (encoded(FRAMES[0], "webp", **FILM), "webp", "no still picture: it is animated"),
        (encoded(FRAMES[0], "png", **FILM), "png", "no still picture: it is animated"),
    ],
)
def test_a_file_that_is_no_good_is_refused(
    content: bytes, kind: str, reason: str, board: FakeBoard, build: Build, out: Path
) -> None:
    board.add(1, "rei")
    board.add(2, "rei", content=content, kind=kind)
    build(1)
    assert why(out, 2).startswith(f"refused: {reason}")
    assert files(out) == {"rei/1.png", "manifest.csv", "ATTRIBUTION.md"}
    board.asked.clear()
    build(2)
    assert not board.files_asked()  # it would be no better


@pytest.mark.parametrize("kind", ["webp", "gif", "JPEG"])
def test_stills_of_any_kind_are_taken(kind: str, board: FakeBoard, build: Build, out: Path) -> None:
    image = f"x.{kind}"
    board.add(1, "rei", kind=kind.lower(), image=scene(3))
    board.posts[0]["image"] = image
    board.files[f"/images/4001/{image}"] = board.files.popitem()[1]
    build(1)
    with Image.open(out / f"rei/1.{kind.lower()}") as picture:
        assert picture.size == (64, 48)


@pytest.mark.parametrize(
    ("keys", "decision"),
    [
        ({"image": "../../../etc/passwd.png"}, "unwanted: odd post: its file is called"),
        ({"directory": ".."}, "unwanted: odd post: its file is called ../"),
        ({"image": "a/b.png"}, "unwanted: odd post: its file is called"),
        ({"image": "https://evil.example/x.png"}, "unwanted: odd post: its file is called"),
        ({"image": "x.mp4"}, "unwanted: no still picture: .mp4"),
        ({"image": "x.webm"}, "unwanted: no still picture: .webm"),
        ({"image": None}, "unwanted: odd post: it lacks image"),
        ({"directory": None, "hash": ""}, "unwanted: odd post: it lacks directory and hash"),
        ({"tags": None}, "unwanted: odd post: it lacks tags"),
        ({"hash": "no hash"}, "unwanted: odd post: its hash is no hash"),
        ({"hash": "0" * 32}, "refused: wrong file: its md5 is "),
    ],
)
def test_an_odd_post_is_refused(
    keys: dict[str, object], decision: str, board: FakeBoard, build: Build, out: Path
) -> None:
    board.deaf = True
    board.add(2, "rei")
    board.posts[0] |= keys
    board.add(1, "rei")
    build(1)
    assert why(out, 2).startswith(decision)
    assert "rei/1.png" in files(out) and not (out.parent / "etc").exists()


@pytest.mark.parametrize("id", [None, "../1", -5, 10**30, True, 1.5])
def test_a_post_without_an_id_is_passed_over(id: object, board: FakeBoard, build: Build) -> None:
    board.add(2, "rei")
    board.add(1, "rei")
    board.posts = [{**board.posts[0], "id": id}, "no post", *board.posts[1:]]
    board.deaf = True
    said = build(1)
    assert "posts without an id were passed over" in said and "rei           1" in said


def test_upper_case_hashes_and_md5_are_understood(
    board: FakeBoard, build: Build, out: Path
) -> None:
    board.add(1, "rei")
    board.posts[0]["hash"] = board.posts[0]["hash"].upper()
    board.add(2, "rei")
    board.posts[0]["md5"] = board.posts[0].pop("hash")
    build()
    assert files(out) >= {"rei/1.png", "rei/2.png"}


def test_a_post_that_vanished(board: FakeBoard, build: Build, out: Path) -> None:
    two_classes(board)
    del board.files[board.add(150, "rei")]
    build(1)
    assert why(out, 150) == "refused: gone: the board answers 404"
    assert "rei/103.png" in files(out)


def test_a_file_that_fails_is_asked_for_another_time(
    board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board, 1)
    path = board.add(1, "rei")
    board.always[path] = status(503)
    said = build(2)
    assert why(out, 1) == "failed: not to be had: it answers 503" and "asked for again" in said
    del board.always[path]
    build(2)
    assert why(out, 1) == "taken: "


def test_a_web_page_instead_of_pictures_ends_the_run(
    board: FakeBoard, build: Build, out: Path
) -> None:
    for i in range(1, 9):
        board.always[board.add(i, "rei")] = HTML
    with pytest.raises(UserError, match="did not give 5 files .* a web page instead of the pict"):
        build()
    assert len({p for p in board.files_asked()}) == gather.IN_A_ROW
    board.always.clear()
    build(8)
    assert len(files(out)) == 8 + 2


def test_files_that_always_fail_do_not_end_each_run(
    board: FakeBoard, build: Build, out: Path
) -> None:
    two_classes(board)
    for i in range(900, 907):
        board.always[board.add(i, "rei")] = status(500)
    with pytest.raises(UserError, match="did not give 5 files"):
        build()
    build()
    assert "rei/102.png" in files(out)
    assert sum(row["decision"] == "failed" for row in rows(out).values()) == 7


def test_a_redirect_to_another_host_is_not_followed(
    board: FakeBoard, build: Build, out: Path
) -> None:
    other = FakeBoard()
    path = board.add(2, "rei")
    other.files[path] = board.files[path]
    board.always[path] = to(other.url + path)
    within = board.add(1, "rei")
    board.faults[within] = [to("/elsewhere.png")]
    board.files["/elsewhere.png"] = board.files[within]
    build(1)
    host = other.url.partition("//")[2]
    assert why(out, 2) == f"refused: redirect: {board.url} sends on to {host}, another host"
    assert not other.asked and "rei/1.png" in files(out)
    board.always[server.API] = to(other.url + server.API)
    with pytest.raises(UserError, match="another host; --base-url takes"):
        build(2)
    assert not other.asked
    other.close()


# -------------------------------------------------------------------------------- near-duplicates


def test_the_largest_of_near_duplicates_stays(board: FakeBoard, build: Build, out: Path) -> None:
    image = scene(5, (200, 150))
    board.add(9, "rei", image=image.resize((100, 75)))
    board.add(8, "rei", image=image)
    board.add(7, "asuka", content=encoded(image.resize((160, 120)), "jpg", quality=60), kind="jpg")
    board.add(6, "asuka", image=image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((90, 70)))
    said = build(5)
    assert files(out) == {"rei/8.png", "manifest.csv", "ATTRIBUTION.md"}
    for post in (9, 7, 6):
        assert why(out, post) == "duplicate: near-duplicate: of post 8 (rei), 200 x 150"
    assert "3  duplicate  near-duplicate" in said


def test_a_larger_copy_in_another_class_takes_its_place(
    board: FakeBoard, build: Build, out: Path
) -> None:
    """And the class that lost it gets another picture."""
    board.add(20, "rei", image=scene(5))
    board.add(19, "rei")
    board.add(18, "rei")
    board.add(10, "asuka", image=scene(5, (128, 96)))
    build(2)
    assert {f for f in files(out) if "/" in f} == {"rei/19.png", "rei/18.png", "asuka/10.png"}
    assert list(rows(out)) == [20, 19, 10, 18]


def test_a_picture_that_was_cut_by_hand_is_not_dropped(
    board: FakeBoard, build: Build, out: Path
) -> None:
    board.add(2, "rei", image=scene(5))
    build(1)
    scene(5).crop((0, 0, 63, 48)).save(out / "rei/2.png")
    mine = (out / "rei/2.png").read_bytes()
    board.add(1, "rei", image=scene(5, (128, 96)))
    build(2)
    assert (out / "rei/2.png").read_bytes() == mine
    assert why(out, 1).startswith("duplicate: near-duplicate: of post 2")


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


def without_times(out: Path) -> list[dict[str, str]]:
    return [row | {"fetched_at": ""} for row in read_csv(out / "manifest.csv")]


def many_faults(board: FakeBoard) -> None:
    """Posts of both classes with every lasting fault among them."""
    two_classes(board, 8)
    board.add(150, "rei", image=scene(103, (128, 96)))  # larger than 103, which comes later
    board.add(90, "asuka", image=scene(105, (128, 96)))  # larger than rei's 105
    del board.files[board.add(151, "rei")]
    board.add(152, "rei", content=b"no picture")
    board.add(153, "rei", content=bomb())
    board.add(99, "rei", hash="1" * 32)
    board.add(250, "asuka", rating="questionable")
    board.add(251, "asuka", image=scene(203))
    board.always[board.add(252, "asuka")] = HTML


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


def contents(out: Path) -> dict[str, bytes]:
    return {f: (out / f).read_bytes() for f in files(out) if f != "manifest.csv"}


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
