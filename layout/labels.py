"""train.labels: what a table decides about pictures takes the place of their folders' names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from filenames import name_of, nearest, same_name
from layout.decisions import KEEP, LEAVE_OUT, RELABEL, Decision, read_decisions
from layout.parts import Found, Layout
from layout.split_file import text_below
from utils import UserError, some


def decide(layout: Layout, root: Path, file: Path, wanted: Collection[str] | None) -> set[str]:
    """Give a folder's candidates the labels that the table decides, and take those that it leaves
    out to the unused ones; nothing is moved on the disk.

    Returns the paths of both, below the folder. `wanted` are the classes that are trained, where
    not all are. Raises UserError with every row that can't be followed.
    """
    rows = _rows(file, layout, root)
    had = {item.class_name for item in layout.found}
    kept: list[Found] = []
    decided: dict[str, str] = {}
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
            layout.unused.append((item.path, f"{label} by {file}, which train.classes leaves out"))
        else:
            kept.append(replace(item, class_name=label))
    if bare := sorted(had - {item.class_name for item in kept}):
        raise UserError(
            f"train.labels: {file} leaves no picture of {some(bare)}; train.classes names the "
            "classes that are to be told apart"
        )
    layout.found = kept
    new = sum(decision == RELABEL for decision in decided.values())
    layout.notes.append(
        f"train.labels: {new:,} relabelled, {len(decided) - new:,} left out, by {file}"
    )
    return set(decided)


def _rows(file: Path, layout: Layout, root: Path) -> dict[str, Decision]:
    """The decision on each path; UserError with all that can't be followed."""
    here = {same_name(text_below(root, item.path)) for item in layout.found}

    def fault(path: str, decision: Decision) -> str | None:
        if same_name(path) not in here and not (root / name_of(path)).is_file():
            return f"it is not in {root}"
        if decision.what == RELABEL and decision.label not in layout.names:
            near = nearest(decision.label, layout.names)
            return f"there is no class '{decision.label}'" + (
                f"; did you mean '{near}'?" if near else ""
            )
        return None

    return {same_name(path): what for path, what in read_decisions(file, fault).items()}
