"""train.labels: what a table decides about pictures takes the place of their folders' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from layout.decisions import KEEP, LEAVE_OUT, RELABEL, Decision, read_decisions
from layout.parts import Found, Layout
from layout.split_file import text_below
from system.filenames import name_of, nearest, same_name
from utils import UserError, some


def decide(
    layout: Layout,
    root: Path,
    file: Path,
    wanted: Collection[str] | None,
    may_be_gone: bool = False,
) -> set[str]:
    """Give a folder's candidates the labels that the table decides, and take those that it leaves
    out to the unused ones; nothing is moved on the disk.

    Returns the paths of both, below the folder. `wanted` are the classes that are trained, where
    not all are; pictures that `may_be_gone`, moved as was decided, say, are listed. Raises
    UserError with every row that can't be followed.
    """
    rows = _rows(file, layout, root, may_be_gone)
    had = {item.class_name for item in layout.found}
    kept: list[Found] = []
    decided: dict[str, str] = {}
    untrained: Counter[str] = Counter()  # classes that pictures went to
    for item in layout.found:
        path = text_below(root, item.path)
        decision, label = rows.get(same_name(path), Decision(KEEP))
        if decision == KEEP or (decision == RELABEL and label == item.class_name):
            kept.append(item)
            continue
        decided[path] = decision
        if decision == LEAVE_OUT:
            layout.unused.append((item.path, f"left out by {file}"))
        elif wanted is not None and label not in wanted:
            untrained[label] += 1
            layout.unused.append((item.path, f"{label} by {file}, which train.classes leaves out"))
        else:
            kept.append(replace(item, class_name=label))
    if bare := sorted(had - {item.class_name for item in kept}):
        raise UserError(
            f"train.labels: {file} leaves no picture of {some(bare)}; train.classes names the "
            "classes that are to be told apart"
        )
    layout.found = kept
    left = sum(decision == LEAVE_OUT for decision in decided.values())
    new = len(decided) - left - untrained.total()
    said = [f"{new:,} relabelled, {left:,} left out"]
    if untrained:
        names = some([f"{n:,} to {name}" for name, n in untrained.items()])
        said.append(f"not used, as train.classes leaves their new class out: {names}")
    layout.notes.append(f"train.labels: {'; '.join(said)}; by {file}")
    return set(decided)


def _rows(file: Path, layout: Layout, root: Path, may_be_gone: bool) -> dict[str, Decision]:
    """The decision on each path; UserError with all that can't be followed."""
    here = {same_name(text_below(root, item.path)) for item in layout.found}
    gone = []

    def fault(path: str, decision: Decision) -> str | None:
        if same_name(path) not in here and not (root / name_of(path)).is_file():
            if not may_be_gone:
                return f"it is not in {root}"
            gone.append(root / name_of(path))
        if decision.what == RELABEL and decision.label not in layout.names:
            near = nearest(decision.label, layout.names)
            return f"there is no class '{decision.label}'" + (
                f"; did you mean '{near}'?" if near else ""
            )
        return None

    rows = {same_name(path): what for path, what in read_decisions(file, fault).items()}
    layout.unused += [(path, f"{file} decides of it, and it is gone") for path in gone]
    if gone:
        layout.notes.append(f"{len(gone):,} of the pictures in {file} are not there any more")
    return rows
