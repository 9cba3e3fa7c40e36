"""From a folder to its classes and parts, as people have them.

A folder is a set of parts (train, val, test) only where what it holds says so: a class may be
called train.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from layout.tree import Folder, read_tree
from system.filenames import looks_like, same_name, shown, text_of
from utils import UserError, quoted, some

PART_NAMES = {
    "train": {"train", "training", "trn"},
    "val": {"val", "valid", "vali", "validation", "validate", "dev", "devel", "eval", "evaluation"},
    "test": {"test", "testing", "tst"},
}
# What stands beside a part's name: training_set, seg_train, test-images.
MOST_NOTES = 3  # of a kind
BESIDE = {"set", "split", "data", "dataset", "part", "seg", "images", "image", "imgs", "img"}
BESIDE |= {"pictures", "photos", "jpg", "png"}


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate before it is read, by its folder and its name there: its part is None where the
    folder has no parts."""

    folder: Path
    name: str
    class_name: str
    part: str | None

    @property
    def path(self) -> Path:
        return self.folder / self.name


@dataclass
class Layout:
    """What a folder holds: candidates, every class that it has, what is not used and why, and what
    else to know."""

    found: list[Found] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    unused: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lay_out(root: Path, classes: Collection[str] | None = None, but: Iterable[Path] = ()) -> Layout:
    """Find a folder's classes and parts; candidates are those of `classes`, where it is given.
    Folders in it that hold something else, `but`, are no classes.

    Raises UserError where it has none, with what it takes, or with the folder that may be meant.
    """
    top = read_tree(root, but)
    layout = Layout()
    body = _unwrapped(top, layout)
    parts = _parts(body, classes)
    if parts:
        _leave_files(body, layout)
        for folder in body.folders:
            part = parts.get(folder.path)
            if part is not None:
                if not folder.full:
                    layout.notes.append(f"{folder.name} has no class folders, and is not used")
                _add(_unwrapped(folder, layout, part), part, layout, classes)
            else:
                _leave(folder, "not one of train, val, test", layout)
    else:
        _see_that_it_is_no_shelf(body)
        _add(body, None, layout, classes)
    if not layout.names or not (layout.found or body.full):
        raise UserError(_what_it_takes(top, layout))
    if body is not top:
        layout.notes.insert(0, f"the classes are taken from {shown(str(body.path))}, within it")
    layout.notes += [] if parts else _beside(root)
    return layout


# ------------------------------------------------------------------------------- what it is


def part_of(name: str) -> str | None:
    """The part that a folder of this name would be."""
    words = [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    hits = [part for word in words for part, names in PART_NAMES.items() if word in names]
    beside = sum(word in BESIDE for word in words)
    return hits[0] if len(hits) == 1 and beside == len(words) - 1 and name.isascii() else None


def _unwrapped(folder: Folder, layout: Layout | None = None, part: str | None = None) -> Folder:
    """The folder, or the one in it that holds all the class folders or parts; in a part's folder
    one of the same name alone, as it may have one class."""
    while len(folder.full) == 1 and folder.full[0].full:
        inner = folder.full[0]
        same = part is None or part_of(inner.name) == part or inner.name.lower() in BESIDE
        if not same or not _is_set(inner):  # a class with folders of its own
            break
        if layout is not None:
            _leave_files(folder, layout)
            for other in folder.folders:
                if other is not inner:
                    _leave(other, "not a picture", layout)
        folder = inner
    return folder


def _leave_files(folder: Folder, layout: Layout) -> None:
    """Note the files beside a folder's sub-folders as not used."""
    layout.unused += [(path, "not in a class folder") for path in folder.pictures]
    layout.unused += folder.others


def _leave(folder: Folder, reason: str, layout: Layout) -> None:
    """Note each file of a folder as not used."""
    layout.unused += [(path, f"in {folder.name}: {reason}") for path in folder.every_picture()]
    layout.unused += folder.every_other()


def _is_set(folder: Folder) -> bool:
    """Whether it holds class folders, and at most a few pictures beside them."""
    deeper = sum(inner.count() for inner in folder.full)
    return bool(folder.full) and 2 * len(folder.names) < deeper


def _parts(body: Folder, classes: Collection[str] | None) -> dict[Path, str]:
    """The part of each folder that is one; empty where they are classes."""
    if classes and {*classes} <= {same_name(folder.name) for folder in body.folders}:
        return {}
    named = {folder.path: part for folder in body.full if (part := part_of(folder.name))}
    others = [folder for folder in body.full if folder.path not in named]
    sets = {named[folder.path] for folder in body.full if folder.path in named and _is_set(folder)}
    if "train" in sets and (len(sets) > 1 or not others):
        return named
    train = next((f for f in body.full if named.get(f.path) == "train"), None)
    if "train" in sets and len(others) == 1 and train is not None:
        if classes and {*classes} <= {same_name(folder.name) for folder in train.full}:
            return named
        raise UserError(
            f"{train.path} holds folders of its own: if it is the training part, name it as "
            f"train.base_dir, or rename {others[0].path} to val or test; if both are classes, say "
            f"train.classes=[{', '.join(quoted([others[0].name, train.name]))}]"
        )
    if others or len(set(named.values())) < 2:
        return {}
    if sets and "train" not in named.values():
        raise UserError(
            f"{body.path} has {some(sorted(set(named.values())))}, and no folder to train on: name "
            "one train, or name one of them as train.base_dir"
        )
    flat = body.full[0].path if train is None else train.path
    raise UserError(
        f"{flat} holds its pictures without class folders: put those of each class into a folder "
        f"of its own, {flat}/<class>/"
    )


def _see_that_it_is_no_shelf(body: Folder) -> None:
    """Raise UserError where a folder holds whole sets instead of classes."""

    def has_parts(folder: Folder) -> bool:
        try:
            return len(set(_parts(_unwrapped(folder), None).values())) > 1
        except UserError:
            return False

    if any(has_parts(folder) for folder in body.full):
        sets_here = [folder for folder in body.full if _is_set(folder)]
        ours = [f for f in sets_here if (f.path / "training.py").exists()]  # the program itself
        found = [f for f in sets_here if f not in ours] or sets_here
        found.sort(key=lambda folder: -folder.count())
        sets = [str(folder.path) for folder in found]
        raise UserError(
            f"{body.path} holds {'a set' if len(sets) == 1 else 'sets'} of images, and is one "
            f"folder too high; did you mean {' or '.join(sets[:3])}?"
        )


# ----------------------------------------------------------------------------- what is taken


def _add(body: Folder, part: str | None, layout: Layout, classes: Collection[str] | None) -> None:
    """The pictures of a folder's class folders, those of deeper folders too."""
    _leave_files(body, layout)
    full = [f for f in body.full if classes is None or same_name(f.name) in classes]
    inside = part is None and bool(full) and all(map(_has_parts_inside, full))
    taken = []
    for folder in body.folders:
        name = same_name(folder.name)
        layout.names.add(name)
        if classes is not None and name not in classes:
            continue
        taken.append(folder)
        layout.unused += folder.every_other()
        if inside:
            for inner in folder.full:
                place = part_of(inner.name)
                layout.found += [Found(*one, name, place) for one in inner.every_name()]
        else:
            layout.found += [Found(*one, name, part) for one in folder.every_name()]
    layout.notes += _alike(body, taken)
    if inside:
        layout.notes.append("each class folder has parts of its own, which are used")
    else:
        layout.notes += _deeper(body, taken)
        parted = [folder.name for folder in taken if _has_parts_inside(folder)]
        if part is None and parted:
            others = [folder.name for folder in taken if folder.name not in parted]
            layout.notes.append(
                f"warning: the parts within {some(parted)} are not used, as {some(others)} has "
                "none: what is held out there may be trained on; give each class its parts"
            )


def _has_parts_inside(folder: Folder) -> bool:
    """Whether a class folder holds train, val or test folders of pictures, and nothing else."""
    parts = [part_of(inner.name) for inner in folder.full]
    return folder.nested and "train" in parts and len(set(parts)) > 1 and None not in parts


def _alike(body: Folder, taken: Iterable[Folder]) -> list[str]:
    """Raise UserError for class folders that can't be told apart by eye; a note for those that
    differ by case alone."""
    seen: dict[str, list[str]] = defaultdict(list)
    for folder in taken:
        seen[looks_like(folder.name)].append(folder.name)
    for names in seen.values():
        if len(names) > 1:
            raise UserError(
                f"{body.path} has class folders whose names look the same: "
                f"{some(map(ascii, names))}; put them together, or rename one"
            )
    by_case: dict[str, list[str]] = defaultdict(list)
    for name in seen:
        by_case[name.casefold()].append(seen[name][0])
    found = [names for names in by_case.values() if len(names) > 1]
    notes = [
        f"{some(names, between=' and ')} differ by case alone, and are taken as {len(names)} "
        "classes"
        for names in found[:MOST_NOTES]
    ]
    return notes + ([f"and {len(found) - MOST_NOTES} more such"] if found[MOST_NOTES:] else [])


def _deeper(body: Folder, taken: Iterable[Folder]) -> list[str]:
    """A note where pictures lie in folders of a class folder."""
    deep = [folder for folder in taken if folder.full]
    if not deep:
        return []
    named = [f"{f.name} ({some([inner.name for inner in f.full], 3)})" for f in deep]
    note = f"pictures in deeper folders count for their class: {some(named, 3)}"
    inner_names = [inner.name for folder in body.full for inner in folder.full]
    shared = len(set(inner_names)) < len(inner_names)
    if len(deep) > 1 and all(f.nested and len(f.full) > 1 for f in body.full) and not shared:
        note += f"; did you mean {deep[0].path}, with the classes {some(inner_names[:2])} ...?"
    return [note]


def _beside(root: Path) -> list[str]:
    """A note where the training part alone was named, and others lie beside it."""
    here = Path(os.path.abspath(root))
    if part_of(text_of(here.name)) != "train":
        return []
    with contextlib.suppress(OSError):
        beside = [
            path.name
            for path in sorted(here.parent.iterdir())
            if part_of(text_of(path.name)) in ("val", "test")
            and path.is_dir()
            and any(inner.is_dir() and inner.name[0] != "." for inner in path.iterdir())
        ]
        if beside:
            return [
                f"{' and '.join(beside)} beside it {'is' if len(beside) == 1 else 'are'} not used: "
                f"train.base_dir={here.parent} takes all parts"
            ]
    return []


def _what_it_takes(top: Folder, layout: Layout) -> str:
    """The sentence for a folder without classes."""
    hint = ""
    if top.names:
        hint = f"; {top.path / top.names[0]} is not in a class folder"
        above = Path(os.path.abspath(top.path)).parent
        beside: list[Path] = []
        with contextlib.suppress(OSError):  # not everyone may look there
            beside = [path for path in above.iterdir() if path.is_dir() and path.name[0] != "."]
        if len(beside) > 1:
            hint += f" (is {top.path.name} a class itself? then it takes {above})"
    elif layout.unused:
        path, reason = layout.unused[0]
        hint = f"; {path} is {reason}"
    return (
        f"{top.path} has no images in class folders (it takes {top.path}/<class>/*.jpg and the "
        f"like){hint}"
    )
