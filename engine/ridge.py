"""Ridge regression in closed form: every strength from one decomposition, and with each the answers
that fits without a picture would give for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.cores import SMALL, one_core
from metrics import standard_error

# By the sum of the squared features: 1e-4, 3e-4 and 1e-3 times the pictures for six layers' class
# and mean tokens, standardised and scaled by 1 / sqrt(D) (EXPERIMENTS.md, 2026-11-26).
STRENGTHS = (8e-6, 2.5e-5, 8e-5)
SCALES = tuple(1.25**k for k in range(-6, 25))  # of an answer, to be a logit: 0.26 to 212
UNTOLD = SCALES[
    16
]  # 9.3, where no picture tells: a tenth of an answer apart is 2.5 times as likely
LEAST_SPREAD = 1e-6  # of a feature: below, it is the same for all pictures
NEVER = 30.0  # nats
ROWS = 10_000  # pictures that are worked on at once
WHOLE = 0.5  # of a picture: of a class of which less is left nothing is known
ALIKE = (
    1.0  # a strength where all features are the same for all pictures, whose sum of squares is 0
)
LEAST_REST = 1e-9  # of 1 - leverage: a picture that decides its own answer alone


@dataclass(frozen=True)
class Ridge:
    """A linear classifier, fitted in closed form: `weight` (C, P) and `bias` (C,) give the logits
    of features (P,) as they come. `left_out` (n, C) are the logits of each training picture by a
    fit without it and its group."""

    weight: Tensor
    bias: Tensor
    strength: float
    left_out: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (m, C) of features (m, P)."""
        return F.linear(features.float(), self.weight, self.bias)


def fit_ridge(
    features: Tensor, labels: Tensor, num_classes: int, groups: Sequence[Tensor] = ()
) -> Ridge:
    """Regress the classes, one-hot, on standardised `features` (n, P); the answers become logits.

    Of several views of each picture (n, V, P), the plain one first, all are learned; a picture is
    left out with all of its own, and answered by the plain one. `groups`: the indices of pictures
    that are left out together, as copies are. The strength
    is the largest whose left-out loss is the lowest but for a standard error of the difference
    (Hastie et al., The Elements of Statistical Learning, section 7.10). An answer z becomes the
    logit s z - log(the class's share), as regression leans to common classes; the left-out answers
    choose s, each class counting the same.
    """
    with one_core(features[..., 0].numel() <= SMALL):
        return _fit(features, labels, num_classes, groups)


def _fit(features: Tensor, labels: Tensor, num_classes: int, groups: Sequence[Tensor]) -> Ridge:
    views = features.shape[1] if features.ndim == 3 else 1
    x = features.reshape(-1, features.shape[-1])  # n V P
    basis = Dual(x) if len(x) <= x.shape[1] else Basis(x)
    y = F.one_hot(labels, num_classes).double()  # n C
    share = y.mean(0)
    wanted, rows = (y - share).repeat_interleave(views, 0), rows_of(groups, len(y), views)
    left = left_of(y, groups)
    known = left[0].gather(1, labels[:, None])[:, 0] > WHOLE
    tried = []
    for strength in STRENGTHS:
        z = y - basis.left_out_errors(wanted, strength * basis.total, rows)[::views]
        z = as_of_all(z, y, left)
        scale, losses = best_scale(z, labels, share, known)
        tried.append((strength, scale, z, losses))
    best = min((losses for *_, losses in tried), key=lambda losses: losses.mean())
    strength, scale, z, _ = [row for row in tried if _as_good(row[-1], best)][-1]
    weight, bias = basis.solution(wanted, strength * basis.total)
    return Ridge(
        weight=(scale * weight).float(),
        bias=(scale * (share + bias) - prior(share)).float(),
        strength=strength,
        left_out=(scale * z - prior(share)).float(),
    )


def left_of(y: Tensor, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """How much of each class (n, C), and how many pictures (n, 1), a fit without each picture and
    its group has, of labels y (n, C), one-hot or probabilities."""
    removed, sizes = y.clone(), torch.ones(len(y), 1, dtype=y.dtype)
    for group in groups:
        removed[group], sizes[group] = y[group].sum(0), float(len(group))
    return y.sum(0) - removed, len(y) - sizes


def as_of_all(z: Tensor, y: Tensor, left: tuple[Tensor, Tensor]) -> Tensor:
    """Left-out answers z (n, C) of fits to labels y (n, C), of which so much is `left` to each, as
    they would be if the classes' shares were in each fit those of all pictures.

    The fit without a picture has one less of its class, and its intercept is that share: it leans
    away from the right answer. Corrected by the logarithm of the fit's own shares it would lean
    towards it: which class has one less tells the label, and of noise all answers were right. What
    speaks for a class is a sum over its pictures, whose spread of noise grows by their root: so
    much wider that of a class with fewer is made, else noise was right less often than by chance.
    """
    rest, pictures = left
    spread = torch.where(rest > WHOLE, y.sum(0) / rest.clamp(min=WHOLE), 1.0).sqrt()
    return spread * (z - rest / pictures.clamp(min=1)) + y.mean(0)


def rows_of(groups: Sequence[Tensor], pictures: int, views: int) -> Sequence[Tensor]:
    """The rows that are left out together, of groups of pictures that have so many rows each."""
    if views == 1:
        return groups
    alone = torch.ones(pictures, dtype=torch.bool)
    for group in groups:
        alone[group] = False
    every = [*groups, *alone.nonzero()]
    return [(views * group[:, None] + torch.arange(views)).flatten() for group in every]


def standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, P) by their mean and spread, and these; one that is the same for all is 0."""
    mean, spread = features.mean(0), features.std(0, correction=0)
    spread = torch.where(spread > LEAST_SPREAD, spread, math.inf)
    return (features - mean) / spread, mean, spread


class Dual:
    """Fits to features x (n, P), standardised and so centred, of more features than pictures.

    With an intercept, which is the mean, and a strength k the errors of the fit are (1 - H) y =
    (k G - 1 1^T / n) y, G = (x x^T + k)^-1: an inverse a strength by Cholesky's decomposition,
    quicker than eigenvectors for all (600 rows 0.3 and 0.5 s of a core, 1,600 1.9 and 3.3).
    """

    def __init__(self, features: Tensor) -> None:
        self.x, self.mean, self.spread = standardised(features.double())
        self.K = self.x @ self.x.T
        self.total = float(self.K.trace())

    def left_out_errors(self, y: Tensor, k: float, groups: Sequence[Tensor]) -> Tensor:
        """y - the answers of the fits without each picture (n, C), for centred targets: the errors
        of the one fit by 1 - H, of a group by its block of 1 - H (PRESS; Allen 1974)."""
        rest = torch.cholesky_inverse(self._factor(k)).mul_(k or ALIKE).sub_(1 / len(y))  # 1 - H
        error = rest @ y
        found = error / rest.diagonal().clamp(min=LEAST_REST)[:, None]
        for size in {len(group) for group in groups}:
            some = torch.stack([group for group in groups if len(group) == size])  # m size
            blocks = rest[some[:, :, None], some[:, None, :]]
            found[some] = torch.linalg.lstsq(blocks, error[some]).solution
        return found

    def solution(self, y: Tensor, k: float) -> tuple[Tensor, Tensor]:
        """The weight (C, P) and bias (C,) for features as they come, but for the targets' mean."""
        weight = (self.x.T @ torch.cholesky_solve(y, self._factor(k))).T / self.spread
        return weight, -weight @ self.mean

    def _factor(self, k: float) -> Tensor:
        shifted = self.K.clone()
        shifted.diagonal().add_(k or ALIKE)
        return torch.linalg.cholesky(shifted)


class Basis:
    """The features x (n, P), standardised and so centred, as x = A V^T with orthonormal V.

    With an intercept, which is the mean, and a strength k, the fitted values are H y,
    H = 1 1^T / n + A (S + k)^-1 A^T, where S = A^T A is diagonal. Features that are not `whole`,
    but directions of very many pictures' standardised ones, keep their spreads, and are worked on
    in float32: half of the memory.
    """

    def __init__(self, features: Tensor, whole: bool = True) -> None:
        if whole:
            x, self.mean, self.spread = standardised(features.double())
        else:
            self.mean, self.spread = features.mean(0), torch.ones_like(features[0])
            x = features - self.mean
        dual = len(x) <= x.shape[1]  # the smaller of the two products is decomposed
        S, vectors = torch.linalg.eigh((x @ x.T if dual else x.T @ x).double())
        kept = 1e-12 * S.max() < S
        self.S, vectors = S[kept], vectors[:, kept].to(x.dtype)
        self.total = float(self.S.sum())
        root = self.S.sqrt().to(x.dtype)
        self.A = vectors * root if dual else x @ vectors  # n r
        self.V = x.T @ vectors / root if dual else vectors  # P r

    def left_out_errors(self, y: Tensor, k: float, groups: Sequence[Tensor]) -> Tensor:
        """y - the answers of the fits without each picture (n, C), for centred targets: the errors
        of the one fit by 1 - H, of a group by its block of 1 - H (PRESS; Allen 1974)."""
        error, n = y - self._fitted(y, k), len(y)
        found = error / (1 - 1 / n - self._leverage(k)).clamp(min=LEAST_REST)[:, None]
        for group in groups:
            own = torch.eye(len(group), dtype=y.dtype) - 1 / n
            rows = self.A[group].double()
            own -= rows / (self.S + k) @ rows.T
            found[group] = torch.linalg.lstsq(own, error[group]).solution
        return found

    def _fitted(self, y: Tensor, k: float) -> Tensor:
        part = (self.A.T @ y.to(self.A.dtype)).double() / (self.S + k)[:, None]
        return (self.A @ part.to(self.A.dtype)).double()

    def _leverage(self, k: float) -> Tensor:
        """How much each picture's target counts in its own answer (n,)."""
        return torch.cat([rows.double() ** 2 @ (1 / (self.S + k)) for rows in self.A.split(ROWS)])

    def solution(self, y: Tensor, k: float) -> tuple[Tensor, Tensor]:
        """The weight (C, P) and bias (C,) for features as they come, but for the targets' mean."""
        weight = (self.V @ ((self.A.T @ y) / (self.S + k)[:, None])).T / self.spread
        return weight, -weight @ self.mean


def _as_good(losses: Tensor, best: Tensor) -> bool:
    behind = losses - best
    return behind.mean().item() <= standard_error(behind)


def prior(share: Tensor) -> Tensor:
    """The log of each class's share by that of equal classes; a class without pictures, of which
    nothing is known, gets so much that it is never answered."""
    return torch.where(share > 0, (share * share.shape[-1]).log(), NEVER)


def best_scale(
    z: Tensor, labels: Tensor, share: Tensor, known: Tensor | None = None
) -> tuple[float, Tensor]:
    """The scale of the answers z (n, C) with the lowest cross-entropy, each class counting the
    same, and the pictures' losses with it. `share` (C,) of the classes.

    Where all are right, as a few pictures often are, it has no minimum: new ones that are wrong
    would be as sure. So the true class has a share of (m + 1) / (m + 2) (Platt 1999, section 2.2).
    Only the m pictures that are `known` (n,) count: a fit without the one picture of a class can't
    answer it, whatever the scale; where there is no other, nothing tells one.
    """
    if known is not None:
        z, labels = z[known], labels[known]
    if not len(z):
        return UNTOLD, z.new_zeros(1)
    classes, lean = len(share), prior(share)
    weights = 1 / (share * classes)[labels]
    soft = classes / max(1, classes - 1) / (len(z) + 2)
    with one_core(len(z) <= SMALL):  # 0.02 s of 16 times 200 answers, not 1.6, on a busy machine
        tried = [
            (F.cross_entropy(s * z - lean, labels, reduction="none", label_smoothing=soft), s)
            for s in SCALES
        ]
    losses, scale = min(((loss * weights, s) for loss, s in tried), key=lambda one: one[0].mean())
    return scale, losses
