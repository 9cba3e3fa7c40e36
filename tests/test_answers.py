"""Answers as rows and cells, and the words that go with them."""

from __future__ import annotations

import argparse
import csv
import io

import pytest

from answers import USUAL, add_thresholds, as_csv, columns, record, row_of, title
from classifier import Answer, Unreadable

ANSWER = Answer("bee", 0.9, {"ant": 0.1, "bee": 0.9}, 0.25, ("bee", "ant"), False, False)


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("truth", [None, "ant"])
def test_cells_stand_under_their_columns(top: int, truth: str | None) -> None:
    row = row_of("a\n.png", truth, ANSWER, top)
    cells = record(row, truth is not None, cells=True)
    names = columns(top, truth is not None)
    assert set(cells) == set(names)
    (found,) = csv.DictReader(io.StringIO(as_csv([names, cells.values()]).decode()))
    assert found["path"] == r"a\x0a.png" and found["could_be"] == "bee | ant"
    assert found.get("truth") == truth and found.get("label_2") == ("ant" if top == 2 else None)


def test_a_record_for_json_has_lists() -> None:
    found = record(row_of("a.png", None, ANSWER, 2), truth=False, cells=False)
    assert found["could_be"] == ["bee", "ant"] and "truth" not in found
    assert found["top"][1] == {"label": "ant", "probability": 0.1}


def test_what_can_t_be_read_has_a_problem_alone() -> None:
    found = record(row_of("a.png", None, Unreadable("not\tan image"), 1), False, cells=True)
    assert found["problem"] == "not an image" and found["answer"] is None


def test_thresholds_are_told_from_the_usual_ones() -> None:
    parser = argparse.ArgumentParser()
    add_thresholds(parser)
    assert parser.parse_args([]).unlike is USUAL
    assert parser.parse_args(["--unlike", "off"]).unlike is None
    assert parser.parse_args(["--unlike", "1"]).unlike == 1.0
    with pytest.raises(SystemExit):
        parser.parse_args(["--min-confidence", "2"])


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        (["ant", "bee"], "Ant or bee?"),
        (["one"], "One?"),
        ([str(i) for i in range(9)], "Which of 9 classes?"),
    ],
)
def test_the_title(classes: list[str], wanted: str) -> None:
    assert title(classes) == wanted
