"""How many cores a step takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.job import Job
from tests.helpers import quick, train


@pytest.fixture(autouse=True)
def two_threads(cores: Callable[[int], None]) -> Iterator[None]:
    cores(2)
    yield
    assert torch.get_num_threads() == 2, "what follows a training has all cores"


def threads_of_steps(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Those of each step that is taken from now on."""
    found: set[int] = set()
    original = Job.step

    def step(job: Job, *args: Any) -> Any:
        found.add(torch.get_num_threads())
        return original(job, *args)

    monkeypatch.setattr(Job, "step", step)
    return found


@pytest.mark.parametrize("rate", ["auto", "1e-3"])
def test_a_last_block_takes_one_core(
    untuned: Path, monkeypatch: pytest.MonkeyPatch, rate: str
) -> None:
    """In the look, the search, the training, the control and the training on all pictures."""
    quick(monkeypatch)
    found = threads_of_steps(monkeypatch)
    options = ("train.head=both", "train.verdict=true", "train.refit=true", "train.max_epochs=40")
    train(untuned, f"train.lr={rate}", *options)
    assert found == {1}


@pytest.mark.parametrize(
    "options", [("train.mode=pretrained",), ("train.finetune_blocks=2",), ("train.cache=off",)]
)
def test_large_products_take_all(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    found = threads_of_steps(monkeypatch)
    train(finetune, "train.lr=1e-3", "train.max_epochs=1", "train.refit=false", *options)
    assert found == {2}


def test_a_training_that_is_stopped_gives_them_back(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(finetune, "train.lr=1e-3")
