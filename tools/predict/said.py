"""What the program prints: the table of answers, and at the end what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from answers import Row
from filenames import text_of
from tools.predict.scoring import Counts
from utils import some

WIDEST = 30  # letters of a class's name in the table
NOT_ANSWERS = ("unsure", "unlike")


@dataclass
class Tally:
    """What the rows came to; `sorted` and `counts` only where they are asked for."""

    said: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    counts: Counts = field(default_factory=Counter)
    answers: list[tuple[str, str]] | None = None

    def add(self, row: Row) -> None:
        if row.said is None or row.label is None:
            self.unreadable += 1
            return
        self.said[row.said] += 1
        if row.truth is not None:
            self.counts[row.truth, row.label, row.said] += 1
        if self.answers is not None:
            self.answers.append((row.path, row.said))

    @property
    def total(self) -> int:
        return self.said.total() + self.unreadable


class Table:
    """Lines of fixed columns, the path last: printed one by one, before all are known."""

    def __init__(self, classes: Sequence[str], top: int) -> None:
        longest = min(WIDEST, max(map(len, classes)))
        self.longest = longest
        self.answer, self.more = len("unsure ()") + longest, (top - 1) * (longest + 8)

    def head(self) -> str:
        more = f"{'then':{self.more}}  " if self.more else ""
        return f"{'answer':{self.answer}}  sure   unlike  {more}picture"

    def line(self, row: Row) -> str:
        path = text_of(row.path)
        if row.label is None or row.probability is None:
            more = f"{'':{self.more}}  " if self.more else ""
            return f"{'unreadable':{self.answer}}  -      -       {more}{path}: {row.problem}"
        label = self._cut(row.label)
        answer = label if row.said == row.label else f"{row.said} ({label})"
        far = "-    " if row.unlike is None else f"{row.unlike:.3f}"
        then = ", ".join(f"{self._cut(name)} {sure:.3f}" for name, sure in row.top[1:])
        more = f"{then:{self.more}}  " if self.more else ""
        return f"{answer:{self.answer}}  {row.probability:.3f}  {far}   {more}{path}"

    def _cut(self, label: str) -> str:
        return label if len(label) <= self.longest else label[: self.longest - 3] + "..."


def counted(tally: Tally) -> str:
    """How many there are of each answer."""
    labels = [(name, n) for name, n in tally.said.most_common() if name not in NOT_ANSWERS]
    parts = [some([f"{n} {name}" for name, n in labels])] if labels else ["no answers"]
    parts += [f"{tally.said[name]} {name}" for name in NOT_ANSWERS if tally.said[name]]
    parts += [f"{tally.unreadable} unreadable"] if tally.unreadable else []
    images = "1 picture" if tally.total == 1 else f"{tally.total:,} pictures"
    return f"{images}: {', '.join(parts)}"
