"""The files in a tar: where each lies, without unpacking any, whoever wrote it.

Nothing of a tar is believed before it is looked at: a header has its checksum, no member reaches
beyond the end, a long name is bounded, and what is no plain file (a link, a device) is passed over.
https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from system.plain_files import without_waiting

BLOCK = 512
LONGEST_NAME = 4096  # bytes
MOST_PAX = 1 << 16  # bytes of what a header in front of a member says of it
PLAIN, PAX, PAX_FOR_ALL, GNU_NAME, GNU_LINK = b"0\0" + b"7", b"x", b"g", b"L", b"K"
TAR = ".tar"


class Member(NamedTuple):
    """A plain file in a tar: its name, as it is written there, and where its bytes are."""

    name: str
    offset: int
    size: int


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """The plain files of a tar of so many bytes, front to end. Raises ValueError, with the reason,
    where it is none, was cut, or says what can't be so."""
    at, name, length = 0, None, None
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) == BLOCK and not header.strip(b"\0"):
            return
        if len(header) < BLOCK:
            raise ValueError(f"it was cut: no end after {at:,} bytes")
        _check(header, at)
        kind, own = header[156:157], _number(header[124:136])
        own = length if length is not None and kind in PLAIN else own
        end = at + BLOCK + own
        if end > size:
            raise ValueError(f"it was cut, or is wrong: byte {end:,} of {size:,} is to follow")
        if kind in (PAX, PAX_FOR_ALL, GNU_NAME, GNU_LINK) and own > MOST_PAX:
            raise ValueError(f"a header of {own:,} bytes, at byte {at:,}")
        if kind == PAX:
            said = _pax(file.read(own))
            name, length = said.get("path", name), _size(said)
        elif kind == GNU_NAME:
            name = _text(file.read(own))
        elif kind in PLAIN:
            yield Member(name or _name(header), at + BLOCK, own)
        if kind not in (PAX, PAX_FOR_ALL, GNU_NAME, GNU_LINK):
            name, length = None, None
        if name is not None and len(name) > LONGEST_NAME:
            raise ValueError(f"a name of {len(name):,} letters, at byte {at:,}")
        at = end + -own % BLOCK


def _check(header: bytes, at: int) -> None:
    """Raise ValueError where a header's checksum is not that of its bytes."""
    try:
        given = int(header[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        given = -1
    if given != sum(header) - sum(header[148:156]) + 8 * 0x20:
        what = "no tar" if at == 0 else f"damaged at byte {at:,}"
        raise ValueError(f"{what}: its header is not right")


def _number(field: bytes) -> int:
    """Octal digits, or where they were too few, base 256."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise ValueError("a size below zero")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() and digits:
        raise ValueError("a size that is no number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])


def _pax(said: bytes) -> dict[str, str]:
    """The records of an extended header, `LENGTH KEY=VALUE\\n` each."""
    found = {}
    while match := re.match(rb"(\d{1,5}) ([^=]+)=", said):
        length = int(match[1])
        if not match.end() < length <= len(said):
            raise ValueError("an extended header that is not right")
        found[os.fsdecode(match[2])] = os.fsdecode(said[match.end() : length - 1])
        said = said[length:]
    return found


def _size(said: dict[str, str]) -> int | None:
    if "size" not in said:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", said["size"]):
        raise ValueError("a size that is no number")
    return int(said["size"])


# --------------------------------------------------------------------------- by a path


def within(path: Path) -> tuple[Path, str] | None:
    """The tar and the member that a path names, `.../pictures.tar/cat/1.jpg`; None for others."""
    if TAR not in str(path).lower():  # nearly always, and quicker
        return None
    tar = next((above for above in path.parents if above.suffix.lower() == TAR), None)
    return (tar, path.relative_to(tar).as_posix()) if tar and tar.is_file() else None


def member_of(tar: Path, name: str, most: int) -> bytes:
    """The bytes of a member; ValueError where there is none of that name, or it has more than
    `most`."""
    status = tar.stat()
    found = _table(str(tar), status.st_size, status.st_mtime_ns).get(name)
    if found is None:
        raise ValueError(f"not in {tar.name}")
    if found[1] > most:
        raise ValueError(f"a file of {found[1]:,} bytes, more than {most:,}")
    return bytes_at(tar, *found)


def bytes_at(tar: Path, offset: int, size: int) -> bytes:
    """So many bytes of a file, from an offset on; ValueError where it ends before."""
    with open(tar, "rb", opener=without_waiting) as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise ValueError(f"{tar.name} was cut")
    return content


@lru_cache(maxsize=4)
def _table(tar: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """A tar's members by their names, the last of each, as an unpacked one would be."""
    with open(tar, "rb", opener=without_waiting) as file:
        found = members(file, size)
        return {PurePosixPath(name).as_posix(): (offset, length) for name, offset, length in found}
