"""What of a run is kept, and going on with one that was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from config import Config, TrainConfig
from config_file import dump_config
from engine.job import Diverged, Job
from engine.metrics_log import COLUMNS, MetricsLog
from engine.position import Position
from engine.run import Run
from engine.sharding import is_shared_out, whole
from model import Tail, VisionTransformer
from pretrained.write import save_model, save_trained
from system.parallel import Lost, by_first, world_size
from system.stopping import unbroken
from utils import UserError


@dataclass
class Progress:
    """Where a run stands: what a resumed run must know beside the weights."""

    epoch: int = 0
    best_epoch: int = 0  # the one that is kept
    best_accuracy: float = -1.0
    best_balanced_accuracy: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    images: int = 0
    train_loss: float = math.inf
    train_accuracy: float = 0.0
    left_out: int = 0  # steps that were not finite
    spent: dict[str, float] = field(default_factory=dict)  # seconds of the phases besides
    position: Position | None = None  # in the epoch after that

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Progress:
        """What `state_dict` gave."""
        position = state.get("position")
        return cls(**{**state, "position": position and Position.read(position)})

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and tensors."""
        found = vars(self) | {"spent": dict(self.spent)}
        return found | {"position": self.position and self.position.state_dict()}

    def begin(self) -> Position:
        """The next epoch: where it was stopped, or its beginning."""
        self.position = self.position or Position(self.epoch + 1)
        self.position.begin()
        return self.position

    def said(self) -> str:
        """How far the run is."""
        said = f"{self.epoch} epoch{'' if self.epoch == 1 else 's'}"
        if self.position is not None and (steps := self.position.steps):
            said += f" and {steps} step{'' if steps == 1 else 's'}"
        return said

    def take(self, row: dict[str, Any], images: int, keep: str) -> bool:
        """Count an epoch; True where its network is to be kept: with `best`, where its validation
        is the best so far (ties: the lower loss)."""
        self.epoch = row["epoch"]
        self.left_out += self.position.left_out if self.position else 0
        self.position = None
        self.seconds += row["seconds"]
        self.images += images
        self.train_loss, self.train_accuracy = row["train_loss"], row["train_accuracy"]
        if "val_accuracy" not in row:
            return False
        better = (row["val_accuracy"], -row["val_loss"]) > (self.best_accuracy, -self.best_loss)
        if better or keep == "last" or not self.best_epoch:
            self.best_epoch = row["epoch"]
            self.best_accuracy = row["val_accuracy"]
            self.best_balanced_accuracy = row["val_balanced_accuracy"]
            self.best_loss = row["val_loss"]
            return True
        return False

    def patience_is_over(self, train: TrainConfig) -> bool:
        return (
            train.early_stopping is not None
            and self.best_epoch > 0
            and self.epoch - self.best_epoch >= train.early_stopping
        )


class Keeper:
    """Writes best.safetensors and last.pt when they are due, and whatever is still unwritten when
    the loop is left, by Ctrl-C as well.

    An epoch of the cached mode can take less time than writing the whole network, so with
    `save_epoch: auto` it is written every half minute at most; until then it is kept, beside the
    device, in the CPU's memory. Where an epoch takes longer, `save_steps: auto` writes last.pt from
    its middle as often. Writing takes no more than a fiftieth of the time: the half minute becomes
    longer where a file takes longer than 0.6 s.
    """

    SECONDS, SHARE = 30, 0.02

    def __init__(
        self, run: Run, job: Job, progress: Progress, config: Config, augmentation: str | None
    ) -> None:
        self.run, self.job, self.progress, self.config = run, job, progress, config
        self.augmentation = augmentation
        self.settings = dump_config(config)
        kept = said_of_kept(job)
        self.metrics = MetricsLog(run.folder, COLUMNS, progress.epoch, progress.best_epoch, kept)
        self.best = self._trained_then()
        self.last: dict[str, Any] | None = None
        self.written, self.took = time.monotonic(), 0.0

    def _trained_then(self) -> dict[str, Tensor] | None:
        """The network of the epoch after which the run goes on, where that is the best so far: its
        file may hold a later one by now, written just before a kill, or a finished run's."""
        progress = self.progress
        begun = progress.position is not None and progress.position.steps
        if self.job.train.keep != "best" or not 0 < progress.epoch == progress.best_epoch or begun:
            return None
        with self.job.average.in_place():
            return self._trained()

    def keep(self, row: dict[str, Any]) -> None:
        """Keep an epoch: its row of metrics.csv, its state, and its network where it is to be kept.

        A row and its checkpoint belong together, so Ctrl-C waits.
        """
        with unbroken():
            position = self.progress.position
            images = self.job.images if position is None else position.images
            kept = self.progress.take(row, images, self.job.train.keep)
            self.metrics.write(self.progress.best_epoch, **row)
            self._keep(kept)

    def _keep(self, kept: bool) -> None:
        if kept:
            with self.job.average.in_place():
                self.best = self._trained()
        self.last = self._state()
        if self._is_due(self.config.train.save_epoch, self.progress.epoch):
            self.write()
        else:
            parts = ("model", "optimizer", "average")
            self.last |= {name: copied(self.last[name]) for name in parts}

    def keep_step(self) -> None:
        """Keep the place in the epoch where that is due, so that no more is lost."""
        if self.step_is_due():
            with unbroken():
                self.last = self._state()
                self.write()

    def step_is_due(self) -> bool:
        """Whether to keep the place now: the first process's clock tells all of them, where they
        must put arrays together."""
        every, steps = self.config.train.save_steps, self.job.scheduler.last_epoch
        if is_shared_out(self.job.net):
            return every is not None and by_first(self._is_due, every, steps)
        return self._is_due(every, steps)

    def _is_due(self, every: int | str | None, done: int) -> bool:
        if isinstance(every, int):
            return done % every == 0
        pause = max(self.SECONDS, self.took / self.SHARE)
        return every == "auto" and time.monotonic() > self.written + pause

    def _state(self) -> dict[str, Any]:
        state = self.job.state_dict() | {"progress": self.progress.state_dict()}
        state |= {"augmentation": self.augmentation, "config": self.settings}
        return state | {"processes": world_size()}

    def _trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that train; the others stay as they are."""
        return {name: copied(whole(p.detach())) for name, p in self.job.trained()}

    def write(self) -> None:
        """The best first: what goes on from last.pt must find it."""
        began = time.monotonic()
        if self.best is not None or self.last is not None:  # it is not finished any more
            (self.run.folder / "summary.json").unlink(missing_ok=True)
        if self.best is not None:
            epoch = str(self.progress.best_epoch)
            keep(self.run.best, self.job.net, self.config, self.best, epoch=epoch)
        if self.last is not None:
            self.run.save_last(self.last | {"rows": self.metrics.rows})
        self.best = self.last = None
        self.written, self.took = time.monotonic(), time.monotonic() - began

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        """A step is taken whole or not at all, so the steps until a stop are worth keeping; those
        before a loss that isn't finite are not; nor are they there where each process has a part.
        """
        position = self.progress.position
        with unbroken():
            stops = kind is not None and is_a_stop(kind) and not is_shared_out(self.job.net)
            if position is not None and position.steps and stops:
                self.last = self._state()
            try:
                self.write()
            finally:
                self.metrics.close()


def is_a_stop(kind: type[BaseException]) -> bool:
    """Whether an exception leaves the weights as they were after the last step."""
    stops = (KeyboardInterrupt, UserError, OSError, Lost)
    return issubclass(kind, stops) and not issubclass(kind, Diverged)


def keep(
    path: Path,
    net: VisionTransformer,
    config: Config,
    other: Mapping[str, Tensor] | None = None,
    **extra: str,
) -> None:
    """Write the network that is kept, or what was trained of it (`train.save`); the arrays of
    `other` take the place of its own."""
    extra["config"] = dump_config(config)
    if config.train.mode == "finetune":  # a search may have found that norm and head alone do
        trained = [any(p.requires_grad for p in block.parameters()) for block in net.blocks]
        extra["trained_blocks"] = str(sum(trained))
    if config.train.save == "trained" and config.train.mode == "finetune":
        save_trained(path, net, str(config.train.checkpoint), other, **extra)
    else:
        save_model(path, net, other, **extra)


def said_of_kept(job: Job) -> str:
    """What the marked epoch is: with a refit to come, another network is kept in the end."""
    refits = isinstance(job.learner, Tail) and job.train.refits
    which = "the last" if job.train.keep == "last" else "the best"
    return f"{'measured' if refits else 'kept'}: {which}"


def copied(state: Any) -> Any:
    """A state dict's tensors, copied to the CPU; its other values as they are."""
    if isinstance(state, Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return state
