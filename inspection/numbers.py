"""The numbers of a page: classes, calibration, McNemar, and the settings tried."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from certainty.sure import BINS, binned_error, risk_coverage
from inspection.record import Prediction
from metrics import paired_chance, wilson


def per_class(counts: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class that occurs, the lowest F1 first.

    Precision is None where a class was never predicted, recall where it has no images.
    """
    rows = []
    for i, name in enumerate(classes):
        hits, support, predicted = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
        if not support + predicted:
            continue
        rows.append(
            {
                "name": name,
                "precision": hits / predicted if predicted else None,
                "recall": hits / support if support else None,
                "interval": wilson(hits / support, support) if support else None,
                "f1": 2 * hits / (support + predicted),
                "support": support,
            }
        )
    return sorted(rows, key=lambda row: (row["f1"], row["name"]))


def frequent_confusions(
    counts: np.ndarray, classes: list[str], most: int = 15
) -> list[dict[str, Any]]:
    """The pairs of classes that are taken for one another most often."""
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(i), len(counts)) for i in order]
    return [
        {
            "label": classes[a],
            "predicted": classes[b],
            "count": int(wrong[a, b]),
            "share": wrong[a, b] / counts[a].sum(),
        }
        for a, b in pairs
        if wrong[a, b]
    ]


def calibration(predictions: list[Prediction]) -> dict[str, Any]:
    """Reliability: how often the network is right where it is so and so sure, in BINS equal bins,
    and the expected calibration error, the mean gap weighted by the images.

    Guo et al. 2017, arXiv:1706.04599, equations 2, 3 and 5. A bin is (low, high], as there.
    """
    sure = np.array([p.probability for p in predictions])
    right = np.array([p.right for p in predictions], dtype=float)
    place = (np.ceil(sure * BINS).astype(int) - 1).clip(0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    there = images.clip(min=1)
    accuracy = np.bincount(place, right, BINS) / there
    confidence = np.bincount(place, sure, BINS) / there
    return {
        "images": images,
        "right": np.bincount(place, right, BINS).astype(int),
        "accuracy": accuracy,
        "confidence": confidence,
        "error": binned_error(torch.from_numpy(sure), torch.from_numpy(right)),
        "mean_confidence": float(sure.mean()),
        "mean_accuracy": float(right.mean()),
    }


def surest_first(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """What answering only the surest pictures would mean: a row for each probability that occurs,
    the highest first, with how many are answered from there on, and how many of those wrongly.

    Pictures of one probability stand or fall together.
    """
    given = sorted(predictions, key=lambda p: -p.probability)
    sure = torch.tensor([p.probability for p in given], dtype=torch.double)
    shares, wrong = risk_coverage(sure, torch.tensor([p.right for p in given]))
    lower = [*sure[1:].tolist(), -1.0]
    return [
        {
            "probability": given[i].probability,
            "next": lower[i],
            "answered": i + 1,
            "wrong": round(wrong[i].item() * (i + 1)),
            "share": shares[i].item(),
            "wrong_share": wrong[i].item(),
        }
        for i in range(len(given))
        if lower[i] < given[i].probability
    ]


def threshold_between(below: float, above: float) -> str | None:
    """The shortest number that is more than `below` and not more than `above`; None where six
    digits can't tell them apart."""
    for digits in range(2, 7):
        rounded = math.floor(above * 10**digits + 1e-9) / 10**digits
        if below < rounded <= above:
            return f"{rounded:.{digits}f}"
    return None


def mcnemar(
    first: Mapping[Any, Prediction], second: Mapping[Any, Prediction]
) -> tuple[int, int, int, float]:
    """Two networks on the images (keys) that both have: their number, those that only the first
    gets right, those that only the second does, and how likely so uneven a share is by chance.

    McNemar's exact test.
    """
    both = first.keys() & second.keys()
    only_first = sum(first[key].right and not second[key].right for key in both)
    only_second = sum(second[key].right and not first[key].right for key in both)
    return len(both), only_first, only_second, paired_chance(only_first, only_second)


def smoothed_floor(smoothing: float, classes: int) -> float:
    """The lowest cross-entropy (nats) with labels smoothed so: that of the smoothed label with
    itself, which a network reaches by answering with just these probabilities."""
    other = smoothing / classes
    own = 1 - smoothing + other
    spread = (classes - 1) * other * math.log(other) if other else 0.0
    return -(own * math.log(own) + spread)


def settings_tried(tried: list[dict[str, Any]]) -> dict[str, Any] | None:
    """search.csv as groups: for each trained part, optimiser and decay its learning rates, with the
    accuracy and the loss of the last round that each took part in."""
    if not tried:
        return None
    last = {(side(row), row["lr"]): row for row in tried}  # later rounds come later
    groups: dict[str, list[dict[str, Any]]] = {}
    for (name, _), row in sorted(last.items(), key=lambda item: item[0][1]):
        groups.setdefault(name, []).append({**row, "rate": f"{row['lr']:.2g}"})
    tries = Counter(row["steps"] for row in tried)
    rounds = ", ".join(f"{n} for {steps:g} steps" for steps, n in sorted(tries.items()))
    compared = ", and those of the longest are compared" if len(tries) > 1 else ""
    sentence = (
        f"Settings tried inside the training part ({rounds}): accuracy and loss of each one's last "
        f"round{compared}. The held-out parts were not looked at."
    )
    names = dict.fromkeys(side(row) for row in tried)
    return {"groups": [{"name": n, "rows": groups[n]} for n in names], "sentence": sentence}


def side(row: dict[str, Any]) -> str:
    trains = {"block": "last block and head", "head": "norm and head"}
    part = trains.get(row["part"], row["part"])
    return f"{part}, {row['optim']}, decay {row['weight_decay']:g}"


def what_trains(blocks: object, head: object) -> str:
    """What trained in mode finetune, of so many blocks (None: nobody knows) below this kind of
    head."""
    if head == "layers":
        return "a head over layers, solved for; no block trains"
    beside = ", beside a head over layers" if head == "both" else ""
    if blocks == 0:
        return f"norm and head{beside}"
    some = {1: "the last block", None: "the last blocks"}.get(blocks, f"the last {blocks} blocks")  # type: ignore[call-overload]
    return f"{some}, norm and head{beside}"
