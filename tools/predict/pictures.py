"""Which pictures are asked about: files, folders, patterns, and lists of paths.

A path is kept as text, some 100 bytes each, so that 100,000 of them are nothing beside the network.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filenames import nearest, same_name, text_of
from layout.parts import lay_out
from layout.tree import read_tree
from utils import UserError, some

STDIN = "-"
UNDO = "undo.csv"  # what a folder of sorted pictures has beside them


@dataclass
class Asked:
    """The pictures in the order in which they are answered, each once, with the class that its
    folder says (None where that isn't asked), and what to tell the user of them."""

    truth: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def add(self, path: str, label: str | None = None) -> None:
        """One more, unless it is there already, by whatever name."""
        place = full(path)
        if place not in self._seen:
            self._seen.add(place)
            self.truth[path] = label

    def leave_out(self, done: Iterable[str]) -> None:
        """Take out the pictures `done`, by whatever name."""
        places = {full(path) for path in done}
        self.truth = {p: label for p, label in self.truth.items() if full(p) not in places}

    @property
    def classes(self) -> list[str]:
        return sorted({label for label in self.truth.values() if label is not None})


def full(path: str | Path) -> str:
    """A path from the root on; links, and `..` behind one, stay as they are."""
    return str(Path(path).absolute())


def find_pictures(given: list[str], labelled: bool, put_there: set[str]) -> Asked:
    """The pictures that paths, patterns and lists stand for; of folders those that training would
    take, however deep, but for those that lie at the places `put_there`.

    `labelled`: each is a folder with one sub-folder a class. Raises UserError for one that isn't
    there, and where there is no picture at all.
    """
    asked = Asked()
    for path, named in _spread(given):
        if labelled:
            _add_labelled(path, asked)
        elif os.path.isdir(path):
            _add_folder(path, asked, put_there)
        elif named or os.path.lexists(path):
            asked.add(str(Path(path)))
        else:
            raise UserError(f"{path}: no such file or folder{_meant(path)}")
    if not asked.truth:
        raise UserError("; ".join([*asked.notes, "nothing to answer: name pictures, or a folder"]))
    return asked


def _spread(given: list[str]) -> Iterator[tuple[str, bool]]:
    """Each path, lists and patterns taken apart; and whether a list names it: of those, one that
    is missing is a row of the answers, and no error."""
    for path in given:
        if path == STDIN:
            yield from ((home(line), True) for line in listed())
        elif os.path.lexists(path) or os.path.lexists(home(path)) or not glob.has_magic(path):
            yield home(path), False
        else:
            found = sorted(glob.glob(home(path), recursive=True), key=text_of)
            if not found:
                raise UserError(f"{path}: nothing has such a name")
            yield from ((path, False) for path in found)


def home(path: str) -> str:
    """With `~` as the shell reads it, unless a file has that very name."""
    return path if os.path.lexists(path) else os.path.expanduser(path)


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


def _add_folder(path: str, asked: Asked, put_there: set[str]) -> None:
    tree = read_tree(Path(path))
    before, skipped = len(asked.truth), 0
    for picture in tree.every_picture():
        if put_there and full(picture) in put_there:
            skipped += 1
        else:
            asked.add(str(picture))
    if skipped:
        asked.notes.append(f"{path}: {skipped} pictures were sorted there, and are left out")
    elif len(asked.truth) == before and not tree.holds_any:
        asked.notes.append(f"{path} holds no pictures")
    _note_others([other for other, _ in tree.every_other() if other.name != UNDO], path, asked)


def _add_labelled(path: str, asked: Asked) -> None:
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder{_meant(path)}")
    if not os.path.isdir(path):
        raise UserError(f"{path} is a file; --truth takes folders with one sub-folder a class")
    layout = lay_out(Path(path))
    for found in layout.found:
        asked.add(str(found.path), same_name(found.class_name))
    _note_others([place for place, _ in layout.unused], path, asked)


def _note_others(others: list[Path], path: str, asked: Asked) -> None:
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        names = some([text_of(other.name) for other in others], 3)
        asked.notes.append(f"{path}: {count} not asked about ({names})")


def _meant(path: str) -> str:
    """The file or folder beside it that may be meant."""
    above = Path(path).absolute().parent
    try:
        near = nearest(Path(path).name, os.listdir(above))
    except OSError:
        return f"; there is no folder {above}"
    return "" if near is None else f"; did you mean {Path(path).with_name(near)}?"
