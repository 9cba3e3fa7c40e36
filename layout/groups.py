"""Which pictures stay together in a part and in a fold: copies, near-duplicates, and what the user
says belongs together (`train.groups`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
) -> list[Sample]:
    """The samples with the groups that the config asks for; what groups share members is one.

    A group is called by the least digest in it, so one of copies alone by theirs. The notes get a
    line for near-duplicates, and for what `train.groups` found.
    """
    links: list[Sequence[int]] = list(_alike(sample.sha256 for sample in samples))
    copies = links[:]
    if train.group_duplicates:
        first = sorted({s.sha256: i for i, s in reversed([*enumerate(samples)])}.values())
        small = [descriptors[samples[i].path] for i in first]
        near = [[first[i] for i in group] for group in near_groups(np.stack(small))]
        notes += _near_notes([[samples[i] for i in group] for group in near], root)
        links += near
    if train.groups is not None:
        links += _named(samples, root, train.groups, notes)
    if links == copies:
        return samples
    found = list(samples)
    for group in joined(len(samples), (pair for link in links for pair in pairwise(link))):
        name = min(samples[i].sha256 for i in group)
        for i in group:
            found[i] = replace(samples[i], group=name)
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
        f"group{'s that share their' if len(near) > 1 else ' that shares its'} part and fold "
        f"({_such(near, root)})"
    ]
    if parts:
        lie = "1 group of them lies" if len(parts) == 1 else f"{len(parts)} groups of them lie"
        notes.append(
            f"warning: {lie} in several parts, which are given and stay: what is held out was "
            f"nearly seen ({_such(parts, root)})"
        )
    if classes:
        notes.append(
            f"near-duplicates under several classes ({len(classes)} such): {_such(classes, root)}"
        )
    return notes


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


def _named(samples: list[Sample], root: Path, asked: str, notes: list[str]) -> list[list[int]]:
    """The groups that a pattern or a table names; a picture that it does not name is alone."""
    paths = [text_below(root, sample.path) for sample in samples]
    if is_table(asked):
        names = _of_table(paths, Path(asked))
    else:
        found = (re.search(asked, path) for path in paths)
        names = [(match and match[1]) or None for match in found]
    groups = _alike(names)
    alone = sum(name is None for name in names)
    if alone == len(names):
        raise UserError(f"train.groups: {asked} names no group of any picture, {paths[0]}, say")
    of = len({name for name in names if name is not None})
    notes.append(
        f"train.groups: {len(names) - alone:,} images of {of:,} groups, which share their part and "
        f"fold{f'; {alone:,} of none' if alone else ''}"
    )
    return groups


def _of_table(paths: list[str], file: Path) -> list[str | None]:
    """Each path's group by the rows of a table, which may name other pictures, too."""
    names: dict[str, str | None] = {}
    for row in read_csv(file, COLUMNS, "table of groups"):
        path, group = same_name(row["path"]), row["group"].strip() or None
        if names.setdefault(path, group) != group:
            raise UserError(f"{file} has {path} in two groups, {names[path]} and {group}; keep one")
    return [names.get(same_name(path)) for path in paths]
