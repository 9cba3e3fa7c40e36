"""Pictures into folders by their answers, and back again.

undo.csv, in the folder that they go to, lists every file with where it came from; each row is there
before its file is touched, so that a stop at any moment can be taken back.
"""

from __future__ import annotations

import contextlib
import csv
import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filing.csv_files import appended, end_last_row
from filing.moving import free_name, move
from layout.paths import full
from system.filenames import name_of, shown, text_of
from system.stopping import unbroken
from system.text_files import NoText
from tools.predict.pictures import UNDO
from utils import UserError, progress_bar, replacing, write_csv

COLUMNS = ("how", "from", "to")
HOW = ("copy", "link", "move")


class Step(NamedTuple):
    """One file's way; both places from the root on."""

    how: str
    source: str
    target: str


@dataclass
class Sorted:
    """What sorting came to: files a folder, those that lay there already, and what failed."""

    folders: Counter[str] = field(default_factory=Counter)
    there: int = 0
    failed: list[str] = field(default_factory=list)


def sort_into(folder: Path, how: str, answers: Iterable[tuple[str, str]]) -> Sorted:
    """Copy, link or move each picture into the folder of its answer. Nothing is overwritten: a
    name that is taken gets a number. One that was sorted there before, as it is now, stays."""
    folder = Path(full(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(NoText):  # said by `steps`
        end_last_row(folder / UNDO, COLUMNS)
    before = {(step.source, Path(step.target).parent.name): step for step in steps(folder / UNDO)}
    found = Sorted()
    with open(folder / UNDO, "a", newline="", encoding="utf-8") as file:
        undo = csv.writer(file)
        if not file.tell():
            undo.writerow(COLUMNS)
        for path, answer in progress_bar(list(answers), "sorting", unit="image"):
            name, source = folder_name(answer), full(path)
            if _is_there(before.get((source, name)), source):
                found.there += 1
                continue
            if not os.path.lexists(source):
                found.failed.append(f"{path}: it is gone")
                continue
            if os.path.dirname(source) == str(folder / name):
                found.there += 1
                continue
            with unbroken():
                target = free_name(folder / name / os.path.basename(source))
                target.parent.mkdir(exist_ok=True)
                undo.writerow((how, text_of(source), text_of(str(target))))
                file.flush()
                if problem := _put(Step(how, source, str(target))):
                    found.failed.append(f"{path}: {problem}")
                    with contextlib.suppress(OSError):  # there are others in it
                        target.parent.rmdir()
                else:
                    found.folders[name] += 1
    return found


def folder_name(answer: str) -> str:
    """The folder of an answer: its text as the system takes it, in one piece."""
    name = name_of(answer).replace("/", "_").replace(os.sep, "_").replace("\0", "_")
    return f"_{name}" if name in ("", ".", "..", UNDO) else name


def _is_there(step: Step | None, source: str) -> bool:
    """Whether a file was sorted already, and neither it nor its source has changed since."""
    if step is None or not os.path.lexists(step.target):
        return False
    if step.how == "move":
        return not os.path.lexists(source)
    if step.how == "link":
        return os.path.islink(step.target) and os.readlink(step.target) == source
    return os.path.exists(source) and filecmp.cmp(source, step.target)


def _put(step: Step) -> str | None:
    """Do a step; what stopped it, where the file itself did."""
    try:
        if step.how == "copy":
            with replacing(Path(step.target), durable=False) as temporary:
                shutil.copy2(step.source, temporary)
        elif step.how == "link":
            os.symlink(step.source, step.target)
        else:
            move(step.source, step.target)
    except PermissionError as error:
        return shown(f"not permitted ({error.strerror})")
    except FileNotFoundError:
        return "a link to nothing"
    return None


# ---------------------------------------------------------------------------------------- back


def steps(undo: Path) -> Iterator[Step]:
    """What an undo.csv lists; nothing without a file."""
    if not undo.exists() or not undo.stat().st_size:
        return
    try:
        rows = appended(undo, COLUMNS)
    except NoText as error:
        raise UserError(
            f"{undo} lists no sorted pictures ({error}); --undo takes a folder's {UNDO}"
        ) from None
    yield from (Step(how, name_of(a), name_of(b)) for how, a, b in rows if how in HOW)


def put_there(folder: Path | None) -> set[str]:
    """The folders to which pictures were sorted in a folder: what lies there by now, corrected by
    hand maybe, is not asked about again."""
    if folder is None:
        return set()
    return {os.path.dirname(step.target) for step in steps(folder / UNDO)}


def take_back(undo: Path) -> str:
    """Take back what an undo.csv lists, the last first; a sentence of what came of it.

    A copy that was changed since, a file whose old place is taken, and one that was moved on by
    somebody else, stay and stay listed. Raises UserError where it is no such file.
    """
    undo = undo / UNDO if undo.is_dir() else undo
    if not undo.is_file():
        raise UserError(f"{undo}: no such file; --undo takes the {UNDO} of a --sort-into folder")
    listed = list(steps(undo))
    counts: Counter[str] = Counter()
    stay: list[tuple[Step, str]] = []
    for step in progress_bar(listed[::-1], "taking back", unit="image"):
        if not os.path.lexists(step.target):  # never put there, or taken back before
            if step.how == "move" and not os.path.lexists(step.source):
                stay.append((step, "(moved on, renamed or deleted since)"))
            continue
        with unbroken():
            if problem := _back(step):
                stay.append((step, problem))
            else:
                counts[step.how] += 1
    folders = {os.path.dirname(step.target) for step in listed}
    if stay:
        rows = [(s.how, text_of(s.source), text_of(s.target)) for s, _ in stay[::-1]]
        write_csv(undo, [dict(zip(COLUMNS, row, strict=True)) for row in rows], COLUMNS)
    else:
        undo.unlink()
        folders.add(full(undo.parent))
    for folder in sorted(folders, key=len, reverse=True):
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)
    one = {"copy": "copy removed", "link": "link removed", "move": "moved back"}
    many = one | {"copy": "copies removed", "link": "links removed"}
    parts = [f"{n} {(one if n == 1 else many)[how]}" for how, n in counts.items()]
    said = ", ".join(parts) or "nothing to take back"
    if stay:
        step, problem = stay[0]
        said += f"; {len(stay)} left where they are, and listed in {undo}: {step.target} {problem}"
        said += f", and {len(stay) - 1} more" if len(stay) > 1 else ""
    return said


def _back(step: Step) -> str | None:
    """Take a step back; why it stays, where it does."""
    try:
        if step.how == "move":
            if os.path.lexists(step.source):
                return "(another file lies in its old place)"
            os.makedirs(os.path.dirname(step.source), exist_ok=True)
            move(step.target, step.source)
        elif step.how == "link":
            if not os.path.islink(step.target) or os.readlink(step.target) != step.source:
                return "(no longer the link that was put there)"
            os.unlink(step.target)
        else:
            if not os.path.exists(step.source):
                return "(its original is gone)"
            if not filecmp.cmp(step.source, step.target, shallow=False):
                return "(it differs from its original by now)"
            os.unlink(step.target)
    except PermissionError as error:
        return f"({error.strerror})"
    return None
