"""What a run left in its folder, read for a report: nothing is required, and nothing trusted."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, ConfigError
from config_file import load_config
from engine.answers import OUT_OF_FOLD, PREDICTIONS
from engine.metrics_log import read_metrics
from engine.run import BEST
from engine.written import changed
from filing.csv_files import read_csv
from metrics import confusion
from shards.place import root_of
from utils import UserError

Identity = tuple[str, str, int]
PARTS = {"test": "test", "val": "validation"}  # the first that was predicted is reported

CERTAIN = ("temperature", "val_calibration_error", "val_calibration_error_calibrated", "set_level")


@dataclass(frozen=True)
class Prediction:
    """A row of predictions.csv; label and predicted are classes' names."""

    path: str
    label: str
    predicted: str
    probability: float
    label_probability: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class Record:
    """A run as its files tell it; what is missing is empty, or None."""

    folder: Path
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    config: Config | None
    config_text: str
    part: str
    predictions: list[Prediction]
    images: dict[str, int]
    classes: list[str]
    search: list[dict[str, Any]]
    layers: list[dict[str, float]]
    unseen: list[Prediction]  # the training pictures, each by a fit that had not seen it
    audit: list[dict[str, str]]
    began: str | None
    notes: list[str] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)  # split.csv's rows

    @property
    def identities(self) -> dict[str, Identity]:
        """What tells each picture (a key: its path) from others, wherever it lies: its class, its
        content's hash, and which copy it is; where there is no hash, its place."""
        root = Path(self.config.train.base_dir).resolve() if self.config else self.folder.resolve()
        copies: Counter[tuple[str, str]] = Counter()
        found = {}
        rows = {row.get("path") or "": row for row in self.files if row.get("part")}
        asked = {p.path: {"label": p.label} for p in self.predictions}
        for path, row in {**asked, **rows}.items():
            known = (row.get("label") or "", row.get("sha256") or str(root / path))
            found[path] = (*known, copies[known])
            copies[known] += 1
        return found

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def audit_folder(self) -> Path:
        """Where an audit of this run would lie: beside it."""
        return _audit_folder(self.folder)

    @property
    def pictures(self) -> Path | None:
        """The folder that the pictures' paths start from, where it is there."""
        train = self.config.train if self.config else None
        root = root_of(train.base_dir, train.data) if train else None
        return root if root and root.is_dir() else None

    @property
    def greys(self) -> tuple[float, float] | None:
        """The values that were shown black and white of pictures with more than 8 bits."""
        found = self.config.train.greys if self.config else "auto"
        return None if found == "auto" else found

    @property
    def weights(self) -> Path | None:
        """The trained network, where it is still there."""
        if self.config is None:
            return None
        path = Path(self.config.train.save_path) / self.name / BEST
        return path if path.is_file() else None

    @property
    def scored(self) -> str | None:
        """The part whose accuracy is reported: test, or val where there is none."""
        return next((p for p in PARTS if self.summary.get(f"{p}_accuracy") is not None), None)

    def confusion(self, predictions: list[Prediction] | None = None) -> np.ndarray:
        """The pictures by class and answer, (C, C): those of the reported part, or others."""
        given = self.predictions if predictions is None else predictions
        labels, answers = zip(*((p.label, p.predicted) for p in given), strict=True)
        return confusion(labels, answers, self.classes)

    @property
    def certainty(self) -> dict[str, Any]:
        """What was found out about the answers at the run's end; {} where an older version, or a
        damaged file, doesn't say. With it, the predictions' probabilities are calibrated."""
        found = self.summary.get("certainty")
        if not isinstance(found, dict):
            return {}
        return found if all(isinstance(found.get(n), (int, float)) for n in CERTAIN) else {}

    @property
    def overfit(self) -> bool:
        return "overfit" in self.summary or bool(
            self.config and self.config.overfit_one_batch.overfit
        )


CHANGED = (
    "{} is not as the run wrote it, changed since or damaged: what is shown of it may be wrong."
)


def read_run(folder: Path) -> Record:
    """Read what is there of a run's files; a damaged one becomes a note."""
    notes = [CHANGED.format(name) for name in changed(folder)]
    config, text = _config(folder, notes)
    try:
        metrics = read_metrics(folder / "metrics.csv")
    except UserError:
        metrics = []
        notes.append("metrics.csv can't be read, so there are no curves.")
    predictions = _predictions(folder / PREDICTIONS, notes)
    part = next((name for name in PARTS if predictions.get(name)), "val")
    split = _named(folder / "split.csv", notes)
    images: dict[str, int] = {}
    for row in split:
        images[row.get("part") or ""] = images.get(row.get("part") or "", 0) + 1
    classes = {row.get("label") or "" for row in split} - {""}
    unseen = _predictions(folder / OUT_OF_FOLD, notes).get("train", [])
    for answer in [*predictions.get(part, []), *unseen]:
        classes |= {answer.label, answer.predicted}
    return Record(
        folder=folder,
        summary=_summary(folder / "summary.json", notes),
        metrics=metrics,
        config=config,
        config_text=text,
        part=part,
        predictions=predictions.get(part, []),
        images=images,
        classes=sorted(classes),
        search=_search(folder, notes),
        layers=_layers(folder / "layers.csv", notes),
        unseen=unseen,
        audit=_audit(folder, notes),
        began=_began(folder / "run.log"),
        notes=notes,
        files=split,
    )


def _config(folder: Path, notes: list[str]) -> tuple[Config | None, str]:
    path = folder / "config.yaml"
    if not path.is_file():
        return None, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return load_config(path)[0], text
    except ConfigError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
        notes.append(f"config.yaml is of another version and shown as it is ({faults}).")
        return None, text


def _summary(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        notes.append("summary.json can't be read, so the scores are missing.")
        return {}
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    return read_csv(path) if path.is_file() else []


def _named(path: Path, notes: list[str]) -> list[dict[str, str]]:
    """The rows that have a path; a note where the file is damaged."""
    try:
        return [row for row in _rows(path) if row.get("path")]
    except UserError as error:
        notes.append(f"{error}.")
        return []


def _audit_folder(folder: Path) -> Path:
    return folder.parent / f"audit-{folder.resolve().name}"


def _audit(folder: Path, notes: list[str]) -> list[dict[str, str]]:
    """The rows of an audit.csv: that in the run's folder, else that of the audit beside it."""
    own = _named(folder / "audit.csv", notes)
    return own or _named(_audit_folder(folder) / "audit.csv", notes)


def _predictions(path: Path, notes: list[str]) -> dict[str, list[Prediction]]:
    """By part."""
    found: dict[str, list[Prediction]] = {}
    try:
        for row in _rows(path):
            sure = float(row["probability"]), float(row["label_probability"])
            answer = Prediction(row["path"], row["label"], row["predicted"], *sure)
            found.setdefault(row["part"], []).append(answer)
    except (UserError, KeyError, ValueError):
        notes.append(f"{path.name} can't be read, so nothing is said of its single images.")
        return {}
    return found


def _layers(path: Path, notes: list[str]) -> list[dict[str, float]]:
    """The rows of layers.csv as numbers."""
    names = ("block", "left_out_accuracy", "low", "high")
    try:
        return [{name: float(row[name]) for name in names} for row in _rows(path)]
    except (UserError, KeyError, ValueError):
        notes.append("layers.csv can't be read, so it isn't said what each block tells.")
        return []


def _search(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The rows of search.csv, numbers as numbers."""
    numbers = ("lr", "weight_decay", "steps", "accuracy", "loss")
    try:
        return [
            {
                **row,
                **{name: row[name] for name in ("part", "optim")},
                **{key: float(row[key]) for key in numbers},
                "chosen": row["chosen"] == "1",
            }
            for row in _rows(folder / "search.csv")
            if row["accuracy"]  # a head over layers alone is not tried
        ]
    except (UserError, KeyError, ValueError):
        notes.append("search.csv can't be read, so the learning rates tried are missing.")
        return []


def _began(path: Path) -> str | None:
    """The date and time of the log's first line."""
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        found = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", file.readline())
    return found.group() if found else None
