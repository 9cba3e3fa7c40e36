"""Made-up runs to report on."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from config_file import dump_config
from inspection.record import Prediction
from metrics import wilson
from tests.helpers import TINY_VIT

PREDICTED = ("part", "path", "label", "predicted", "probability", "label_probability")


def write_rows(path: Path, columns: tuple[str, ...], rows: list[Any]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def made_up(classes: list[str], n: int, seed: int = 0, right: float = 0.8) -> list[list[Any]]:
    """Rows of predictions.csv: so many images, so many of them answered rightly."""
    rng = np.random.default_rng(seed)
    rows: list[list[Any]] = []
    for i in range(n):
        label = classes[i % len(classes)]
        sure = float(rng.uniform(0.4, 1))
        hit = rng.random() < right
        predicted = label if hit else classes[int(rng.integers(len(classes)))]
        own = sure if predicted == label else (1 - sure) / 2
        rows.append(["val", f"{label}/{i // len(classes):02}.png", label, predicted, sure, own])
    return rows


def summary_of(rows: list[list[Any]], classes: list[str]) -> dict[str, Any]:
    accuracy = sum(row[2] == row[3] for row in rows) / len(rows)
    low, high = wilson(accuracy, len(rows))
    scores = {"accuracy": accuracy, "interval": [low, high]}
    parts = {f"val_{k}": v for k, v in {**scores, "balanced_accuracy": accuracy}.items()}
    rivals = {"nearest_neighbours": 0.5, "logistic_regression": 0.7, "shuffled_labels": 0.31}
    guess = {"chance": 1 / len(classes), "largest_class": 1 / len(classes)}
    return {
        "mode": "finetune",
        "best_epoch": 3,
        "epochs": 4,
        **parts,
        "val_loss": 0.5,
        **{f"test_{k}": None for k in ("accuracy", "balanced_accuracy", "loss", "interval")},
        "train_loss": 0.2,
        "train_accuracy": 0.99,
        "verdict": "learned",
        "verdict_sentence": f"learned: val accuracy {accuracy:.3f}; a guess reaches 0.333",
        "verdict_numbers": {"part": "val", "images": len(rows), **scores, **guess, **rivals},
        "chosen": {"part": "block", "optim": "sgd", "lr": 0.006, "weight_decay": 0.0},
        "images": {"train": 2 * len(rows), "val": len(rows), "test": 0},
        "seconds": 12.0,
        "cache_seconds": 3.0,
        "search_seconds": None,
        "parameters": {"total": 21_601_931, "trainable": 1_817_482},
        "weights": "w.safetensors",
        "device": "cpu",
        "versions": {"torch": "2.14"},
        "git_commit": "abc",
    }


def make_run(
    folder: Path,
    rows: list[list[Any]],
    classes: list[str],
    root: Path | None = None,
    **train: Any,
) -> Path:
    """A finished run's folder of logs, as training.py leaves it."""
    folder.mkdir(parents=True)
    settings = {"base_dir": str(root or folder / "gone"), "save_path": str(folder.parent / "w")}
    config = Config.model_validate({"vit": TINY_VIT, "train": {**settings, **train}})
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "summary.json").write_text(json.dumps(summary_of(rows, classes)))
    (folder / "run.log").write_text("2026-11-25 15:00:01,000 INFO begun\n")
    columns = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
    norms = ("grad_norm_mean", "grad_norm_max")
    epochs = [
        [e, 1 / e, 1 - 0.3 / e, 1.1 / e, 1 - 0.4 / e, 1e-3 / e, 2.0, 3.0] for e in range(1, 5)
    ]
    write_rows(folder / "metrics.csv", (*columns, *norms), epochs)
    write_rows(
        folder / "split.csv",
        ("path", "label", "part", "sha256"),
        [[row[1], row[2], row[0], sha256(row[1].encode()).hexdigest()] for row in rows],
    )
    write_rows(folder / "predictions.csv", PREDICTED, rows)
    grid = [
        ["block", "sgd", lr, 0, s, 9, lr * 9, 1, int(lr == 0.1 and s == 9)]
        for s in (3, 9)
        for lr in (0.01, 0.1)
    ]
    write_rows(
        folder / "search.csv",
        ("part", "optim", "lr", "weight_decay", "steps", "images", "accuracy", "loss", "chosen"),
        grid,
    )
    return folder


def answer(label: str, predicted: str, probability: float = 0.9) -> Prediction:
    return Prediction("x", label, predicted, probability, probability)
