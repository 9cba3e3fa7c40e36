"""Odd ones, the split's fairness, more pictures, neighbours, and the map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from audit import more, neighbours
from audit.fair import fairness
from audit.more import Size, by_size, more_said, twice_as_many
from audit.odd import far_out, oddness
from tests.audit.clusters import clusters


def test_the_fence_is_two_quartile_ranges_above_the_upper_quartile() -> None:
    assert far_out(np.arange(101.0)) == pytest.approx(75 + 2 * 50)


def test_an_odd_one_is_the_oddest() -> None:
    features, labels = clusters(40)
    features[7] = torch.full((8,), -3.0)
    tokens = torch.nn.functional.normalize(features.unflatten(1, (2, 4)), dim=-1).flatten(1)
    scores = oddness(tokens, labels)
    assert scores.argmax() == 7


def test_of_many_pictures_those_that_are_not_fitted_get_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = clusters(40)
    tokens = torch.nn.functional.normalize(features.unflatten(1, (2, 4)), dim=-1).flatten(1)
    whole = oddness(tokens, labels)
    monkeypatch.setattr("audit.odd.MOST_FITTED", 60)
    some = oddness(tokens, labels)
    assert torch.isfinite(some).all()
    assert np.corrcoef(whole.numpy(), some.numpy())[0, 1] > 0.5


# ------------------------------------------------------------------------------------- fairness


@pytest.mark.slow
def test_a_split_by_lot_is_fair_and_is_called_unfair_no_more_often_than_said() -> None:
    features, _ = clusters(40)
    lots = np.random.default_rng(5)
    held_out = np.arange(120) < 30
    found = [fairness(features, lots.permutation(held_out), "val") for _ in range(15)]
    assert sum(not one.fair for one in found) <= 1
    assert 0.2 < np.mean([one.chance for one in found]) < 0.8


def test_a_part_of_other_pictures_is_told_and_what_tells_it() -> None:
    features, _ = clusters(40)
    held_out = np.arange(120) % 4 == 0
    features[held_out] += torch.tensor([0.0] * 7 + [3.0])
    found = fairness(features, held_out, "val")
    assert not found.fair
    assert found.auc > 0.9
    assert "val can be told from train" in str(found)
    assert found.gives_away[held_out].mean() > found.gives_away[~held_out].mean()


@pytest.mark.parametrize("each", [7, 20])
def test_of_few_pictures_with_many_features_a_fair_split_is_near_a_half(each: int) -> None:
    features, _ = clusters(each)
    wide = torch.cat([features, torch.randn(len(features), 400)], 1)
    held_out = np.arange(len(features)) % 4 == 0
    found = fairness(wide, held_out, "val")
    assert abs(found.auc - 0.5) < 0.25
    assert found.fair
    wide[held_out, 300:] += 2.0
    assert not fairness(wide, held_out, "val").fair


def test_of_many_pictures_some_of_both_parts_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(40)
    monkeypatch.setattr("audit.fair.MOST", 50)
    held_out = np.arange(120) < 24
    found = fairness(features, held_out, "val")
    assert len(found.asked) == 50
    assert held_out[found.asked].sum() == 10


# ------------------------------------------------------------------------------- more pictures


def test_accuracy_is_measured_at_each_size_on_all_pictures() -> None:
    features, labels = clusters(60, apart=1.5)
    found = by_size(features, labels, 3)
    assert [size.images for size in found] == [45, 90, 135, 180]
    assert found[-1].accuracy > found[0].accuracy - 0.02
    assert all(size.low <= size.accuracy <= size.high for size in found)


def test_too_few_pictures_of_a_class_are_not_cut_further() -> None:
    features, labels = clusters(8)
    assert by_size(features, labels, 3) == []
    assert "too few" in more_said([], None)


def on_a_power_law(a: float, b: float) -> list[Size]:
    found = []
    for n in (100, 200, 300, 400):
        accuracy = 1 - a * n**-b
        found.append(Size(n, accuracy, accuracy - 0.01, accuracy + 0.01))
    return found


def test_a_power_law_goes_on() -> None:
    more_of = twice_as_many(on_a_power_law(1.5, 0.5))
    assert more_of is not None
    assert more_of.images == 800
    assert more_of.accuracy == pytest.approx(1 - 1.5 / math.sqrt(800))
    assert more_of.low < more_of.accuracy < more_of.high
    assert "would bring +2.2 points" in more_said(on_a_power_law(1.5, 0.5), more_of)


def test_a_gain_that_may_be_none_is_said_to_be_so() -> None:
    sizes = on_a_power_law(0.4, 0.05)
    more_of = twice_as_many(sizes)
    assert more_of is not None and more_of.low < sizes[-1].accuracy
    assert "may bring" in more_said(sizes, more_of)


@pytest.mark.parametrize("accuracies", [[0.8, 0.8, 0.8, 0.8], [0.9, 0.8, 0.8, 0.7], [1.0] * 4])
def test_where_nothing_rises_nothing_is_promised(accuracies: list[float]) -> None:
    sizes = [Size(100 * (i + 1), x, x - 0.02, x + 0.02) for i, x in enumerate(accuracies)]
    assert twice_as_many(sizes) is None
    assert "no gain" in more_said(sizes, None)


def test_of_many_pictures_some_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(60)
    monkeypatch.setattr(more, "MOST", 90)
    assert by_size(features, labels, 3)[-1].images == 90


# ---------------------------------------------------------------------------- neighbours, the map


def test_the_nearest_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(10)
    tokens = torch.nn.functional.normalize(features, dim=1)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    cosines = tokens @ tokens.T
    cosines.fill_diagonal_(-2)
    assert torch.equal(neighbours.nearest(tokens), cosines.topk(5, 1).indices)


def test_few_pictures_have_few_neighbours() -> None:
    assert neighbours.nearest(torch.eye(3)).shape == (3, 2)


def test_like_pictures_are_near_on_the_map() -> None:
    features, labels = clusters(30, apart=8.0)
    laid = neighbours.places(torch.nn.functional.normalize(features, dim=1))
    assert laid.shape == (90, 2)
    assert laid.min() >= 0 and laid.max() <= 1
    centres = np.stack([laid[labels.numpy() == c].mean(0) for c in range(3)])
    nearest = np.linalg.norm(laid[:, None] - centres, axis=2).argmin(1)
    assert (nearest == labels.numpy()).mean() > 0.9


def test_a_map_of_many_is_laid_out_by_some(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(30)
    monkeypatch.setattr(neighbours, "MOST_MAPPED", 40)
    laid = neighbours.places(torch.nn.functional.normalize(features, dim=1))
    assert laid.shape == (90, 2)
    assert np.isfinite(laid).all()
