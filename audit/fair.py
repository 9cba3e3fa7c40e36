"""Is the split fair? A classifier that is to tell the trained part from a held-out one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.heads import some_of_each
from engine.ridge import STRENGTHS, Basis

SURE = 0.01  # what happens to a fair split less often is no chance
SHUFFLES = 200
FOLDS = 10
MOST = 2_000  # pictures: more tell no more, and a fold of them takes seconds


@dataclass(frozen=True)
class Fairness:
    """How well the pictures of a part are told from the trained ones: the area under the ROC curve,
    the standard error that it has where the parts are drawn by lot, how probable as much is then,
    and which pictures were asked (m,), and how surely each is of the part (m,)."""

    part: str
    auc: float
    error: float
    chance: float
    asked: np.ndarray
    gives_away: np.ndarray

    @property
    def fair(self) -> bool:
        return self.chance >= SURE

    def __str__(self) -> str:
        told = f"AUC {self.auc:.3f}; 0.5 ± {1.96 * self.error:.3f} where parts are drawn by lot"
        if self.fair:
            return f"{self.part} can't be told from train ({told})"
        return (
            f"{self.part} can be told from train ({told}): the two were not drawn from the same "
            "pictures, so a score on one says little of the other"
        )


def fairness(features: Tensor, held_out: np.ndarray, part: str) -> Fairness:
    """Of pictures by their features (n, P), those `held_out` (n,), bool, against the others, each
    answered by a ridge regression without its fold; beside them the same pictures, dealt out by
    lot within each fold.

    Folds have both parts in their shares: left out alone, a picture would change the mean of the
    others, which tells the parts apart where nothing else does, or hides them.
    """
    generator = np.random.default_rng(0)
    asked = np.sort(some_of_each(held_out.astype(int), MOST))
    here = held_out[asked]
    turn = np.empty(len(here), dtype=int)
    for side in (False, True):
        own = generator.permutation(np.flatnonzero(here == side))
        turn[own] = np.arange(len(own)) % FOLDS
    folds = [np.flatnonzero(turn == fold) for fold in range(FOLDS)]
    dealt = np.repeat(here[:, None], SHUFFLES + 1, 1)
    for fold in folds:
        dealt[fold, 1:] = generator.permuted(dealt[fold, 1:], axis=0)
    basis = Basis(features[torch.from_numpy(asked)])
    y = torch.from_numpy(dealt).double()
    groups = [torch.from_numpy(fold) for fold in folds if len(fold)]
    centred = y - y.mean(0)
    z = centred - basis.left_out_errors(centred, STRENGTHS[-1] * basis.total, groups)
    found, *by_lot = (_auc(z[:, i].numpy(), dealt[:, i]) for i in range(SHUFFLES + 1))
    centre, error = float(np.mean(by_lot)), max(float(np.std(by_lot)), 1e-6)
    chance = 0.5 * math.erfc((found - centre) / error / math.sqrt(2))
    return Fairness(part, found, error, chance, asked, z[:, 0].numpy())


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))
