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


def test_a_wrong_copy_is_counted_once() -> None:
    """As a copy under two classes; the line on labels says that it counts the others."""
    points, labels = clusters(40)
    labels[:12] = (labels[:12] + 1) % 3
    seen = seen_of(points, labels)
    plain = np.zeros((len(labels), SIDE, SIDE), np.uint8)
    looks = [Look(64, 64, 50.0, 250.0, 0.0)] * len(labels)
    alone = whole.examined(seen, plain, looks, "x", {})
    flagged = [s.path for s in alone.suspects if s.kind == "label" and s.score >= 0.5]
    said = next(s for s in alone.said if s.startswith("labels"))
    assert len(flagged) > 5 and said.startswith(f"labels: {len(flagged)} of 120 look wrong;")
    both = (seen.paths.index(flagged[0]), 60)  # of another class
    samples = tuple(
        replace(s, sha256="twin" if i in both else s.sha256) for i, s in enumerate(seen.samples)
    )
    found = whole.examined(replace(seen, samples=samples), plain, looks, "x", {})
    listed = {s.path for s in found.suspects if s.kind == "label" and s.score >= 0.5}
    said = next(s for s in found.said if s.startswith("labels"))
    beside = len(listed - {seen.paths[i] for i in both})
    assert seen.paths[both[0]] in listed, "it is listed all the same"
    assert said.startswith(f"labels: {beside} of 120 look wrong, beside those of copies")
