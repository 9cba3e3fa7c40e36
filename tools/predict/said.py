"""What the program prints: the table of answers, and at the end what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from answers import Row
from system.filenames import columns_of, cut_to, padded, text_of
from tools.predict.scoring import Counts
from utils import some

WIDEST = 30  # letters of a class's name in the table
NOT_ANSWERS = ("unsure", "unlike")
ALSO = "could also be"  # the rest of the classes of which one is right nine times in ten


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

    def __init__(self, classes: Sequence[str], top: int, knows_sets: bool) -> None:
        longest = min(WIDEST, max(map(columns_of, classes)))
        self.longest = longest
        self.answer, self.more = len("unsure ()") + longest, (top - 1) * (longest + 8)
        self.also = max(len(ALSO), longest + len(" +99")) if knows_sets else 0

    def head(self) -> str:
        return f"{padded('answer', self.answer)}  sure   unlike  {self._cells(ALSO, 'then')}picture"

    def line(self, row: Row) -> str:
        path = text_of(row.path)
        if row.label is None or row.probability is None:
            cells = self._cells("-", "")
            return f"{'unreadable':{self.answer}}  -      -       {cells}{path}: {row.problem}"
        label = self._cut(row.label)
        answer = label if row.said == row.label else f"{row.said} ({label})"
        far = "-    " if row.unlike is None else f"{row.unlike:.3f}"
        then = ", ".join(f"{self._cut(name)} {sure:.3f}" for name, sure in row.top[1:])
        cells = self._cells(self._others(row), then)
        return f"{padded(answer, self.answer)}  {row.probability:.3f}  {far}   {cells}{path}"

    def _others(self, row: Row) -> str:
        """The classes that an answer could be besides: the next, and how many more."""
        others = [self._cut(name) for name in row.could_be if name != row.label]
        return " +".join([*others[:1], *([str(len(others) - 1)] if others[1:] else [])]) or "-"

    def _cells(self, also: str, then: str) -> str:
        """The columns that not every table has, as wide as they are in each line."""
        found = f"{padded(also, self.also)}  " if self.also else ""
        return found + (f"{padded(then, self.more)}  " if self.more else "")

    def _cut(self, label: str) -> str:
        return cut_to(label, self.longest)


def counted(tally: Tally) -> str:
    """How many there are of each answer."""
    labels = [(name, n) for name, n in tally.said.most_common() if name not in NOT_ANSWERS]
    parts = [some([f"{n} {name}" for name, n in labels])] if labels else ["no answers"]
    parts += [f"{tally.said[name]} {name}" for name in NOT_ANSWERS if tally.said[name]]
    parts += [f"{tally.unreadable} unreadable"] if tally.unreadable else []
    images = "1 picture" if tally.total == 1 else f"{tally.total:,} pictures"
    return f"{images}: {', '.join(parts)}"
