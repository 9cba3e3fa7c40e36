"""Shards of elsewhere: fetched whole, checked, and kept on the disk as far as there is room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock

from decoding.members import TAR
from filing.fetching import download
from shards.place import PIPE, Source
from utils import UserError, free_bytes, log, sha256_of, write_text

TRIES = 3
GB = 10**9


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: from where, its SHA-256 and bytes, where they are known ("", 0), and what
    raises ValueError where one can't be right."""

    source: Source
    sha256: str = ""
    bytes: int = 0
    see: Callable[[Path], object] | None = None


@dataclass
class Fetcher:
    """Brings the shards that are read, and takes those away that were read longest ago when all of
    them would take more than `most` GB below `folder`."""

    wanted: Sequence[Wanted]
    folder: Path
    most: float | Literal["auto"]
    coming: dict[tuple[int, int], int] = field(default_factory=dict)  # process, shard: bytes

    def __call__(self, number: int) -> None:
        """See that a shard is there."""
        one = self.wanted[number]
        path = one.source.path
        if one.source.remote is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            with contextlib.suppress(FileNotFoundError):
                if is_that(one):
                    os.utime(path)  # it is read now
                    return
            path.unlink(missing_ok=True)
            me = os.getpid()
            others = sum(n for (process, _), n in [*self.coming.items()] if process == me)
            self.coming[me, number] = one.bytes
            try:
                self._make_room(one.bytes + others)
                fetch(one)
            finally:
                del self.coming[me, number]

    def holds(self) -> int:
        """How many of the shards there is room for at a time."""
        largest = max((one.bytes for one in self.wanted), default=0)
        return int(self._room(self._there()) / largest) if largest else 0

    def _there(self) -> dict[Path, os.stat_result]:
        found = {}
        for path in self.folder.glob(f"*/*{TAR}"):
            with contextlib.suppress(FileNotFoundError):  # another one took it away meanwhile
                found[path] = path.stat()
        return found

    def _room(self, there: dict[Path, os.stat_result]) -> float:
        if self.most != "auto":
            return self.most * GB
        self.folder.mkdir(parents=True, exist_ok=True)
        return (free_bytes(self.folder) + sum(s.st_size for s in there.values())) / 2

    def _make_room(self, need: int) -> None:
        there = self._there()
        taken, most = sum(status.st_size for status in there.values()), self._room(there)
        for path in sorted(there, key=lambda path: there[path].st_mtime_ns):
            if taken + need <= most:
                break
            taken -= there[path].st_size
            with contextlib.suppress(OSError):  # another process may have been quicker
                path.unlink()


def stamp(path: Path) -> Path:
    """The file beside one that was fetched: its SHA-256, where the index says one, and when."""
    return path.with_name(f".{path.name}.fetched")


def is_that(one: Wanted) -> bool:
    """Whether the file that is kept is what the index says by now: the set may have been made anew
    under the same names."""
    path = one.source.path
    if one.bytes and path.stat().st_size != one.bytes:
        return False
    if not one.sha256:
        return path.exists()
    if not stamp(path).exists():  # an older version's
        _stamp(path, sha256_of(path))
    return stamp(path).read_text().partition(" ")[0] == one.sha256


def _stamp(path: Path, sha256: str) -> None:
    write_text(stamp(path), f"{sha256} {time.time_ns()}")


def fetch(one: Wanted, tries: int = TRIES) -> None:
    """Fetch a file to its place, so many times where it comes broken. Raises UserError where it
    can't be had, or is not what the index says."""
    source = one.source
    assert source.remote is not None
    shown = source.remote if len(source.remote) < 200 else f"{source.remote[:200]}..."

    def check(path: Path) -> None:
        size = path.stat().st_size
        if one.bytes and size != one.bytes:
            raise Broken(f"{shown} has {size:,} bytes; the index says {one.bytes:,}")
        if one.sha256 and sha256_of(path) != one.sha256:
            raise Broken(f"{shown} is not what the index says: its SHA-256 is another")
        try:
            if one.see is not None:
                one.see(path)
        except ValueError as error:
            raise Broken(f"{shown} can't be used: {error}") from None

    stamp(source.path).unlink(missing_ok=True)  # of the file that was here
    for attempt in range(tries):
        try:
            if source.remote.startswith(PIPE):
                _spool(source.remote.removeprefix(PIPE), source.path, check)
            else:
                download(source.remote, source.path, check, leave=False)
        except Broken as error:
            if attempt == tries - 1:
                raise UserError(f"{error}; it was tried {tries} times") from None
            log.debug("%s; fetching it again", error)
        else:
            _stamp(source.path, one.sha256)
            return


class Broken(UserError):
    """What came is not what was asked for."""


def _spool(command: str, path: Path, check: Callable[[Path], None]) -> None:
    """A command's output to a file; it has its name when it is whole."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, "wb") as out:
            done = subprocess.run(
                command, shell=True, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
            )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            why = f": {said[-1][:200]}" if said else ""
            raise Broken(f"'{command[:200]}' ended with status {done.returncode}{why}")
        check(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
