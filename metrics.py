"""How good a network is on a part of the data, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import autocast, progress_bar

Z95 = 1.959964  # the normal distribution's 97.5 % point: intervals hold 95 %


@torch.no_grad()  # FSDP keeps its first forward's buffers: inference mode's can't be trained on
def predict(
    net: nn.Module,
    loader: Iterable[tuple[Any, Tensor]],
    device: torch.device,
    bf16: bool = False,
    desc: str | None = "evaluating",
) -> tuple[Tensor, Tensor]:
    """A network's logits (n, C) and the labels (n,) of a loader, in its order.

    Both are on the CPU, float32. The network is in eval mode meanwhile: no dropout. With a `desc`
    of None there is no bar.
    """
    was_training = net.training
    net.eval()
    logits, labels = [], []
    for inputs, targets in progress_bar(loader, desc, unit="batch", disable=desc is None or None):
        with autocast(device, bf16):
            logits.append(net(inputs.to(device, non_blocking=True)).float().cpu())  # B C
        labels.append(targets)
    net.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy (the mean of the classes' recalls) of logits (n, C).

    The loss is the plain cross-entropy, in nats, without label smoothing. Classes without images
    don't count in the balanced accuracy.
    """
    right = logits.argmax(1) == labels
    images = labels.bincount(minlength=logits.shape[1]).double()
    recalls = right.double().new_zeros(len(images)).index_add_(0, labels, right.double()) / images
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": round(int(right.sum()) / len(labels), 7),
        "balanced_accuracy": round(recalls[images > 0].mean().item(), 7),
    }


def evaluate(
    net: nn.Module,
    loader: Iterable[tuple[Any, Tensor]],
    device: torch.device,
    bf16: bool = False,
    desc: str = "evaluating",
) -> dict[str, float]:
    """A network's `scores` over a loader."""
    return scores(*predict(net, loader, device, bf16, desc))


def standard_error(values: Tensor) -> float:
    """That of the mean of values (n,): of differences on the same pictures, say."""
    return values.std(correction=0).item() / math.sqrt(len(values))


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n images: Wilson's, which holds for few images and near 1.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    shrink = 1 + Z95**2 / n
    centre = (accuracy + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n * n))
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)


def balanced_interval(right: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The 95 % interval of the mean of the classes' recalls, each with its number of images: of
    their own intervals (Wilson's), put together as Zou and Donner do.

    Zou & Donner 2008, https://doi.org/10.1002/sim.3095
    """
    mean = sum(recall for recall, _ in right) / len(right)
    ends = [wilson(recall, n) for recall, n in right]
    below = math.hypot(*(recall - low for (recall, _), (low, _) in zip(right, ends, strict=True)))
    above = math.hypot(*(high - recall for (recall, _), (_, high) in zip(right, ends, strict=True)))
    low, high = mean - below / len(right), mean + above / len(right)
    return round(max(0.0, low), 4), round(min(1.0, high), 4)


def paired_chance(only_first: int, only_second: int) -> float:
    """How likely so uneven a share is by chance, where two networks differ on some images: so many
    are right by the first alone, so many by the second alone.

    McNemar's exact test, two-sided: the images on which they differ are fair coins.
    McNemar 1947, https://doi.org/10.1007/BF02295996
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # slow to import

    differ = only_first + only_second
    return float(binomtest(only_first, differ).pvalue) if differ else 1.0


def chance_of_sum(values: np.ndarray) -> float:
    """How likely so large a sum of values (n,) is by chance, whose signs are fair coins, two-sided.

    Equal values are one binomial count: all counts are tried, or, where those are too many, drawn
    (the normal distribution says half of it for four large values beside many small ones).
    """
    from scipy.stats import binom  # slow to import

    sizes, each = np.unique(np.abs(values), return_counts=True)
    least = abs(values.sum()) * (1 - 1e-9)  # equal sums in another order are as large
    if np.log1p(each).sum() > math.log(COUNTS):
        rng, drawn = np.random.default_rng(0), np.zeros(DRAWS)
        for size, n in zip(sizes, each, strict=True):
            drawn += size * (2.0 * rng.binomial(n, 0.5, DRAWS) - n)
        return (int((np.abs(drawn) >= least).sum()) + 1) / (DRAWS + 1)
    sums, shares = np.zeros(1), np.ones(1)
    for size, n in zip(sizes, each.tolist(), strict=True):
        heads = np.arange(n + 1)
        sums = np.add.outer(sums, size * (2.0 * heads - n)).ravel()
        shares = np.multiply.outer(shares, binom.pmf(heads, n, 0.5)).ravel()
    return min(1.0, float(shares[np.abs(sums) >= least].sum()))


COUNTS = 1_000_000  # at most: 0.1 s
DRAWS = 100_000  # p is known to 0.0007 where it is 0.05


def said_chance(p: float) -> str:
    """A probability as a sentence has it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def confusion(
    labels: Iterable[str], predicted: Iterable[str], classes: Sequence[str]
) -> np.ndarray:
    """The images of each class (rows) by what they were taken for (columns), (C, C)."""
    index = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for label, answer in zip(labels, predicted, strict=True):
        counts[index[label], index[answer]] += 1
    return counts


def shares(counts: np.ndarray) -> np.ndarray:
    """A confusion matrix with each class's row divided by its images; rows without any are 0."""
    return counts / counts.sum(1, keepdims=True).clip(min=1)


def said(accuracy: float, n: int) -> str:
    """An accuracy with its interval, as every result is said: 0.9533 (95 %: 0.931 to 0.969)."""
    low, high = wilson(accuracy, n)
    return f"{accuracy:.4f} (95 %: {low:.3f} to {high:.3f}, {n} images)"


def score_lines(summary: dict[str, Any]) -> list[str]:
    """What a summary.json says of the held-out parts, a line each."""
    return [
        f"{part} accuracy {said(summary[f'{part}_accuracy'], summary['images'][part])}, "
        f"balanced {summary[f'{part}_balanced_accuracy']:.4f}"
        for part in ("val", "test")
        if summary[f"{part}_accuracy"] is not None
    ]
