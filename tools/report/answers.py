"""What a report shows of single pictures: confusions, classes, calibration, mistakes."""

from __future__ import annotations

from typing import Any

from inspection.charts import confidences, reliability
from inspection.numbers import calibration, frequent_confusions, per_class
from inspection.record import Prediction, Record
from metrics import shares, wilson
from tools.report.pictures import Thumbnail, confusion_image, thumbnail

MOST_IN_A_TABLE = 25  # classes: with more the confusion matrix is an image
WIDE = 0.2  # an interval: within a wider one a network may well be as sure as it is right, or not
SHOWN = 10  # pictures of a kind
WORST = 20  # classes that stand in the open, where there are many


def answers(record: Record) -> dict[str, Any]:
    """The sections that predictions.csv and out_of_fold.csv make; empty without them."""
    found: dict[str, Any] = dict.fromkeys(
        ("matrix", "matrix_image", "confusions", "worst", "rest", "calibration", "mistakes"), None
    )
    found |= {"unsure": [], "mistakes_in_all": 0, "unseen": unseen(record)}
    given = record.predictions
    if not given:
        return found
    counts = record.confusion()
    many = len(record.classes) > MOST_IN_A_TABLE
    scored = per_class(counts, record.classes)
    open_rows = WORST if len(scored) > MOST_IN_A_TABLE else len(scored)
    unsure = sorted(given, key=lambda p: p.probability)
    return found | {
        **told(record, given),
        "confusions": frequent_confusions(counts, record.classes) if many else None,
        "worst": scored[:open_rows],
        "rest": scored[open_rows:],
        "unsure": pictured(record, unsure[:SHOWN]),
    }


def unseen(record: Record) -> dict[str, Any] | None:
    """What is said of the training pictures, each answered by a fit that had not seen it."""
    given = record.unseen
    if not given:
        return None
    accuracy = sum(p.right for p in given) / len(given)
    low, high = wilson(accuracy, len(given))
    said = f"{accuracy:.3f} ({low:.3f} to {high:.3f})"
    return {"images": len(given), "accuracy": said, **told(record, given)}


def told(record: Record, given: list[Prediction]) -> dict[str, Any]:
    """What is shown of any part's answers: the matrix, the calibration, the surest mistakes."""
    counts = record.confusion(given)
    many = len(record.classes) > MOST_IN_A_TABLE
    wrong = sorted((p for p in given if not p.right), key=lambda p: -p.probability)
    return {
        "matrix": None if many else matrix(record, counts),
        "matrix_image": confusion_image(counts) if many else None,
        "calibration": calibrated(given),
        "mistakes": pictured(record, wrong[:SHOWN]),
        "mistakes_in_all": len(wrong),
    }


def matrix(record: Record, counts: Any) -> list[dict[str, Any]]:
    """The confusion matrix as rows of cells."""
    of_class = shares(counts)
    return [
        {
            "name": name,
            "cells": [
                {"count": int(counts[i, j]), "share": float(of_class[i, j]), "hit": i == j}
                for j in range(len(counts))
            ],
        }
        for i, name in enumerate(record.classes)
    ]


def calibrated(predictions: list[Prediction]) -> dict[str, Any]:
    found = calibration(predictions)
    sure, right = found["mean_confidence"], found["mean_accuracy"]
    low, high = wilson(right, len(predictions))
    measured = f"{sure:.3f} sure, and right {right:.3f} of the time"
    if low <= sure <= high and high - low > WIDE:
        few = f"{len(predictions)} picture{' is' if len(predictions) == 1 else 's are'} too few"
        sentence = (
            f"{few} to say whether it is as sure as it is right: it is {measured} ({low:.3f} to "
            f"{high:.3f})."
        )
    else:
        tends = "as sure as it is right, on average"
        if not low <= sure <= high:
            tends = "too sure of itself" if sure > right else "less sure than it could be"
        sentence = (
            f"It is {tends}: {measured} ({low:.3f} to {high:.3f}). Expected calibration error "
            f"{found['error']:.3f} (15 bins, Guo et al. 2017); bins with few pictures say little."
        )
    return {"charts": [reliability(found), confidences(found)], "sentence": sentence}


def pictured(record: Record, chosen: list[Prediction]) -> list[tuple[Prediction, Thumbnail]]:
    return [(answer, thumbnail(record, answer.path)) for answer in chosen]
