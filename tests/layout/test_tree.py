"""What lies in a folder: links, what a system leaves there, pictures by their content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from layout.paths import missing
from layout.tree import read_tree
from tests.helpers import picture
from utils import UserError


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in read_tree(root).every_picture()}


def reasons(root: Path) -> dict[str, str]:
    return {path.name: reason for path, reason in read_tree(root).every_other()}


@pytest.mark.parametrize(
    "name",
    ["@eaDir", ".ipynb_checkpoints", "__MACOSX", "lost+found", "$RECYCLE.BIN", "#recycle"]
    + ["System Volume Information"],
)
def test_a_system_s_folders_are_not_mentioned(image_folder: Path, name: str) -> None:
    before = names(image_folder)
    for place in (image_folder, image_folder / "red"):
        (place / name).mkdir()
        picture("red", 1).save(place / name / "1.png")
    assert names(image_folder) == before and not reasons(image_folder)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"])
def test_a_system_s_files_are_not_mentioned(image_folder: Path, name: str) -> None:
    before = names(image_folder)
    (image_folder / name).write_text("x")
    (image_folder / "red" / name).write_text("x")
    assert names(image_folder) == before and not reasons(image_folder)


def test_a_picture_is_one_by_its_content(image_folder: Path) -> None:
    red = image_folder / "red"
    (red / "00.png").rename(red / "00")
    (red / "01.png").rename(red / "01.dat")
    (red / "list.txt").write_text("BM, GIF8, a list")
    (red / "bm.bin").write_bytes(b"BM" + bytes(60))
    assert {"red/00", "red/01.dat"} <= names(image_folder)
    assert set(reasons(image_folder)) == {"list.txt", "bm.bin"}


def test_links_are_followed_but_not_round_in_a_circle(image_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    (image_folder / "green").rename(other)
    (image_folder / "green").symlink_to(other)
    picture("red", 99).save(tmp_path / "one.png")
    (image_folder / "red" / "linked.png").symlink_to(tmp_path / "one.png")
    (image_folder / "red" / "up").symlink_to(image_folder)
    (image_folder / "red" / "self").symlink_to(image_folder / "red" / "self")
    found = names(image_folder)
    assert {"green/00.png", "red/linked.png"} <= found and len(found) == 37
    assert reasons(image_folder) == {
        "up": "a link back to a folder that it lies in",
        "self": "a link to no file",
    }


def test_a_pipe_is_not_waited_for(image_folder: Path) -> None:
    os.mkfifo(image_folder / "red" / "pipe.png")
    assert reasons(image_folder) == {"pipe.png": "not a file"}


def test_links_to_what_is_no_file(image_folder: Path) -> None:
    """Without a picture's ending: with one they are told to be unreadable."""
    (image_folder / "red" / "zero").symlink_to("/dev/zero")
    assert reasons(image_folder) == {"zero": "a link to no file"}


@pytest.mark.skipif(os.name == "nt", reason="opens folders by their places in others")
def test_a_path_that_is_longer_than_the_system_takes(image_folder: Path) -> None:
    before, place = names(image_folder), os.open(image_folder / "red", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 240, dir_fd=place)
        deeper = os.open("d" * 240, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = deeper
    os.close(place)
    assert names(image_folder) == before
    assert reasons(image_folder) == {"d" * 240: "File name too long"}


def test_a_folder_that_goes_while_it_is_read(image_folder: Path, monkeypatch: Any) -> None:
    scandir = os.scandir

    def gone(path: Any) -> Any:
        if Path(path).name == "red":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr("layout.tree.os.scandir", gone)
    assert len(names(image_folder)) == 24
    assert reasons(image_folder) == {"red": "No such file or directory"}


def refused(*args: Any) -> Any:
    raise PermissionError(13, "Permission denied")


def test_what_is_no_folder_is_said(image_folder: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match=r"no such folder; did you mean .*/images\?"):
        read_tree(image_folder.with_name("image"))
    with pytest.raises(UserError, match=r"no such folder; did you mean \.\./images\?"):
        monkeypatch.chdir(image_folder)
        read_tree(Path("../image"))
    program = image_folder.with_name("shards")
    program.mkdir()
    (program / "__init__.py").touch()
    with monkeypatch.context() as patch:  # as of other users' folders beside it
        patch.setattr(Path, "is_file", refused)
        with pytest.raises(UserError, match=r"no such folder; did you mean .*/images\?"):
            read_tree(image_folder.with_name("image"))
        assert "did you mean" in str(missing(str(image_folder.with_name("image"))))
    with pytest.raises(UserError, match=r"my shards: no such folder; train\.base_dir takes"):
        read_tree(image_folder.with_name("my shards"))
    with pytest.raises(
        UserError, match=r"data/pilots: no such folder; python -m tools.draw_pilots"
    ):
        read_tree(Path("data/pilots"))
    with pytest.raises(UserError, match=r"00\.png is a file; train\.base_dir takes a folder"):
        read_tree(image_folder / "red" / "00.png")
    packed = image_folder.with_name("images.zip")
    packed.write_bytes(b"PK")
    with pytest.raises(UserError, match="unpack it"):
        read_tree(packed)
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if Path(path).name == "red":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("layout.tree.os.scandir", closed)
    with pytest.raises(UserError, match="red: no permission to read this folder"):
        read_tree(image_folder)
