"""The parts of what is new in a folder since the split.csv that it is split by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from config import TrainConfig
from images import Sample
from layout.draw import assign_parts
from layout.split_file import PARTS
from utils import some

HELD_OUT = PARTS[1:]


def with_new_parts(
    samples: list[Sample],
    new: Collection[Path],
    known: Collection[str],
    classes: tuple[str, ...],
    train: TrainConfig,
    notes: list[str],
) -> list[Sample]:
    """The samples, by now with their groups, with parts for the `new` ones, which a split doesn't
    name; the others keep theirs.

    A new picture is where its group is: beside held-out ones it is held out. Of a class that is not
    among the `known` ones parts are drawn, as of a new folder; all else is trained on.
    """
    parts: dict[str, str] = {}  # of groups that lie in several the last, as of copies
    for s in samples:
        if s.path not in new:
            parts[s.group] = max(parts.get(s.group, s.part), s.part, key=PARTS.index)
    there = {s.label for s in samples if s.path not in new or s.group in parts}
    fresh = [s for s in samples if classes[s.label] not in known]
    if fresh:
        notes.append(f"new classes: {some(sorted({classes[s.label] for s in fresh}))}")
    free = [s for s in fresh if s.path in new and (s.part in HELD_OUT or s.group not in parts)]
    drawn = [s for s in free if s.label not in there or not _too_few(s.label, free)]
    if drawn:
        drawn = assign_parts(drawn, classes, train, notes)
    own = {s.path: s.part for s in free if s.part in HELD_OUT} | {s.path: s.part for s in drawn}
    for s in drawn:
        parts.setdefault(s.group, s.part)
    found = [
        s if s.path not in new else replace(s, part=own.get(s.path) or parts.get(s.group, "train"))
        for s in samples
    ]
    held = sum(s.path in new and s.path not in own and s.part in HELD_OUT for s in found)
    if held:
        notes.append(f"new images held out with their groups: {held:,}")
    return found


def _too_few(label: int, free: list[Sample]) -> bool:
    """Whether what is left of a class, beside what follows its groups, is too little to draw of."""
    return len({s.group for s in free if s.label == label}) <= len(HELD_OUT)
