"""Where torchrun has started the processes of a job once more: which run they go on with."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from config_file import load_config
from engine.run import JOB, runs
from system.parallel import job_id
from utils import UserError, write_json


@dataclass(frozen=True)
class Begun:
    """A run that this job had begun, and how it had ended: "" where it had not, DONE, or the
    sentence of what no start can change."""

    folder: Path
    ended: str


DONE = "done"


def note_job(folder: Path, ended: str = "") -> None:
    """Note in a run's folder which job of torchrun's works on it, and how that ended: an earlier
    job may have left a summary.json."""
    if (job := job_id()) is not None:
        write_json(folder / JOB, {"job": job, "ended": ended})


def run_to_go_on_with(page: str, overrides: list[str]) -> Begun | None:
    """The run that this job had begun, where its settings have their runs; None where it had not
    come so far. What torchrun counts as restarts is not the same on all machines. Raises UserError
    where it had ended with a sentence."""
    if job_id() is None:
        return None
    places = [word for word in overrides if word.startswith("train.log_path=")]
    log_path = load_config(page, places)[0].train.log_path
    for folder in reversed(runs(log_path)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads((folder / JOB).read_bytes())
            if found.get("job") == job_id():
                begun = Begun(folder, str(found.get("ended", "")))
                break
    else:
        return None
    if begun.ended not in ("", DONE):
        raise UserError(begun.ended)
    return begun
