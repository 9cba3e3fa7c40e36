"""Which weights: ranked by the training pictures alone, on the same pictures, one sentence else."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers import random_weights, without_vit
from tools.bakeoff import Entry, laid_out, main, table
from utils import UserError


@pytest.fixture
def weights(finetune: Path, tmp_path: Path) -> list[str]:
    """Two that can be used, of different patches and depths."""
    other = {"patch_dim": 16, "dim": 32, "num_layers": 3, "hidden_dim": 64, "num_heads": 1}
    random_weights(tmp_path / "a b.safetensors")
    random_weights(tmp_path / "c.safetensors", **other)
    without_vit(finetune)
    return [str(tmp_path / "a b.safetensors"), str(tmp_path / "c.safetensors")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"transform": "own.augment:mine"},
        {"cache": "off"},
        {"mode": "pretrained", "mixup": 0.2, "head": "auto"},
        {"mode": "pretrained", "parallel": "fsdp", "head": "auto"},
        {"finetune_blocks": 0},
    ],
    ids=str,
)
def test_what_a_config_says_of_its_training_is_no_matter(
    asked: dict[str, Any], finetune: Path, weights: list[str]
) -> None:
    """CONFIG may be any run's own."""
    raw = yaml.safe_load(finetune.read_text())
    raw["train"] |= asked
    finetune.write_text(yaml.safe_dump(raw))
    assert main([str(finetune), *weights]) == 0
    assert len(rows_of(finetune)) == 2


def rows_of(finetune: Path) -> list[dict[str, Any]]:
    with open(finetune.parent / "logs/bakeoff.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_weights_side_by_side(
    finetune: Path, weights: list[str], seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each passes once; what can't be used is named, the others are shown."""
    argv = [str(finetune), *weights, "nothing.npz", "train.test_fraction=0.2"]
    assert main(argv) == 0 and sum(seen) == 72
    said = capsys.readouterr().out
    assert "nothing.npz can't be used: nothing.npz: no such weights" in said
    rows = rows_of(finetune)
    assert {row["weights"] for row in rows} == set(weights) and rows[0]["behind"] == "-"
    accuracies = [float(row["left out"].split()[0]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > 0.9
    assert all("(" in row["val"] and "(" in row["test"] for row in rows)
    assert f"train.checkpoint={rows[0]['weights']}" in said and rows[0]["weights"] in said
    del seen[:]
    assert main(argv) == 0 and not seen
    assert {row["pass"] for row in rows_of(finetune)} == {"cached"}


def test_a_size_that_patches_do_not_fill_is_the_nearest(finetune: Path, weights: list[str]) -> None:
    main([str(finetune), *weights, "vit.dim=40"])
    assert sorted(row["pixels"] for row in rows_of(finetune)) == ["32", "40"]


def test_the_same_weights_at_two_sizes(
    finetune: Path, weights: list[str], seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """On some of the training pictures, whose answers are compared one by one."""
    argv = [str(finetune), f"{weights[0]}@32", f"{weights[0]}@48", "--most", "12"]
    assert main(argv) == 0 and sum(seen) == 24
    rows = rows_of(finetune)
    assert {row["pixels"] for row in rows} == {"32", "48"} and "val" not in rows[0]
    said = capsys.readouterr().out
    assert f"'train.checkpoint={weights[0]}' vit.dim={rows[0]['pixels']}\n" in said


def test_the_order_is_that_of_the_training_pictures() -> None:
    """Whatever the held-out parts say; what is behind is so by the same pictures."""
    right = torch.arange(100)
    found = [
        Entry("best", 10**6, 224, right < 90, {"val": (0.5, 10)}, 2.0),
        Entry("next", 10**6, 224, right < 85, {"val": (0.9, 10)}, None),
    ]
    one, other = table(found)
    assert one["left out"].startswith("0.900 (0.8") and one["behind"] == "-"
    assert other["behind"] == "0.050 ± 0.022" and (one["pass"], other["pass"]) == (
        "2.0 s",
        "cached",
    )
    lines = laid_out([one, other]).splitlines()
    assert lines[0].split() == list(" ".join(one).split()) and len(lines) == 3


@pytest.mark.parametrize("names", [[], ["one.npz"], ["one.npz", "one.npz"], ["train.seed=1", "a"]])
def test_one_alone_is_no_comparison(finetune: Path, names: list[str]) -> None:
    with pytest.raises(UserError, match="name two weights or more"):
        main([str(finetune), *names])


def test_none_that_can_be_used(finetune: Path) -> None:
    with pytest.raises(UserError, match="none of these weights can be used"):
        main([str(finetune), "one.npz", "other.npz"])
    assert not (finetune.parent / "logs").exists()


def test_a_size_that_no_image_has_is_left_out(
    finetune: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are compared; it was a traceback."""
    odd = [f"{weights[0]}@{pixels}" for pixels in ("0", "99999999", "33")]
    assert main([str(finetune), weights[0], *odd]) == 0
    said = capsys.readouterr().out
    assert said.count("an image has 1 to 4,000 px a side, not ") == 2
    assert "@33: 32 px, which its patches of 8 px fill" in said and len(rows_of(finetune)) == 2
