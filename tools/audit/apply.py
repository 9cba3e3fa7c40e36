"""Decisions carried out: pictures into the folder of their class, or out of the set; and back.

What is left out goes to a folder beside the set, where no program takes it for a class. A list says
what went where, each row written before its file is touched: a stop at any moment can be undone.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from filenames import name_of, nearest, same_name, text_of
from filing import free_name, move
from layout.decisions import KEEP, LEAVE_OUT, RELABEL, Decision, read_decisions
from layout.parts import Found, lay_out
from layout.split_file import text_below
from tools.audit.about import audit_of, read_about
from utils import UserError, progress_bar, sha256_of, shell, some, unbroken, write_csv

COLUMNS = ("from", "to", "sha256", "link")
UNDO = "undo.csv"
SHOWN = 5  # of those that were not moved, in a sentence


class Step(NamedTuple):
    """A file's way, both places from the root on: its content's hash, or where it leads as a link;
    a step from nowhere is a folder that was made."""

    source: str
    target: str
    sha256: str = ""
    link: str = ""


class Places:
    """Where the pictures of a set lie, and where those of another class belong."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        layout = lay_out(self.root)
        self.names = layout.names
        self.found = {text_below(self.root, item.path): item for item in layout.found}
        self.depths: dict[str | None, int] = {}
        for part in {item.part for item in layout.found}:
            below = [self._parts(item)[:-1] for item in layout.found if item.part == part]
            self.depths[part] = len(os.path.commonprefix(below))  # of lists: what all share

    def _parts(self, item: Found) -> tuple[str, ...]:
        return item.path.relative_to(self.root).parts

    def of_class(self, item: Found, label: str) -> Path:
        """Where a picture would lie in the folder of another class, of its own part."""
        parts = self._parts(item)
        names = [same_name(text_of(name)) for name in parts[:-1]]
        depth = self.depths[item.part]
        if depth >= len(names) or names[depth] != item.class_name:
            depth = names.index(item.class_name)
        above = self.root.joinpath(*parts[:depth])
        there = (path for path in sorted(above.iterdir()) if path.is_dir())
        named = next((p.name for p in there if same_name(text_of(p.name)) == label), name_of(label))
        return above.joinpath(named, *parts[depth + 1 :])


@dataclass
class Done:
    """What applying came to."""

    relabelled: int = 0
    left_out: int = 0
    as_they_are: int = 0
    failed: list[str] = field(default_factory=list)


def apply(decisions: Path, root: Path | None = None, quarantine: Path | None = None) -> str:
    """Move the pictures of a set as decided; lines on what was done, and how to take it back.

    Without `root` the folder is that of the audit which lists these pictures. What is left out goes
    to `quarantine`, else to `<root>-quarantine` beside it. Raises UserError, with nothing moved,
    for decisions that can't be meant and where none of the pictures is there.
    """
    wanted = read_decisions(decisions)
    audit = audit_of(decisions, wanted, root)
    if root is None and audit is None:
        raise UserError(
            f"{decisions}: no audit under logs/ lists all these pictures; say of which folder they "
            "are, --root DIR"
        )
    root = root or read_about(audit).root  # type: ignore[arg-type]
    places = Places(root)
    away = _quarantine(places.root, quarantine)
    _see_that_all_can_be_meant(decisions, wanted, places)
    folder = audit or decisions.parent
    before = sorted(folder.glob("undo*.csv"))
    gone = [path for path in wanted if path not in places.found]
    if gone and len(gone) == len(wanted):
        undone = f" Take that back: {undo_command(before[-1])}" if before else ""
        raise UserError(
            f"none of the {len(gone)} pictures of {decisions} is in {places.root} any more: were "
            f"they moved already?{undone}"
        )
    undo_file = free_name(folder / UNDO)
    done = Done(failed=[f"{path}: it is not there any more" for path in gone])
    moves = {p: d for p, d in wanted.items() if p in places.found}
    try:
        _move_all(moves, places, away, undo_file, done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; take it back: {undo_command(undo_file)}") from None
    return "\n".join(_said(done, places, moves, away, undo_file))


def undo_command(file: Path) -> str:
    return shell("python", "-m", "tools.audit", "--undo", file)


def _quarantine(root: Path, asked: Path | None) -> Path:
    """The folder of what is left out: beside the set itself, on its disk, not beside a link."""
    real = Path(os.path.realpath(root))
    away = real.with_name(f"{real.name}-quarantine") if asked is None else Path(asked).absolute()
    inside = Path(os.path.realpath(away))
    if inside == real or real in inside.parents:
        raise UserError(
            f"--quarantine {away} is in the folder of pictures, and would be read as a class; name "
            "one outside"
        )
    return away


def _see_that_all_can_be_meant(file: Path, wanted: dict[str, Decision], places: Places) -> None:
    if not wanted:
        raise UserError(f"{file} holds no decision: nothing is to be moved")
    for path, decision in wanted.items():
        if decision.what == RELABEL and decision.label not in places.names:
            near = nearest(decision.label, places.names)
            hint = f"did you mean '{near}'?" if near else f"it has {some(sorted(places.names))};"
            raise UserError(
                f"{file}: {path}: '{decision.label}' is no class of {places.root}; {hint} A new "
                "class needs its folder first"
            )


def _move_all(
    moves: dict[str, Decision], places: Places, away: Path, undo_file: Path, done: Done
) -> None:
    undo_file.parent.mkdir(parents=True, exist_ok=True)
    file: TextIO | None = None
    try:
        for path, decision in progress_bar(moves.items(), "moving", unit="image"):
            item = places.found[path]
            if decision.what == KEEP or decision == (RELABEL, item.class_name):
                done.as_they_are += 1
                continue
            out = decision.what == LEAVE_OUT
            target = away / name_of(path) if out else places.of_class(item, decision.label)
            if file is None:
                file = open(undo_file, "x", newline="", encoding="utf-8")  # noqa: SIM115
                csv.writer(file).writerow(COLUMNS)
            with unbroken():
                problem = _move(item.path, target, file)
            if problem:
                done.failed.append(f"{path}: {problem}")
            elif out:
                done.left_out += 1
            else:
                done.relabelled += 1
    finally:
        if file is not None:
            file.close()


def _move(source: Path, target: Path, file: TextIO) -> str | None:
    """Note a step, and do it; what stopped it, where something did."""
    rows = csv.writer(file)

    def note(step: Step) -> None:
        rows.writerow((text_of(step.source), text_of(step.target), step.sha256, text_of(step.link)))
        file.flush()

    try:
        missing = [f for f in (target.parent, *target.parent.parents) if not os.path.lexists(f)]
        link = os.readlink(source) if source.is_symlink() else ""
        digest = "" if link else sha256_of(source)
        for folder in reversed(missing):
            note(Step("", str(folder)))
            folder.mkdir()
        target = free_name(target)
        note(Step(str(source), str(target), digest, link))
        move(str(source), str(target))
    except FileNotFoundError:
        return "it is not there any more"
    except PermissionError as error:
        return f"not permitted ({error.strerror}: {text_of(str(error.filename))})"
    except OSError as error:
        return str(error.strerror)
    return None


def _said(
    done: Done, places: Places, moves: dict[str, Decision], away: Path, undo_file: Path
) -> Iterator[str]:
    moved = [f"{done.relabelled} moved to the folder of another class"] if done.relabelled else []
    moved += [f"{done.left_out} left out, in {text_of(str(away))}"] if done.left_out else []
    moved += [f"{done.as_they_are} as they are"] if done.as_they_are else []
    yield "; ".join(moved) or "nothing was moved"
    for problem in done.failed[:SHOWN]:
        yield f"not moved: {problem}"
    if len(done.failed) > SHOWN:
        yield f"and {len(done.failed) - SHOWN:,} more not moved"
    before = Counter(item.class_name for item in places.found.values())
    after = before.copy()
    if not done.failed:
        for path, decision in moves.items():
            if decision.what != KEEP:
                after[places.found[path].class_name] -= 1
                after[decision.label] += decision.what == RELABEL
    if empty := sorted(name for name in before if after[name] <= 0):
        yield f"no picture is left of {some(empty)}: remove the folder, or add some"
    if undo_file.exists():
        yield f"take it back: {undo_command(undo_file)}"


# ---------------------------------------------------------------------------------------- back


def undo(file: Path) -> str:
    """Put everything back that an undo.csv lists, the last first; a sentence of what came of it.

    A picture that was changed since, or whose old place is taken, stays and stays listed. Raises
    UserError where it is no such file.
    """
    file = file / UNDO if file.is_dir() else file
    steps = _read(file)
    back, stay = 0, []
    for step in progress_bar(steps[::-1], "putting back", unit="image"):
        with unbroken():
            if not step.source:
                _remove(step.target)
            elif problem := _back(step):
                stay.append((step, problem))
            else:
                back += os.path.lexists(step.source)
    said = f"{back} {'is' if back == 1 else 'are'} where they were" if back != 1 else ""
    said = said or "1 is where it was"
    if not stay:
        file.unlink()
        return said
    folders = [step for step in steps if not step.source and os.path.isdir(step.target)]
    left = [*folders, *(step for step, _ in stay[::-1])]
    rows = [(text_of(s.source), text_of(s.target), s.sha256, text_of(s.link)) for s in left]
    write_csv(file, [dict(zip(COLUMNS, row, strict=True)) for row in rows], COLUMNS)
    named = "; ".join(f"{text_of(step.target)} {problem}" for step, problem in stay[:SHOWN])
    more = f"; and {len(stay) - SHOWN:,} more" if len(stay) > SHOWN else ""
    return f"{said}; {len(stay)} can't be put back, and {file} lists them still: {named}{more}"


def _read(file: Path) -> list[Step]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; --undo takes the {UNDO} that --apply named")
    with open(file, newline="", encoding="utf-8", errors="replace") as lines:
        rows = list(csv.reader(lines))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(f"{file} lists no moved pictures; --undo takes the {UNDO} of an --apply")
    whole = [row for row in rows[1:] if len(row) == len(COLUMNS)]  # one may be cut by a stop
    return [Step(name_of(r[0]), name_of(r[1]), r[2], name_of(r[3])) for r in whole]


def _remove(folder: str) -> None:
    """Remove a folder that was made, where it is empty again."""
    with contextlib.suppress(OSError):
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def _back(step: Step) -> str | None:
    """Take a step back; why it stays, where it does. One that was never taken is no reason."""
    source, target, digest, link = step
    there = os.path.lexists(source)
    try:
        if not os.path.lexists(target):
            return None if there else "is gone from there"
        if not _is_as_it_was(target, step):
            return "was changed since"
        if there:  # stopped while it went to another disk
            alike = os.path.islink(source) and os.readlink(source) == link
            if not (alike if link else _is_as_it_was(source, step)):
                return "stays: another file lies in its old place"
            os.unlink(target)
            return None
        os.makedirs(os.path.dirname(source), exist_ok=True)
        if link:
            os.symlink(link, source)
            os.unlink(target)
        else:
            move(target, source)
    except OSError as error:
        return f"stays: {error.strerror}"
    return None


def _is_as_it_was(path: str, step: Step) -> bool:
    if step.link:
        return os.path.islink(path)
    return (
        os.path.isfile(path) and not os.path.islink(path) and sha256_of(Path(path)) == step.sha256
    )
