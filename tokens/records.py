"""Records of one size in a file, each read whole and checked when it is first read.

They are read, not mapped: of a file that is cut while it is in use a map would end the process by
a signal (SIGBUS).
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from utils import UserError, progress_bar, shell

STRIPS = 32
SUMS = np.dtype([("tokens", "<u4"), ("layers", "<u4")])  # of each record, in sums.bin


class Damaged(UserError):
    """A record is not what was written, and nothing at hand can make it anew."""


def checksum(record: np.ndarray) -> int:
    """A number that tells whether a record's bytes (n,), uint8, are what they were: the CRC-32 of
    32 strips of it, laid over each other by exclusive or.

    It finds every flipped byte, bit and run of 32 bits, as one of the whole record does, in 10 us
    for the 300 KB of a B/16 instead of 44 (2 % of an epoch are 20). What it misses are two flips
    of the same bit of two strips.
    """
    n = len(record) // (8 * STRIPS) * 8 * STRIPS
    strips = record[:n].view(np.uint64).reshape(STRIPS, -1)
    return zlib.crc32(record[n:].data, zlib.crc32(np.bitwise_xor.reduce(strips, 0).data))


def as_bytes(records: np.ndarray) -> np.ndarray:
    """Records as what lies in the file, (n, bytes of one), uint8."""
    n = len(records)
    return np.ascontiguousarray(records).view(np.uint8).reshape(n, records.nbytes // max(1, n))


def checksums(records: np.ndarray) -> list[int]:
    return [checksum(record) for record in as_bytes(records)]


def read_sums(folder: Path) -> np.ndarray | None:
    """The checksums of a cache's records; None of one that was made before there were any."""
    try:
        return np.fromfile(folder / "sums.bin", SUMS)
    except FileNotFoundError:
        return None


class Records:
    """A file's records by their numbers.

    `sums` (n,) are their checksums; `mend`, where it is given, puts all damaged ones right before
    one of them is read again. Raises Damaged without it, UserError where the file was cut.
    """

    def __init__(self, path: Path, dtype: np.dtype, sums: np.ndarray | None = None) -> None:
        self.path, self.dtype, self.sums = path, dtype, sums
        self.file = io.FileIO(path)
        self.bytes = os.fstat(self.file.fileno()).st_size
        self.shape = (self.bytes // dtype.itemsize, *dtype.shape)
        self.checked = np.full(len(self), sums is None)
        self.mend: Callable[[], None] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows), self.dtype)
        flat = found.view(np.uint8).reshape(len(rows), self.dtype.itemsize)
        for i in rows.argsort().tolist():  # a disk is read forwards
            if not self._read(int(rows[i]), flat[i]):
                self._mend(int(rows[i]), flat[i])
        return found

    def _read(self, row: int, into: np.ndarray) -> bool:
        """Read one record; whether it is what was written."""
        self.file.seek(row * len(into))
        if self.file.readinto(into.data) != len(into):
            raise UserError(
                f"{self.path} was cut while it was in use; run again: what is missing is made anew"
            )
        if not self.checked[row]:
            assert self.sums is not None
            self.checked[row] = checksum(into) == self.sums[row]
        return bool(self.checked[row])

    def _mend(self, row: int, into: np.ndarray) -> None:
        if self.mend is not None:
            self.mend()
            if self._read(row, into):
                return
        folder = self.path.parent
        remove = shell("python", "-m", "tools.cache", "rm", folder.name)
        raise Damaged(
            f"{self.path}: record {row:,} is not what was written; `{remove} --data "
            f"{shell(folder.parent.parent)}` removes this cache, and the next run makes it anew"
        )

    def damaged(self) -> Iterator[int]:
        """The numbers of those that are not what was written; all are read."""
        record = np.empty(self.dtype.itemsize, np.uint8)
        self.checked[:] = self.sums is None
        for row in progress_bar(range(len(self)), f"checking {self.path.name}", unit="record"):
            if not self._read(row, record):
                yield row

    def expect(self, rows: list[int] | None = None) -> None:
        """Let the system read some records, or all, from the disk meanwhile."""
        if not hasattr(os, "posix_fadvise"):  # Windows and macOS have none
            return
        file, size = self.file.fileno(), self.dtype.itemsize
        for start in [0] if rows is None else rows:
            length = 0 if rows is None else size  # 0: to the end
            os.posix_fadvise(file, start * size, length, os.POSIX_FADV_WILLNEED)
