"""Shards out of a folder's pictures: planned as a whole, then written one by one.

Where each picture goes depends on the pictures, their parts and the seed alone, so what a killed
program left is a beginning of what it would have made, and is gone on from.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from decoding.formats import EXTENSIONS
from decoding.members import BLOCK, TAR
from images import Sample, unchanged
from layout.split_file import PARTS
from shards.index import MOST, Shard, rows_of
from utils import UserError, replacing

END = bytes(2 * BLOCK)  # of a tar
LETTERS = 32  # of a class, and of a file's name, in a key
KINDS = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}  # others' are their names


@dataclass(frozen=True)
class Entry:
    """A picture that is to go into a shard: its sample, its key there, its extension, its bytes."""

    sample: Sample
    key: str
    extension: str
    size: int

    @property
    def label(self) -> bytes:
        return str(self.sample.label).encode()

    @property
    def taken(self) -> int:
        """What it takes in a tar, its label, too."""
        return 3 * BLOCK + _padded(self.size)

    def headers(self) -> tuple[bytes, bytes]:
        """Those of the picture and of the label."""
        sizes = ((self.extension, self.size), (".cls", len(self.label)))
        return tuple(header(self.key + ending, size) for ending, size in sizes)  # type: ignore[return-value]


@dataclass(frozen=True)
class Planned:
    """A shard that is to be made."""

    name: str
    part: str
    entries: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return sum(entry.taken for entry in self.entries) + len(END)

    def rows(self) -> np.ndarray:
        """Its rows (see `index.row_type`)."""
        found, at = [], BLOCK
        for entry in self.entries:
            sample, name = entry.sample, f"{entry.key}{entry.extension}".encode()
            sums = bytes.fromhex(sample.sha256), bytes.fromhex(sample.group)[:8]
            deep = sample.greys is not None
            found.append((at, entry.size, sample.label, *sums, deep, name))
            at += entry.taken
        return rows_of(found)


def plan(samples: Sequence[Sample], classes: Sequence[str], size: int, seed: int) -> list[Planned]:
    """The shards of some samples, each of at most `size` bytes where more than one picture is in
    it, those of a part in a drawn order. Raises UserError for a picture that is too large."""
    found = []
    for part in PARTS:
        own = [sample for sample in samples if sample.part == part]
        order = np.random.default_rng([seed, PARTS.index(part)]).permutation(len(own))
        entries = (_entry(n, own[i], classes[own[i].label]) for n, i in enumerate(order))
        for number, some in enumerate(_filled(entries, size)):
            found.append(Planned(f"{part}-{number:06}{TAR}", part, some))
    return found


def _entry(number: int, sample: Sample, label: str) -> Entry:
    size = sample.path.stat().st_size
    if size >= MOST:
        raise UserError(f"{sample.path} has {size:,} bytes; {MOST:,} are too many for a shard")
    key = f"{number:08}-{_plain(label)}-{_plain(sample.path.stem)}"
    return Entry(sample, key, _extension(sample.path), size)


def _plain(name: str) -> str:
    """A name as any program takes it: no dot, which would end the key."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_]+", "_", letters)[:LETTERS].strip("_") or "x"


def _extension(path: Path) -> str:
    """A picture's extension, its content's where its name has none that says so."""
    own = path.suffix.lower()
    if own in EXTENSIONS:
        return own
    with Image.open(path) as picture:
        kind = picture.format or "img"
    return KINDS.get(kind, f".{kind.lower()}")


def _filled(entries: Iterator[Entry], size: int) -> Iterator[tuple[Entry, ...]]:
    some: list[Entry] = []
    taken = len(END)
    for entry in entries:
        if some and taken + entry.taken > size:
            yield tuple(some)
            some, taken = [], len(END)
        some.append(entry)
        taken += entry.taken
    if some:
        yield tuple(some)


# -------------------------------------------------------------------------------------- tars


def header(name: str, size: int) -> bytes:
    """A file's header (ustar), the same whoever makes it, and when."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padded(size: int) -> int:
    return size + -size % BLOCK


def write(shard: Planned, folder: Path, passed: Callable[[int], object]) -> Shard:
    """Write a shard's tar; `passed` is told the bytes. UserError for a picture that was changed."""
    digest = hashlib.sha256()
    with replacing(folder / shard.name, shard.bytes) as temporary, open(temporary, "wb") as out:

        def put(content: bytes) -> None:
            out.write(content)
            digest.update(content)

        for entry in shard.entries:
            picture, label = entry.headers()
            content = unchanged(entry.sample)
            put(picture + content.ljust(_padded(len(content)), b"\0"))
            put(label + entry.label.ljust(BLOCK, b"\0"))
            passed(entry.taken)
        put(END)
    return Shard(shard.name, shard.part, len(shard.entries), shard.bytes, digest.hexdigest())


def check(shard: Planned, file: Path, passed: Callable[[int], object]) -> Shard:
    """A tar that is there already, every byte compared with what would be written; ValueError with
    the first difference."""
    digest = hashlib.sha256()
    with open(file, "rb") as tar:
        for entry in shard.entries:
            _compare(tar, entry, digest.update)
            passed(entry.taken)
        rest = tar.read(len(END) + 1)
        digest.update(rest)
        if rest != END:
            raise ValueError("its end is another")
    return Shard(shard.name, shard.part, len(shard.entries), shard.bytes, digest.hexdigest())


def _compare(tar: BinaryIO, entry: Entry, update: Callable[[bytes], object]) -> None:
    content = tar.read(entry.taken)
    update(content)
    picture, label = entry.headers()
    inner, end = content[BLOCK : BLOCK + entry.size], BLOCK + _padded(entry.size)
    if len(content) < entry.taken:
        raise ValueError(f"it was cut at {entry.key}")
    filled = content[BLOCK + entry.size : end]
    framed = content[:BLOCK] == picture and not filled.strip(b"\0")
    if not framed or content[end:] != label + entry.label.ljust(BLOCK, b"\0"):
        raise ValueError(f"{entry.key} is not what was to stand there")
    if hashlib.sha256(inner).hexdigest() != entry.sample.sha256:
        raise ValueError(f"{entry.key}{entry.extension} is not {entry.sample.path}")
