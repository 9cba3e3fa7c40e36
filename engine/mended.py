"""A run's own config.yaml that was emptied or cut: its last checkpoint has it, too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.last import read_last
from engine.written import is_changed, rewriting
from utils import UserError, write_text

PAGE = "config.yaml"


def mend_settings(folder: Path, weights: Iterable[Path]) -> list[str]:
    """Write the config.yaml in a run's folder of logs again where only the beginning of it is left
    and a checkpoint in one of the folders of weights has it; a note where that was done.

    What somebody has edited is no such beginning, and stays.
    """
    if not is_changed(folder, PAGE):
        return []
    page = folder / PAGE
    left = page.read_text(encoding="utf-8", errors="replace").rstrip("\0\n ")
    for last in (place / "last.pt" for place in weights):
        try:
            state, _ = read_last(last, None)
        except UserError:
            continue
        whole = (state or {}).get("config")
        if isinstance(whole, str) and is_beginning(left, whole):
            with rewriting(folder, PAGE):
                write_text(page, whole)
            what = "was cut off" if left else "was empty"
            return [f"{page} {what}: it is written again as {last} has it"]
    return []


def is_beginning(left: str, whole: str) -> bool:
    """Whether a text is the first part of another, the number of views aside: a checkpoint has
    what `auto` came to."""
    old, new = left.splitlines() or [""], whole.splitlines()
    *before, end = old
    pairs = zip(before, new, strict=False)
    same = all(a == b or a.startswith("  views:") for a, b in pairs)
    shorter = len(old) < len(new) or (len(old) == len(new) and end != new[-1])
    return shorter and same and new[len(before)].startswith(end)
