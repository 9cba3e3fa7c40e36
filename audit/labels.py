"""Wrong labels: which pictures the others' labels contradict, and how surely.

Each picture is answered by a ridge regression without it and its copies. A wrong label harms the
answers to others, too, so the answers are asked again with what they said: the targets become each
picture's probabilities of its true class, given its label and its answer, as in the EM algorithm
for noisy annotators (Dawid and Skene 1979), where one rate of wrong labels is estimated. How often
a label with such a margin is wrong is then measured on the same pictures, with labels that are made
wrong on purpose. EXPERIMENTS.md, 2026-11-26, says what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.ridge import SCALES, STRENGTHS, Basis, as_of_all, left_of, prior

ROUNDS = 3
PLANTED = 0.1  # of the labels, made wrong to learn what a margin means
DRAWS = 4
LEAST_RATE, MOST_RATE = 0.002, 0.4  # of wrong labels, as far as it is believed
SUSPECT = 0.5  # how probably wrong a label is to be flagged


@dataclass(frozen=True)
class Doubts:
    """Of n pictures and C classes: `answers` (n, C), the log-probabilities by the others' labels;
    `suggested` (n,), the likeliest class but the given one; `margin` (n,), by how many nats it
    leads the given one; `wrong` (n,), how probably the given label is wrong; `pairs` (C, C), of the
    pictures that are given a class the share that is rather another's."""

    answers: Tensor
    suggested: Tensor
    margin: Tensor
    wrong: Tensor
    pairs: Tensor


def doubts(basis: Basis, labels: Tensor, num_classes: int, copies: Sequence[Tensor] = ()) -> Doubts:
    """How doubtful each of the labels (n,) is, by the pictures' features as a `basis`; `copies` are
    the indices of pictures that are the same, which are left out together."""
    answers, believed = _believed(basis, labels, num_classes, copies)
    margin, suggested = margin_of(answers, labels)
    rate = _rate(believed, labels)
    wrong = _calibrated(basis, labels, believed, copies, margin, rate)
    pairs = torch.zeros(num_classes, num_classes, dtype=torch.double)
    pairs.index_put_((labels, suggested), wrong, accumulate=True)
    pairs /= torch.bincount(labels, minlength=num_classes).clamp(min=1)[:, None]
    return Doubts(answers.float(), suggested, margin.float(), wrong.float(), pairs.float())


def left_out_answers(
    basis: Basis,
    targets: Tensor,
    labels: Tensor,
    copies: Sequence[Tensor] = (),
    rate: float | None = None,
) -> tuple[Tensor, float]:
    """Log-probabilities (n, C) of each picture's true class by a fit of the others' `targets`
    (n, C), rows of probabilities, and the share of the given `labels` (n,) that are wrong: `rate`,
    or the share that the answers contradict. The strength and the scale of the answers are those
    under which the labels are likeliest if so many are wrong: answers that had to explain the wrong
    ones, too, would be unsure of everything."""
    share, classes = targets.mean(0), targets.shape[1]
    weights = 1 / (share.clamp(min=1e-9) * classes)[labels]
    best, found, left = math.inf, (targets, 0.0), left_of(targets, copies)
    for strength in STRENGTHS:
        z = targets - basis.left_out_errors(targets - share, strength * basis.total, copies)
        z = as_of_all(z, targets, left)
        contradicted = ((z / share).argmax(1) != labels).double().mean().item()
        wrong = min(max(contradicted if rate is None else rate, LEAST_RATE), MOST_RATE)
        for scale in SCALES:
            answers = (scale * z - prior(share)).log_softmax(1)
            given = answers.gather(1, labels[:, None])[:, 0].exp()
            likely = (1 - wrong) * given + wrong / (classes - 1) * (1 - given)
            loss = -(weights * likely.log()).mean().item()
            if loss < best:
                best, found = loss, (answers, wrong)
    return found


def _believed(
    basis: Basis, labels: Tensor, num_classes: int, copies: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The answers (n, C), and the probabilities (n, C) of each picture's true class."""
    given = F.one_hot(labels, num_classes).double()
    believed, rate = given, None
    for _ in range(ROUNDS + 1):
        answers, wrong = left_out_answers(basis, believed, labels, copies, rate)
        likely = given * (1 - wrong) + (1 - given) * wrong / (num_classes - 1)
        believed = answers.exp() * likely
        believed = believed / believed.sum(1, keepdim=True)
        rate = _rate(believed, labels)
    return answers, believed


def _rate(believed: Tensor, labels: Tensor) -> float:
    return 1 - believed.gather(1, labels[:, None]).mean().item()


def margin_of(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """By how much another class leads the given one (n,), in nats, and which (n,)."""
    given = answers.gather(1, labels[:, None])[:, 0]
    others = answers.scatter(1, labels[:, None], -torch.inf)
    best, suggested = others.max(1)
    return best - given, suggested


def _calibrated(
    basis: Basis,
    labels: Tensor,
    believed: Tensor,
    copies: Sequence[Tensor],
    margin: Tensor,
    rate: float,
) -> Tensor:
    """How probably each label is wrong (n,): a logistic regression on the margins that labels get
    which are made wrong on purpose, beside those which are not, at the estimated rate."""
    from sklearn.linear_model import LogisticRegression

    truth, classes = believed.argmax(1), believed.shape[1]
    margins, planted = [], []
    for draw in range(DRAWS):
        noisy, bad = planted_noise(truth, believed, PLANTED, draw)
        answers, _ = _believed(basis, noisy, classes, copies)
        margins.append(margin_of(answers, noisy)[0])
        planted.append(bad)
    x, y = torch.cat(margins).numpy()[:, None], torch.cat(planted).numpy()
    model = LogisticRegression(C=1.0).fit(x, y)
    shift = _log_odds(min(max(rate, LEAST_RATE), MOST_RATE)) - _log_odds(y.mean())
    wrong = 1 / (1 + np.exp(-model.decision_function(margin.numpy()[:, None]) - shift))
    # The rule of succession: of m such labels, though all were wrong, the next one might be right.
    return torch.from_numpy(wrong * (wrong.sum() + 1) / (wrong.sum() + 2))


def planted_noise(
    truth: Tensor, believed: Tensor, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The labels (n,) with a share of each class's made wrong, and which (n,): half of them any
    other class, half one that the pictures are like."""
    generator = np.random.default_rng(seed)
    n, classes = believed.shape
    like = torch.stack(
        [
            believed[truth == c].mean(0) if (truth == c).any() else torch.ones(classes)
            for c in range(classes)
        ]
    ).double()
    like.fill_diagonal_(0)
    like = like / like.sum(1, keepdim=True).clamp(min=1e-12) / 2
    like += (1 - torch.eye(classes, dtype=torch.double)) / (classes - 1) / 2
    like /= like.sum(1, keepdim=True)
    bad = torch.zeros(n, dtype=torch.bool)
    bad[torch.from_numpy(generator.permutation(n)[: max(1, round(share * n))])] = True
    noisy = truth.clone()
    for i in bad.nonzero()[:, 0].tolist():
        noisy[i] = int(generator.choice(classes, p=like[truth[i]].numpy()))
    return noisy, bad


def _log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))
