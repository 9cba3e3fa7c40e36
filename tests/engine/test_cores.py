"""How many cores a step takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import engine.job
import engine.ridge
from engine.job import Job
from tests.helpers import quick, train


@pytest.fixture(autouse=True)
def two_threads(cores: Callable[[int], None]) -> Iterator[None]:
    cores(2)
    yield
    assert torch.get_num_threads() == 2, "what follows a training has all cores"


def threads_of(
    monkeypatch: pytest.MonkeyPatch, *what: tuple[Any, str]
) -> defaultdict[str, set[int]]:
    """Those of each call, from now on, of what is named in an object; by the names."""
    found: defaultdict[str, set[int]] = defaultdict(set)

    def noted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **named: Any) -> Any:
            found[name].add(torch.get_num_threads())
            return original(*args, **named)

        return noting

    for owner, name in what:
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["auto", "1e-3"])
def test_a_last_block_takes_one_core(
    untuned: Path, monkeypatch: pytest.MonkeyPatch, rate: str
) -> None:
    """In the look, the search, the training, the control and the training on all pictures; the
    scoring of each, too, which took most of a run while another program had one of two cores."""
    quick(monkeypatch)
    scales = SimpleNamespace(**vars(torch.nn.functional))
    monkeypatch.setattr(engine.ridge, "F", scales)
    found = threads_of(
        monkeypatch, (Job, "step"), (engine.job, "predict"), (scales, "cross_entropy")
    )
    options = ("train.head=both", "train.verdict=true", "train.refit=true", "train.max_epochs=40")
    train(untuned, f"train.lr={rate}", *options)
    assert found == {"step": {1}, "predict": {1}, "cross_entropy": {1}}


@pytest.mark.parametrize(
    "options", [("train.mode=pretrained",), ("train.finetune_blocks=2",), ("train.cache=off",)]
)
def test_large_products_take_all(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    found = threads_of(monkeypatch, (Job, "step"))
    train(finetune, "train.lr=1e-3", "train.max_epochs=1", "train.refit=false", *options)
    assert found["step"] == {2}


def test_a_training_that_is_stopped_gives_them_back(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(finetune, "train.lr=1e-3")
