"""What an index says of shards: index.json of all, and beside each tar where its pictures lie.

`train-000000.npy` holds one row a picture, read as the file lies on the disk: neither the start nor
the memory of a run grows with it. Both are made of the tars again, or checked against them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from decoding.members import BLOCK, TAR
from layout.split_file import PARTS
from utils import UserError, replacing, write_text

INDEX = "index.json"
FORMAT = "vit-shards-1"
LONGEST = 1 << 28  # characters of an index.json: some million shards
MOST = 1 << 32  # bytes of a picture


@dataclass(frozen=True)
class Shard:
    """One tar: its file's name, its part ("" where nothing says one), its pictures and bytes, and
    the SHA-256 of the tar and of its rows; "" of what was written by others."""

    name: str
    part: str
    count: int
    bytes: int
    sha256: str = ""
    rows_sha256: str = ""

    @property
    def rows(self) -> str:
        """The file of its rows."""
        return self.name.removesuffix(TAR) + ".npy"


@dataclass(frozen=True)
class Index:
    """The shards of a set, its classes in the order of their numbers, the values that are black and
    white in pictures with more than 8 bits, and the pictures by part and class."""

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    greys: tuple[float, float] | None = None
    counts: dict[str, dict[str, int]] | None = None

    def write(self, folder: Path) -> None:
        found = {"format": FORMAT, **asdict(self)}
        write_text(folder / INDEX, json.dumps(found, indent=1) + "\n")


def read_index(file: Path, shown: str = "") -> Index:
    """An index.json, every part of it looked at; UserError with what is wrong."""
    shown = shown or str(file)
    try:
        if file.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it does not say that its format is {FORMAT}")
        shards = tuple(_shard(row) for row in found["shards"])
        classes = tuple(found["classes"])
        if len({*classes}) != len(classes) or not all(isinstance(c, str) and c for c in classes):
            raise ValueError("its classes are no names")
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("it has a shard twice")
        greys = found.get("greys")
        greys = None if greys is None else (float(greys[0]), float(greys[1]))
        return Index(classes, shards, greys, found.get("counts"))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{shown} is no index of shards: {what}; make it again") from None


def _shard(row: dict[str, Any]) -> Shard:
    shard = Shard(**row)
    sums = (shard.sha256, shard.rows_sha256)
    whole = (shard.count, shard.bytes)
    texts = (shard.name, shard.part, *sums)
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in whole):
        raise ValueError("a shard's values are of a wrong kind")
    if shard.name != PurePosixPath(shard.name).name or not shard.name.endswith(TAR):
        raise ValueError(f"'{shard.name}' is no name of a shard")
    if shard.part not in ("", *PARTS) or shard.count < 0 or shard.bytes < 0:
        raise ValueError(f"{shard.name} has a part or a number that can't be")
    return shard


# ------------------------------------------------------------------------------------- rows


def row_type(longest: int) -> np.dtype:
    """A picture's row: where its bytes lie in the tar, its class's number, its content's SHA-256,
    what it stays together with (the beginning of another's), whether its greys have more than 8
    bits, and its name in the tar."""
    fields = [("offset", "<u8"), ("size", "<u4"), ("label", "<i4"), ("sha256", "V32")]
    fields += [("group", "V8"), ("deep", "?"), ("name", f"S{max(1, longest)}")]
    return np.dtype(fields)


def rows_of(found: Iterable[tuple[Any, ...]]) -> np.ndarray:
    """Rows, each with the fields of `row_type`, as one array."""
    rows = list(found)
    return np.array(rows, dtype=row_type(max((len(row[-1]) for row in rows), default=1)))


def write_rows(file: Path, rows: np.ndarray) -> None:
    with replacing(file, rows.nbytes) as temporary, open(temporary, "wb") as out:
        np.save(out, rows, allow_pickle=False)


def holds_rows(file: Path) -> bool:
    """Whether a file is one that `write_rows` wrote."""
    try:
        kinds = np.load(file, mmap_mode="r", allow_pickle=False).dtype
        return kinds.names == row_type(1).names
    except (OSError, ValueError, EOFError):
        return False


def read_rows(file: Path, shard: Shard, classes: int) -> np.ndarray:
    """A shard's rows, mapped; ValueError where they are not what its tar and the index can hold."""
    rows = np.load(file, mmap_mode="r", allow_pickle=False)
    kinds = rows.dtype.fields or {}
    if rows.ndim != 1 or "name" not in kinds or rows.dtype != row_type(kinds["name"][0].itemsize):
        raise ValueError(f"{file.name} does not hold the rows of a shard")
    if len(rows) != shard.count:
        raise ValueError(f"{file.name} has {len(rows):,} rows, and the index says {shard.count:,}")
    if len(rows):
        ends = rows["offset"] + rows["size"]
        if ends.max() > shard.bytes or rows["offset"].min() < BLOCK or (ends < rows["size"]).any():
            raise ValueError(f"{file.name} has pictures beyond the end of {shard.name}")
        if rows["label"].min() < 0 or rows["label"].max() >= classes:
            raise ValueError(f"{file.name} has a class that the index does not name")
    return rows
