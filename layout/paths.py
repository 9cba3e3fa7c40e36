"""The paths that a command line names: `~`, patterns and lists taken apart, each one there."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from system.filenames import home, nearest, text_of
from utils import UserError

STDIN = "-"


def spread(given: Iterable[str]) -> Iterator[str]:
    """Each path, lists and patterns taken apart. Raises UserError for one that isn't there, unless
    a list names it: that is left to the caller."""
    for path in given:
        if not path.strip():
            raise UserError("nothing is named: the path is empty")
        if path == STDIN:
            yield from map(home, listed())
        elif os.path.lexists(own := home(path)):
            yield own
        elif glob.has_magic(path):
            found = sorted(glob.glob(own, recursive=True), key=text_of)
            if not found:
                raise UserError(f"{path}: nothing has such a name")
            yield from found
        else:
            raise missing(own)


def missing(path: str) -> UserError:
    """That a path is not there, and what beside it may be meant."""
    above = Path(path).absolute().parent
    try:
        near = nearest(Path(path).name, beside(above))
    except OSError:
        return UserError(f"{path}: no such file or folder; there is no folder {above}")
    hint = "" if near is None else f"; did you mean {Path(path).with_name(near)}?"
    return UserError(f"{path}: no such file or folder{hint}")


def beside(above: Path) -> list[str]:
    """The names in a folder that a user may mean: a program's packages (of this project, `shards`
    and `tokens`, say) are not among them."""
    return [name for name in os.listdir(above) if not os.path.isfile(above / name / "__init__.py")]


def listed() -> list[str]:
    """The paths that standard input lists: one a line, or each ended by a zero byte, as
    `find -print0` writes them."""
    if sys.stdin.isatty():
        print("paths, one a line; Ctrl-D ends the list", file=sys.stderr)
    content = sys.stdin.buffer.read()
    zeros = b"\0" in content
    lines = content.split(b"\0" if zeros else b"\n")
    # Lists that Windows wrote have a \r before each line's end.
    lines = [line if zeros else line.removesuffix(b"\r") for line in lines]
    return [os.fsdecode(line) for line in lines if line.strip()]


def full(path: str | Path) -> str:
    """A path from the root on, the same for every way to write it: `..` is taken out but for one
    behind a link, which leads elsewhere; links stay as they are."""
    place = str(Path(path).absolute())
    if ".." not in Path(place).parts:
        return place
    plain = os.path.normpath(place)
    same = os.path.realpath(os.path.dirname(place)) == os.path.realpath(os.path.dirname(plain))
    return plain if same else place
