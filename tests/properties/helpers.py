"""How a property is tested: on a few examples, and on many among the slow tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy


def holds(few: int, many: int, **given_of: SearchStrategy) -> Callable[..., Any]:
    """Test a function for `few` examples, and for `many` where slow tests are asked for."""
    runs = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]

    def tested(function: Callable[..., None]) -> Any:
        def test(examples: int) -> None:
            kept = settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,  # one commit, one result
                database=None,
                phases=(Phase.explicit, Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            kept(given(**given_of)(function))()

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return pytest.mark.parametrize("examples", runs)(test)

    return tested
