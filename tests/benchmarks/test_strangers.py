"""The numbers of the strangers' benchmark."""

from __future__ import annotations

import pytest

from benchmarks.strangers import auroc, row_of, share


@pytest.mark.parametrize(
    ("known", "strange", "wanted"),
    [
        ([0.1, 0.2], [0.3, 0.4], 1.0),
        ([0.3, 0.4], [0.1, 0.2], 0.0),
        ([0.1, 0.3], [0.2, 0.4], 0.75),
        ([1.0, 0.0], [1.0, 1.0], 0.75),  # a tie counts half
    ],
)
def test_the_area_under_the_curve(known: list[float], strange: list[float], wanted: float) -> None:
    assert auroc(known, strange) == wanted


def test_what_is_flagged() -> None:
    assert share([0.94, 0.95, 1.0, 0.2], 0.95) == 0.5
    row = row_of("a", "b", [0.1, 0.96], [1.0, 0.97])
    assert (row["flagged_at_0.95"], row["own_flagged_at_0.95"]) == (1.0, 0.5)
    assert (row["flagged_at_0.99"], row["own_flagged_at_0.99"]) == (0.5, 0.0)
