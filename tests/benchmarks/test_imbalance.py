"""The imbalanced set."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_imbalanced_folder_is_20_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import imbalance

    assert imbalance.sizes(10)[0] == 100 and imbalance.sizes(10)[-1] == 5
    monkeypatch.setattr(imbalance, "MOST", 8)
    monkeypatch.setattr(imbalance, "LEAST", 2)
    monkeypatch.setattr(imbalance, "TESTED", 3)
    for name in "abc":
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "source" / name / f"{i}.png").write_bytes(f"{name}{i}".encode())
    folder = imbalance.draw(tmp_path / "source", tmp_path / "drawn", seed=0)
    counts = {
        part: sorted(len(list((folder / part / name).iterdir())) for name in "abc")
        for part in ("train", "test")
    }
    assert counts == {"train": [2, 4, 8], "test": [3, 3, 3]}
    contents = [path.read_bytes() for path in folder.glob("*/*/*")]
    assert len(contents) == len(set(contents)) == 23
