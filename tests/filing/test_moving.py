"""Files put elsewhere."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from filing.moving import free_name, move


def test_names_with_numbers(tmp_path: Path) -> None:
    for wanted in ("a.tar.gz", "a.tar-2.gz", "a.tar-3.gz"):
        found = free_name(tmp_path / "a.tar.gz")
        assert found.name == wanted
        found.touch()


def test_a_number_fits_into_a_long_name(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".png", "あ" * 83 + "ab.png"):
        (tmp_path / name).touch()
        for number in (2, 3):
            found = free_name(tmp_path / name)
            assert found.name.endswith(f"-{number}.png") and len(os.fsencode(found.name)) <= 255
            found.touch()


def test_from_one_disk_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_bytes(b"picture")
    own = os.rename

    def other_disk(one: str, other: str) -> None:
        if Path(one) == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        own(one, other)

    monkeypatch.setattr(os, "rename", other_disk)
    move(str(source), str(target))
    assert target.read_bytes() == b"picture" and [p.name for p in tmp_path.iterdir()] == ["b.jpg"]


def test_a_link_is_moved_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "own.jpg").write_bytes(b"picture")
    os.symlink("own.jpg", tmp_path / "link.jpg")
    move(str(tmp_path / "link.jpg"), str(tmp_path / "deep" / "link.jpg"))
    assert (tmp_path / "deep" / "link.jpg").read_bytes() == b"picture"
    assert (tmp_path / "deep" / "link.jpg").is_symlink() and (tmp_path / "own.jpg").is_file()
    assert not os.path.lexists(tmp_path / "link.jpg")
