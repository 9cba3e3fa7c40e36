"""A run's answers, picture by picture: predictions.csv and out_of_fold.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from dataset import Split
from engine.written import rewriting
from filing.csv_files import read_csv
from utils import write_csv

PREDICTED = ("part", "path", "label", "predicted", "probability", "label_probability")
PREDICTIONS = "predictions.csv"  # the held-out parts, by the network that was measured
OUT_OF_FOLD = "out_of_fold.csv"  # the training part, each picture by a fit that had not seen it


def rows_of(split: Split, part: str, logits: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """A part's pictures, in the split's order: class, predicted class, and their probabilities, by
    the logits (n, C); labels (n,)."""
    every = logits.softmax(1)  # n C
    highest, predicted = every.max(1)
    own = every.gather(1, labels[:, None])[:, 0]
    rows = []
    for i, sample in enumerate(split.part(part)):
        assert sample.label == labels[i], "loaders keep the split's order"
        names = split.classes[sample.label], split.classes[int(predicted[i])]
        sure = round(highest[i].item(), 6), round(own[i].item(), 6)
        row = (part, split.path_of(sample), *names, *sure)
        rows.append(dict(zip(PREDICTED, row, strict=True)))
    return rows


def write_unseen(folder: Path, split: Split, logits: Tensor, labels: Tensor) -> None:
    """out_of_fold.csv, of the logits (n, C) for the training part in the split's order."""
    with rewriting(folder, OUT_OF_FOLD):
        write_csv(folder / OUT_OF_FOLD, rows_of(split, "train", logits, labels), PREDICTED)


def unseen_accuracy(folder: Path) -> float | None:
    """The share of out_of_fold.csv's answers that are right; None where there is no such file."""
    if not (folder / OUT_OF_FOLD).exists():
        return None
    rows = read_csv(folder / OUT_OF_FOLD, ("label", "predicted"))
    right = [row["label"] == row["predicted"] for row in rows]
    return sum(right) / len(right) if right else None
