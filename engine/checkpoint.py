"""What of a run is kept, and going on with one that was stopped."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from config import Config, TrainConfig
from config_file import dump_config
from engine.job import Diverged, Job
from engine.metrics_log import COLUMNS, MetricsLog
from engine.run import Run
from engine.verdict import NOT_LEARNED
from model import Tail, VisionTransformer
from pretrained.files import digest_of
from pretrained.write import save_model, save_trained
from utils import UserError, go_on, log, unbroken, write_json


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

    def take(self, row: dict[str, Any], images: int, keep: str) -> bool:
        """Count an epoch; True where its network is to be kept: with `best`, where its validation
        is the best so far (ties: the lower loss)."""
        self.epoch = row["epoch"]
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
    device, in the CPU's memory.
    """

    SECONDS = 30

    def __init__(
        self, run: Run, job: Job, progress: Progress, config: Config, augmentation: str | None
    ) -> None:
        self.run, self.job, self.progress, self.config = run, job, progress, config
        self.augmentation = augmentation
        kept = said_of_kept(job)
        self.metrics = MetricsLog(run.folder, COLUMNS, progress.epoch, progress.best_epoch, kept)
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Any] | None = None
        self.written = time.monotonic()

    def keep(self, row: dict[str, Any]) -> None:
        """Keep an epoch: its row of metrics.csv, its state, and its network where it is to be kept.

        A row and its checkpoint belong together, so Ctrl-C waits.
        """
        with unbroken():
            kept = self.progress.take(row, self.job.images, self.job.train.keep)
            self.metrics.write(self.progress.best_epoch, **row)
            self._keep(kept)

    def _keep(self, kept: bool) -> None:
        if kept:
            with self.job.average.in_place():
                self.best = self._trained()
        every = self.config.train.save_epoch
        if every == "auto":
            due = time.monotonic() > self.written + self.SECONDS
        else:
            due = self.progress.epoch % every == 0
        self.last = self.job.state_dict() | {"progress": asdict(self.progress)}
        self.last["augmentation"] = self.augmentation
        if due:
            self.write()
        else:
            parts = ("model", "optimizer", "average")
            self.last |= {name: copied(self.last[name]) for name in parts}

    def _trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that train; the others stay as they are."""
        return {name: copied(p.detach()) for name, p in self.job.trained()}

    def write(self) -> None:
        """The best first: what goes on from last.pt must find it."""
        if self.best is not None:
            epoch = str(self.progress.best_epoch)
            keep(self.run.best, self.job.net, self.config, self.best, epoch=epoch)
        if self.last is not None:
            self.run.save_last(self.last | {"rows": self.metrics.rows})
        self.best = self.last = None
        self.written = time.monotonic()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.metrics.close()
        finally:
            self.write()


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


def saved_state(
    run: Run, net: VisionTransformer, augmentation: str | None
) -> dict[str, Any] | None:
    """The last checkpoint of the run that is to go on, if there is one: known to be of these
    classes and of these frozen weights."""
    state = run.load_last() if run.resumes else None
    if state is None:
        if run.resumes:
            log.info("%s has no checkpoint yet: starting at epoch 1", run.folder)
        return None
    if state["classes"] != list(net.classes or ()):
        raise UserError(f"{run.last} was trained on other classes: {', '.join(state['classes'])}")
    frozen = {n: p for n, p in net.named_parameters() if n not in state["model"]}
    if "frozen" in state and state["frozen"] != digest_of(frozen):  # older files don't say
        raise UserError(
            f"{run.last} goes on from other frozen weights than train.checkpoint; go on with "
            f"{run.folder}/config.yaml and the weights that it names"
        )
    if state.get("augmentation", augmentation) != augmentation:  # older files don't say
        log.info(
            "the epochs until now had another augmentation: %s",
            state["augmentation"] or "that of the settings",
        )
    log.info("going on after epoch %d of %s", state["progress"]["epoch"], run.folder)
    return state


@contextlib.contextmanager
def resumable(run: Run, progress: Progress) -> Iterator[None]:
    """Around the loop: a stop, or a loss that isn't finite, says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        done = f"{progress.epoch} epoch{'' if progress.epoch == 1 else 's'} done"
        if not progress.epoch:
            done = "no epoch done (what is in the token cache stays there)"
        raise KeyboardInterrupt(f"stopped with {done}; go on with: {go_on(run.folder)}") from None
    except Diverged as error:
        there = [str(path) for path in (run.best, run.last) if path.exists()]
        kept = (
            f"the last good checkpoint is {there[-1]}" if there else "no checkpoint was saved yet"
        )
        sentence = f"{NOT_LEARNED}: {error}; lower train.lr or warm up longer"
        outcome = {"verdict": NOT_LEARNED, "verdict_sentence": sentence, "epochs": progress.epoch}
        write_json(run.folder / "summary.json", outcome)
        raise Diverged(f"{sentence}; {kept}") from None
