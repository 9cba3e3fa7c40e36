"""manifest.csv: what became of each post. It is the truth about a set: what it names is ours.

A row is appended in one piece as soon as its post is decided; a change writes the whole anew. So
after any stop, kill -9 too, it holds all that was decided but for a row that was cut short.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from tools.safebooru.post import Post, kind_of
from tools.safebooru.wanted import faults_of_a_folder
from utils import UserError, replacing, sha256_of

MANIFEST = "manifest.csv"
# taken: its file lies here | removed: it did, and was taken away by hand | unwanted: by its tags,
# rating or kind, judged anew each time | duplicate: near one that is here | refused: its file is no
# good | failed: the board didn't give it, and is asked again another time
Decision = Literal["taken", "removed", "unwanted", "duplicate", "refused", "failed"]


@dataclass(frozen=True)
class Row:
    """A post and what became of it; `file` is relative to the set, and empty unless it is here."""

    file: str
    label: str
    post: int
    page: str
    url: str
    source: str
    md5: str
    sha256: str
    bytes: int
    width: int
    height: int
    tags: str
    rating: str
    fetched_at: str
    decision: Decision
    reason: str

    def as_post(self) -> Post:
        """The post that it was written of."""
        path = self.url.removeprefix(f"{self.board}/")
        return Post(self.post, path, self.md5, tuple(self.tags.split()), self.rating, self.source)

    @property
    def board(self) -> str:
        """The address of its board."""
        return self.page.partition("/index.php?")[0]

    @property
    def place(self) -> str:
        """Where its file lies, or would."""
        return f"{self.label}/{self.as_post().file_name}"


HEADER = ["class" if field.name == "label" else field.name for field in fields(Row)]
NUMBERS = {field.name for field in fields(Row) if field.type == "int"}


class Manifest:
    """The rows of a set by their posts, in the order in which they were decided."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / MANIFEST
        self.rows: dict[int, Row] = {}
        self.cut_short = False

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """A folder's; without a row where there is none. Raises UserError where it is no folder for
        a set: something else lies in it, or its manifest is another program's."""
        manifest = cls(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; --out takes a folder")
        try:
            content = manifest.path.read_bytes()
        except FileNotFoundError:
            if folder.is_dir() and any(not _ours(path) for path in folder.iterdir()):
                raise UserError(
                    f"{folder} holds other things and no {MANIFEST} of this program; choose "
                    "another folder with --out"
                ) from None
            return manifest
        manifest._parse(content)
        return manifest

    def _parse(self, content: bytes) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        self.cut_short = whole != content
        try:
            lines = csv.reader(io.StringIO(whole.decode("utf-8-sig"), newline=""))
            if next(lines, None) != HEADER:
                raise ValueError("its first line is another")
            for line in lines:
                row = _row(line)
                self.rows[row.post] = row
        except (ValueError, csv.Error) as error:
            raise UserError(
                f"{self.path} is no manifest of this program, or was changed ({error}); put it "
                "right, or choose another folder with --out"
            ) from None

    def begin(self) -> None:
        """Make the folder, and the file where there is none or its end is cut short."""
        if self.cut_short or not self.path.exists():
            self._write()

    def put(self, *rows: Row) -> None:
        """Write down decisions: new ones at the end, others in their places."""
        known = [row for row in rows if row.post in self.rows]
        self.rows |= {row.post: row for row in rows}
        if known:
            self._write()
            return
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(_lines(rows))

    def _write(self) -> None:
        with replacing(self.path) as temporary:
            text = _lines([HEADER, *self.rows.values()])
            temporary.write_text(text, encoding="utf-8", newline="")
        self.cut_short = False

    def count(self, label: str) -> int:
        """How many pictures of a class are here."""
        return sum(row.decision == "taken" and row.label == label for row in self.rows.values())

    def decided(self, decision: Decision) -> list[Row]:
        return [row for row in self.rows.values() if row.decision == decision]

    def reasons(self) -> Counter[tuple[str, str]]:
        """How many posts were not taken, by decision and the kind of reason."""
        rows = (row for row in self.rows.values() if row.decision != "taken")
        return Counter((row.decision, row.reason.partition(":")[0]) for row in rows)

    def holds(self, row: Row) -> bool:
        """Whether a row's file is here, as it was fetched."""
        path = self.folder / row.place
        return path.is_file() and sha256_of(path) == row.sha256


def _ours(path: Path) -> bool:
    """Whether a file is one that a stop before the first row can leave."""
    return path.name.startswith(f".{MANIFEST}") or path.name == ".lock"


def _lines(rows: Iterable[Row | list[str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(row if isinstance(row, list) else astuple(row) for row in rows)
    return text.getvalue()


def _row(line: list[str]) -> Row:
    if len(line) != len(HEADER):
        raise ValueError(f"a line has {len(line)} cells instead of {len(HEADER)}")
    cells = dict(zip((field.name for field in fields(Row)), line, strict=True))
    row = Row(**{name: int(cell) if name in NUMBERS else cell for name, cell in cells.items()})  # type: ignore[arg-type]
    if row.decision not in get_args(Decision):
        raise ValueError(f"{row.decision!r} is no decision")
    # It may come from somebody else: nothing is read or written but in the set, and of its board.
    if faults_of_a_folder(row.label) or not (row.url == "" or kind_of(row.as_post().path)):
        raise ValueError(f"post {row.post} has an odd class or url")
    if row.file != (row.place if row.decision == "taken" else ""):
        raise ValueError(f"the file of post {row.post} is {row.file!r}")
    return row
