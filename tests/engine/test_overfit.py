"""The sanity check on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import training
from engine.overfit import repeated_batch
from tests.helpers import FIXTURES, summary, train, without_vit


@pytest.mark.usefixtures("new_files_are_remembered")
def test_overfitting_one_batch_needs_no_cache(finetune: Path, seen: list[int]) -> None:
    assert train(finetune, "overfit_one_batch.overfit=true", "train.lr=3e-3") == 0
    assert seen == [8] and not (finetune.parent / "data").exists()


@pytest.mark.parametrize("mode", ["scratch", "pretrained", "finetune"])
def test_overfit_passes(config_file: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    if mode != "scratch":
        without_vit(config_file)
    options = ["overfit_one_batch.overfit=true", "train.lr=2e-3", f"train.mode={mode}"]
    assert train(config_file, *options, f"train.checkpoint={FIXTURES / 'google_tiny.npz'}") == 0
    assert "PASS after" in capsys.readouterr().out
    assert summary(config_file)["overfit"] == "PASS"
    names = {path.name for path in (config_file.parent / "logs/tiny").iterdir()}
    assert {"metrics.csv", "summary.json", "config.yaml", "curves.png", "run.log"} <= names


def test_overfit_fails_where_the_labels_change(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = repeated_batch

    def shuffled(*args: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in original(*args):
            yield images, labels[torch.randperm(len(labels))]

    monkeypatch.setattr(training, "repeated_batch", shuffled)
    assert train(config_file, "overfit_one_batch.overfit=true", "train.batch_size=20") == 1
    out = capsys.readouterr().out
    assert "FAIL after 200 steps" in out and "the labels may change from step to step" in out


def test_overfit_names_a_learning_rate_that_is_too_low(config_file: Path, capsys: Any) -> None:
    options = ["overfit_one_batch.overfit=true", "overfit_one_batch.max_steps=20"]
    assert train(config_file, *options, "train.lr=1e-8") == 1
    assert "lr 1e-08 may be far off" in capsys.readouterr().out
