"""One run, one process: a folder is locked while a run writes into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from system.durable import alive, ticks_of
from utils import UserError, log, shell

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
REFUSED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EPERM, errno.EIO)
TRIES = 20
PATIENCE = 2.0  # seconds in which whoever has made a lock writes its name into it


class Taken(UserError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; `ticks`, where the system tells, when its process began."""

    host: str
    pid: int
    since: str
    ticks: str | None = None

    @classmethod
    def me(cls) -> Holder:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, time.strftime("%Y-%m-%d %H:%M:%S"), ticks_of(pid))

    @classmethod
    def of(cls, path: Path) -> Holder | None:
        """By what a lock says; None where it says nothing yet."""
        try:
            found = json.loads(path.read_bytes())
            return cls(str(found["host"]), int(found["pid"]), str(found["since"]), found["ticks"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be: of a process on another machine nobody knows."""
        if not self.is_here:
            return False
        return not alive(self.pid) or (self.ticks is not None and ticks_of(self.pid) != self.ticks)

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {self.since}"


class Lock:
    """The lock of a folder, which is made where it is not there: held from `take` to `release`, or
    to the end of the process, however it ends.

    The system holds it (`flock`); on a disk that refuses that, such as some of NFS, the file itself
    does, and the lock of a process that has died on this machine is taken over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK
        self.handle: int | None = None
        self.made: list[Path] = []  # folders

    def take(self) -> None:
        """Raises Taken, which says who holds it."""
        for _ in range(TRIES):
            try:
                self._make_folder()
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise UserError(f"{self.folder}: too long a name; choose a shorter one") from None
            try:
                handle, mine = self._opened()
            except FileNotFoundError:  # another, which gave up, has just removed it
                continue
            try:
                self._hold(handle, mine)
            finally:
                if self.handle is None:
                    os.close(handle)
            if self.handle is not None:
                return
        raise UserError(f"{self.folder} can't be made; choose another place")

    def _hold(self, handle: int, mine: bool) -> None:
        try:
            by_system = locked(handle)
        except BlockingIOError:
            raise self._taken(by_system=True) from None
        if by_system and not same_file(handle, self.path):
            return  # its holder has removed it meanwhile: once more
        if not by_system and not mine:
            holder = self._holder()
            if holder is not None and not holder.is_dead:
                raise self._taken(by_system=False)
            self._remove(holder)
            return
        self.handle = handle
        HELD.add(handle)
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(asdict(Holder.me())).encode())
        if not by_system:
            log.info(
                "%s is on a disk without locks: a run elsewhere is kept off by %s alone",
                self.folder,
                self.path.name,
            )

    def release(self) -> None:
        """Let go of it; folders that were made for it and hold nothing are removed again."""
        if self.handle is not None:
            if same_file(self.handle, self.path):
                self.path.unlink(missing_ok=True)
            HELD.discard(self.handle)
            os.close(self.handle)
            self.handle = None
        for folder in reversed(self.made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self.made = []

    def _make_folder(self) -> None:
        absent = [f for f in (self.folder, *self.folder.parents) if not f.exists()]
        for folder in reversed(absent):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                folder.mkdir()
                self.made.append(folder)
        if not self.folder.is_dir() and self.folder.exists():
            raise UserError(f"{self.folder} is no folder; choose another place, or remove it")

    def _opened(self) -> tuple[int, bool]:
        """The lock's file, and whether it was made just now."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            return os.open(self.path, os.O_RDWR), False

    def _holder(self) -> Holder | None:
        end = time.monotonic() + PATIENCE
        while (found := Holder.of(self.path)) is None and time.monotonic() < end:
            if not self.path.exists():
                return None
            time.sleep(0.05)
        return found

    def _remove(self, stale: Holder | None) -> None:
        """Remove a dead process's lock, and not the one of another that did so before."""
        aside = self.path.with_name(f"{LOCK}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if Holder.of(aside) == stale:
                aside.unlink()
            else:
                os.rename(aside, self.path)

    def _taken(self, by_system: bool) -> Taken:
        holder = self._holder()
        if holder is None:
            return Taken(f"{self.folder} is another run's, begun this moment; wait for it to end")
        stop = shell("kill", str(holder.pid)) + ("" if holder.is_here else f" on {holder.host}")
        sentence = f"{self.folder} is being written by a run ({holder}); wait for it, or stop it: "
        gone = f" (if that process is gone, remove {self.path})"
        return Taken(f"{sentence}{stop}{'' if by_system else gone}")


def running_here(folder: Path) -> Holder | None:
    """The process of this machine that holds a folder's lock, as far as the lock says; None where
    there is none: of another machine's the lock itself tells."""
    holder = Holder.of(folder / LOCK)
    return holder if holder is not None and holder.is_here and not holder.is_dead else None


HELD: set[int] = set()


def _let_go() -> None:
    """In a forked child, such as a DataLoader's worker, which may live on when its parent is
    killed: the lock is its parent's alone."""
    for handle in HELD:
        with contextlib.suppress(OSError):
            os.close(handle)
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def locked(handle: int) -> bool:
    """Whether the system has locked a file for us: False where it has no such locks.

    Raises BlockingIOError where it is another's.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return False
    return True


def same_file(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
