"""A picture's file: its bytes, and nothing that could be waited for in vain."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import UnidentifiedImageError

from decoding.formats import LARGE, LARGE_ONES, MAX_PIXELS, begins_as_picture
from decoding.members import member_of, within
from system.plain_files import kind_of, without_waiting

MOST_BYTES = 4 * MAX_PIXELS  # of one file


def content_of(path: Path) -> bytes:
    """A regular file's bytes; ValueError for anything else, which could be waited for in vain, and
    for one that is larger than any picture, or large and no picture by its first bytes. A path may
    lead into a tar."""
    if inside := within(path):
        return member_of(*inside, MOST_BYTES)
    try:
        _check_regular(path.stat())
        # What has taken its place meanwhile is not waited for either.
        opened = without_waiting(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ValueError("a link to nothing" if path.is_symlink() else "no such file") from None
    with open(opened, "rb") as file:
        status = os.fstat(opened)
        _check_regular(status)
        if status.st_size > MOST_BYTES:
            raise ValueError(f"a file of {status.st_size:,} bytes, more than {MOST_BYTES:,}")
        if status.st_size > LARGE:
            if not begins_as_picture(file.read(512), path.name):
                raise UnidentifiedImageError
            file.seek(0)
        return file.read(status.st_size)


def is_there(path: Path) -> bool:
    """Whether a picture's file is there; one in a tar is, where that is."""
    return path.is_file() or within(path) is not None


def _check_regular(status: os.stat_result) -> None:
    if kind := kind_of(status.st_mode):
        raise ValueError(f"{kind}, not a file")


@contextlib.contextmanager
def few_large(path: Path) -> Iterator[None]:
    """Wait while another thread has a large file in memory, if this is one."""
    size = 0
    with contextlib.suppress(OSError, ValueError):
        size = path.stat().st_size
    with LARGE_ONES if size > LARGE else contextlib.nullcontext():
        yield
