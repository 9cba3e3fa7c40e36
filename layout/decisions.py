"""decisions.csv: what somebody decided of single pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filing.csv_files import read_csv
from system.filenames import name_of, nearest, same_name
from utils import UserError, some, write_csv

COLUMNS = ("path", "decision", "label")
RELABEL, LEAVE_OUT, KEEP = CHOICES = ("relabel", "leave out", "keep")


class Decision(NamedTuple):
    """What becomes of a picture: one of CHOICES, and to `relabel` the class."""

    what: str
    label: str = ""


def read_decisions(
    file: Path, more: Callable[[str, Decision], str | None] = lambda path, decision: None
) -> dict[str, Decision]:
    """The decisions by their pictures' paths below the folder, as split.csv names them; `more` says
    what else is wrong with one.

    Raises UserError for what is no such file, and with every row that can't be followed.
    """
    rows = read_csv(file, COLUMNS, "file of decisions")
    found: dict[str, Decision] = {}
    decided: dict[str, Decision] = {}  # another system may spell a picture's letters in NFD
    wrong = []
    for row in rows:
        decision = Decision(row["decision"].strip().lower(), same_name(row["label"].strip()))
        fault = fault_of(row["path"], decision) or more(row["path"], decision)
        if not fault and decided.setdefault(same_name(row["path"]), decision) != decision:
            fault = "it is decided twice"
        found.setdefault(row["path"], decision)
        if fault:
            wrong.append(f"{row['path']}: {fault}")
    if wrong:
        several = "a row" if len(wrong) == 1 else f"{len(wrong):,} rows"
        raise UserError(f"{file} has {several} that can't be followed: {some(wrong, 12, '; ')}")
    return found


def fault_of(path: str, decision: Decision) -> str | None:
    """What is wrong with a row; None where nothing is."""
    inner = PurePosixPath(name_of(path))
    if not path or inner.is_absolute() or ".." in inner.parts:
        return "this is no path below the folder of pictures"
    if decision.what not in CHOICES:
        near = nearest(decision.what, CHOICES)
        hint = f"; did you mean '{near}'?" if near else ""
        return f"the decision '{decision.what}' is none of {', '.join(CHOICES)}{hint}"
    if decision.what == RELABEL and not decision.label:
        return "relabel without a label; name the class"
    return None


def write_decisions(file: Path, decisions: Mapping[str, Decision]) -> None:
    """Write decisions.csv, whole or not at all."""
    rows = [(path, what, label) for path, (what, label) in decisions.items()]
    write_csv(file, (dict(zip(COLUMNS, row, strict=True)) for row in rows), COLUMNS)
