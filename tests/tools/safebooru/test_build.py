"""Building a set from a board that lies, breaks off and is away."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest
from PIL import Image

from dataset import load_split
from tests.helpers import settings
from tests.tools.safebooru import server
from tests.tools.safebooru.conftest import Build
from tests.tools.safebooru.server import HTML, FakeBoard, cut, encoded, scene, status, to
from tests.tools.safebooru.sets import (
    bomb,
    files,
    rows,
    two_classes,
    why,
)
from tools.safebooru import gather
from tools.safebooru.manifest import HEADER
from utils import UserError

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
