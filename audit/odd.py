"""Odd ones out: pictures unlike every class, by what the blocks make of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certainty.likeness import fit_likeness
from engine.heads import some_of_each

MOST_FITTED = 1_500  # pictures: more tell no more of a class, and take minutes
FENCE = 2.0  # quartile ranges above the upper quartile: EXPERIMENTS.md, 2026-11-26


def far_out(values: np.ndarray, fence: float = FENCE) -> float:
    """The value beyond which one is far out among its like (after Tukey 1977, Exploratory Data
    Analysis, chapter 2)."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high + fence * max(high - low, 1e-9))


def oddness(tokens: Tensor, labels: Tensor) -> Tensor:
    """How unlike every class each picture is (n,), by its class and mean token (n, 2 D): the scores
    of `certainty.likeness`, of fits that left the picture's fold out."""
    chosen = torch.from_numpy(some_of_each(labels.numpy(), MOST_FITTED))
    likeness, by_other_folds = fit_likeness(tokens[chosen], labels[chosen], [0])
    scores = torch.empty(len(labels))
    scores[chosen] = by_other_folds
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    if rest.any():
        scores[rest] = torch.cat([likeness.scores(part) for part in tokens[rest].split(10_000)])
    return scores
