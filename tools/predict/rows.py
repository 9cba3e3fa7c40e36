"""The answers as rows of a CSV file or as JSON lines, whole at any moment, and gone on with.

Rows are appended a batch at a time, each batch in one piece, instead of under a temporary name:
what is done must be there after any stop. While a file is unfinished, one beside it says with what
settings it was begun.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from answers import Row, as_csv, columns, record
from system.filenames import name_of
from system.stopping import unbroken
from utils import UserError, write_json

KINDS = (".csv", ".jsonl")
NEEDED = ("path", "answer", "label", "problem")  # of a row, to go on


class AnswersFile:
    """A file of answers, .csv or .jsonl, that is begun, or with `resume` gone on with.

    `settings` are what its rows depend on. Raises UserError where the file is there and isn't to be
    gone on with, or was begun otherwise.
    """

    def __init__(self, path: Path, settings: dict[str, Any], batch_size: int, resume: bool) -> None:
        self.path, self.settings = path, settings
        self.beside = path.with_name(f"{path.name}.unfinished")
        self.finished = False
        if path.exists():
            self._see_that_it_goes_on(resume)
            self.finished = not self.beside.exists()
        else:
            write_json(self.beside, settings)
        if not self.finished:
            # Whole batches: those that follow are what they would have been, to the last digit.
            with open(path, "ab") as file:
                file.truncate(self._end_of(batch_size))
                if not file.tell() and (header := self._header()):
                    file.write(header)

    def rows(self) -> Iterator[Row]:
        """What the file holds: of each row what a summary needs."""
        for found, _ in self._records():
            value = {key: cell or None for key, cell in found.items()}
            path, truth = name_of(found["path"]), value.get("truth")
            yield Row(path, truth, value["answer"], value["label"], problem=value["problem"])

    def write(self, rows: Sequence[Row]) -> None:
        """Append a batch."""
        content = self._written(rows)
        with unbroken(), open(self.path, "ab", buffering=0) as file:
            before = os.path.getsize(self.path)
            try:
                written = file.write(content)
                if written != len(content):
                    raise OSError(28, os.strerror(28), str(self.path))
            except OSError as error:  # a full disk
                file.truncate(before)
                raise OSError(error.errno, error.strerror, str(self.path)) from None

    def finish(self) -> None:
        self.finished = True
        self.beside.unlink(missing_ok=True)

    # ------------------------------------------------------------------------- how it is written

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _columns(self) -> list[str]:
        return columns(self.settings["top"], self.settings["truth"])

    def _header(self) -> bytes:
        return as_csv([self._columns()]) if self._is_csv else b""

    def _written(self, rows: Iterable[Row]) -> bytes:
        records = [record(row, self.settings["truth"], self._is_csv) for row in rows]
        if self._is_csv:
            return as_csv([[one.get(name) for name in self._columns()] for one in records])
        lines = [json.dumps(one, ensure_ascii=False) for one in records]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")

    # ---------------------------------------------------------------------------- how it is read

    def _records(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Each whole row with the byte at which it ends."""
        end = 0

        def lines(file: Iterable[bytes]) -> Iterator[str]:
            nonlocal end
            for line in file:
                if not line.endswith(b"\n"):  # a stop in the middle of a row
                    return
                end += len(line)
                yield line.decode("utf-8")

        columns = self._columns()
        try:
            with open(self.path, "rb") as file:
                if not self._is_csv:
                    for line in lines(file):
                        found = dict.fromkeys(NEEDED) | json.loads(line)
                        if not isinstance(found["path"], str):
                            raise ValueError("a row without a path")
                        yield found, end
                    return
                for place, cells in enumerate(csv.reader(lines(file))):
                    if place and len(cells) == len(columns):
                        yield dict(zip(columns, cells, strict=True)), end
        except (ValueError, TypeError, RecursionError, csv.Error) as error:
            raise UserError(
                f"{self.path} is damaged behind byte {end:,} ({error}); put it back as it was, or "
                "remove it to begin again"
            ) from None

    def _end_of(self, batch_size: int) -> int:
        """Where the last whole batch ends."""
        kept = 0
        if self._is_csv and self.path.exists():
            with open(self.path, "rb") as file:
                first = file.readline()
            kept = len(first) if first == self._header() else 0
        for count, (_, end) in enumerate(self._records() if self.path.exists() else (), 1):
            if count % batch_size == 0:
                kept = end
        return kept

    def _see_that_it_goes_on(self, resume: bool) -> None:
        if not resume:
            way = "finish it with --resume, " if self.beside.exists() else ""
            raise UserError(f"{self.path} exists: {way}remove it, or name another file")
        if self.beside.exists():
            begun, when = self._begun_with(), "begun"
        else:
            begun, when = self._finished_with(), "finished"
        differ = [key for key in self.settings if begun.get(key, ...) != self.settings[key]]
        differ = [key for key in differ if when == "begun" or key in begun]
        if "checkpoint" in differ and "sha256" in differ:
            differ.remove("sha256")
        if differ:
            before, now = (
                " and ".join(_option(k, of.get(k)) for k in differ) for of in (begun, self.settings)
            )
            raise UserError(
                f"{self.path} was {when} {before}, and this asks {now}: give the same, or answer "
                "into another file"
            )

    def _begun_with(self) -> dict[str, Any]:
        """The settings beside an unfinished file."""
        try:
            return dict(json.loads(self.beside.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.beside} is damaged ({error}); remove it and {self.path} to begin again"
            ) from None

    def _finished_with(self) -> dict[str, Any]:
        """The settings that a finished file's columns tell; UserError where it is not ours."""
        stranger = UserError(f"{self.path} was not written by this command: name another file")
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                if self._is_csv:
                    columns = next(csv.reader(file), ["path", "problem"])
                    top = 1 + sum(name.startswith("label_") for name in columns)
                else:
                    columns, top = ["path", "problem"], 0
                    for record in map(json.loads, file):
                        columns, top = list(record), max(top, len(record["top"]))
        except (ValueError, TypeError, KeyError, csv.Error):
            raise stranger from None
        if columns[:1] != ["path"] or columns[-1] != "problem":
            raise stranger
        if len(columns) == 2:  # empty
            return {}
        return {"truth": "truth" in columns} | ({"top": top} if top else {})


def _option(key: str, value: Any) -> str:
    """A setting as the command line has it."""
    if key == "sha256":
        return f"with weights of the SHA-256 {value}"
    name = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return f"{'with' if value else 'without'} {name}"
    return f"with {name} {'off' if value is None else value}"
