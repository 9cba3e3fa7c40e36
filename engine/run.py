"""A run: its two folders, its checkpoints, and how one is found."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

from config import ConfigError
from config_file import load_config
from engine.last import read_last, write_last
from engine.lock import LOCK, Lock, Taken
from engine.metrics_log import COLUMNS, METRICS
from engine.written import is_changed
from filing.yaml_files import section_of
from pretrained.files import metadata_in, weights_in
from pretrained.names import WEIGHTS
from pretrained.near import LEFT_BY_A_RUN, find_local, is_run
from system.durable import TEMPORARY, remove_left
from system.filenames import name_of
from utils import UserError, go_on, log, log_to, shell, write_csv

LONGEST = 40  # letters of a folder's name in a run's
BEST = "best.safetensors"  # the network of a run that is kept
JOB = "torchrun.json"  # which job of torchrun's works on a run
SUMMARY = "summary.json"


def report_command(folder: Path) -> str:
    """What makes a run's report again."""
    return shell("python", "-m", "tools.report", folder)


def runs(log_path: str | Path) -> list[Path]:
    """The folders of logs of all runs, the newest last."""
    return sorted((c.parent for c in Path(log_path).glob("*/config.yaml")), key=_made)


def _made(folder: Path) -> float:
    return os.path.getmtime(folder / "config.yaml")


def find_run(wanted: str, log_path: str | Path = "logs") -> Path:
    """The folder of logs that a path, a run's name or `last` stands for; UserError for others."""
    logs = Path(log_path)
    if not wanted:
        raise UserError(f"no run is named; name one under {logs}, or last")
    if wanted == "last":
        if not (found := runs(logs)):
            raise UserError(f"{logs} holds no run yet: train one, or name a run's folder")
        return found[-1]
    for folder in (Path(wanted), logs / wanted):
        if is_run(folder):
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
        self.locks: list[Lock] = []
        self.keep_last = 2  # checkpoints
        self.needs_best = False  # whether going on needs the kept network's file
        self.spoiled = False  # whether last.pt is damaged

    @classmethod
    def create(
        cls, name: str | None, log_path: str, save_path: str, pictures: str, kind: str = ""
    ) -> Run:
        """A new run, claimed; without a name, one made of the folder of `pictures`, the time and
        the kind of run, where it is no training. Raises UserError where it exists: results are
        never overwritten."""
        number = 0
        while name is None:  # several may begin in the same second
            number += 1
            end = f"-{number}" if number > 1 else ""
            run = cls(default_name(pictures, kind) + end, log_path, save_path)
            if run.folder.exists() or run.weights.exists():
                continue
            with contextlib.suppress(Taken):
                run.claim(trains=not kind)
                if run.is_empty:
                    return run
                run.close()
        run = cls(name, log_path, save_path)
        try:
            run.claim(trains=not kind)
            run.must_be_new()
        except Taken as taken:
            raise Taken(f"{taken}, or choose another train.run_name") from None
        except BaseException:
            run.close()
            raise
        return run

    def must_be_new(self) -> None:
        """Raise UserError where the run has begun before."""
        for folder in (self.folder, self.weights):
            if folder.exists() and _there(folder) and not self.is_half_born:
                if self.is_finished:
                    way = "a finished run: choose another train.run_name, or remove it"
                elif self.split.exists() and (self.folder / "config.yaml").exists():
                    way = "choose another train.run_name, remove it, or go on with it: "
                    way += go_on(self.folder)
                else:
                    way = "choose another train.run_name, or remove it"
                raise UserError(f"{folder} exists: {way}")

    def claim(self, trains: bool = True) -> None:
        """Lock the run's folders until `close`, or the end of the process, and remove what a killed
        writer left there; nothing stays locked where one of them is another's. Raises Taken."""
        folders = (self.folder, self.weights) if trains else (self.folder,)
        self.locks = [Lock(folder) for folder in folders]
        try:
            for lock in self.locks:
                lock.take()
        except BaseException:
            self.close()
            raise
        for folder in folders:  # a report may be written into the logs at any time
            for path in remove_left(folder, others_write=folder == self.folder):
                log.debug("removed what a killed writer had left: %s", path)

    def close(self) -> None:
        """Let go of the folders, and remove them where nothing was written."""
        for lock in reversed(self.locks):
            lock.release()
        self.locks = []

    def __getstate__(self) -> dict[str, Any]:
        """The locks are this process's."""
        return vars(self) | {"locks": []}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

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
        if not run.folder.is_dir():
            raise run.no_such(log_path)
        run.claim()
        try:
            if run.is_half_born:
                run.resumes = False
                log.info("%s was stopped before it had begun: it begins now", run.folder)
            elif not (run.split.exists() or is_changed(run.folder, run.split.name)):
                raise run.no_such(log_path)
        except BaseException:
            run.close()
            raise
        return run

    def no_such(self, log_path: str) -> UserError:
        """There is nothing to go on with."""
        near = difflib.get_close_matches(self.name, [f.name for f in runs(log_path)], n=1)
        meant = f"; did you mean {near[0]}?" if near and near[0] != self.name else ""
        if self.folder.is_dir():
            meant = "; remove the folder, or begin under another train.run_name"
        return UserError(f"{self.split} is not there: no run to go on with by that name{meant}")

    @property
    def is_empty(self) -> bool:
        return not (_there(self.folder) or _there(self.weights))

    @property
    def is_finished(self) -> bool:
        """Whether all but its report is there: summary.json is written last, and goes when a
        finished run is gone on with."""
        return (self.folder / SUMMARY).exists()

    @property
    def is_half_born(self) -> bool:
        """Whether it was stopped before it had drawn its split: nothing in it is worth keeping."""
        return not _there(self.weights) and _there(self.folder) <= {"config.yaml", "run.log", JOB}

    def open(self) -> None:
        """Make the folder and begin its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log_to(self.folder / "run.log")

    def save_last(self, state: dict[str, Any]) -> None:
        """Write all that going on needs; the checkpoints before stay as `keep_last` says."""
        write_last(self.last, state, self.keep_last, self.spoiled)
        self.spoiled = False

    def load_last(self) -> dict[str, Any] | None:
        """What `save_last` wrote, on the CPU, or the newest before it that is whole; None where the
        run stopped before its first save. Its rows of metrics.csv are written again: whatever has
        become of that file, they are as they were."""
        state, self.spoiled = read_last(self.last, self.best if self.needs_best else None)
        if state is not None and "rows" in state:  # older files don't say
            write_csv(self.folder / METRICS, state["rows"], COLUMNS)
        return state


def _there(folder: Path) -> set[str]:
    """The names in a folder, but for a lock and what a killed writer left."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {n for n in names if not (n.startswith(LOCK) or TEMPORARY.fullmatch(n))}


def trained(wanted: str, log_path: str = "logs", save_path: str = "weights") -> Path | None:
    """The weights file on this machine that a path (with its ending or without), a model's folder,
    a run's name, one of its two folders, or `last` (the newest run that has some) stands for; None
    where there are none. Raises UserError where it is a run, or a folder, without any."""
    if not wanted:
        raise UserError("no weights are named; name a file, a run, or last")
    if wanted == "last":
        files = (_best_of(run, save_path) for run in reversed(runs(log_path)))
        return next((file for file in files if file.is_file()), None)
    found = find_local(wanted, [Path(save_path), WEIGHTS], Path(log_path))
    return found if found is None or found.is_file() else weights_in(found)


def config_of(checkpoint: Path, wanted: str, log_path: str = "logs") -> Path | None:
    """The config.yaml of the run that a checkpoint is of: in the folder that was named, under
    `log_path`, or where the file itself says that its run's logs lie; of several the one that says
    what the file does."""
    if (named := Path(wanted) / "config.yaml").is_file():
        return named
    names, elsewhere, own = [checkpoint.parent.name], list[Path](), dict[str, Any]()
    with contextlib.suppress(Exception):  # other weights say nothing of a run
        own = section_of(metadata_in(checkpoint)["config"], "train")
        bases = [Path(), *checkpoint.absolute().parents[1:4]]
        elsewhere = [base / name_of(own["log_path"]) for base in bases]
        names += [name_of(own["run_name"])] if own.get("run_name") else []
    places = [Path(log_path) / name for name in names]
    places += [folder / name for name in names for folder in elsewhere]
    found = [page for place in places if (page := place / "config.yaml").is_file()]

    def unlike(page: Path) -> int:
        said = section_of(page.read_text(encoding="utf-8", errors="replace"), "train")
        return sum(said.get(key) != value for key, value in own.items())

    # A folder of weights may have been copied to where another run's lie, and a run renamed.
    return min(found, key=unlike, default=None)


def _best_of(folder: Path, save_path: str) -> Path:
    """Where the weights of a run lie, given its folder of logs: its config says it."""
    with contextlib.suppress(ConfigError):  # of an older version, say
        if (folder / "config.yaml").is_file():
            save_path = load_config(folder / "config.yaml")[0].train.save_path
    return Path(save_path) / folder.name / BEST
