"""What a report shows of single pictures: confusions, classes, calibration, mistakes."""

from __future__ import annotations

from typing import Any

from certainty.sure import NOTHING, WIDE, not_calibrated
from inspection.charts import confidences, reliability, risk_by_coverage
from inspection.numbers import (
    calibration,
    frequent_confusions,
    per_class,
    surest_first,
    threshold_between,
)
from inspection.record import PARTS, Prediction, Record
from inspection.thumbnails import Thumbnail, thumbnail
from metrics import shares, wilson
from tools.report.pictures import confusion_image

MOST_IN_A_TABLE = 25  # classes: with more the confusion matrix is an image
SHOWN = 10  # pictures of a kind
ANSWERED = 0.9  # of the pictures: what answering only these would mean
ABOUT = 0.05  # about so many: where many are equally sure, no threshold parts them
ERROR = "(15 bins, Guo et al. 2017)"
ROUGH = 1000  # pictures: of fewer the error of 15 bins moves by hundredths
FEWEST = 30  # pictures: of fewer, a tenth is too little to say anything of
WORST = 20  # classes that stand in the open, where there are many


def answers(record: Record) -> dict[str, Any]:
    """The sections that predictions.csv and out_of_fold.csv make; empty without them."""
    found: dict[str, Any] = dict.fromkeys(
        ("matrix", "matrix_image", "confusions", "worst", "rest", "calibration", "mistakes"), None
    )
    found |= {"unsure": [], "mistakes_in_all": 0, "unseen": unseen(record)}
    found |= dict.fromkeys(("temperature", "surest", "sets"), None)
    given = record.predictions
    if not given:
        return found
    counts = record.confusion()
    many = len(record.classes) > MOST_IN_A_TABLE
    scored = per_class(counts, record.classes)
    open_rows = WORST if len(scored) > MOST_IN_A_TABLE else len(scored)
    unsure = sorted(given, key=lambda p: p.probability)
    shown = told(record, given, by_temperature(record))
    unsure = unsure if shown["calibration"] else []
    return found | {
        **shown,
        **how_sure(record, given),
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


def told(record: Record, given: list[Prediction], by_temperature: bool = False) -> dict[str, Any]:
    """What is shown of any part's answers: the matrix, the calibration, the surest mistakes."""
    counts = record.confusion(given)
    many = len(record.classes) > MOST_IN_A_TABLE
    wrong = sorted((p for p in given if not p.right), key=lambda p: -p.probability)
    sure = None  # logistic regression and neighbours say a class alone, and no loss
    if record.summary.get(f"{record.scored}_loss", 0) is not None:
        says_error = not by_temperature or error_of(record) != record.part
        sure = calibrated(given, by_temperature, says_error)
    return {
        "matrix": None if many else matrix(record, counts),
        "matrix_image": confusion_image(counts) if many else None,
        "calibration": sure,
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


def how_sure(record: Record, given: list[Prediction]) -> dict[str, Any]:
    """What is shown of the reported part alone: how its probabilities were calibrated, and what
    answering only when sure would mean."""
    known = record.certainty
    return {
        "temperature": temperature(record) if known else None,
        "surest": surest(given) if known else None,
        "sets": sets(known, record.part, given) if known else None,
    }


def by_temperature(record: Record) -> bool:
    """Whether the reported part's probabilities were calibrated."""
    return record.certainty.get("temperature_by", NOTHING) != NOTHING


def error_of(record: Record) -> str:
    """The part whose calibration error is said before and after: the reported one, but for a test
    part of which summary.json has none."""
    known = record.certainty
    there = all(isinstance(known.get(n), (int, float)) for n in errors_of(record.part))
    return record.part if there else "val"


def errors_of(part: str) -> tuple[str, str]:
    return f"{part}_calibration_error", f"{part}_calibration_error_calibrated"


def temperature(record: Record) -> str:
    """How the probabilities were calibrated, and the calibration error before and after."""
    known, part = record.certainty, error_of(record)
    counts = record.summary.get("images") or record.images
    images, learned = counts.get(part), counts.get("train", FEWEST)
    by_val = known.get("temperature_by") == "val"
    before, after = (f"{known[name]:.3f}" for name in errors_of(part))
    found_on = "the validation part" if by_val else str(known.get("temperature_by"))
    if not by_val and learned < FEWEST:
        found_on += f" ({learned}: roughly)"
    if known.get("temperature_by") == NOTHING:
        said, errors = f"the network's, {not_calibrated(known['held_out'])}", after
    elif known["temperature"] == 1:
        said = f"those of the network, which was made as sure as it is right on {found_on}"
        if record.summary.get("head") == "both":
            said = (
                "those of the network, the mean of two heads, each of which was made as sure as "
                f"it is right on {found_on}"
            )
        errors = after
    else:
        said = (
            "calibrated: the network's logits are divided by a temperature of "
            f"{known['temperature']:.3g}, found on {found_on}"
        )
        own = by_val and part == "val"
        others = ", each picture's temperature fitted to the others" if own else ""
        errors = f"{before} before and {after} after it{others}"
    rough = f"; of {images:,} pictures that is a rough number" if images and images < ROUGH else ""
    return (
        f"The probabilities are {said}. The {PARTS[part]} part's expected calibration error "
        f"{ERROR} is {errors}{rough}."
    )


def surest(given: list[Prediction]) -> dict[str, Any] | None:
    """The risk-coverage curve, and what answering about ANSWERED of the pictures would mean; None
    where there are few pictures, or none is answered wrongly."""
    if len(given) < FEWEST or all(p.right for p in given):
        return None
    rows = surest_first(given)
    row = min(rows, key=lambda row: abs(row["share"] - ANSWERED))
    if abs(row["share"] - ANSWERED) > ABOUT:
        return {"charts": [risk_by_coverage(rows, None)], "sentence": None}
    chart = risk_by_coverage(rows, row["share"])
    return {"charts": [chart], "sentence": answering(row, rows[-1])}


def answering(row: dict[str, Any], every: dict[str, Any]) -> str:
    """The wrong answers with and without a threshold, in one sentence."""
    limit = threshold_between(row["next"], row["probability"])
    those = f", those of a probability of {limit} or more" if limit else ""
    said = (
        f"Were only the surest {row['answered']:,} of {every['answered']:,} pictures "
        f"({100 * row['share']:.0f} %) answered{those}, {wrong_of(row, 'would be')}; of all, "
        f"{wrong_of(every)}."
    )
    if row["wrong_share"] >= every["wrong_share"]:
        said += " So the mistakes are not among the least sure answers, and it gains nothing."
    return said


def wrong_of(row: dict[str, Any], verb: str | None = None) -> str:
    if not row["wrong"]:
        return f"none {verb or 'is'} wrong"
    verb = verb or ("is" if row["wrong"] == 1 else "are")
    return f"{row['wrong']:,} {verb} wrong ({100 * row['wrong_share']:.1f} %)"


def sets(known: dict[str, Any], part: str, given: list[Prediction]) -> str:
    """What a set of answers is, and how often it held the right one where that is a test."""
    level = known["set_level"]
    if not level:
        return (
            "Sets of answers that hold the right class for 90 % of the pictures would hold every "
            "class: the held-out pictures are too few to leave any out."
        )
    said = (
        f"A set of answers (the classes of a probability of {level:.3g} or more, or else the most "
        "probable one) is meant to hold the right class for 90 % of the pictures"
    )
    if part == "val":  # the level was found on it
        return f"{said}."
    held = sum(p.right or p.label_probability >= level for p in given)
    share = f"{held:,} of {len(given):,} ({100 * held / len(given):.1f} %)"
    return f"{said}; of the {PARTS[part]} part's sets {share} do."


def calibrated(
    predictions: list[Prediction], by_temperature: bool = False, says_error: bool = True
) -> dict[str, Any]:
    """The reliability of some answers, and a sentence to it; without `says_error`, where the same
    part's was said with more care, its calibration error is left out."""
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
        error = f"Expected calibration error {found['error']:.3f} {ERROR}; b" if says_error else "B"
        sentence = (
            f"It is {tends}: {measured} ({low:.3f} to {high:.3f}). {error}ins with few pictures "
            "say little."
        )
    charts = [reliability(found, by_temperature), confidences(found, by_temperature)]
    return {"charts": charts, "sentence": sentence}


def pictured(record: Record, chosen: list[Prediction]) -> list[tuple[Prediction, Thumbnail]]:
    return [(answer, thumbnail(record.pictures, answer.path, record.greys)) for answer in chosen]
