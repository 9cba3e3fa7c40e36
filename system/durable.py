"""Files seen through to the disk, and what a writer that was killed has left."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from system.filenames import fitting

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # what `utils.replacing` calls a file until it is whole
UNFLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EISDIR)


def temporary_of(path: Path) -> Path:
    """The name, beside it, of a file that is being written by this process."""
    return path.with_name(fitting(f".{path.name}", f".{os.getpid()}.tmp"))


def flush(path: Path) -> None:
    """See a file, or a folder's names, through to the disk. A system that has no way to, as Windows
    has none for folders, is left alone; OSError where the disk turns out to be full."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError as error:
        if error.errno in UNFLUSHED:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNFLUSHED:
            raise
    finally:
        os.close(handle)


def alive(pid: int) -> bool:
    """Whether a process of this machine is there; where nobody can tell, it is."""
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def ticks_of(pid: int) -> str | None:
    """When a process began, in the clock ticks of Linux: its number may be another's by now."""
    with contextlib.suppress(OSError, IndexError):
        said = Path(f"/proc/{pid}/stat").read_bytes()
        return said.rpartition(b")")[2].split()[19].decode()
    return None


def remove_left(folder: Path, others_write: bool) -> list[Path]:
    """Remove the temporary files that killed writers left in a folder, and say which; where other
    programs write there as well, those of living ones are kept.

    One of our own number is an earlier process's: in a container every one may be the first.
    """
    gone = []
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        if (found := TEMPORARY.fullmatch(path.name)) and path.is_file():
            pid = int(found[1])
            if not others_write or pid == os.getpid() or not alive(pid):
                path.unlink(missing_ok=True)
                gone.append(path)
    return gone
