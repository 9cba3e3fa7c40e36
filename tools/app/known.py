"""A run's own held-out pictures: examples to click on, and those that it got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from inspection.record import PARTS, Prediction, Record
from inspection.thumbnails import below, small
from pretrained.files import metadata_in

EXAMPLES, MISTAKES = 12, 24  # at most


@dataclass(frozen=True)
class Shown:
    """A picture of the run, small, with what stands below it."""

    path: Path
    picture: Image.Image
    caption: str


@dataclass(frozen=True)
class Known:
    """What is shown of a run, and a sentence on where it comes from."""

    examples: list[Shown]
    mistakes: list[Shown]
    note: str


def known_pictures(record: Record | None, checkpoint: Path) -> Known:
    """The examples and the surest mistakes of a checkpoint's run; where its files or pictures are
    not there, none, and why."""
    if record is None:
        return Known([], [], "no run lies beside these weights, so there are no examples")
    if not record.predictions:
        return Known([], [], "the run has no predictions.csv, so there are no examples")
    if record.pictures is None:
        where = record.config.train.base_dir if record.config else "its folder"
        return Known([], [], f"the run's pictures are not in {where}, so there are no examples")
    mistakes = sorted((p for p in record.predictions if not p.right), key=lambda p: -p.probability)
    usual = [(p, p.label) for p in in_turn(record.predictions, EXAMPLES)]
    wrong = [
        (p, f"{p.label}, taken for {p.predicted} ({p.probability:.2f})")
        for p in mistakes[:MISTAKES]
    ]
    part = f"{len(record.predictions):,} pictures of the {PARTS[record.part]} part"
    note = f"from {part}, answered by a network that had not seen them"
    if "seen" in metadata_in(checkpoint) and record.part == "val":
        note += "; this one has learned from them since, and may know them"
    return Known(shown(record, usual), shown(record, wrong), note)


def in_turn(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """Some pictures, the classes in turn, those of each class evenly spread."""
    by_class: dict[str, list[Prediction]] = {}
    for answer in predictions:
        by_class.setdefault(answer.label, []).append(answer)
    each = -(-most // len(by_class))
    spread = [
        [own[(2 * i + 1) * len(own) // (2 * n)] for i in range(n)]
        for own in by_class.values()
        for n in (min(each, len(own)),)
    ]
    return [own[i] for i in range(each) for own in spread if i < len(own)][:most]


def shown(record: Record, chosen: list[tuple[Prediction, str]]) -> list[Shown]:
    """Those of the chosen pictures that can be read, with their captions."""
    found = []
    for answer, caption in chosen:
        path = below(record.pictures, answer.path)
        try:
            picture = None if path is None else small(path, record.greys)
        except Exception:  # damaged files make Pillow raise nearly anything
            continue
        if path is not None and picture is not None:
            found.append(Shown(path, picture, caption))
    return found
