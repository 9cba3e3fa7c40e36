"""What an audit found: the suspects, and what is known of the set as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import write_csv

KINDS = ("label", "leak", "duplicate", "outlier", "quality", "unreadable")
COLUMNS = ("path", "kind", "given", "suggested", "score", "group")
AUDIT = "audit.csv"


@dataclass(frozen=True)
class Suspect:
    """A picture that somebody should look at, and why.

    `path` is below the folder, as split.csv has it. `score` orders those of a kind, the worst
    first: of a `label` the probability that it is wrong; of a `duplicate` or a `leak` how alike the
    group's pictures are (1: byte for byte); of an `outlier` the share of pictures that are more
    like the others; of `quality` how far beyond the limit. `group` numbers the pictures that are
    copies of one another. `says` is for a reader.
    """

    path: str
    kind: str
    given: str
    suggested: str | None = None
    score: float = 0.0
    group: int | None = None
    part: str = ""
    says: str = ""


@dataclass(frozen=True)
class Findings:
    """All that a page shows. The sequences are of each picture that could be read, in one order:
    `neighbours` (indices of the most like ones, the most like first) and `places` on the map."""

    name: str
    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]  # indices of classes
    parts: tuple[str, ...]
    suspects: tuple[Suspect, ...]
    neighbours: Sequence[Sequence[int]]
    places: Sequence[tuple[float, float]]
    said: tuple[str, ...]  # sentences on the whole set, in their order
    noise: Sequence[Sequence[float]]  # C C: of the pictures given a class, the share of another
    sizes: Sequence[dict[str, Any]] = field(default_factory=tuple)  # accuracy by training pictures
    greys: tuple[float, float] | None = None  # as images.read_image takes them


def write_audit(path: Path, suspects: Sequence[Suspect]) -> None:
    """audit.csv: COLUMNS of each suspect, in their order."""
    rows = []
    for s in suspects:
        group = "" if s.group is None else s.group
        rows.append((s.path, s.kind, s.given, s.suggested or "", f"{s.score:.4f}", group))
    write_csv(path, (dict(zip(COLUMNS, row, strict=True)) for row in rows), COLUMNS)
