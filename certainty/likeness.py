"""How like the training pictures a picture is, by what the blocks make of it.

Its features, the class and mean tokens of several blocks, each of length 1, are whitened by one
covariance within the classes, of which half is shrunk to a multiple of the identity, as some
hundred pictures don't tell thousands by thousands of numbers. There two scores are taken:

    far       the squared distance to the nearest class's mean (Lee et al. 2018, arXiv:1807.03888)
    askew     1 - the mean cosine with the five training pictures of the nearest direction

Pictures of another kind are far; those of the same kind but of no class point elsewhere. Either is
measured in the spread that it has for training pictures which a fold held out; the sum counts.
EXPERIMENTS.md, 2026-11-26, says what was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHRUNK = 0.5
DIRECTIONS = 128  # of the covariance, at most: 2 MB with a ViT-S, 4 with a B; 256 tell no more
NEIGHBOURS = 5
FOLDS = 5
LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Sizes:
    """Of the arrays that a Likeness holds: blocks, features, directions, classes, training pictures
    and known ones."""

    blocks: int
    P: int
    Q: int
    C: int
    examples: int
    known: int


class Likeness(nn.Module):
    """Features (m, P) to the share (m,) of known pictures that are more like the training ones.

    `depths` are the numbers of the blocks whose input the features are the class and mean tokens
    of, `known` (n,) the sorted scores of pictures that are of these classes and were not learned.
    `basis` (Q, P), of orthonormal rows, spans the covariance's largest directions and the class
    means; `inverse` (Q,) and `ground` whiten what lies in it and the rest. `means` (C, Q) and
    `examples` (n, Q), the training pictures over their length, are whitened.
    """

    depths: Tensor
    centre: Tensor
    spread: Tensor
    basis: Tensor
    inverse: Tensor
    ground: Tensor
    means: Tensor
    examples: Tensor
    usual: Tensor
    known: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        P, Q = sizes.P, sizes.Q
        self.register_buffer("depths", torch.zeros(sizes.blocks, dtype=torch.long))
        self.register_buffer("centre", torch.zeros(P))
        self.register_buffer("spread", torch.ones(P))
        self.register_buffer("basis", torch.zeros(Q, P, dtype=torch.float16))
        self.register_buffer("inverse", torch.ones(Q))
        self.register_buffer("ground", torch.ones(()))
        self.register_buffer("means", torch.zeros(sizes.C, Q))
        self.register_buffer("examples", torch.zeros(sizes.examples, Q, dtype=torch.float16))
        self.register_buffer("usual", torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # means, deviations
        self.register_buffer("known", torch.zeros(sizes.known))

    def forward(self, features: Tensor) -> Tensor:
        return share_below(self.known, self.scores(features))

    def scores(self, features: Tensor) -> Tensor:
        """The sum (m,) of both scores, in their usual spreads."""
        return ((self.both(features) - self.usual[0]) / self.usual[1]).sum(1)

    def both(self, features: Tensor) -> Tensor:
        """`far` and `askew` (m, 2) of features (m, P)."""
        z, rest = self.whitened(features)
        far = ((z**2).sum(1, keepdim=True) + (self.means**2).sum(1) - 2 * z @ self.means.T).min(1)
        cosines = _over_length(z, rest) @ self.examples.float().T  # m n
        near = cosines.topk(min(NEIGHBOURS, cosines.shape[1]), 1).values.mean(1)
        return torch.stack([far.values + rest, 1 - near], 1)

    def whitened(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened coordinates (m, Q) in the basis, and the squared length (m,) of the rest."""
        x = (each_of_length_one(features, len(self.depths)) - self.centre) / self.spread
        p = x @ self.basis.float().T
        rest = ((x**2).sum(1) - (p**2).sum(1)).clamp(min=0) / self.ground
        return p * self.inverse, rest


def each_of_length_one(features: Tensor, depths: int) -> Tensor:
    """Features (m, P) with every token, two a block, brought to the length 1."""
    return F.normalize(features.float().unflatten(1, (2 * depths, -1)), dim=-1).flatten(1)


def share_below(known: Tensor, found: Tensor) -> Tensor:
    """Of the sorted values `known`, the share that is smaller than each of `found` (m,)."""
    return torch.searchsorted(known, found).double().div(len(known)).float()


def fit_likeness(
    features: Tensor, labels: Tensor, depths: list[int], groups: np.ndarray | None = None
) -> tuple[Likeness, Tensor]:
    """Of training features (n, P), the class and mean tokens that enter the blocks `depths`, and
    their labels (n,); nothing is `known` yet. Also the scores (n,) of the training pictures, each
    by a fit of other folds, which part none of the `groups` (n,)."""
    both = torch.empty(len(features), 2)
    for fit, out in _folds(labels, groups):
        both[out] = _fitted(features[fit], labels[fit], depths).both(features[out])
    found = _fitted(features, labels, depths)
    found.usual = torch.stack([both.mean(0), both.std(0).clamp(min=LEAST_SPREAD)])
    return found, ((both - found.usual[0]) / found.usual[1]).sum(1)


def can_be_measured(labels: Tensor, groups: np.ndarray | None) -> bool:
    """Whether `fit_likeness` has enough pictures in each of its fits: groups may be so large that
    hardly one is left beside them."""
    fits = [labels[fit] for fit, _ in _folds(labels, groups)]
    return all(len(fit) - len(fit.unique()) >= 2 for fit in fits)


def _folds(labels: Tensor, groups: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit and held-out rows; each class is dealt out in turn, and a group follows its first."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), dtype=int)
    for label in labels.unique().tolist():
        own = order[labels.numpy()[order] == label]
        turn[own] = np.arange(len(own)) % FOLDS
    if groups is not None:
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        turn = turn[first[group]]
    for fold in range(FOLDS):
        fit, out = np.flatnonzero(turn != fold), np.flatnonzero(turn == fold)
        if len(out):
            yield fit, out


def _fitted(features: Tensor, labels: Tensor, depths: list[int]) -> Likeness:
    x = each_of_length_one(features, len(depths)).double()
    centre, spread = x.mean(0), x.std(0).clamp(min=LEAST_SPREAD)
    x = (x - centre) / spread
    present = labels.unique()
    means = torch.stack([x[labels == label].mean(0) for label in present])  # C P
    within = x - means[torch.searchsorted(present, labels)]
    freedom = max(1, len(x) - len(present))
    values, vectors = torch.linalg.eigh(within @ within.T / freedom)  # n: fewer than P as a rule
    kept = values.argsort(descending=True)[:DIRECTIONS]
    kept = kept[values[kept] > 1e-9 * values.max()]
    total, large = (within**2).sum() / freedom, values[kept]
    directions = (within.T @ vectors[:, kept] / (large * freedom).sqrt()).T  # R P
    # What is left of the covariance's trace is spread over all directions, as what is shrunk is.
    ground = (SHRUNK * total + (1 - SHRUNK) * (total - large.sum())) / x.shape[1]
    ground = ground.clamp(min=1e-12)
    between = means - means @ directions.T @ directions
    basis = torch.cat([directions, _orthonormal(between, 1e-6 * means.norm().item())])  # Q P
    extra = torch.zeros(len(basis) - len(large), dtype=torch.double)
    inverse = (ground + (1 - SHRUNK) * torch.cat([large, extra])).rsqrt()
    found = Likeness(Sizes(len(depths), x.shape[1], len(basis), len(present), len(x), 0))
    found.depths, found.centre, found.spread = torch.tensor(depths), centre.float(), spread.float()
    found.basis, found.inverse, found.ground = basis.half(), inverse.float(), ground.float()
    found.means = (means @ basis.T * inverse).float()
    found.examples = _over_length(*found.whitened(features)).half()
    return found


def _over_length(z: Tensor, rest: Tensor) -> Tensor:
    """Whitened coordinates (m, Q) over the length of the whole vectors, of which `rest` (m,) is the
    squared part outside the basis."""
    return z / ((z**2).sum(1) + rest).sqrt().clamp(min=1e-9)[:, None]


def _orthonormal(rows: Tensor, least: float) -> Tensor:
    """An orthonormal basis of the rows' span, but for what is no longer than `least`."""
    _, S, V = torch.linalg.svd(rows, full_matrices=False)
    return V[least < S]
