"""An unfinished cache on the disk: its first records, and parts further on that others made.

<key>.partial/tokens.bin, layers.bin, sums.bin, progress    the records from the first on
<key>.partial/from-000001200/  the same four files          those from number 1,200 on
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tokens.plan import Plan, size_of
from tokens.records import SUMS, checksums
from utils import write_text

SYNC_SECONDS = 10  # a killed build loses at most so much work
COPIED_BYTES = 16 << 20  # at a time
PROGRESS = "progress"


class Part:
    """Records in a row, from number `first` on, in a folder's files; they grow at the end.

    `count` of them are surely there: what the disk holds behind the last note is not trusted.
    """

    def __init__(self, plan: Plan, folder: Path, first: int = 0) -> None:
        self.plan, self.folder, self.first = plan, folder, first
        self.files: dict[str, BinaryIO] = {}
        self.synced, self.count = 0.0, 0
        with contextlib.suppress(OSError, ValueError):
            self.count = self._whole(int((folder / PROGRESS).read_text()))

    @property
    def end(self) -> int:
        return self.first + self.count

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """In this block its files are open, cut behind the records that are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for name, size in self._sizes(self.count).items():
                file = self.files[name] = stack.enter_context((self.folder / name).open("ab"))
                file.truncate(size)
            self.synced = time.monotonic()
            try:
                yield
            finally:
                self._sync()

    def write(self, records: np.ndarray, layers: np.ndarray) -> None:
        """The next records, and their layers."""
        self.files["tokens.bin"].write(records.data)
        if self.plan.layers.itemsize:
            self.files["layers.bin"].write(layers.data)
        self.files["sums.bin"].write(sums_of(records, layers).data)
        self.count += len(records)
        if time.monotonic() > self.synced + SYNC_SECONDS:
            self._sync()
            self.synced = time.monotonic()

    def take(self, other: Part) -> None:
        """The records of another that begins where this one ends; its folder goes."""
        with self.growing():
            for name, size in other._sizes(other.count).items():
                with (other.folder / name).open("rb") as source:
                    while size:
                        block = source.read(min(size, COPIED_BYTES))
                        self.files[name].write(block)
                        size -= len(block)
            self.count += other.count
        shutil.rmtree(other.folder)

    def _sizes(self, count: int) -> dict[str, int]:
        """The bytes of its files with so many records."""
        sizes = {"tokens.bin": count * self.plan.record.itemsize, "sums.bin": count * SUMS.itemsize}
        if each := self.plan.layers.itemsize:
            sizes["layers.bin"] = count * each
        return sizes

    def _whole(self, count: int) -> int:
        """How many of so many records its files hold whole."""
        for name, each in self._sizes(1).items():
            count = min(count, size_of(self.folder / name) // each)
        return count

    def _sync(self) -> None:
        """Note how many records are surely on the disk."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        write_text(self.folder / PROGRESS, str(self.count))


def part_at(plan: Plan, folder: Path, first: int) -> Part:
    """The part of an unfinished cache that begins with record number `first`."""
    return Part(plan, folder / f"from-{first:09}", first)


def parts(plan: Plan, folder: Path, known: Iterable[int] = ()) -> list[Part]:
    """The parts in an unfinished cache's folder, in their order; those that are `known` to begin
    with these numbers, too, which a network disk may not list yet."""
    listed = {int(path.name[5:]) for path in folder.glob("from-" + "[0-9]" * 9 + "*")}
    found = [part_at(plan, folder, first) for first in sorted({*listed, *known})]
    return [part for part in found if part.folder.is_dir()]


def sums_of(records: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """The checksums of records and of their layers."""
    sums = np.zeros(len(records), SUMS)
    sums["tokens"] = checksums(records)
    if layers.size:
        sums["layers"] = checksums(layers)
    return sums
