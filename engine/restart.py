"""Where torchrun has started the processes of a job once more: which run they go on with."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from config_file import load_config
from engine.run import JOB, runs
from parallel import job_id
from utils import write_json


def note_job(folder: Path) -> None:
    """Note in a run's folder which job of torchrun's works on it."""
    if (job := job_id()) is not None:
        write_json(folder / JOB, {"job": job})


def run_to_go_on_with(page: str, overrides: list[str]) -> Path | None:
    """The run that this job had begun, where its settings have their runs; None where it had not
    come so far. What torchrun counts as restarts is not the same on all machines."""
    if job_id() is None:
        return None
    log_path = load_config(page, overrides)[0].train.log_path
    job = {"job": job_id()}
    for folder in reversed(runs(log_path)):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / JOB).read_bytes()) == job:
                return folder
    return None
