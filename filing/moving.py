"""Files put elsewhere: nothing is overwritten, and a link leads where it led."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from system.filenames import fitting
from utils import replacing


def free_name(path: Path, taken: Collection[str] = ()) -> Path:
    """The path, or where that is taken the first with a number that is free: a-2.jpg. `taken` are
    paths that count as taken, too."""
    number, found = 2, path
    while str(found) in taken or os.path.lexists(found):
        found = path.with_name(fitting(path.stem, f"-{number}{path.suffix}"))
        number += 1
    return found


def move(source: str, target: str) -> None:
    """Move a file, from one disk to another, too, where it appears whole; a link itself is moved,
    and goes on to lead where it led."""
    if os.path.islink(source):
        led = os.readlink(source)
        os.symlink(os.path.join(os.path.dirname(source), led), target)  # as it is, from the root on
        os.unlink(source)
        return
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(Path(target)) as temporary:
            shutil.copy2(source, temporary)
        os.unlink(source)
