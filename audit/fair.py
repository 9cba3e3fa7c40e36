"""Is the split fair? A classifier that is to tell the trained part from a held-out one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.ridge import STRENGTHS, Basis

SURE = 0.01  # what happens to a fair split less often is no chance
SHUFFLES = 200


@dataclass(frozen=True)
class Fairness:
    """How well the pictures of a part are told from the trained ones: the area under the ROC curve,
    the standard error that it has where the parts are drawn by lot, how probable as much is then,
    and `gives_away` (n,), how surely each picture is of the part."""

    part: str
    auc: float
    error: float
    chance: float
    gives_away: np.ndarray

    @property
    def fair(self) -> bool:
        return self.chance >= SURE

    def __str__(self) -> str:
        told = f"AUC {self.auc:.3f} ± {1.96 * self.error:.3f}, and a fair split has 0.5"
        if self.fair:
            return f"{self.part} can't be told from train ({told})"
        return (
            f"{self.part} can be told from train ({told}): the two were not drawn from the same "
            "pictures, so a score on one says little of the other"
        )


def fairness(basis: Basis, held_out: np.ndarray, part: str) -> Fairness:
    """Of the pictures of a `basis`, those `held_out` (n,), bool, against the others, each answered
    by a ridge regression without it; beside them the same pictures, dealt out by lot."""
    generator = np.random.default_rng(0)
    dealt = [held_out, *(generator.permutation(held_out) for _ in range(SHUFFLES))]
    y = torch.from_numpy(np.stack(dealt, 1)).double()
    z = basis.left_out_with_mean(y - y.mean(0), STRENGTHS[-1] * basis.total).numpy()
    found, *by_lot = (_auc(z[:, i], side) for i, side in enumerate(dealt))
    centre, error = float(np.mean(by_lot)), max(float(np.std(by_lot)), 1e-6)
    chance = 0.5 * math.erfc((found - centre) / error / math.sqrt(2))
    return Fairness(part, found, error, chance, z[:, 0])


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))
