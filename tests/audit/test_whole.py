from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audit import whole
from audit.quality import Look
from decoding.duplicates import SIDE
from tests.audit.clusters import clusters, seen_of


def test_what_train_groups_keeps_together_is_left_out_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = seen_of(*clusters(10))
    named = {3: "patient 1", 7: "patient 1"}
    samples = tuple(replace(s, group=named.get(i, s.sha256)) for i, s in enumerate(seen.samples))
    given: list[list[int]] = []
    doubts = whole.doubts

    def listening(basis: Any, labels: Any, classes: int, groups: Any) -> Any:
        given.extend(group.tolist() for group in groups)
        return doubts(basis, labels, classes, groups)

    monkeypatch.setattr(whole, "doubts", listening)
    plain = np.zeros((len(samples), SIDE, SIDE), np.uint8)  # like no other
    looks = [Look(64, 64, 50.0, 250.0, 0.0)] * len(samples)
    found = whole.examined(replace(seen, samples=samples), plain, looks, "x", {})
    assert given == [[3, 7]]
    assert not [s for s in found.suspects if s.kind in ("duplicate", "leak")]  # no copies, though
