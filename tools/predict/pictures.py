"""Which pictures are asked about: files, folders, patterns, and lists of paths.

A path is kept as text, some 100 bytes each, so that 100,000 of them are nothing beside the network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from layout.parts import lay_out
from layout.paths import full, spread
from layout.tree import read_tree
from system.filenames import same_name, text_of
from utils import UserError, some

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


def find_pictures(given: list[str], labelled: bool, put_there: set[str]) -> Asked:
    """The pictures that paths, patterns and lists stand for; of folders those that training would
    take, however deep, but for those in the folders of `put_there`.

    `labelled`: each is a folder with one sub-folder a class. Raises UserError for one that isn't
    there, and where there is no picture at all.
    """
    asked = Asked()
    for path in spread(given):
        if labelled:
            _add_labelled(path, asked)
        elif os.path.isdir(path):
            _add_folder(path, asked, put_there)
        else:  # one that a list names may be missing: a row of the answers, and no error
            asked.add(str(Path(path)))
    if not asked.truth:
        raise UserError("; ".join([*asked.notes, "nothing to answer: name pictures, or a folder"]))
    return asked


def _add_folder(path: str, asked: Asked, put_there: set[str]) -> None:
    tree = read_tree(Path(path))
    before, skipped = len(asked.truth), 0
    for picture in tree.every_picture():
        if put_there and os.path.dirname(full(picture)) in put_there:
            skipped += 1
        else:
            asked.add(str(picture))
    if skipped:
        one = skipped == 1
        what = "picture lies sorted there, and is" if one else "pictures lie sorted there, and are"
        asked.notes.append(f"{path}: {skipped} {what} left out")
    elif len(asked.truth) == before and not tree.holds_any:
        asked.notes.append(f"{path} holds no pictures")
    _note_others([other for other, _ in tree.every_other() if other.name != UNDO], path, asked)


def _add_labelled(path: str, asked: Asked) -> None:
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
