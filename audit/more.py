"""How many more pictures would help? Accuracy by the number of training pictures, and a power law
through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.heads import some_of_each
from engine.ridge import fit_ridge
from metrics import wilson

SHARES = (0.25, 0.5, 0.75, 1.0)
DRAWS = 3
FEWEST = 3  # pictures of a class in the smallest share
MOST = 1_000  # pictures: more, and each draw takes seconds


@dataclass(frozen=True)
class Size:
    """What so many pictures reach: the mean accuracy of the draws, and a 95 % interval."""

    images: int
    accuracy: float
    low: float
    high: float
    measured: bool = True

    @property
    def row(self) -> dict[str, float | int | bool]:
        return {
            name: getattr(self, name) for name in ("images", "accuracy", "low", "high", "measured")
        }


def by_size(features: Tensor, labels: Tensor, num_classes: int) -> list[Size]:
    """The accuracy of a ridge regression of some shares of the pictures (n, P), for pictures that
    it has not seen: those left out and, one by one, its own. Empty where classes are too small."""
    chosen = torch.from_numpy(some_of_each(labels.numpy(), MOST))
    x, y = features[chosen], labels[chosen]
    if torch.bincount(y, minlength=num_classes).min() * SHARES[0] < FEWEST:
        return []
    found = []
    for share in SHARES:
        scores = [
            _accuracy(x, y, num_classes, share, draw) for draw in range(DRAWS if share < 1 else 1)
        ]
        accuracy, spread = float(np.mean(scores)), 0.0
        if len(scores) > 1:
            spread = 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
        low, high = wilson(accuracy, len(y))
        low, high = min(low, accuracy - spread), max(high, accuracy + spread)
        found.append(Size(round(share * len(y)), accuracy, max(0.0, low), min(1.0, high)))
    return found


def _accuracy(x: Tensor, y: Tensor, num_classes: int, share: float, draw: int) -> float:
    learned = _drawn(y, share, draw)
    ridge = fit_ridge(x[learned], y[learned], num_classes)
    right = ridge.left_out.argmax(1) == y[learned]
    if len(learned) < len(y):
        others = torch.ones(len(y), dtype=torch.bool)
        others[learned] = False
        right = torch.cat([right, ridge(x[others]).argmax(1) == y[others]])
    return right.double().mean().item()


def _drawn(labels: Tensor, share: float, draw: int) -> Tensor:
    """Of each class its share."""
    generator = torch.Generator().manual_seed(draw)
    found = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(own), generator=generator)
        found.append(own[order[: max(2, round(share * len(own)))]])
    return torch.cat(found).sort().values


def twice_as_many(sizes: Sequence[Size]) -> Size | None:
    """What twice the pictures would reach, by the power law of the error a n^-b (Hestness et al.
    2017, arXiv:1712.00409); its interval is that of lines through the measured ones, each drawn
    anew within its own. None where nothing is to be gained, or no line falls."""
    if len(sizes) < 3 or sizes[-1].accuracy >= 1:
        return None
    n = np.log([size.images for size in sizes])
    error = np.array([1 - size.accuracy for size in sizes])
    spread = np.array([(size.high - size.low) / 3.92 for size in sizes])
    generator, target = np.random.default_rng(0), n[-1] + math.log(2)
    # The sizes share their pictures, and so half of what they err by.
    shared = generator.normal(size=(500, 1)) * spread * math.sqrt(0.5)
    own = generator.normal(size=(500, len(n))) * spread * math.sqrt(0.5)
    drawn = np.log(np.clip(error + shared + own, 1e-3, 1))
    slope, offset = np.polyfit(n, np.log(error.clip(1e-3)), 1)
    if slope > -1e-6:
        return None
    lines = np.polynomial.polynomial.polyfit(n, drawn.T, 1)  # 2, draws
    reached = 1 - np.exp(lines[0] + lines[1] * target).clip(0, 1)
    low, high = np.quantile(reached, [0.025, 0.975])
    accuracy = 1 - math.exp(offset + slope * target)
    if accuracy <= sizes[-1].accuracy:
        return None
    images = round(math.exp(target))
    return Size(images, accuracy, min(float(low), accuracy), max(float(high), accuracy), False)


def more_said(sizes: Sequence[Size], more: Size | None) -> str:
    """One sentence, with its doubt."""
    if not sizes:
        return "too few pictures of a class to say how many more would help"
    curve = ", ".join(f"{size.accuracy:.3f} of {size.images:,}" for size in sizes)
    if more is None:
        return f"more pictures: no gain to be seen (accuracy {curve})"
    gain = 100 * (round(more.accuracy, 3) - round(sizes[-1].accuracy, 3))
    may = "may bring" if more.low <= sizes[-1].accuracy else "would bring"
    return (
        f"more pictures: twice as many {may} {gain:+.1f} points, by a power law through {curve} "
        f"(accuracy {more.accuracy:.3f}, {more.low:.3f} to {more.high:.3f})"
    )
