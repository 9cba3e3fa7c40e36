"""Text files as people have them: UTF-8 with or without a mark, or UTF-16; no pipe, no device."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from system.plain_files import kind_of, without_waiting

MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what Windows calls Unicode


class NoText(ValueError):
    """Why a file can't be read: the end of a sentence that begins with its name."""


@contextlib.contextmanager
def opened(path: Path, most_bytes: int, errors: str = "strict") -> Iterator[TextIO]:
    """A file open to be read, line ends as they are. Raises NoText for what is no file of at most
    so many bytes, at the latest when a line is read that is none; OSError as `open` does."""
    with open(path, "rb", opener=without_waiting) as raw:
        found = os.fstat(raw.fileno())
        if kind_of(found.st_mode):
            raise NoText("it is a pipe or a device, no file")
        if found.st_size > most_bytes:
            size = f"{found.st_size / 1e6:,.1f} MB"
            raise NoText(f"it has {size}, and {most_bytes / 1e6:,.0f} MB are the most")
        encoding = "utf-16" if raw.peek(2)[:2] in MARKS else "utf-8-sig"
        try:
            yield io.TextIOWrapper(raw, encoding, errors, newline="")
        except UnicodeError:
            raise NoText(f"{_odd_byte(path, encoding)}; save it as text in UTF-8") from None


def _odd_byte(path: Path, encoding: str) -> str:
    """Where the first byte is that is no text."""
    decoder, number = codecs.getincrementaldecoder(encoding)(), 0
    with open(path, "rb") as file:
        try:
            for line in file:
                number += 1
                decoder.decode(line)
            byte = decoder.getstate()[0][:1]  # the end is cut off
        except UnicodeDecodeError as error:
            byte = error.object[error.start : error.start + 1]
    name = encoding.removesuffix("-sig").upper()
    return f"line {number} has the byte 0x{byte.hex().upper()}, which is none of {name}"
