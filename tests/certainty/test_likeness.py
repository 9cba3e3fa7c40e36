"""How like the training pictures a picture is: as its definition says, and right on strangers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from certainty import likeness
from certainty.likeness import each_of_length_one, fit_likeness, share_below

DEPTHS, D, C = [1, 2, 3], 12, 3
P = len(DEPTHS) * 2 * D


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    """Features (n, P) of three classes, each a point and a spread in few directions."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % C
    points = torch.randn(C, P, generator=draw)
    across = torch.randn(8, P, generator=draw)
    x = points[labels] + 0.5 * torch.randn(90, 8, generator=draw) @ across
    return x + 0.1 * torch.randn(90, P, generator=draw), labels


def scores_by_definition(x: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """Both scores (m, 2), with the whole covariance, inverted."""
    own, asked = (each_of_length_one(each, len(DEPTHS)).double() for each in (x, asked))
    centre, spread = own.mean(0), own.std(0)
    own, asked = (own - centre) / spread, (asked - centre) / spread
    means = torch.stack([own[labels == c].mean(0) for c in range(C)])
    within = own - means[labels]
    S = within.T @ within / (len(own) - C)
    S = 0.5 * S + 0.5 * S.trace() / P * torch.eye(P, dtype=torch.double)
    whiten = torch.linalg.cholesky(torch.linalg.inv(S))  # of rows
    z, m, known = asked @ whiten, means @ whiten, own @ whiten
    far = torch.cdist(z, m).square().min(1).values
    cosines = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(known).T
    return torch.stack([far, 1 - cosines.topk(5, 1).values.mean(1)], 1)


def test_the_scores_are_those_of_the_whole_covariance(pictures: tuple[Tensor, Tensor]) -> None:
    x, labels = pictures
    found, _ = fit_likeness(x, labels, DEPTHS)
    asked = torch.cat([x[:5], torch.randn(5, P), 3 * torch.randn(5, P)])
    wanted = scores_by_definition(x, labels, asked)
    assert torch.allclose(found.both(asked).double(), wanted, rtol=0.02)  # half-precision rows


def test_scores_of_the_training_pictures_are_of_fits_without_them(
    pictures: tuple[Tensor, Tensor],
) -> None:
    """What a fit has learned looks nearer than what it has not."""
    x, labels = pictures
    found, by_other_folds = fit_likeness(x, labels, DEPTHS)
    assert (found.scores(x) < by_other_folds).double().mean() > 0.9
    assert by_other_folds.mean().item() == pytest.approx(0, abs=1e-4)  # the unit of both scores


def test_strangers_are_unlike_and_new_ones_of_the_classes_are_not() -> None:
    draw = torch.Generator().manual_seed(1)
    points, across = (torch.randn(n, P, generator=draw) for n in (C + 1, 8))

    def some(n: int, classes: list[int]) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(classes).repeat(n)
        x = points[labels] + 0.3 * torch.randn(len(labels), 8, generator=draw) @ across
        return x + 0.1 * torch.randn(len(labels), P, generator=draw), labels

    x, labels = some(60, [0, 1, 2])
    found, _ = fit_likeness(x, labels, DEPTHS)
    found.known = found.scores(some(100, [0, 1, 2])[0]).sort().values
    new, strange, other = some(100, [0, 1, 2])[0], some(100, [3])[0], torch.randn(100, P)
    assert (found(new) >= 0.95).double().mean() < 0.12  # 0.05, but for chance
    assert (found(strange) >= 0.95).double().mean() > 0.95
    assert (found(other) >= 0.95).double().mean() == 1


def test_length_says_nothing(pictures: tuple[Tensor, Tensor]) -> None:
    x, labels = pictures
    found, _ = fit_likeness(x, labels, DEPTHS)
    assert torch.allclose(found.scores(x[:9]), found.scores(7 * x[:9]), rtol=1e-3, atol=1e-3)


def test_few_directions_are_kept(
    pictures: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "DIRECTIONS", 4)
    x, labels = pictures
    found, _ = fit_likeness(x, labels, DEPTHS)
    assert found.basis.shape == (4 + C - 1, P) and found.basis.dtype == torch.float16
    unit = found.basis.float() @ found.basis.float().T
    assert torch.allclose(unit, torch.eye(len(unit)), atol=2e-3)


@pytest.mark.parametrize("case", ["two each", "the same", "one alone in its class"])
def test_poor_data_end_in_numbers(case: str) -> None:
    x = torch.randn(6, P)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    if case == "the same":
        x = x[:1].expand(6, P)
    if case == "one alone in its class":
        labels = torch.tensor([0, 0, 0, 1, 1, 2])
    found, by_other_folds = fit_likeness(x.clone(), labels, DEPTHS)
    assert found.scores(torch.randn(4, P)).isfinite().all() and by_other_folds.isfinite().all()


def test_the_share_of_known_ones_that_are_nearer() -> None:
    known = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = share_below(known, torch.tensor([0.0, 1.0, 2.5, 4.0, 9.0]))
    assert found.tolist() == [0, 0, 0.5, 0.75, 1]


def test_its_folds_part_no_group() -> None:
    labels = torch.arange(3).repeat_interleave(20)
    groups = np.arange(60) // 3  # some of two classes
    folds = [*likeness._folds(labels, groups)]
    assert sorted(np.concatenate([out for _, out in folds])) == [*range(60)]
    for fit, out in folds:
        assert not {*groups[fit]} & {*groups[out]}
    alone = [*likeness._folds(labels, np.arange(60))], [*likeness._folds(labels, None)]
    assert all((a[1] == b[1]).all() for a, b in zip(*alone, strict=True))
