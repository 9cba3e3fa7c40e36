"""The simulation of failures, against what is known of it."""

import math

import numpy as np
import pytest

from benchmarks.failures import daly, simulated, young


def test_without_failures_only_the_saves_cost() -> None:
    assert simulated(100, math.inf, 10, 1, 5, 0) == pytest.approx(109)  # none after the end


def test_the_mean_is_that_of_dalys_model() -> None:
    """M e^(R/M) (e^((t+s)/M) - 1) a piece, with failures while coming back; without, (M + R) (...)
    (Daly 2006, equation 13, whose restarts can fail)."""
    between, every, save, restart, pieces = 300.0, 60.0, 4.0, 20.0, 50
    work = pieces * every
    runs = [simulated(work, between, every, save, restart, seed) for seed in range(600)]
    expected = (between + restart) * (
        (pieces - 1) * math.expm1((every + save) / between) + math.expm1(every / between)
    )
    error = float(np.std(runs) / math.sqrt(len(runs)))
    assert np.mean(runs) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("between", [600.0, 6000.0])
def test_dalys_interval_is_the_cheapest(between: float) -> None:
    best, save, restart = daly(2, between), 2.0, 30.0

    def cost(every: float) -> float:
        """Of a second of work, by the same model."""
        return (between + restart) * math.expm1((every + save) / between) / every

    assert cost(best) <= min(cost(best * 0.8), cost(best * 1.25))
    assert daly(2, between) == pytest.approx(young(2, between), rel=0.05)
