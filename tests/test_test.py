"""The program test.py."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image

from config_file import load_config
from tests.inspection.helpers import network
from utils import UserError


def test_the_program(look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look.main(["--config", str(config_file), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert f"loss by step: {math.log(3):.4f}, " in out and "(6 val images; adamw, lr 0.001" in out
    assert out.count("PASS") == 10 and "FAIL" not in out
    folder = config_file.parent / "logs" / "inspect"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(rows) == 11 and float(rows[0]["activation_std"]) > 0
    assert 0 < float(rows[2]["entropy_mean"]) <= 1 and rows[4]["dead"] == "0.0"
    plots = ("activations", "gradients", "updates", "attention_distance", "positions", "filters")
    for name in plots:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 300


def test_a_plot_that_cannot_be_drawn_fails_nothing(
    look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config_file.parent / "logs" / "inspect"
    folder.mkdir(parents=True)
    (folder / "filters.png").write_bytes(b"an earlier look's")
    with patch("inspection.plots.torch.linalg.svd", side_effect=RuntimeError("no convergence")):
        assert look.main(["--config", str(config_file)]) == 0
    out = capsys.readouterr().out
    assert "filters.png is not drawn (no convergence)" in out
    assert out.rstrip().endswith("updates.png, attention_distance.png, positions.png)")
    assert not (folder / "filters.png").exists()


def test_a_runs_checkpoint_is_shown_in_its_folder(
    look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import training

    training.main(["--config", str(config_file), "train.max_epochs=1"])
    best = config_file.parent / "weights/tiny/best.safetensors"
    for folder in (best.parents[1] / "older", config_file.parent / "logs/older"):
        folder.mkdir()
    (best.parents[1] / "older/best.safetensors").write_bytes(b"not the newest")
    older = config_file.parent / "logs/older/config.yaml"
    older.write_text(config_file.read_text())
    os.utime(older, (1, 1))
    capsys.readouterr()
    look.main(["--config", str(config_file), "--checkpoint", "last"])
    out = capsys.readouterr().out
    assert str(best) in out and "the head is kept" in out, "also of a run from scratch"
    assert "skip  the loss starts at chance: not a fresh head" in out
    assert (config_file.parent / "logs/tiny/inspect/table.csv").exists()


@pytest.mark.parametrize("named", ["logs/tiny", "weights/tiny/best.safetensors"])
def test_a_run_elsewhere_comes_with_its_own_settings(
    look: Any,
    config_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: str,
) -> None:
    import training

    training.main(["--config", str(config_file), "train.max_epochs=1"])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    capsys.readouterr()
    look.main(["--checkpoint", str(config_file.parent / named)])
    out = capsys.readouterr().out
    assert "the head is kept" in out
    assert (config_file.parent / "logs/tiny/inspect/table.csv").exists()


def test_a_runs_own_choice_of_the_learning_rate_counts(look: Any, config_file: Path) -> None:
    config, _ = load_config(config_file, ["train.lr=auto"])
    folder = config_file.parent / "logs/tiny"
    folder.mkdir(parents=True)
    rows = ["part,optim,lr,weight_decay,chosen", "block,adamw,1.0,0,0", "head,sgd,0.25,0.5,1"]
    (folder / "search.csv").write_text("\n".join(rows) + "\n")
    net = network()
    train = look.with_choice(config.train.settled(27), config, "tiny", net)
    assert (train.optim, train.lr, train.weight_decay) == ("sgd", 0.25, 0.5)
    assert train.finetune_blocks == 0
    assert not any(p.requires_grad for p in net.blocks.parameters()), "the head alone"


def test_a_block_takes_steps_at_the_rate_of_blocks(look: Any, config_file: Path) -> None:
    """Where a run found that the head over layers does alone: that one takes no steps."""
    overrides = ["train.lr=auto", "train.mode=finetune", "train.head=auto"]
    config, _ = load_config(config_file, overrides)
    folder = config_file.parent / "logs/tiny"
    folder.mkdir(parents=True)
    rows = ["part,optim,lr,weight_decay,head,chosen", "block,sgd,0.006,0.0001,layers,1"]
    (folder / "search.csv").write_text("\n".join(rows) + "\n")
    settled = config.train.settled(27)
    train = look.with_choice(settled, config, "tiny", network())
    assert (train.lr, train.recipe_lr) == (0.006, settled.recipe_lr)


def test_what_is_not_there(look: Any, config_file: Path) -> None:
    with pytest.raises(UserError, match="has no test images; --split takes train, val"):
        look.main(["--config", str(config_file), "--split", "test"])
    with pytest.raises(UserError, match="holds no run with weights"):
        look.main(["--config", str(config_file), "--checkpoint", "last"])
