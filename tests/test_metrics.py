"""Scores and their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from config_file import load_config
from dataset import load_split, make_loaders
from metrics import balanced_interval, evaluate, scores, wilson
from pretrained.build import build_for


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 3), (135, 153), (153, 153), (480, 500)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_153_images_cannot_tell_088_from_090() -> None:
    low, high = wilson(0.88, 153)
    assert low < 0.90 < high


def test_evaluation_is_without_dropout_and_restores_the_mode(config_file: Path) -> None:
    config, _ = load_config(config_file, ["vit.dropout=0.5"])
    split = load_split(config.train)
    net = build_for(config, split.classes)
    torch.nn.init.normal_(net.head.weight)  # type: ignore[arg-type]
    cpu = torch.device("cpu")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, cpu)
    net.train()
    first, second = (evaluate(net, loaders["val"], cpu) for _ in range(2))
    assert first == second and net.training


def test_classes_without_images_do_not_count_in_the_balanced_accuracy() -> None:
    logits = torch.eye(3)[[0, 0, 1, 2]]  # the last answer is a class that has no images
    batches: Any = [(logits, torch.tensor([0, 0, 1, 1]))]
    found = evaluate(torch.nn.Identity(), batches, torch.device("cpu"))
    assert found["accuracy"] == 0.75 and found["balanced_accuracy"] == 0.75


@pytest.mark.parametrize("images", [1, 7, 60])
def test_the_balanced_accuracy_is_torchmetrics(images: int) -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    draw = torch.Generator().manual_seed(images)
    logits = torch.randn(images, 9, generator=draw)
    labels = torch.randint(0, 9, (images,), generator=draw)
    theirs = multiclass_accuracy(logits, labels, 9, average="none")[labels.unique()].mean()
    assert scores(logits, labels)["balanced_accuracy"] == pytest.approx(float(theirs), abs=1e-6)


def test_the_interval_of_a_mean_of_recalls() -> None:
    """Of one class it is Wilson's own; and it holds the truth as often as it says."""
    assert balanced_interval([(0.8, 50)]) == wilson(0.8, 50)
    rng, true, images = np.random.default_rng(0), (0.9, 0.6), (190, 10)
    inside = 0
    for _ in range(500):
        found = [(rng.binomial(n, p) / n, n) for p, n in zip(true, images, strict=True)]
        low, high = balanced_interval(found)
        inside += low <= 0.75 <= high
    assert 0.92 <= inside / 500 <= 0.99
