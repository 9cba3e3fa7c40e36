"""The draws of the learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import learning_curve


@pytest.mark.parametrize("has_test", [True, False])
def test_every_draw_is_tested_on_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_test: bool
) -> None:
    """A smaller draw is part of a larger one; none holds a picture that is tested on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(learning_curve, "TESTED", 3)
    (tmp_path / "data/shots").mkdir(parents=True)
    root = tmp_path / "source"
    for name in "ab":
        for part, count in (("train", 9), ("test", 3)) if has_test else ((".", 12),):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                (root / part / name / f"{part[:2]}{i}.png").touch()

    def parts(size: int, draw: int) -> dict[str, set[str]]:
        folder = learning_curve.drawn(root, "set", size, draw)
        return {
            part: {str(path.relative_to(folder / part)) for path in (folder / part).glob("*/*")}
            for part in ("train", "test")
        }

    small, large, other = parts(2, 0), parts(5, 0), parts(5, 1)
    assert small["test"] == large["test"] == other["test"] and len(small["test"]) == 6
    assert small["train"] < large["train"] != other["train"]
    assert (len(small["train"]), len(large["train"])) == (4, 10)
    assert not large["train"] & large["test"]
