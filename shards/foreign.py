"""Tars of others, without an index: read once from front to end, and what was found kept.

WebDataset's rule: files whose names are the same up to the first dot after the folder are one
sample. `cat/7.jpg` has its class in `cat/7.cls`, `.json` ("label", "class", "cls") or `.txt`.
https://github.com/webdataset/webdataset#the-webdataset-format
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from decoding.files import MOST_BYTES
from decoding.formats import EXTENSIONS, open_picture, why
from decoding.greys import Values, describe, is_deep, values_of
from decoding.members import Member, members
from layout.parts import part_of
from shards.index import Shard, rows_of, write_rows
from system.filenames import same_name, text_of
from system.plain_files import without_waiting
from utils import UserError, some, write_json

LABELS = ("cls", "json", "txt")  # the first that is there counts
KEYS = ("label", "class", "cls", "class_name")  # of a .json
LONGEST_LABEL = 200  # letters; a text with more is no class
MOST_LABEL = 1 << 20  # bytes of its file
SCAN = 3  # what is kept is of this version of the scan


@dataclass
class Scanned:
    """What a tar of others holds: its rows, its classes, what the values of its pictures with more
    than 8 bits are like, and the pictures that can't be read, with the reason."""

    shard: Shard
    rows: Path
    classes: tuple[str, ...]
    values: Values | None
    bad: tuple[tuple[str, str], ...]


def scan(
    tar: Path, kept: Path, known_as: str, most_pixels: int | None, passed: Callable[[int], object]
) -> Scanned:
    """What a tar holds; read anew where `kept` has nothing of it. `known_as` tells it from others,
    with its size; `passed` is told the bytes. UserError where it is no tar that can be used."""
    size = tar.stat().st_size
    text = f"{SCAN} {known_as} {size} {most_pixels}"
    name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    rows, about = kept / f"{name}.npy", kept / f"{name}.json"
    if not (rows.is_file() and about.is_file()):
        _keep(_read(tar, size, most_pixels, passed), rows, about, known_as)
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
        shard = Shard(tar.name, _part(tar.name), int(said["count"]), size)
        values = Values(*said["values"]) if said["values"] else None
        bad = tuple((str(name), str(reason)) for name, reason in said["bad"])
        return Scanned(shard, rows, tuple(map(str, said["classes"])), values, bad)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{about} is damaged ({error}); remove it: it is made anew") from None


def see_tar(path: Path) -> None:
    """Raise ValueError, with the reason, where a file is no whole tar of some files."""
    with open(path, "rb") as file:
        if not sum(1 for _ in members(file, path.stat().st_size)):
            raise ValueError("it holds no file")


def _keep(found: _Found, rows: Path, about: Path, known_as: str) -> None:
    write_rows(rows, rows_of(found.rows))
    said = {"of": text_of(known_as), "count": len(found.rows), "classes": found.classes}
    write_json(about, said | {"values": found.values, "bad": found.bad})


def _part(name: str) -> str:
    """The part that a tar's name says: train-000000.tar; "" where it says none."""
    parts = {part_of(word) for word in re.split(r"[^A-Za-z]+", name) if word} - {None}
    return str(parts.pop()) if len(parts) == 1 else ""


@dataclass
class _Found:
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    values: Values | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)


def _read(tar: Path, size: int, most_pixels: int | None, passed: Callable[[int], object]) -> _Found:
    found, numbers, at = _Found(), dict[str, int](), 0
    with open(tar, "rb", opener=without_waiting) as file:
        try:
            for key, together in groupby(_inside(members(file, size)), key=_key_of):
                sample = list(together)
                end = sample[-1].offset + sample[-1].size
                passed(end - at)
                at = end
                picture = _picture(sample)
                if picture is not None:
                    label = _label(file, sample, key)
                    _add(found, file, picture, numbers.setdefault(label, len(numbers)), most_pixels)
        except (ValueError, EOFError) as error:
            raise UserError(f"{tar} can't be used: {error}") from None
    found.classes = list(numbers)
    return found


def _picture(sample: list[Member]) -> Member | None:
    """A sample's picture; `7.jpg` before `7.depth.png`. ValueError where it could be another."""
    pictures = [member for member in sample if _extension(member) in EXTENSIONS]
    plain = [m for m in pictures if PurePosixPath(m.name).name.count(".") == 1]
    found = plain or pictures
    if len(found) > 1:
        names = some([member.name for member in found], 4)
        raise ValueError(f"one sample has several pictures, {names}: which is its own is not said")
    return found[0] if found else None


def _inside(found: Iterable[Member]) -> Iterator[Member]:
    """Without a system's own files; ValueError for a name that leads out of the tar."""
    for member in found:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"it has a file that would lie outside of it, {member.name!a:.100}")
        if not name.name.startswith("."):  # macOS's ._ files
            yield member


def _key_of(member: Member) -> str:
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _extension(member: Member) -> str:
    return os.path.splitext(member.name)[1].lower()


def _label(file: BinaryIO, sample: list[Member], key: str) -> str:
    """A sample's class, as one of its files says it."""
    for kind in LABELS:
        member = next((m for m in sample if _extension(m) == f".{kind}"), None)
        if member is None or member.size > MOST_LABEL:
            continue
        text = _bytes(file, member).decode("utf-8", "replace").strip()
        label = same_name(_of_json(text) if kind == "json" else text)
        if not label or len(label) > LONGEST_LABEL or "\n" in label:
            raise ValueError(f"{member.name} names no class")
        return label
    raise ValueError(f"{key.lstrip('/')} has no class: no .cls, .json or .txt beside the picture")


def _of_json(text: str) -> str:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if isinstance(said, dict):
        said = next((said[key] for key in KEYS if key in said), "")
    return str(said) if isinstance(said, (str, int)) and not isinstance(said, bool) else ""


def _bytes(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _add(
    found: _Found, file: BinaryIO, picture: Member, label: int, most_pixels: int | None
) -> None:
    """Take a picture's row, or note why it can't be read."""
    try:
        if picture.size > MOST_BYTES:
            raise ValueError(f"a file of {picture.size:,} bytes, more than {MOST_BYTES:,}")
        content = _bytes(file, picture)
        image = open_picture(content, picture.name, most_pixels)
        deep = is_deep(image)
        if deep:
            found.values = together(describe(values_of(image)), found.values)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        found.bad.append((picture.name, why(error)))
        return
    digest = hashlib.sha256(content).digest()
    name = os.fsencode(PurePosixPath(picture.name).as_posix())
    found.rows.append((picture.offset, picture.size, label, digest, digest[:8], deep, name))


def together(one: Values, other: Values | None) -> Values:
    """What the values of several pictures are like."""
    if other is None:
        return one
    low, high = min(one.low, other.low), max(one.high, other.high)
    return Values(low, high, one.whole and other.whole)


def names_in_order(classes: set[str]) -> tuple[str, ...]:
    """Class names, sorted; numbers by their value."""
    if all(name.isdecimal() for name in classes):
        return tuple(sorted(classes, key=lambda name: (int(name), name)))
    return tuple(sorted(classes))


def numbers_of(classes: tuple[str, ...], of: tuple[str, ...]) -> np.ndarray | None:
    """The number in `of` of each of a shard's own classes; None where they are the same."""
    if classes == of[: len(classes)]:
        return None
    place = {name: number for number, name in enumerate(of)}
    return np.array([place[name] for name in classes], dtype=np.int32)
