"""CSVs of anybody: read as they are meant, or one sentence that says where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from filing import csv_files
from filing.csv_files import appended, read_csv
from layout.decisions import read_decisions
from layout.split_file import read_split
from system.text_files import NoText
from tests.helpers import no_files
from utils import UserError

TABLE = 'path,label\n"a, b.png",é\n,\n\nc.png,"x\ny"\n'
ROWS = [{"path": "a, b.png", "label": "é"}, {"path": "c.png", "label": "x\ny"}]


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, encoding: str, end: str, between: str
) -> None:
    text = TABLE.replace(",", between).replace(f"a{between}", "a,").replace("\n", end)
    found = read_csv(table(tmp_path, text.encode(encoding)), ["path", "label"])
    assert found == [ROWS[0], ROWS[1] | {"label": f"x{end}y"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("path\na\n", "it has no column label"),
        ("path,label,x,label\n", "it has the column label twice"),
        ("path,label\n\na\n", "line 3 is cut off: 1 cells of 2"),
        ("path,label\na,b,c\n", "line 2 has 3 cells, and the first 2"),
        ('path,label\na,b\n"c,d\ne,f\n', "line 3: a quote is left open"),
        ('path,label\n"a"b,c\n', "line 2: a quote in the middle of a quoted cell; write it"),
        (
            f"path,label\n{'x' * 200_000},a\n",
            "line 2: a cell of more than 131,072 characters; is a quote left open?",
        ),
        ("path,label\na,\0\n", "line 2 has the character U+0000; save it as CSV"),
        ("path,label\n".encode("utf-16-le"), "line 1 has the character U+0000"),
        ("path,label\né,a\n".encode("latin-1"), "line 2 has the byte 0xE9, which is none of UTF-8"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str | bytes, why: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_csv(path, ["path", "label"], "file of decisions")
    assert str(caught.value).startswith(
        f"{path} is no file of decisions (columns path, label): {why}"
    )


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for path, why in (
        *no_files(tmp_path),
        (tmp_path / "none", "No such file"),
        (tmp_path / "huge", "it has 100,000.0 MB, and 500 MB are the most"),
    ):
        with pytest.raises(UserError, match=f"{path} is no table: {why}"):
            read_csv(path)


def test_its_rows_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MOST_ROWS", 3)
    assert len(read_csv(table(tmp_path, "a\n" + "1\n" * 3))) == 3
    with pytest.raises(UserError, match="it has more than 3 rows"):
        read_csv(table(tmp_path, "a\n" + "1\n" * 4))


def test_a_row_that_a_stop_has_cut_is_left_out(tmp_path: Path) -> None:
    whole = "how,to\ncopied,é\n"
    for cut in ("copied", 'copied,"a', "co"):
        path = table(tmp_path, whole + cut)
        rows = appended(path, ("how", "to"))
        assert rows[0] == ["copied", "é"] and (len(rows) == 1 or cut == 'copied,"a')
    assert appended(table(tmp_path, whole.encode() + b"copie\xc3"), ("how", "to"))[1:] == []
    for text in ("", "how;from\n", b"\x89PNG\r\n\0"):
        with pytest.raises(NoText):
            appended(table(tmp_path, text), ("how", "to"))


def test_a_picture_that_is_named_twice(tmp_path: Path) -> None:
    rows = "a.png,a,train,0\nb.png,b,val,1\na.png,a,val,0\n"
    path = table(tmp_path, f"path,label,part,sha256\n{rows}")
    with pytest.raises(UserError, match="has a.png twice; a picture is in one part"):
        read_split(path)


def test_a_thousand_rows_that_can_not_be_followed_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,drop,\n" for i in range(3000))
    with pytest.raises(UserError) as caught:
        read_decisions(table(tmp_path, f"path,decision,label\n{rows}"))
    assert "has 3,000 rows that can't be followed: 0.png: " in str(caught.value)
    assert "and 2,988 more" in str(caught.value) and len(str(caught.value)) < 1500
