"""Where a run's numbers go beside metrics.csv: TensorBoard always; Weights & Biases or MLflow where
`train.track` asks.

Those two are imported here and nowhere else, and only where they are asked for. They are configured
by their own environment variables: WANDB_PROJECT, WANDB_MODE and their kin, MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME. Both are told the settings, a row an epoch, and what was reached.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, TrainConfig
from decoding.greys import Greys
from drawing import may_fail
from engine.plots import captioned_figure, confusion_figure
from system.filenames import shown
from system.stopping import unbroken
from utils import UserError, go_on, log, write_json

PROJECT = "vit-finetune"  # where the library's own variable names no other
IDENTITY = "track.json"  # in the run's folder: what the tracker calls this run, to go on with it
PARAMS_AT_ONCE = 100  # MLflow's limit
# A server that is gone is given up after seconds; with MLflow's own 7 tries it takes 4 minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """A row of metrics.csv by the names that trackers group: val_accuracy is val/accuracy."""
    measured = {name: value for name, value in row.items() if value is not None and name != "epoch"}
    return {name.replace("_", "/", 1): value for name, value in measured.items()}


def reached(summary: dict[str, Any]) -> dict[str, float]:
    """What a run ended with, of its summary.json."""
    names = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "train_loss")
    return {f"reached/{name}": summary[name] for name in names if summary.get(name) is not None}


def settings_of(config: Config, train: TrainConfig) -> dict[str, Any]:
    """The settings of the network and the training, as the training used them."""
    used = config.model_copy(update={"train": train}).flat()
    return {key: value for key, value in used.items() if not key.startswith("overfit_one_batch.")}


# ------------------------------------------------------------------------------------- TensorBoard


class TensorBoard:
    """A run's event files. Written anew from the rows that are there already, so that a resumed run
    leaves the same as one that was never stopped."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only runs need it

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.events = SummaryWriter(_utf8(folder))
        for row in rows:
            self.epoch(row)

    def epoch(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row).items():
            self.events.add_scalar(name, value, int(row["epoch"]))
        self.events.flush()

    def close(self) -> None:
        self.events.close()


def _utf8(folder: Path) -> str:
    """A path of the folder for TensorBoard, which takes no other bytes than UTF-8: its own, or that
    of a link to it."""
    if shown(str(folder)) == str(folder):
        return str(folder)
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (Path(place) / "events").symlink_to(folder.absolute())
    return f"{place}/events"


def log_outcome(
    folder: Path,
    epoch: int,
    settings: dict[str, Any],
    reached: dict[str, float],
    confusion: np.ndarray,
    classes: tuple[str, ...],
    images: list[tuple[Path, str]],
    greys: Greys | None = None,
) -> None:
    """Add to a run's TensorBoard events what it ended with: hparams, the confusion matrix (true
    classes by predicted ones), and images with their captions, shown by `greys`."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only runs need it
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in settings.items()}
    with SummaryWriter(_utf8(folder), filename_suffix=".outcome") as events:
        for summary in hparams(plain, reached):
            events.file_writer.add_summary(summary)
        for name, value in reached.items():
            events.add_scalar(name, value, epoch)
        with may_fail("TensorBoard's confusion matrix"):
            events.add_figure("confusion", confusion_figure(confusion, classes), epoch)
        if images:
            with may_fail("TensorBoard's page of pictures"):
                events.add_figure("predictions", captioned_figure(images, greys), epoch)


# ----------------------------------------------------------------------------------- the other two


class Tracker:
    """Where numbers go beside the run's own files; this one is nowhere."""

    def settings(self, settings: dict[str, Any]) -> None:
        """Take the settings that the training begins with."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Take a row of metrics.csv."""

    def outcome(self, summary: dict[str, Any]) -> None:
        """Take what summary.json holds."""

    def close(self, status: str) -> None:
        """The run is FINISHED, or FAILED, or was stopped (KILLED)."""


class WandB(Tracker):
    """Weights & Biases, https://docs.wandb.ai; offline files lie in the run's folder."""

    def __init__(self, folder: Path, identity: str | None) -> None:
        import wandb

        self.identity = identity or uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=self.identity,
            resume="allow",
            dir=str(folder),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self.where = self.run.url or self.run.dir
        self.sent: int | None = None  # it can't be asked offline
        self.run.define_metric("*", step_metric="epoch")

    def settings(self, settings: dict[str, Any]) -> None:
        self.run.config.update(settings, allow_val_change=True)

    def epoch(self, row: dict[str, Any]) -> None:
        # By its step: one that is there already is not taken again.
        self.run.log({"epoch": int(row["epoch"]), **scalars(row)}, step=int(row["epoch"]))

    def outcome(self, summary: dict[str, Any]) -> None:
        said = {"verdict": summary.get("verdict_sentence")}
        self.run.summary.update(reached(summary) | said)

    def close(self, status: str) -> None:
        self.run.finish(exit_code=0 if status == "FINISHED" else 1)


class MLflow(Tracker):
    """MLflow, https://mlflow.org; by its client, which leaves a run of the caller's own alone."""

    def __init__(self, folder: Path, identity: str | None) -> None:
        import mlflow

        self.entities, self.client = mlflow.entities, mlflow.MlflowClient()
        if identity is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            there = self.client.get_experiment_by_name(name)
            experiment = there.experiment_id if there else self.client.create_experiment(name)
            identity = self.client.create_run(experiment, run_name=folder.name).info.run_id
        else:
            self.client.update_run(identity, "RUNNING")
        self.identity = identity
        history = self.client.get_metric_history(identity, "train/loss")
        self.sent: int | None = max((metric.step for metric in history), default=0)
        self.where = f"{mlflow.get_tracking_uri()}, run {identity}"

    def settings(self, settings: dict[str, Any]) -> None:
        there = self.client.get_run(self.identity).data.params  # they can't be changed any more
        missing = {key: value for key, value in settings.items() if key not in there}
        params = [self.entities.Param(key, str(value)) for key, value in missing.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(self.identity, params=params[start : start + PARAMS_AT_ONCE])

    def epoch(self, row: dict[str, Any]) -> None:
        self._log(scalars(row), int(row["epoch"]))

    def outcome(self, summary: dict[str, Any]) -> None:
        self._log(reached(summary), int(summary["epochs"]))
        self.client.set_tag(self.identity, "verdict", str(summary.get("verdict_sentence")))

    def close(self, status: str) -> None:
        self.client.set_terminated(self.identity, status)

    def _log(self, values: dict[str, float], epoch: int) -> None:
        now = round(1000 * time.time())
        metrics = [self.entities.Metric(k, float(v), now, epoch) for k, v in values.items()]
        self.client.log_batch(self.identity, metrics=metrics)


class Guarded(Tracker):
    """A tracker that may fail without the run: it is said once, and the run goes on without it.

    It sends no epoch twice: MLflow says what it has, and of W&B it is noted in the run's folder, as
    long as it ends well (it sends in the background, so a killed run sends all again).
    """

    def __init__(self, name: str, inner: WandB | MLflow, folder: Path, sent: int = 0) -> None:
        self.name, self.inner, self.folder = name, inner, folder
        self.sent = sent if inner.sent is None else inner.sent
        self.failed = False
        self._note()

    def _note(self, **more: int) -> None:
        here = {self.name: {"run": self.inner.identity, **more}}
        write_json(self.folder / IDENTITY, _identities(self.folder) | here)

    def _try(self, method: str, *values: Any) -> None:
        if self.failed:
            return
        try:
            getattr(self.inner, method)(*values)
        except Exception as error:  # networks and services fail in many ways
            self.failed = True
            log.info(
                "train.track: %s failed (%s); the run goes on without it", self.name, one(error)
            )

    def settings(self, settings: dict[str, Any]) -> None:
        self._try("settings", settings)

    def epoch(self, row: dict[str, Any]) -> None:
        if row["epoch"] <= self.sent:
            return
        with unbroken():
            self._try("epoch", row)
            if not self.failed:
                self.sent = int(row["epoch"])

    def outcome(self, summary: dict[str, Any]) -> None:
        self._try("outcome", summary)

    def close(self, status: str) -> None:
        """Also where something failed before: the service may be there again."""
        with contextlib.suppress(Exception):
            self.inner.close(status)
            self._note(epochs=self.sent)


TRACKERS: dict[str, type[WandB] | type[MLflow]] = {"wandb": WandB, "mlflow": MLflow}


def check_tracker(name: str | None) -> None:
    """Raise UserError where the library of `train.track` is not installed."""
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"train.track: {name} is not installed: pip install {name}")


@contextlib.contextmanager
def tracking(name: str | None, folder: Path, goes_on: bool = False) -> Iterator[Tracker]:
    """The tracker of `train.track`, closed at the end; one that does nothing where it is null.

    A run that goes on is the same run there. Raises UserError, with the way to go on, where it
    can't be opened: it was asked for, and the training has not begun.
    """
    if name is None:
        yield Tracker()
        return
    with patience():
        identity, sent = read_identity(folder, name) if goes_on else (None, 0)
        try:
            inner = TRACKERS[name](folder, identity)
        except Exception as error:
            known = f"; {folder / IDENTITY} names its run there: without that file it is a new one"
            raise UserError(
                f"train.track: {name} can't be used ({one(error)}){known if identity else ''}; set "
                f"it up, or add train.track=null, and go on with: {go_on(folder)}"
            ) from None
        log.info("tracked by %s: %s", name, inner.where)
        tracker, status = Guarded(name, inner, folder, sent), "FINISHED"
        try:
            yield tracker
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            raise
        finally:
            tracker.close(status)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """How long a server that is gone is waited for, where the user's environment doesn't say."""
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _identities(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_identity(folder: Path, name: str) -> tuple[str | None, int]:
    """What the tracker called this run when it was begun, and the last epoch that it surely has;
    None and 0 for a new one."""
    match _identities(folder).get(name):
        case {"run": str(run), "epochs": int(epochs)}:
            return run, epochs
        case {"run": str(run)}:
            return run, 0
    return None, 0


def one(error: Exception) -> str:
    """An error's first line, or its beginning."""
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return textwrap.shorten(first, 200, placeholder=" ...")
