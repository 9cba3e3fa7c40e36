"""How many answers are right, where the pictures' folders say what they are."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from decoding.files import content_of
from engine.learned import learned_by
from metrics import said, wilson
from system.filenames import nearest
from utils import some

Counts = Counter[tuple[str, str, str]]  # the folder's class, the label, what was said


def scored(counts: Counts, classes: Sequence[str]) -> list[str]:
    """What the answers are worth, a line each: accuracy, that of the answered ones, and a table of
    the classes. Folders that are none of the network's classes have a line of their own."""
    known = {key: n for key, n in counts.items() if key[0] in classes}
    lines = []
    if total := sum(known.values()):
        right = sum(n for (truth, label, _), n in known.items() if label == truth)
        answered = sum(n for (_, label, answer), n in known.items() if answer == label)
        hits = sum(n for (truth, label, a), n in known.items() if truth == label == a)
        lines.append(f"accuracy {said(right / total, total)}, the label alone")
        if answered == total:
            lines.append("all of them answered, none unsure or unlike")
        elif answered:
            lines.append(f"accuracy {said(hits / answered, answered)}, of those answered")
        else:
            lines.append("none of them answered: all are unsure or unlike")
        lines += _table(known, classes)
    for name in sorted({truth for truth, _, _ in counts} - set(classes)):
        own: Counter[str] = Counter()
        for (truth, label, answer), n in counts.items():
            if truth == name:
                own["answered" if answer == label else answer] += n
        ways = ", ".join(f"{n} {way}" for way, n in own.most_common())
        lines.append(f"{name}: no class of the network, not counted; {own.total()} images: {ways}")
    return lines


def _table(known: dict[tuple[str, str, str], int], classes: Sequence[str]) -> list[str]:
    rows = [("class", "images", "recall", "95 %", "answered", "mostly taken for")]
    for name in classes:
        own = {key[1:]: n for key, n in known.items() if key[0] == name}
        if not (total := sum(own.values())):
            continue
        right = sum(n for (label, _), n in own.items() if label == name)
        low, high = wilson(right / total, total)
        answered = sum(n for (label, answer), n in own.items() if label == answer)
        wrong: Counter[str] = Counter()
        for (label, _), n in own.items():
            wrong[label] += n if label != name else 0
        most = ", ".join(f"{label} {n}" for label, n in wrong.most_common(2) if n)
        share = f"{right / total:.3f}"
        rows.append((name, str(total), share, f"{low:.3f} to {high:.3f}", str(answered), most))
    missing = [c for c in classes if not any(key[0] == c for key in known)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        numbers = [cell.rjust(w) for cell, w in zip(row[1:-1], wide[1:-1], strict=True)]
        lines.append("  ".join([row[0].ljust(wide[0]), *numbers, row[-1]]).rstrip())
    return lines + ([f"no images of {some(missing)}"] if missing else [])


def foreign(found: Iterable[str], classes: Sequence[str]) -> list[str]:
    """A line for each folder that is none of the network's classes, with the one that is meant."""
    lines = []
    for name in found:
        if name not in classes:
            near = nearest(name, classes)
            hint = f"did you mean {near}? rename the folder" if near else f"it has {some(classes)}"
            lines.append(f"{name} is not one of the network's classes, and not counted; {hint}")
    return lines


def learned(paths: Iterable[str], checkpoint: Path, wanted: str) -> int:
    """How many of the pictures a checkpoint has learned, by their contents and its run's split.csv;
    0 where that isn't there."""
    known = learned_by(checkpoint, wanted).digests
    found = 0
    for path in paths:
        with contextlib.suppress(Exception):  # one that can't be read is said elsewhere
            found += hashlib.sha256(content_of(Path(path))).hexdigest() in known
    return found
