"""What is known of images that were read before, so that an unchanged file is not read again.

One row a file, found by its path's hash, read from the disk when it is asked for: a million files
take some megabytes of memory, and nothing is parsed at the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from decoding.duplicates import SIDE
from decoding.greys import Values
from utils import UserError, replacing

ROW = np.dtype(
    [
        ("state", "<i8", 3),  # size, and times of modification and of change, ns
        ("sha256", "V32"),
        ("size", "<u4", 2),  # width, height
        ("deep", "u1"),  # 0: 8 bits; 1, 2: more, fractions or whole values from low to high
        ("values", "<f8", 2),
        ("cells", "u1", (SIDE, SIDE)),
        ("sum", "<u4"),
    ]
)
SUMMED = ROW.itemsize - 4


class Read(NamedTuple):
    """What one file gave: the content's sha256; the pixels, of a deep picture (see greys.py) its
    values; the reason why there are none; the picture's (width, height); what its values are like;
    its descriptor (see duplicates.py).

    A file that was read before has neither pixels nor a reason.
    """

    digest: str
    pixels: np.ndarray | None
    reason: str | None
    size: tuple[int, int] = (0, 0)
    values: Values | None = None
    descriptor: np.ndarray | None = None


class Sampled(Protocol):
    """What has a file."""

    @property
    def path(self) -> Path: ...


class FileIndex:
    """The files that were read before: one is unchanged that has the same path, size, and times of
    modification and of change.

    A file that was changed just before it was read is not remembered: what changes it again within
    the clock's tick could not be told. Windows has no time of change, so nothing is remembered.
    """

    TICK_NS = 2_000_000_000  # FAT's

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys, self.rows = _read(path)
        self.unknown: dict[int, tuple[int, int, int]] = {}  # a key -> the state before it was read
        self.noted: dict[int, bytes] = {}
        self.lock = threading.Lock()

    def get(self, path: Path) -> Read | None:
        """What a file that is as it was gave when it was read, without its pixels."""
        try:
            status = os.stat(path)
        except OSError:  # said when it is read
            return None
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        key = _key(path)
        place = int(self.keys.searchsorted(np.uint64(key)))
        if place < len(self.keys) and int(self.keys[place]) == key:
            row = self.rows[place]
            # What a failing disk changed has another checksum; such a file is read once more.
            if tuple(row["state"].tolist()) == state and row["sum"] == _sum(key, row.tobytes()):
                return _as_read(row)
        # As it was before it is read: a change meanwhile makes it unknown the next time.
        if os.name != "nt" and time.time_ns() - max(state[1:]) >= self.TICK_NS:
            self.unknown[key] = state
        return None

    def note(self, path: Path, read: Read) -> None:
        """What a file that was asked for in vain gave."""
        key = _key(path)
        if (state := self.unknown.get(key)) is None:
            return
        assert read.descriptor is not None
        row = np.zeros((), ROW)
        row["state"], row["sha256"] = state, bytes.fromhex(read.digest)
        row["size"], row["cells"] = read.size, read.descriptor
        if read.values is not None:
            row["deep"], row["values"] = 1 + read.values.whole, read.values[:2]
        row["sum"] = _sum(key, row.tobytes())
        with self.lock:
            self.noted[key] = row.tobytes()

    def update(self, samples: Iterable[Sampled]) -> None:
        """Remember, and write down, what was asked for in vain and is an image."""
        if not self.noted:
            return
        new = sorted(self.noted.keys() & {_key(sample.path) for sample in samples})
        if new:
            rows = np.frombuffer(b"".join(self.noted[key] for key in new), ROW)
            with contextlib.suppress(OSError, UserError):  # it only saves time
                self._write(np.array(new, dtype="<u8"), rows)
        self.noted.clear()

    def _write(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """The file anew, with more rows, or others in the place of those it had."""
        kept = ~np.isin(self.keys, keys)
        every = np.concatenate([self.keys[kept], keys])
        order = np.argsort(every, kind="stable")
        old = np.flatnonzero(kept)
        room = len(every) * (ROW.itemsize + 8)
        with replacing(self.path, room) as temporary, open(temporary, "wb") as file:
            np.save(file, every[order], allow_pickle=False)
            np.lib.format.write_array_header_1_0(file, _header(len(every)))
            for begin in range(0, len(order), 1 << 14):  # some 18 MB at a time
                some = order[begin : begin + (1 << 14)]
                out = np.empty(len(some), ROW)
                is_old = some < len(old)
                out[is_old] = self.rows[old[some[is_old]]]
                out[~is_old] = rows[some[~is_old] - len(old)]
                file.write(out.tobytes())
        if self.path.suffix != ".json":
            self.path.with_suffix(".json").unlink(missing_ok=True)  # an older version's
        self.keys, self.rows = _read(self.path)


def _header(count: int) -> dict[str, object]:
    return {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (count,)}


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys, in memory, and the rows, on the disk; none where the file is damaged."""
    try:
        with open(path, "rb") as file:
            keys = np.load(file, allow_pickle=False)
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            if keys.dtype == "<u8" and keys.shape == shape and kind == ROW and len(keys):
                return keys, np.memmap(file, ROW, "r", file.tell(), shape)
    except Exception:  # a damaged header makes numpy raise nearly anything
        pass
    return np.zeros(0, "<u8"), np.zeros(0, ROW)


def _as_read(row: np.void) -> Read:
    values = None
    if row["deep"]:
        low, high = row["values"].tolist()
        values = Values(low, high, bool(row["deep"] == 2))
    width, height = row["size"].tolist()
    return Read(row["sha256"].tobytes().hex(), None, None, (width, height), values, row["cells"])


def _key(path: Path) -> int:
    """64 bits of a path from the root on."""
    name = os.fsencode(os.path.join(os.getcwd(), path))
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _sum(key: int, row: bytes) -> int:
    return zlib.crc32(row[:SUMMED], key & 0xFFFFFFFF)
