"""How sure an answer is: a temperature, and sets of answers that hold the right one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HOTTEST = 20.0  # a temperature, and one by it the coldest
COVERED = 0.9  # of the pictures have the right answer in their set
BINS = 15  # as Guo et al.
FOLDS = 5
TINY = torch.finfo(torch.float32).tiny
FEWEST = 20  # pictures: of fewer the share that is right is known to 11 points at best, a T by luck
WIDE = 0.2  # an interval: within a wider one a network may well be as sure as it is right, or not
NOTHING = "nothing"  # what a temperature was found by that was not found


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits (n, C) of pictures that were not learned are divided by, for answers as sure as
    they are right (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    Where all are right the likelihood has no maximum; so the true class has a share of
    (n + 1) / (n + 2), the others the rest (Platt 1999, section 2.2).
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]  # slow to import

    n, C = logits.shape
    share = (n + 1) / (n + 2)
    target = torch.full((n, C), (1 - share) / (C - 1), dtype=torch.double)
    target.scatter_(1, labels[:, None], share)
    z = logits.double()

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(z / math.exp(log_temperature), target).item()

    limit = math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return math.exp(float(found.x))


def without_own(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n, C), those of each picture at a temperature that others were fitted to."""
    found = torch.empty_like(logits)
    turn = torch.arange(len(logits)) % FOLDS
    for fold in turn.unique():
        out = turn == fold
        temperature = fit_temperature(logits[~out], labels[~out]) if (~out).any() else 1.0
        found[out] = (logits[out] / temperature).softmax(1)
    return found


def found_temperature(logits: Tensor, labels: Tensor) -> tuple[float | None, Tensor]:
    """A temperature by held-out logits (n, C), and their probabilities at one that each picture has
    no part in. None, and the probabilities as they are, of fewer than FEWEST pictures, or where the
    labels are no likelier at what the other pictures say."""
    plain = logits.softmax(1)
    if len(labels) < FEWEST:
        return None, plain
    own = without_own(logits, labels)
    before, after = (F.nll_loss(p.clamp_min(TINY).log(), labels) for p in (plain, own))
    if after >= before:
        return None, plain
    return fit_temperature(logits, labels), own


def not_calibrated(pictures: int) -> str:
    """Why no temperature was found by so many pictures of a validation part."""
    if pictures < FEWEST:
        few = f"{pictures} picture{' is' if pictures == 1 else 's are'}"
        return f"not calibrated: the validation part's {few} too few to find a temperature by"
    return (
        "as they are: a temperature by some of the validation part's pictures made the right "
        "classes of the others no likelier"
    )


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """The expected calibration error of answers (n, C): the mean gap between how sure and how right
    they are, in BINS equal bins (arXiv:1706.04599, equation 3)."""
    sure, answer = probabilities.double().max(1)
    return binned_error(sure, answer == labels)


def binned_error(sure: Tensor, right: Tensor) -> float:
    """That of answers by their probabilities (n,) and whether they are right (n,)."""
    place = ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.double).index_add_(0, place, right.double() - sure)
    return (gaps.abs().sum() / len(sure)).item()


def set_level(own: Tensor) -> float:
    """The probability from which a class belongs to a picture's set, by those of the right classes
    of held-out pictures (n,): the sets of new ones hold the right class in COVERED of all cases.
    0, every class, where there are too few pictures.

    Split-conformal prediction (Angelopoulos & Bates 2021, arXiv:2107.07511, section 1): the one
    with ceil((n + 1) COVERED) at it or above.
    """
    place = math.ceil((len(own) + 1) * COVERED)
    return own.sort(descending=True).values[place - 1].item() if place <= len(own) else 0.0


def risk_coverage(sure: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The share that is answered, and the share of those that is wrong, as the threshold falls past
    each picture (n,), the surest first (El-Yaniv & Wiener 2010)."""
    wrong = 1 - right.double()[sure.argsort(descending=True, stable=True)]
    answered = torch.arange(1, len(wrong) + 1, dtype=torch.double)
    return answered / len(wrong), wrong.cumsum(0) / answered
