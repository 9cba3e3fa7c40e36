"""Two precisions of the frozen blocks side by side: what is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import trunk_dtype
from engine.answers import PREDICTED, PREDICTIONS
from utils import UserError, write_csv


def run(folder: Path, predicted: str) -> tuple[Path, dict[str, Any]]:
    """A run whose network says a letter of each picture; all of them are `a`."""
    rows = [
        dict(zip(PREDICTED, ("test", f"{i}.png", "a", said, 1, 1), strict=True))
        for i, said in enumerate(predicted)
    ]
    write_csv(folder / PREDICTIONS, rows)
    right = predicted.count("a") / len(predicted)
    return folder, {"test_accuracy": right, "seconds": 1.0}


def test_answers_are_compared_picture_by_picture(tmp_path: Path) -> None:
    runs = [run(tmp_path / "float32", "aaabbb"), run(tmp_path / "bfloat16", "aabacb")]
    found = trunk_dtype.compared("pilots", 0, runs)
    counts = {name: found[name] for name in trunk_dtype.COUNTS}
    assert counts == {
        "both_right": 2,
        "float32_alone": 1,
        "bfloat16_alone": 1,
        "both_wrong": 2,
        "same_answer": 3,
    }
    assert found["images"] == 6 and found["float32"] == found["bfloat16"] == 0.5
    with pytest.raises(UserError, match="other pictures"):
        trunk_dtype.compared("pilots", 0, [runs[0], run(tmp_path / "other", "aaa")])


def test_the_pass_of_both_is_timed_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"patch_dim": 8, "dim": 32, "hidden_dim": 48, "num_heads": 4, "num_layers": 2}
    networks = {"tiny": {**small, "ff_dim": 96, "num_classes": 0}}
    monkeypatch.setattr(trunk_dtype, "NETWORKS", networks)
    monkeypatch.setattr(trunk_dtype, "RESULTS", tmp_path)
    monkeypatch.setattr(trunk_dtype, "matrix_peak", lambda device, bf16: 100.0)
    passes: list[torch.Tensor] = []
    original = trunk_dtype.Trunk.__call__

    def counted(trunk: Any, images: torch.Tensor) -> Any:
        passes.append(images)
        return original(trunk, images)

    monkeypatch.setattr(trunk_dtype.Trunk, "__call__", counted)
    assert trunk_dtype.main(["--rounds", "2"]) == 0
    assert len(passes) == 2 * (2 + 2)
    (path,) = tmp_path.glob("*.csv")
    one, other = path.read_text().splitlines()[1:]
    assert "bfloat16" in other and "bfloat16" not in one
