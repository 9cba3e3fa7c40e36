"""Answers on paper: as rows of a CSV file or JSON lines, and what goes with them in words."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from classifier import MIN_CONFIDENCE, UNLIKE, Answer, Classifier, Unreadable
from system.filenames import shown, text_of

LABELLED = ("label", "probability")
NAMED = 6  # classes in a title, at most
USUAL = object()  # the classifier's own threshold, which nobody asked for
BETWEEN = " | "  # classes in one cell


class Row(NamedTuple):
    """One picture's answer. `said` is the class, `unsure` or `unlike`, `label` the class that is
    most probable, `top` the most probable ones; of one that can't be read only `problem` is set."""

    path: str
    truth: str | None
    said: str | None = None
    label: str | None = None
    probability: float | None = None
    unlike: float | None = None
    could_be: tuple[str, ...] = ()
    top: tuple[tuple[str, float], ...] = ()
    problem: str | None = None


def row_of(path: str, truth: str | None, answer: Answer | Unreadable, top: int) -> Row:
    """The row of an answer, numbers rounded as in a run's predictions.csv."""
    if isinstance(answer, Unreadable):
        reason = "".join(c if c.isprintable() else " " for c in shown(answer.reason))
        return Row(path, truth, problem=reason)
    order = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    return Row(
        path,
        truth,
        answer.said,
        answer.label,
        round(answer.probability, 6),
        None if answer.unlike is None else round(answer.unlike, 6),
        answer.could_be,
        tuple((label, round(sure, 6)) for label, sure in order[:top]),
    )


def columns(top: int, truth: bool) -> list[str]:
    """The names of a CSV file's columns, with the `top` most probable classes."""
    more = [f"{kind}_{i + 1}" for i in range(1, top) for kind in LABELLED]
    known = ["path", *(["truth"] if truth else []), "answer", "label", "probability", "unlike"]
    return [*known, "could_be", *more, "problem"]


def record(row: Row, truth: bool, cells: bool) -> dict[str, Any]:
    """A row by its columns: for JSON, or as the `cells` of a CSV file."""
    found: dict[str, Any] = {"path": text_of(row.path)}
    if truth:
        found["truth"] = row.truth
    found |= {"answer": row.said, "label": row.label, "probability": row.probability}
    found["unlike"] = row.unlike
    if cells:
        found["could_be"] = BETWEEN.join(row.could_be)
        for i, values in enumerate(row.top[1:], 2):
            found |= {f"{k}_{i}": v for k, v in zip(LABELLED, values, strict=True)}
    else:
        found["could_be"] = list(row.could_be)
        found["top"] = [dict(zip(LABELLED, values, strict=True)) for values in row.top]
    return found | {"problem": row.problem}


def as_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


# -------------------------------------------------------------------------------------- thresholds


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """--min-confidence, and --unlike: USUAL where it isn't given, None where it is off."""
    parser.add_argument(
        "--min-confidence",
        type=share,
        default=MIN_CONFIDENCE,
        metavar="P",
        help=f"less probable answers are unsure ({MIN_CONFIDENCE})",
    )
    parser.add_argument(
        "--unlike",
        type=lambda text: None if text == "off" else share(text),
        default=USUAL,
        metavar="P",
        help="a picture with so many known ones nearer to the training pictures, or more, is "
        f"unlike; or off ({UNLIKE})",
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 1")
    return value


def thresholds(classifier: Classifier, asked_unlike: bool) -> list[str]:
    """What the thresholds are, and would have meant for the run's held-out pictures."""
    certainty = classifier.certainty
    lines = []
    if certainty is None:
        lines.append("these weights were not asked how sure they are: probabilities as they come")
    if certainty is None or certainty.likeness is None:
        so = "--unlike has no effect" if asked_unlike else "no picture is said to be unlike them"
        lines.append(f"these weights don't know what their training pictures were like: {so}")
    if certainty is not None and len(certainty.held_out):
        far = None if certainty.likeness is None else classifier.unlike
        meant = certainty.meant(classifier.min_confidence, far)
        limits = f"unsure below {classifier.min_confidence:g}"
        if certainty.likeness is not None:
            limits += ", unlike never said" if far is None else f", unlike from {far:g}"
        lines.append(f"{limits}: {meant}")
    return lines


# ------------------------------------------------------------------------------------- the classes


def title(classes: list[str]) -> str:
    """A question with the classes, where they are few."""
    said = listed(classes, "or")
    return f"{said[:1].upper()}{said[1:]}?"


def listed(classes: list[str], word: str) -> str:
    """`a, b or c`; of many their number."""
    if len(classes) > NAMED:
        return f"which of {len(classes)} classes" if word == "or" else f"{len(classes)} classes"
    return f" {word} ".join([", ".join(classes[:-1]), classes[-1]]) if classes[1:] else classes[0]
