"""A CSV of anybody as rows; one sentence where it is none.

Spreadsheets begin it with a mark, or write UTF-16, part its cells by semicolons or tabs, and end
its lines in their own way.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from system.text_files import NoText, opened
from utils import UserError, some

# Some 600 bytes of memory a row: the split of two million pictures takes 1.2 GB.
MOST_BYTES, MOST_ROWS = 500_000_000, 2_000_000


def read_csv(path: Path, columns: Sequence[str] = (), kind: str = "table") -> list[dict[str, str]]:
    """The rows of a table as text, by their columns' names; empty ones are left out.

    Raises UserError where there is no such file, where it has not these `columns`, and where it is
    no whole table.
    """
    try:
        lines = cells_of(path)
        _, head = next(lines, (1, []))
        _see(head, columns)
        rows: list[dict[str, str]] = []
        for number, cells in lines:
            if len(cells) < len(head):
                raise NoText(f"line {number} is cut off: {len(cells)} cells of {len(head)}")
            if any(cells[len(head) :]):
                raise NoText(f"line {number} has {len(cells)} cells, and the first {len(head)}")
            if len(rows) == MOST_ROWS:
                raise NoText(f"it has more than {MOST_ROWS:,} rows")
            rows.append(dict(zip(head, cells, strict=False)))
        return rows
    except OSError as error:
        why = error.strerror or str(error)
    except NoText as error:
        why = str(error)
    named = f" (columns {', '.join(columns)})" if columns else ""
    raise UserError(f"{path} is no {kind}{named}: {why}")


def appended(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The rows of a file that is appended to: a last one that a stop has cut is left out.

    Raises NoText where the file is no CSV with just these columns, and OSError as `open` does.
    """
    rows = list(cells_of(path, torn=True))
    if not rows or rows[0][1] != [*columns]:
        raise NoText(f"its first line is not {','.join(columns)}")
    for number, cells in rows[1:-1]:
        if len(cells) != len(columns):
            raise NoText(
                f"line {number} has {len(cells)} cells, not {len(columns)}; mend it by hand"
            )
    return [cells for _, cells in rows[1:] if len(cells) == len(columns)]


def end_last_row(path: Path, columns: Sequence[str]) -> None:
    """See that what is appended to a file, where it is there, is a row of its own: a last row that
    an editor has left without its end gets one, what a stop or a full disk left of one is cut off,
    and of an unfinished first line all.

    Raises NoText where the file is no CSV with just these columns.
    """
    content = path.read_bytes() if path.exists() else b""
    if content.endswith(b"\n") or not content:
        return
    if ",".join(columns).encode().startswith(content):
        os.truncate(path, 0)
        return
    appended(path, columns)
    last = [cells for _, cells in cells_of(path, torn=True)][-1]
    whole = len(last) == len(columns) and content.count(b'"') % 2 == 0
    if whole:
        with open(path, "ab") as file:
            file.write(b"\r\n")
        return
    end = content.rfind(b"\n") + 1
    while end and content[:end].count(b'"') % 2:  # within a name that is quoted
        end = content.rfind(b"\n", 0, end - 1) + 1
    os.truncate(path, end)


def cells_of(path: Path, torn: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that has some, with its number. Where a file may be `torn` in the
    middle of its last row, by a stop, what is left of that is a row, too.

    Raises NoText for what is no CSV, and OSError as `open` does.
    """
    with opened(path, MOST_BYTES, "replace" if torn else "strict") as file:
        first = file.readline()
        # More of them than of the others: a name has a comma, too.
        between = max(",;\t", key=first.count)
        table = csv.reader(_without_nul(chain([first], file)), delimiter=between, strict=not torn)
        begins = 1
        try:
            for cells in table:
                if any(cells):
                    yield begins, cells
                begins = table.line_num + 1
        except csv.Error as error:
            raise NoText(f"line {begins}: {_in_words(error)}") from None


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise NoText(f"line {number} has the character U+0000; save it as CSV (UTF-8)")
        yield line


def _in_words(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote is left open"
    if "field limit" in str(error):
        return f"a cell of more than {csv.field_size_limit():,} characters; is a quote left open?"
    if "expected after" in str(error):
        return "a quote in the middle of a quoted cell; write it twice there"
    return str(error)


def _see(head: list[str], columns: Sequence[str]) -> None:
    """Raise NoText where the first line is not a table's with these columns."""
    lacking = [name for name in columns if name not in head]
    twice = [name for name, count in Counter(head).items() if name and count > 1]
    if not head:
        raise NoText("it is empty")
    if lacking:
        raise NoText(f"it has no column {', '.join(lacking)}")
    if twice:
        raise NoText(f"it has the column {some(name[:60] for name in twice)} twice")
