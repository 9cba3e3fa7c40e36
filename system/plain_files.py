"""Plain files, and what else a path may lead to: reading that may never end."""

from __future__ import annotations

import os
import stat

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def kind_of(mode: int) -> str | None:
    """What it is, by its `st_mode`, that is no plain file; None for one."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


def without_waiting(path: str | os.PathLike[str], flags: int) -> int:
    """An opener for `open`: a pipe that nobody writes to would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
