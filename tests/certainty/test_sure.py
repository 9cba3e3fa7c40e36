"""Temperature, sets, calibration error, risk and coverage: against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from certainty.sure import (
    FEWEST,
    calibration_error,
    fit_temperature,
    found_temperature,
    not_calibrated,
    risk_coverage,
    set_level,
    without_own,
)


def answers(n: int, C: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (n, C) and labels that are drawn by their very probabilities."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, C, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_a_temperature_takes_back_what_was_multiplied(factor: float) -> None:
    logits, labels = answers(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_a_temperature_has_the_lowest_loss() -> None:
    logits, labels = answers(300)
    found = fit_temperature(2 * logits, labels)
    losses = {t: F.cross_entropy(2 * logits / t, labels) for t in (found / 1.3, found, found * 1.3)}
    assert min(losses, key=lambda t: losses[t]) == found


@pytest.mark.parametrize("n", [3, 20, 500])
def test_where_all_are_right_a_temperature_is_not_without_bound(n: int) -> None:
    """More pictures that are all right allow surer answers, and none allow certainty."""
    labels = torch.arange(n) % 3
    logits = 2.0 * F.one_hot(labels, 3)
    sure = (logits / fit_temperature(logits, labels)).softmax(1).max(1).values
    assert sure.mean().item() == pytest.approx((n + 1) / (n + 2), abs=0.01)


def test_what_is_right_by_chance_is_as_sure_as_chance() -> None:
    logits = 10 * torch.randn(400, 4)
    sure = (logits / fit_temperature(logits, torch.arange(400) % 4)).softmax(1)
    assert sure.max(1).values.mean() < 0.5


def test_no_picture_has_a_part_in_its_own_temperature() -> None:
    logits, labels = answers(40, 3)
    before = without_own(logits, labels)
    others = labels.clone()
    others[0] = (labels[0] + 1) % 3
    after = without_own(logits, others)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_a_temperature_is_found_where_it_makes_others_likelier() -> None:
    logits, labels = answers(FEWEST)
    found, own = found_temperature(6 * logits, labels)
    assert found == fit_temperature(6 * logits, labels)
    assert torch.equal(own, without_own(6 * logits, labels))


def test_by_fewer_pictures_none_is_found() -> None:
    """All of them right, and far less sure: by chance, as they may be of so few."""
    labels = torch.arange(FEWEST - 1) % 2
    logits = 0.05 * F.one_hot(labels, 2).float()
    found, own = found_temperature(logits, labels)
    assert found is None and torch.equal(own, logits.softmax(1))
    assert "19 pictures are too few" in not_calibrated(len(labels))


def test_none_is_found_where_it_makes_others_no_likelier() -> None:
    """As sure as it is right already: six of ten at .6, in every fold."""
    right = torch.arange(50) // 5 % 5 < 3
    logits = torch.tensor([0.6, 0.4]).log().expand(50, 2)
    found, own = found_temperature(logits, (~right).long())
    assert found is None and torch.equal(own, logits.softmax(1))
    assert "no likelier" in not_calibrated(50)


def test_calibration_error_by_hand() -> None:
    """Two pictures at 0.9, one of them right; two at 0.6, both right: (0.8 + 0.8) / 4."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(0.4, abs=1e-6)


def test_calibration_error_is_that_of_the_report() -> None:
    from inspection.numbers import calibration
    from inspection.record import Prediction

    logits, labels = answers(500)
    sure = logits.softmax(1)
    names = "abcde"
    rows = []
    for row, label in zip(sure, labels.tolist(), strict=True):
        p, c = row.max(0)
        rows.append(Prediction("x", names[label], names[int(c)], float(p), float(row[label])))
    assert calibration(rows)["error"] == pytest.approx(calibration_error(sure, labels), abs=1e-6)


def test_nine_sets_of_ten_hold_the_right_answer() -> None:
    logits, labels = answers(3_000)
    sure = logits.softmax(1)
    own = sure.gather(1, labels[:, None])[:, 0]
    covered = []
    for known in own.split(150):  # each time 150 known pictures, and 150 others
        other = own[torch.randperm(len(own))[:150]]
        covered.append((other >= set_level(known)).float().mean())
    assert torch.stack(covered).mean().item() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(("n", "place"), [(8, None), (9, 9), (19, 18), (99, 90)])
def test_the_level_of_sets_is_the_order_statistic(n: int, place: int | None) -> None:
    own = torch.arange(1, n + 1) / (n + 1)
    wanted = 0.0 if place is None else own.sort(descending=True).values[place - 1].item()
    assert set_level(own[torch.randperm(n)]) == wanted


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = risk_coverage(torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0.0, 1.0, 0.0]))
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3]) and math.isclose(risk[-1], 2 / 3)
