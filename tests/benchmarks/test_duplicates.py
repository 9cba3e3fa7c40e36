"""The planted near-duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import scene


def test_each_way_makes_another_picture() -> None:
    from benchmarks.duplicates import WAYS

    one = scene(0)
    for kind, way in WAYS.items():
        copy = way(one, np.random.default_rng(0))
        assert copy.mode == "RGB" and copy.tobytes() != one.tobytes(), kind


@pytest.mark.parametrize("parts", [True, False])
def test_planted_copies_are_trained_on_and_others_asked(tmp_path: Path, parts: bool) -> None:
    from benchmarks.duplicates import plant

    for part in ("train/", "val/") if parts else ("",):
        (tmp_path / "set" / part / "a").mkdir(parents=True)
        for i in range(22):
            scene(i, (60, 50)).save(tmp_path / f"set/{part}a/{i}.png")
    plant(tmp_path / "set", tmp_path / "planted")
    counts = [len([*(tmp_path / f"planted/{part}/a").iterdir()]) for part in ("train", "test")]
    assert counts == ([66, 22] if parts else [60, 2])
    names = {path.name for path in (tmp_path / "planted/test/a").iterdir()}
    if not parts:
        assert not names & {path.name for path in (tmp_path / "planted/train/a").iterdir()}
    copy = next((tmp_path / "planted/train/a").glob("*~0.png"))
    assert Image.open(copy).size[0] > 20
