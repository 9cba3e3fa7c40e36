"""last.pt and the checkpoints before it: written, and the newest from which a run can go on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.metrics_log import COLUMNS
from pretrained.checksums import check_seal, seal
from pretrained.files import metadata_in, read_arrays
from utils import UserError, log, replacing

NAMES = {*COLUMNS}
OF_A_RUN = ("model", "optimizer", "scheduler", "classes", "progress")  # among others


def earlier(last: Path, number: int) -> Path:
    """The name of the checkpoint so many before the last: last-1.pt."""
    return last.with_name(f"{last.stem}-{number}{last.suffix}") if number else last


def earlier_ones(last: Path) -> list[Path]:
    """The checkpoints before the last that are there, the newest first."""
    found = {p: p.stem.rpartition("-")[2] for p in last.parent.glob(f"{last.stem}-*{last.suffix}")}
    return sorted((p for p, n in found.items() if n.isdecimal()), key=lambda p: int(found[p]))


def write_last(last: Path, state: dict[str, Any], keep: int, spoiled: bool = False) -> None:
    """Write a checkpoint: tensors and plain values only, read with weights_only. `keep` of them
    stay, this one among them; a last one that is spoiled doesn't.
    """
    before = earlier(last, 1) if keep > 1 and not spoiled else None
    with replacing(last, tensor_bytes(state), earlier=before) as temporary:
        torch.save(state, temporary)
        seal(temporary)
        for number in reversed(range(1, keep - 1) if before else ()):
            if (path := earlier(last, number)).exists():
                os.replace(path, earlier(last, number + 1))
    for path in earlier_ones(last)[max(0, keep - 1) :]:
        path.unlink()


def read_last(last: Path, best: Path | None) -> tuple[dict[str, Any] | None, bool]:
    """The newest checkpoint from which a run can go on, on the CPU (None where it stopped before
    its first), and whether the last is spoiled. Where another than the last is taken, a line says
    so. With `best`, the kept network's file must be whole, or come again on the way.

    Raises UserError where none is whole.
    """
    faults: list[str] = []
    wanted, lacks = None, None  # the epoch that is kept, and what its file lacks
    for path, state, fault in _each(last):
        if state is None:
            faults.append(fault)
            continue
        now, kept = state["progress"]["epoch"], state["progress"]["best_epoch"]
        if wanted is None:
            wanted = kept
            if best and kept and not holds_best(state["progress"]):
                lacks = _fault_of(best, kept, now)
        if lacks and kept and wanted <= now:
            continue  # no epoch is left in which that network would be made again
        spoiled = bool(faults)
        faults += [lacks] if lacks else []
        if path != last:
            before = f"{last.name} is not there" if not faults else faults[0]
            log.warning("%s: going on from %s, after epoch %d", before, path, now)
        return state, spoiled
    if lacks:
        raise UserError(
            f"{lacks}; no checkpoint is left from before epoch {wanted}, whose network it kept: "
            "train again under another train.run_name, or go on with train.keep=last"
        )
    if faults:
        raise UserError(
            f"{faults[0]}; no checkpoint before it is whole: remove {last.parent} to start over"
        )
    return None, False


def steps_of(progress: Mapping[str, Any]) -> int:
    """How many steps of the epoch that follows are taken."""
    return int((progress.get("position") or {"steps": 0})["steps"])


def holds_best(progress: Mapping[str, Any]) -> bool:
    """Whether the weights of a checkpoint are those of the best epoch, or there is none yet."""
    return progress["best_epoch"] == progress["epoch"] and not steps_of(progress)


def _each(last: Path) -> Iterator[tuple[Path, dict[str, Any] | None, str]]:
    """The checkpoints that are there, the newest first, each with what it holds, or with why it
    can't be read."""
    for path in [p for p in (last, *earlier_ones(last)) if p.exists()]:
        try:
            yield path, _read(path), ""
        except UserError as error:
            yield path, None, str(error)


def _read(path: Path) -> dict[str, Any]:
    try:
        check_seal(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise UserError(f"{path} is damaged") from None
    except Exception as error:  # PyTorch's readers raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} can't be read ({reason[:200]})") from error
    if not isinstance(state, dict) or (lacking := [k for k in OF_A_RUN if k not in state]):
        what = ", ".join(lacking) if isinstance(state, dict) else "a checkpoint's parts"
        raise UserError(f"{path} is no checkpoint of a run: it lacks {what}")
    progress = state["progress"] if isinstance(state["progress"], dict) else {}
    if not all(isinstance(progress.get(name), int) for name in ("epoch", "best_epoch")):
        raise UserError(f"{path} is no checkpoint of a run: it doesn't say how far it is")
    if not are_rows(state.get("rows", [])):
        raise UserError(f"{path} is no checkpoint of a run: its rows are none of metrics.csv")
    return state


def are_rows(rows: Any) -> bool:
    """Whether they can be written as metrics.csv."""
    return isinstance(rows, list) and all(isinstance(r, dict) and r.keys() <= NAMES for r in rows)


def _fault_of(best: Path, wanted: int, now: int) -> str | None:
    """What is wrong with the kept network's file, of a run that stands after epoch `now`; one of a
    later epoch was written just before a kill, and is written again."""
    if not best.exists():
        return f"{best} is not there"
    try:
        read_arrays(best)
    except UserError as error:
        return str(error).partition(": ")[0]
    metadata = metadata_in(best)
    if "seen" in metadata:
        return f"{best} holds what learned the validation part, too, instead of epoch {wanted}"
    said = metadata.get("epoch", str(wanted))
    if said.isdecimal() and (int(said) == wanted or int(said) > now):
        return None
    return f"{best} holds epoch {said} instead of {wanted}"


def tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(tensor_bytes(value) for value in state)
    return 0
