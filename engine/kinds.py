"""Answers of each kind of head to training pictures that it has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from certainty.sure import fit_temperature
from engine.heads import MOST_FITTED, layer_features, solved, together, views_fitted
from engine.ridge import best_scale, fit_ridge
from metrics import standard_error
from model import VisionTransformer
from tokens.cache import TokenLoader

Folds = list[tuple[np.ndarray, np.ndarray]]  # the images to train on, and those held out
KINDS = ("layers", "class", "both")


@dataclass(frozen=True)
class Unseen:
    """Answers to the training pictures by fits that have not seen them, in the loader's order.

    Log-probabilities (n, C) of each kind of head, `labels` (n,), and the `scale` that makes the
    class head's logits as sure as they are right.
    """

    answers: dict[str, Tensor]
    labels: Tensor
    scale: float

    def temperature(self, kind: str) -> float:
        """What a kind's answers are divided by, to be as sure as they are right: each of two heads
        is, but the mean of both is less sure than it is right."""
        return fit_temperature(self.answers[kind], self.labels) if kind == "both" else 1.0

    def losses(self, kind: str) -> Tensor:
        """Nats (n,)."""
        return F.nll_loss(self.answers[kind], self.labels, reduction="none")

    def right(self, kind: str) -> Tensor:
        """By how much each picture (n,) adds to `accuracy`, as their mean."""
        counts = self.labels.bincount().double()
        weight = len(self.labels) / ((counts > 0).sum() * counts[self.labels])
        return (self.answers[kind].argmax(1) == self.labels) * weight

    def accuracy(self, kind: str) -> float:
        """The share that is right, each class counting the same: one that answers the largest of
        unequal classes more often is right more often, and knows no more."""
        return self.right(kind).mean().item()

    @property
    def unequal(self) -> bool:
        return len(set(self.labels.bincount().tolist()) - {0}) > 1


def unseen_answers(
    net: VisionTransformer,
    loader: TokenLoader,
    folds: Folds,
    block: Tensor,
    by_layers: Tensor | None = None,
) -> Unseen:
    """Every kind's answers, by the logits that the trained block gave for the held-out pictures,
    fold by fold, and by heads over layers that are fitted to the same folds; `by_layers`: theirs
    (n, C), where they are known, as log-probabilities."""
    order = torch.from_numpy(np.concatenate([held for _, held in folds]))
    labels = loader.dataset
    logits = torch.empty_like(block, dtype=torch.float32)
    logits[order] = block.float()
    scale = sure_scale(logits, labels)
    by_class = (scale * logits).log_softmax(1)
    if loader.cache.layers is None:  # no block is frozen but the last
        return Unseen({"class": by_class}, labels, scale)
    if by_layers is None:
        by_layers = fold_by_fold(net, loader, folds).log_softmax(1)
    both = torch.logaddexp(by_layers, by_class) - math.log(2)
    return Unseen(dict(zip(KINDS, (by_layers, by_class, both), strict=True)), labels, scale)


def fold_by_fold(net: VisionTransformer, loader: TokenLoader, folds: Folds) -> Tensor:
    """The logits (n, C) of heads over layers for the pictures that a fold held out."""
    if len(loader.dataset) > MOST_FITTED:  # a fit without one picture is as good as one of a fold
        return solved(net, loader).left_out
    features, labels = layer_features(net, loader, views_fitted(loader))
    plain = features if features.ndim == 2 else features[:, 0]
    found = torch.empty(len(labels), net.num_classes)
    for learned, held in folds:
        groups = together(loader.groups[learned])
        ridge = fit_ridge(features[learned], labels[learned], net.num_classes, groups)
        found[held] = ridge(plain[held])
    return found


def sure_scale(logits: Tensor, labels: Tensor) -> float:
    """What logits (n, C) of held-out images are to be multiplied by (the temperature's inverse;
    Guo et al. 2017, arXiv:1706.04599)."""
    classes = logits.shape[1]
    scale, _ = best_scale(logits.double(), labels, torch.full((classes,), 1 / classes))
    return scale


def leads(unseen: Unseen) -> bool:
    """Whether the head over layers leads the trained block by more than two standard errors of the
    difference on the same pictures, each class counting the same, and both together are no
    better."""
    if unseen.accuracy("both") > unseen.accuracy("layers"):
        return False
    lead = unseen.right("layers") - unseen.right("class")
    return lead.mean().item() > 2 * standard_error(lead)
