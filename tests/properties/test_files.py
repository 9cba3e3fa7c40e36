"""Names of files are shown and found again; tables are read as they were written."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from filing.csv_files import MOST_BYTES, appended, read_csv
from layout.decisions import CHOICES, Decision, read_decisions, write_decisions
from system.filenames import name_of, same_name, shown, text_of
from system.text_files import NoText
from tests.properties.helpers import holds
from utils import UserError, write_csv

BYTES = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.lists(
        st.sampled_from(
            [b"\\", b"x", b"\\x", b"41", b"ff", b"\xff", b"\xc3\xa9", b"\n", b"/", b" "]
        ),
        min_size=1,
        max_size=12,
    ).map(b"".join),
).map(lambda raw: raw.replace(b"\0", b"0"))


@holds(300, 20_000, raw=BYTES)
def test_a_name_is_shown_as_text_and_found_again(raw: bytes) -> None:
    name = os.fsdecode(raw)
    text = text_of(name)
    text.encode("utf-8")
    assert text.isprintable() or not raw.isascii()
    assert os.fsencode(name_of(text)) == raw
    assert text_of(name_of(text)) == text
    shown(name).encode("utf-8")


@holds(150, 5000, one=BYTES, other=BYTES)
def test_two_names_are_two_texts(one: bytes, other: bytes) -> None:
    assert (text_of(os.fsdecode(one)) == text_of(os.fsdecode(other))) == (one == other)


CELLS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=10),
    st.text(',;\t"\n\r\u2028\x85\x0b\x1c ab', max_size=8),
)
COLUMNS = st.lists(CELLS.filter(bool), min_size=1, max_size=4, unique=True)


@holds(100, 5000, columns=COLUMNS, data=st.data())
def test_a_table_is_read_as_it_was_written(columns: list[str], data: st.DataObject) -> None:
    row = st.lists(CELLS, min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(row.filter(any), max_size=4))
    # The parting is told by the first line: a name of a column must not hold more of another.
    if "".join(columns).count(";") + "".join(columns).count("\t") or "\n" in "".join(columns):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        named = [dict(zip(columns, cells, strict=True)) for cells in rows]
        write_csv(path, named, columns)
        # Control characters, which a terminal would obey, are written as their numbers.
        wanted = [{column: shown(cell) for column, cell in row.items()} for row in named]
        assert read_csv(path, columns) == wanted


@holds(150, 20_000, content=st.one_of(st.binary(max_size=60), CELLS.map(str.encode)))
def test_bytes_of_any_kind_are_a_table_or_a_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(content)
        try:
            read_csv(path)
        except UserError as error:
            assert len(str(error).replace(folder, "")) < 400
        try:
            appended(path, ["a", "b"])
        except NoText:
            assert len(content) < MOST_BYTES


ROWS = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4)


@holds(60, 3000, rows=ROWS, cut=st.integers(1, 30))
def test_what_was_whole_before_a_stop_is_read(rows: list[tuple[str, str]], cut: int) -> None:
    def written(of: list[tuple[str, str]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("from", "to"), *of])
        return text.getvalue().encode()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "undo.csv"
        last = written(rows)[len(written(rows[:-1])) :]
        path.write_bytes(written(rows)[: len(written(rows)) - min(cut, len(last))])
        whole = [list(row) for row in rows[:-1] if any(row)]
        assert appended(path, ["from", "to"])[: len(whole)] == whole


PATHS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=10)
PATHS = PATHS.filter(lambda p: not p.startswith("/") and ".." not in p.split("/"))
LABELS = PATHS.map(lambda label: same_name(label.strip())).filter(bool)
DECIDED = st.sampled_from(CHOICES).flatmap(
    lambda what: st.builds(
        Decision,
        st.just(what),
        PATHS.map(lambda s: same_name(s.strip())).filter(bool)
        if what == "relabel"
        else st.just(""),
    )
)


@holds(60, 3000, decisions=st.dictionaries(PATHS, DECIDED, max_size=4))
def test_decisions_are_read_as_they_were_written(decisions: dict[str, Decision]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decisions.csv"
        write_decisions(path, decisions)
        assert read_decisions(path) == decisions
