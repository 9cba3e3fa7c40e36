"""A run: its two folders, its metrics.csv, and how one is found."""

from __future__ import annotations

import contextlib
import csv
import difflib
import os
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import torch

from config import ConfigError
from config_file import load_config
from engine.plots import plot_curves
from engine.track import TensorBoard
from filenames import name_of
from pretrained.files import metadata_in, weights_in
from pretrained.names import WEIGHTS
from pretrained.near import find_local
from utils import UserError, go_on, log_to, replacing, write_csv
from yaml_files import section_of

PLOT_SECONDS = 10
LONGEST = 40  # letters of a folder's name in a run's
BEST = "best.safetensors"  # the network of a run that is kept
LEFT_BY_A_RUN = ("config.yaml", "summary.json", "metrics.csv")


def runs(log_path: str | Path) -> list[Path]:
    """The folders of logs of all runs, the newest last."""
    return sorted((c.parent for c in Path(log_path).glob("*/config.yaml")), key=_made)


def _made(folder: Path) -> float:
    return os.path.getmtime(folder / "config.yaml")


def find_run(wanted: str, log_path: str | Path = "logs") -> Path:
    """The folder of logs that a path, a run's name or `last` stands for; UserError for others."""
    logs = Path(log_path)
    if wanted == "last":
        if not (found := runs(logs)):
            raise UserError(f"{logs} holds no run yet: train one, or name a run's folder")
        return found[-1]
    for folder in (Path(wanted), logs / wanted):
        if any((folder / name).is_file() for name in LEFT_BY_A_RUN):
            return folder
    if Path(wanted).exists():
        raise UserError(
            f"{wanted} is not a run: it has no {', '.join(LEFT_BY_A_RUN[:-1])} or "
            f"{LEFT_BY_A_RUN[-1]}; name a folder under {logs}"
        )
    near = difflib.get_close_matches(Path(wanted).name, [run.name for run in runs(logs)], 1)
    hint = f"did you mean {near[0]}?" if near else f"name a folder under {logs}, or last"
    raise UserError(f"{wanted}: no such run; {hint}")


def default_name(pictures: str, kind: str = "") -> str:
    """The name of a run that was given none: those of a folder's runs sort by time."""
    parts = (
        plain(Path(pictures).expanduser().resolve().name),
        time.strftime("%Y%m%d-%H%M%S"),
        kind,
    )
    return "-".join(part for part in parts if part)


def plain(name: str) -> str:
    """A name of ASCII letters, digits, _ and - that any shell and any disk takes as it is: accents
    are left out, what else there is becomes a -, and a long one is cut."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    found = re.sub(r"[^A-Za-z0-9_]+", "-", letters).strip("-_")
    return found[:LONGEST].strip("-_") or "pictures"


class Run:
    """One run's two folders: `logs/<name>` for what is read, `weights/<name>` for checkpoints."""

    def __init__(self, name: str, log_path: str, save_path: str, resumes: bool = False) -> None:
        self.name = name
        self.resumes = resumes
        self.folder = Path(log_path) / name
        self.weights = Path(save_path) / name
        self.best = self.weights / BEST
        self.last = self.weights / "last.pt"
        self.split = self.folder / "split.csv"

    @classmethod
    def create(
        cls, name: str | None, log_path: str, save_path: str, pictures: str, kind: str = ""
    ) -> Run:
        """A new run; without a name, one made of the folder of `pictures`, the time and the kind
        of run, where it is no training. Raises UserError where it exists: results are never
        overwritten."""
        run = cls(name or default_name(pictures, kind), log_path, save_path)
        number = 1
        while name is None and (run.folder.exists() or run.weights.exists()):
            number += 1  # begun in the same second
            run = cls(f"{default_name(pictures, kind)}-{number}", log_path, save_path)
        for folder in (run.folder, run.weights):
            if folder.exists() and any(folder.iterdir()) and not run.is_half_born:
                if (run.folder / "summary.json").exists():
                    way = "a finished run: choose another train.run_name, or remove it"
                else:
                    way = "choose another train.run_name, remove it, or go on with it: "
                    way += go_on(run.folder)
                raise UserError(f"{folder} exists: {way}")
        return run

    @classmethod
    def reopen(cls, source: str | bool, name: str | None, log_path: str, save_path: str) -> Run:
        """The run to go on with: True is `name`, or without one the newest under `log_path`;
        else a run's name, its folder of logs or of weights, or its last.pt."""
        if source is True and name:
            run = cls(name, log_path, save_path, resumes=True)
        elif source is True:
            # A sanity check leaves no checkpoint, and is nothing to go on with.
            folders = [f for f in runs(log_path) if (Path(save_path) / f.name).is_dir()]
            if not folders:
                raise UserError(f"{log_path} holds no run to go on with; leave from_checkpoint out")
            run = cls(folders[-1].name, log_path, save_path, resumes=True)
        else:
            path = Path(str(source))
            name = (path.parent if path.suffix == ".pt" else path).name
            run = cls(name, log_path, save_path, resumes=True)
            own = [p.resolve() for p in (run.folder, run.weights, run.last)]
            if path.resolve() not in own and str(source) != name:
                way = "name its own settings with --config"
                if (path / "split.csv").exists():
                    way = f"go on with: {go_on(path)}"
                raise UserError(
                    f"{path} is not a run under {log_path} and {save_path}; {way}, or set "
                    "train.log_path and train.save_path"
                )
        if run.is_half_born:
            raise UserError(
                f"{run.folder} was stopped before it began; leave train.from_checkpoint out"
            )
        if not run.split.exists():
            near = difflib.get_close_matches(run.name, [f.name for f in runs(log_path)], n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{run.split} is not there: no run to go on with by that name{meant}")
        return run

    @property
    def is_half_born(self) -> bool:
        """Whether it was killed before it had drawn its split: nothing in it is worth keeping."""
        begun = self.weights.exists() and any(self.weights.iterdir())
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        left = [name for name in names if not (name[0] == "." and name.endswith(".tmp"))]
        return not begun and "config.yaml" in left and set(left) <= {"config.yaml", "run.log"}

    def open(self) -> None:
        """Make the folder and begin its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log_to(self.folder / "run.log")

    def save_last(self, state: dict[str, Any]) -> None:
        """Write all that going on needs: tensors and plain values only, read with weights_only."""
        with replacing(self.last, _tensor_bytes(state)) as temporary:
            torch.save(state, temporary)

    def load_last(self) -> dict[str, Any] | None:
        """What `save_last` wrote, on the CPU; None where the run stopped before its first save."""
        if not self.last.exists():
            return None
        try:
            return torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(
                f"{self.last} can't be read ({error}); remove it to start over"
            ) from error


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(_tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_tensor_bytes(value) for value in state)
    return 0


class MetricsLog:
    """metrics.csv, a row an epoch, the same numbers as TensorBoard events, and curves.png.

    After a stop, `rows` holds what was kept: those up to `last_epoch`. The events are written
    anew from them, so that a resumed run leaves the same files as an uninterrupted one.
    """

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...],
        last_epoch: int = 0,
        best_epoch: int | None = None,
        kept: str = "kept: the best",
    ) -> None:
        self.path = folder / "metrics.csv"
        self.plot = folder / "curves.png"
        self.columns = columns
        self.best_epoch = best_epoch or None
        self.kept = kept  # what the epoch that is marked in curves.png is
        self.drawn = time.monotonic()  # a run of seconds is drawn at its end
        self.rows = [row for row in read_metrics(self.path) if row["epoch"] <= last_epoch]
        self.events = TensorBoard(folder, self.rows)

    def write(self, best_epoch: int | None, **row: float | None) -> None:
        """Add an epoch: a value a column, None where it was not measured."""
        self.rows.append(row)
        self.best_epoch = best_epoch
        write_csv(self.path, self.rows, self.columns)
        self.events.epoch(row)
        # Drawing takes 0.3 s, longer than an epoch of the cached mode may.
        if time.monotonic() > self.drawn + PLOT_SECONDS:
            self._draw()

    @property
    def _validations(self) -> list[tuple[float, float]]:
        """Accuracy and loss, negative, of each epoch that was validated: the larger the better."""
        there = [row for row in self.rows if row.get("val_accuracy") is not None]
        return [(row["val_accuracy"], -row["val_loss"]) for row in there]

    @property
    def last_accuracy(self) -> float | None:
        """That of the last validation; None before the first."""
        return self._validations[-1][0] if self._validations else None

    @property
    def images_per_second(self) -> float:
        """Of all epochs: one alone takes milliseconds where tokens are cached, too few to tell."""
        timed = [row for row in self.rows if row.get("seconds") and row.get("images_per_second")]
        took = [(row["seconds"], row["images_per_second"]) for row in timed]
        return sum(s * rate for s, rate in took) / max(sum(s for s, _ in took), 1e-9)

    def improved(self) -> bool:
        """Whether the last epoch's validation is better than every earlier one's."""
        if self.rows[-1].get("val_accuracy") is None:
            return False
        *earlier, now = self._validations
        return all(now > one for one in earlier)

    def _draw(self) -> None:
        plot_curves(self.rows, self.best_epoch, self.plot, self.kept)
        self.drawn = time.monotonic()

    def close(self) -> None:
        """Draw the curves as they are now; nothing more is written."""
        if self.rows:
            self._draw()
        self.events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv as numbers, None where a cell is empty; [] without a file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = []
        for row in csv.DictReader(file):
            values: dict[str, Any] = {k: float(v) if v else None for k, v in row.items()}
            rows.append(values | {"epoch": int(row["epoch"])})
        return rows


COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "lr",
    "grad_norm_mean",
    "grad_norm_max",
    "seconds",
    "images_per_second",
)


def trained(wanted: str, log_path: str = "logs", save_path: str = "weights") -> Path | None:
    """The weights file on this machine that a path (with its ending or without), a model's folder,
    a run's name, one of its two folders, or `last` (the newest run that has some) stands for; None
    where there are none. Raises UserError where it is a run, or a folder, without any."""
    if wanted == "last":
        files = (_best_of(run, save_path) for run in reversed(runs(log_path)))
        return next((file for file in files if file.is_file()), None)
    found = find_local(wanted, [Path(save_path), WEIGHTS], Path(log_path))
    return found if found is None or found.is_file() else weights_in(found)


def config_of(checkpoint: Path, wanted: str, log_path: str = "logs") -> Path | None:
    """The config.yaml of the run that a checkpoint is of: in the folder that was named, under
    `log_path`, or where the file itself says that its run's logs lie."""
    name = checkpoint.parent.name
    places = [Path(wanted), Path(log_path) / name]
    with contextlib.suppress(Exception):  # other weights say nothing of a run
        said = name_of(section_of(metadata_in(checkpoint)["config"], "train")["log_path"])
        bases = [Path(), *checkpoint.absolute().parents[1:4]]
        places += [base / said / name for base in bases]
    found = (place / "config.yaml" for place in places)
    return next((path for path in found if path.is_file()), None)


def _best_of(folder: Path, save_path: str) -> Path:
    """Where the weights of a run lie, given its folder of logs: its config says it."""
    with contextlib.suppress(ConfigError):  # of an older version, say
        if (folder / "config.yaml").is_file():
            save_path = load_config(folder / "config.yaml")[0].train.save_path
    return Path(save_path) / folder.name / BEST
