"""Which pictures stay together in a part and in a fold: copies, near-duplicates, and what the user
says belongs together (`train.groups`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from config import TrainConfig
from decoding.duplicates import joined, near_groups
from filing.csv_files import read_csv
from images import Sample
from layout.split_file import text_below
from system.filenames import is_table, same_name
from utils import UserError

COLUMNS = ("path", "group")


def with_groups(
    samples: list[Sample],
    descriptors: Mapping[Path, np.ndarray],
    root: Path,
    train: TrainConfig,
    notes: list[str],
    parted: Callable[[list[Sample]], list[Sample]] = list,
) -> list[Sample]:
    """The samples with the groups that the config asks for; what groups share members is one.

    A group is called by the least digest in it, so one of copies alone by theirs. `parted` gives
    some their part by their group. The notes get a line for near-duplicates, for what
    `train.groups` found, and of both for what lies in several parts.
    """
    copies: list[Sequence[int]] = list(_alike(sample.sha256 for sample in samples))
    near: list[list[int]] = []
    if train.group_duplicates:
        first = sorted({s.sha256: i for i, s in reversed([*enumerate(samples)])}.values())
        small = [descriptors[samples[i].path] for i in first]
        near = [[first[i] for i in group] for group in near_groups(np.stack(small))]
    names = None if train.groups is None else _names(samples, root, train.groups)
    links = [*copies, *near, *_alike(names or [])]
    found = list(samples)
    for group in joined(len(samples), (pair for link in links for pair in pairwise(link))):
        name = min(samples[i].sha256 for i in group)
        for i in group:
            found[i] = replace(samples[i], group=name)
    found = parted(found)
    notes += _near_notes([[found[i] for i in group] for group in near], root)
    if names is not None:
        notes += _named_notes(names, found, root)
    return found


def copies_notes(samples: list[Sample], root: Path, used: str) -> list[str]:
    """How many images are byte-identical to another, across parts and classes too, with names."""
    several = [[samples[i] for i in group] for group in _alike(s.sha256 for s in samples)]
    if not several:
        return []
    parts, classes = _across(several)
    count = sum(len(group) - 1 for group in several)
    notes = [
        f"{count} image{' is' if count == 1 else 's are'} byte-identical to another; copies share "
        f"their part ({_such(several, root)})"
    ]
    if parts:
        lie = "1 image lies" if len(parts) == 1 else f"{len(parts)} images lie"
        notes.append(f"{lie} in several parts, {used} ({_such(parts, root)})")
    if classes:
        notes.append(
            f"the same image under several classes ({len(classes)} such), where one alone can be "
            f"right: {_such(classes, root)}"
        )
    return notes


def _near_notes(near: list[list[Sample]], root: Path) -> list[str]:
    """How many near-duplicates there are, across given parts and classes too, with names."""
    if not near:
        return []
    parts, classes = _across(near)
    notes = [
        f"{sum(map(len, near))} images are near-duplicates, in {len(near)} "
        f"group{'s that share their' if len(near) > 1 else ' that shares its'} "
        f"{_shared(parts)} ({_such(near, root)})"
    ]
    notes += _parted_notes(parts, root, "was nearly seen")
    if classes:
        notes.append(
            f"near-duplicates under several classes ({len(classes)} such): {_such(classes, root)}"
        )
    return notes


def _shared(parts: list[list[Sample]]) -> str:
    return "fold, though not always their part" if parts else "part and fold"


def _parted_notes(parts: list[list[Sample]], root: Path, seen: str) -> list[str]:
    """A warning of groups that lie in several parts."""
    if not parts:
        return []
    lie = "1 group of them lies" if len(parts) == 1 else f"{len(parts)} groups of them lie"
    return [
        f"warning: {lie} in several parts, which are given and stay: what is held out {seen} "
        f"({_such(parts, root)})"
    ]


def _across(groups: list[list[Sample]]) -> tuple[list[list[Sample]], list[list[Sample]]]:
    """Those that lie in several parts, and in several classes."""
    parts = [group for group in groups if len({s.part or "train" for s in group}) > 1]
    return parts, [group for group in groups if len({s.label for s in group}) > 1]


def _such(groups: list[list[Sample]], root: Path) -> str:
    named = [", ".join(text_below(root, s.path) for s in group[:3]) for group in groups[:3]]
    return f"{'; '.join(named)}{' ...' if len(groups) > 3 else ''}"


def _alike(names: Iterable[str | None]) -> list[list[int]]:
    """The indices of what has one name, where there are several; None is no name."""
    found: dict[str | None, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        found[name].append(i)
    return [group for name, group in found.items() if name is not None and len(group) > 1]


# ------------------------------------------------------------------------------ train.groups


def _names(samples: list[Sample], root: Path, asked: str) -> list[str | None]:
    """Each picture's group by a pattern or a table; None of one that it does not name."""
    paths = [text_below(root, sample.path) for sample in samples]
    if is_table(asked):
        names = _of_table(paths, Path(asked))
    else:
        found = (re.search(asked, path) for path in paths)
        names = [(match and match[1]) or None for match in found]
    if not any(name is not None for name in names):
        raise UserError(f"train.groups: {asked} names no group of any picture, {paths[0]}, say")
    return names


def _named_notes(names: list[str | None], samples: list[Sample], root: Path) -> list[str]:
    """How many pictures are of how many groups, and of those in several parts a warning."""
    alone, of = names.count(None), len({*names} - {None})
    parts, _ = _across([[samples[i] for i in group] for group in _alike(names)])
    notes = [
        f"train.groups: {len(names) - alone:,} images of {of:,} groups, which share their "
        f"{_shared(parts)}{f'; {alone:,} of none' if alone else ''}"
    ]
    return notes + _parted_notes(parts, root, "is of a group that was seen")


def _of_table(paths: list[str], file: Path) -> list[str | None]:
    """Each path's group by the rows of a table, which may name other pictures, too."""
    names: dict[str, str | None] = {}
    for row in read_csv(file, COLUMNS, "table of groups"):
        path, group = same_name(row["path"]), row["group"].strip() or None
        if names.setdefault(path, group) != group:
            raise UserError(f"{file} has {path} in two groups, {names[path]} and {group}; keep one")
    return [names.get(same_name(path)) for path in paths]
