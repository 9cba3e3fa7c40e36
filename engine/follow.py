"""Of several processes the first reads, writes and keeps; the others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from config import Config
from engine.again import take_search
from engine.began import note_beginning
from engine.checkpoint import Keeper, Progress
from engine.job import Job
from engine.metrics_log import METRICS
from engine.resume import check_early
from engine.run import Run
from engine.sharding import is_shared_out
from engine.start import Work, set_up
from system.parallel import by_first, is_first


class Rows:
    """The rows of metrics.csv, kept in mind; see `engine.metrics_log.MetricsLog`."""

    last_accuracy, images_per_second = None, 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def write(self, best_epoch: int | None, **row: float | None) -> None:
        self.rows.append(row)

    def improved(self) -> bool:
        return False


class Follower(Keeper):
    """Counts as a Keeper does, and keeps nothing."""

    def __init__(self, run: Run, job: Job, progress: Progress, config: Config) -> None:
        self.run, self.job, self.progress, self.config = run, job, progress, config
        self.metrics: Any = Rows(run.folder / METRICS)
        if is_shared_out(job.net):
            self._trained_then()

    def _keep(self, kept: bool) -> None:
        if is_shared_out(self.job.net):  # the first needs this one's part of each array
            if kept:
                with self.job.average.in_place():
                    self._trained()
            self.job.state_dict()

    def keep_step(self) -> None:
        if is_shared_out(self.job.net) and self.step_is_due():
            self.job.state_dict()

    def __exit__(self, *reason: object) -> None:
        pass


def keeper_of(work: Work, job: Job, progress: Progress) -> Keeper:
    """The first process writes; the others count."""
    if is_first():
        return Keeper(work.run, job, progress, work.config, work.augmentation)
    return Follower(work.run, job, progress, work.config)


def opened(config: Config, run: Run, device: torch.device) -> Work:
    """What the run works on, its folders made."""

    def make() -> Work:
        check_early(run, config)
        work = set_up(config, run, device)
        work.open()
        if not run.resumes:
            note_beginning(work)
        take_search(config, run, work.train.views)
        return work

    found: Any = by_first(make, told=Work.told)
    return found if is_first() else found[0].on(device, found[1])
