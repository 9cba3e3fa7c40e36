"""The parts of what is new in a folder since the split.csv that it is split by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from config import TrainConfig
from images import Sample
from layout.draw import assign_parts
from layout.split_file import PARTS
from utils import some

HELD_OUT = PARTS[1:]


def with_new_parts(
    samples: list[Sample],
    known: Collection[str],
    classes: tuple[str, ...],
    train: TrainConfig,
    notes: list[str],
) -> list[Sample]:
    """The samples, by now with their groups, with parts for those that have none yet.

    A new picture is where its group is: beside held-out ones it is held out. Else it is trained on;
    of a class that is not among the `known` ones parts are drawn, as of a new folder.
    """
    new = {s.path for s in samples if not s.part or classes[s.label] not in known}
    parts: dict[str, str] = {}  # of groups that lie in several the last, as of copies
    for s in samples:
        if s.path not in new:
            parts[s.group] = max(parts.get(s.group, s.part), s.part, key=PARTS.index)
    found, beside, free = {}, [], []
    for s in samples:
        if s.path not in new:
            continue
        if s.part not in HELD_OUT and s.group in parts:
            found[s.path] = replace(s, part=parts[s.group])
            beside.append(found[s.path])
        elif classes[s.label] in known:
            found[s.path] = replace(s, part="train")
        else:
            free.append(s)
    if held := sum(s.part in HELD_OUT for s in beside):
        notes.append(f"new images held out with their groups: {held:,}")
    fresh = sorted({classes[s.label] for s in samples} - {*known})
    if fresh:
        notes.append(f"new classes: {some(fresh)}")
    parted = {s.label for s in beside}
    few = [s for s in free if s.label in parted and _too_few(s.label, free)]
    found |= {s.path: s if s.part in HELD_OUT else replace(s, part="train") for s in few}
    drawn = [s for s in free if s.path not in found]
    found |= {s.path: s for s in assign_parts(drawn, classes, train, notes)} if drawn else {}
    return [found.get(s.path, s) for s in samples]  # in the folder's order, as later


def _too_few(label: int, free: list[Sample]) -> bool:
    """Whether what is left of a class, beside what follows its groups, is too little to draw of."""
    return len({s.group for s in free if s.label == label}) <= len(HELD_OUT)
