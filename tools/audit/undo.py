"""What was moved put back, by the list that was written as it was moved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from filing.csv_files import appended
from filing.moving import move
from layout.decisions import KEEP, read_decisions, write_decisions
from layout.split_file import text_below
from system.filenames import name_of, text_of
from system.stopping import unbroken
from system.text_files import NoText
from tools.audit.about import ABOUT, DECISIONS, held, read_own
from utils import UserError, progress_bar, sha256_of, shell, write_csv

COLUMNS = ("from", "to", "sha256", "link")
UNDO, APPLIED = "undo.csv", "decisions-applied"  # numbered alike
SHOWN = 5  # of those that were not moved, in a sentence


class Step(NamedTuple):
    """A file's way, both places from the root on: its content's hash, or where it leads as a link;
    a step from nowhere is a folder that was made."""

    source: str
    target: str
    sha256: str = ""
    link: str = ""


class Came(NamedTuple):
    """What is said of it, and whether all went as it was meant."""

    said: str
    whole: bool
    back: int = 0  # pictures that an undo put back


def undo_command(file: Path) -> str:
    return shell("python", "-m", "tools.audit", "--undo", file)


def applied_of(undo_file: Path) -> Path:
    """Where the decisions are that an undo list takes back."""
    return undo_file.with_name(f"{APPLIED}{undo_file.name.removeprefix('undo')}")


def newest_undo(folder: Path) -> Path | None:
    """The list of what was moved last."""
    return next(iter(_newest_first(folder)), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("undo*.csv"), key=lambda f: f.stat().st_mtime_ns, reverse=True)


def moved_from(folder: Path) -> set[str]:
    """Where the pictures lay that a folder's lists would put back."""
    found = set()
    for file in folder.glob("undo*.csv"):
        with contextlib.suppress(UserError):  # another's file
            found |= {step.source for step in read_steps(file) if step.source}
    return found


def undo(file: Path) -> Came:
    """Put everything back that an undo.csv, or the newest of a folder, lists, the last first; a
    sentence of what came of it.

    A picture that was changed since, or whose old place is taken, stays and stays listed. Raises
    UserError where it is no such file.
    """
    if file.is_dir():
        lists = _newest_first(file) or [file / UNDO]
        # By a clock that was put back, what was moved last may lie in an older one.
        tried = (undo(each) for each in lists)
        first = next(tried)
        return first if first.whole or first.back else next((t for t in tried if t.back), first)
    steps = read_steps(file)
    if applied_of(file).is_file():
        read_own(file.parent)  # what is none is said before anything is put back
    with held(file.parent) if (file.parent / ABOUT).is_file() else contextlib.nullcontext():
        try:
            return _undo(file, steps)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; put the others back, too: {undo_command(file)}"
            ) from None


def _undo(file: Path, steps: list[Step]) -> Came:
    back, stay = 0, []
    for step in progress_bar(steps[::-1], "putting back", unit="image"):
        with unbroken():
            if not step.source:
                remove_empty(step.target)
            elif problem := _back(step):
                stay.append((step, problem))
            else:
                back += os.path.lexists(step.source)
    said = "1 is where it was" if back == 1 else f"{back} are where they were"
    said = said if back else "nothing was put back"
    _decided_again(file, steps, [step for step, _ in stay])
    if not stay:
        file.unlink()
        return Came(said, True, back)
    folders = [step for step in steps if not step.source and os.path.isdir(step.target)]
    left = [*folders, *(step for step, _ in stay[::-1])]
    rows = [(text_of(s.source), text_of(s.target), s.sha256, text_of(s.link)) for s in left]
    then = file.stat()
    write_csv(file, [dict(zip(COLUMNS, row, strict=True)) for row in rows], COLUMNS)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))  # it is no newer for that
    named = "; ".join(f"{text_of(step.target)} {problem}" for step, problem in stay[:SHOWN])
    more = f"; and {len(stay) - SHOWN:,} more" if len(stay) > SHOWN else ""
    said += f"; {len(stay)} can't be put back, and {file} lists them still: {named}{more}"
    return Came(said, False, back)


def _decided_again(undo_file: Path, steps: list[Step], stay: list[Step]) -> None:
    """What was taken out of the audit's own decisions goes back there, but for what stays. What was
    decided later, of a picture where it had been moved to, is decided of it where it is now."""
    applied = applied_of(undo_file)
    if not applied.is_file():
        return
    away = tuple(step.source for step in stay)
    decisions = read_decisions(applied)
    left = {
        p: d for p, d in decisions.items() if any(s.endswith(os.sep + name_of(p)) for s in away)
    }
    back = {p: d for p, d in decisions.items() if p not in left}
    own = read_own(undo_file.parent)
    went = [(path, there) for path, there in _went(back, steps) if there in own]
    later = {path: own.pop(there) for path, there in went}
    later = {p: d for p, d in later.items() if d.what != KEEP}  # it was right where it had come
    write_decisions(undo_file.parent / DECISIONS, {**back, **own, **later})
    if left:
        write_decisions(applied, left)
    else:
        applied.unlink()


def _went(paths: Iterable[str], steps: list[Step]) -> Iterator[tuple[str, str]]:
    """Pictures, as decisions name them, and how those would name them where the steps put them."""
    called: dict[str, list[Step]] = {}
    for step in steps:
        called.setdefault(os.path.basename(step.source), []).append(step)
    for path in paths:
        name = os.sep + name_of(path)
        for step in called.get(os.path.basename(name), []):
            root = step.source.removesuffix(name)
            if root != step.source and Path(step.target).is_relative_to(root):
                yield path, text_below(Path(root), Path(step.target))


def read_steps(file: Path) -> list[Step]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; --undo takes the {UNDO} that --apply named")
    try:
        rows = appended(file, COLUMNS)
    except NoText as error:
        raise UserError(
            f"{file} lists no moved pictures ({error}); --undo takes the {UNDO} of an --apply"
        ) from None
    return [Step(name_of(r[0]), name_of(r[1]), r[2], name_of(r[3])) for r in rows]


def remove_empty(folder: str) -> None:
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
