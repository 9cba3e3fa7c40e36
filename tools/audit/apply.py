"""Decisions carried out: pictures into the folder of their class, or out of the set; and back.

What is left out goes to a folder beside the set, where no program takes it for a class. A list says
what went where, each row written before its file is touched: a stop at any moment can be undone.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from audit.findings import AUDIT
from filing.csv_files import read_csv
from filing.moving import free_name, move
from layout.decisions import KEEP, LEAVE_OUT, RELABEL, Decision, read_decisions, write_decisions
from layout.parts import Found, lay_out
from layout.split_file import text_below
from system.filenames import name_of, nearest, same_name, text_of
from system.stopping import unbroken
from tools.audit.about import DECISIONS, audit_of, held, read_about, read_own
from tools.audit.undo import (
    COLUMNS,
    SHOWN,
    UNDO,
    Came,
    Step,
    applied_of,
    moved_from,
    newest_undo,
    read_steps,
    remove_empty,
    undo_command,
)
from utils import UserError, progress_bar, sha256_of, some


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
    moved: dict[str, Decision] = field(default_factory=dict)


def apply(decisions: Path, root: Path | None = None, quarantine: Path | None = None) -> Came:
    """Move the pictures of a set as decided; lines on what was done, and how to take it back.

    Without `root` the folder is that of the audit which lists these pictures. What is left out goes
    to `quarantine`, else to `<root>-quarantine` beside it. What was carried out is taken from the
    audit's own decisions.csv. Raises UserError, with nothing moved, for decisions that can't be
    meant and where none of the pictures is there.
    """
    wanted = read_decisions(decisions)
    audit = audit_of(decisions, wanted, root)
    if root is None and audit is None:
        raise UserError(
            f"{decisions}: no audit under logs/ lists all these pictures; say of which folder they "
            "are, --root DIR"
        )
    places = Places(root or read_about(audit).root)  # type: ignore[arg-type]
    away = _quarantine(places.root, quarantine)
    _see_that_all_can_be_meant(decisions, wanted, places)
    with contextlib.nullcontext() if audit is None else held(audit):
        return _apply(decisions, wanted, places, away, audit)


def _apply(
    decisions: Path, wanted: dict[str, Decision], places: Places, away: Path, audit: Path | None
) -> Came:
    folder = audit or decisions.parent
    own = {} if audit is None else read_own(audit)
    gone = [path for path in wanted if path not in places.found]
    if audit is not None and audit.resolve() == decisions.parent.resolve():
        _see_that_they_are_of(audit, decisions, gone, places.root)
    before = newest_undo(folder)
    undone = f" Take that back: {undo_command(before)}" if before else ""
    if gone and {p for p, d in wanted.items() if d.what != KEEP} <= {*gone}:
        raise UserError(
            f"none of the {len(gone)} pictures that {decisions} moves is in {places.root} any "
            f"more: were they moved already?{undone}"
        )
    undo_file = free_name(folder / UNDO)
    done = Done(failed=[f"{path}: it is not there any more" for path in gone])
    moves = {p: d for p, d in wanted.items() if p in places.found}
    try:
        try:
            _move_all(moves, places, away, undo_file, done)
        finally:
            if audit is not None:
                _take_out(audit, own, done.moved, undo_file)
    except KeyboardInterrupt:
        how = f"take it back: {undo_command(undo_file)}"
        how = how if undo_file.exists() else "nothing was moved"
        raise KeyboardInterrupt(f"stopped; {how}") from None
    lines = [*_said(done, places, moves, away, undo_file)]
    if gone and before:
        lines.append(f"what is not there may have been moved before.{undone}")
    return Came("\n".join(lines), not done.failed)


def _see_that_they_are_of(audit: Path, file: Path, gone: list[str], root: Path) -> None:
    """Raise UserError for decisions on pictures that the audit they lie by never saw."""
    known = set()
    if (audit / AUDIT).exists():
        known = {row["path"] for row in read_csv(audit / AUDIT, ["path"], "audit")}
    moved = moved_from(audit)
    places = {path: str(root / name_of(path)) for path in gone if path not in known}
    strange = [p for p, at in places.items() if at not in moved and not os.path.lexists(at)]
    if strange:
        raise UserError(
            f"{file}: {some(strange, SHOWN)}: neither in {root} nor in {audit / AUDIT}; these were "
            "decided of another folder: move the file away from here, and say of which, --root DIR"
        )


def _take_out(
    audit: Path, own: dict[str, Decision], moved: dict[str, Decision], undo_file: Path
) -> None:
    """What was carried out goes from the audit's own decisions to a file beside them: a training
    would not find these pictures."""
    there = {path: d for path, d in own.items() if moved.get(path) == d}
    if there:
        write_decisions(applied_of(undo_file), there)
        write_decisions(audit / DECISIONS, {p: d for p, d in own.items() if p not in there})


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
    # Under an old name the decision on it, applied twice, would hit another picture.
    taken = {*moved_from(undo_file.parent), *(str(places.found[path].path) for path in moves)}
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
                problem = _move(item.path, target, file, taken)
                if not problem:
                    done.moved[path] = decision
            if problem:
                done.failed.append(f"{path}: {problem}")
            elif out:
                done.left_out += 1
            else:
                done.relabelled += 1
    finally:
        if file is not None:
            file.close()
            if not done.moved:
                _forget(undo_file)


def _forget(undo_file: Path) -> None:
    """Nothing was moved: the folders that were made for it go, and so does the list of them."""
    steps = read_steps(undo_file)
    if any(step.source and os.path.lexists(step.target) for step in steps):
        return
    for step in steps[::-1]:
        if not step.source:
            remove_empty(step.target)
    undo_file.unlink()


def _move(source: Path, target: Path, file: TextIO, taken: Collection[str]) -> str | None:
    """Note a step, and do it; what stopped it, where something did."""
    rows = csv.writer(file)

    def note(step: Step) -> None:
        rows.writerow((text_of(step.source), text_of(step.target), step.sha256, text_of(step.link)))
        file.flush()

    made = False
    try:
        missing = [f for f in (target.parent, *target.parent.parents) if not os.path.lexists(f)]
        link = os.readlink(source) if source.is_symlink() else ""
        digest = "" if link else sha256_of(source)
        for folder in reversed(missing):
            note(Step("", str(folder)))
            folder.mkdir()
        target = free_name(target, taken)
        note(Step(str(source), str(target), digest, link))
        made = True
        move(str(source), str(target))
    except FileNotFoundError:
        return "it is not there any more"
    except OSError as error:
        if made and os.path.lexists(source):  # a copy whose original can't go is none that moved
            with contextlib.suppress(OSError):
                os.unlink(target)
        if not isinstance(error, PermissionError):
            return str(error.strerror)
        return f"not permitted ({error.strerror}: {text_of(str(error.filename))})"
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
