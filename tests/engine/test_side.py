"""Jobs side by side."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from engine.job import Diverged, Job
from engine.side import READ_AHEAD, Side, side_job, take_turns, train_side_by_side
from model import Tokens
from pretrained.read import read_arrays
from tests.helpers import CPU, prepared, summary, train
from tokens.builder import open_cache
from tokens.cache import TokenCache
from tokens.plan import Plan

Make = Callable[..., Side]


@pytest.fixture
def make(finetune: Path) -> Make:
    """Makes a side of `jobs` with different learning rates, each of so many steps."""
    config, split, net = prepared(finetune, "train.views=1", "train.lr=1e-3")
    own = config.train.settled(len(split.part("train")))
    plan = Plan(net, split, own)
    loader = open_cache(plan, net, own, CPU).loaders(plan, split, own, CPU)["train"]

    def side(steps: int, jobs: int = 1) -> Side:
        batches = loader.training(own, np.arange(len(loader.dataset)))
        rates = [own.model_copy(update={"lr": 1e-3 * (1 + i)}) for i in range(jobs)]
        return Side([side_job(net, None, r, batches, steps) for r in rates], batches, steps)

    return side


def weights(side: Side) -> list[Tensor]:
    return [p.detach().clone() for job in side.jobs for p in job.parameters]


def run(*sides: Side) -> dict[Job, Diverged]:
    total = sum(side.steps * len(side.jobs) for side in sides)
    with tqdm(total=total, disable=None) as bar:
        return train_side_by_side(list(sides), bar)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_together_they_train_as_each_alone(
    make: Make, cores: Callable[[int], None], count: int
) -> None:
    """Of unequal lengths, too, and of several on the same batches."""
    cores(1)
    sizes = [(READ_AHEAD + 3, 1), (2 * READ_AHEAD, 3), (1, 1)]
    alone = [make(*size) for size in sizes]
    for side in alone:
        assert run(side) == {}
    cores(count)
    both = [make(*size) for size in sizes]
    assert run(*both) == {} and torch.get_num_threads() == count
    for one, other in zip(alone, both, strict=True):
        assert all(map(torch.equal, weights(one), weights(other)))
        assert all(job.scheduler.last_epoch == other.steps for job in other.jobs)


@pytest.mark.parametrize("count", [1, 2])
def test_one_that_diverges_stays_as_it_was_and_the_others_go_on(
    make: Make, cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    cores(count)
    good, bad = make(12), make(12)
    twin = make(12)
    run(twin)
    original = Job.step

    def step(job: Job, *batch: Any) -> Any:
        if job is bad.jobs[0] and job.scheduler.last_epoch == 5:
            raise Diverged("gradient")
        return original(job, *batch)

    monkeypatch.setattr(Job, "step", step)
    lost = run(good, bad)
    assert list(lost) == bad.jobs and str(lost[bad.jobs[0]]) == "gradient"
    assert bad.jobs[0].scheduler.last_epoch == 5
    assert all(map(torch.equal, weights(good), weights(twin)))


def test_a_stop_leaves_what_is_not_begun(
    make: Make, cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores(2)
    taken: list[Job] = []

    def step(job: Job, *batch: Any) -> Any:
        taken.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(make(40, 3))
    assert len(taken) <= 4 and torch.get_num_threads() == 2


def test_a_core_ends_behind_its_step_when_it_is_over(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the first thread alone."""
    side, over, taken = make(9, 2), threading.Event(), []

    def step(job: Job, *batch: Any) -> None:
        taken.append(job)
        if len(taken) == 3:
            over.set()

    monkeypatch.setattr(Job, "step", step)
    turns = deque((job, iter(list(side.batches))) for job in side.jobs)
    take_turns(turns, {}, over)
    assert taken == [*side.jobs, side.jobs[0]]


@pytest.mark.parametrize("count", [1, 2])
def test_few_batches_are_read_ahead(
    make: Make, cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """As many as READ_BYTES have room for, none where one core takes them, and none is kept."""
    cores(count)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = [0]
    original = TokenCache.read

    def read(cache: TokenCache, *args: Any) -> Tokens:
        found = original(cache, *args)
        alive.add(found.tokens)
        most[0] = max(most[0], len(alive))
        return found

    monkeypatch.setattr(TokenCache, "read", read)
    sides = [make(30), make(20)]
    run(*sides)
    assert most[0] <= 2 * READ_AHEAD + 2 if count > 1 else most[0] <= 4
    monkeypatch.setattr("engine.side.READ_BYTES", 5 * sides[0].batches.batch_bytes)
    most[0] = 0
    run(make(30), make(20))
    assert most[0] <= 6


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("vit.dropout=0.1",), ("train.finetune_blocks=2",)])
def test_the_network_on_all_pictures_is_the_same_with_and_without_a_control(
    finetune: Path, cores: Callable[[int], None], options: tuple[str, ...]
) -> None:
    """Though both train at the same time; or one after the other, where each draws random numbers
    or takes all cores."""
    cores(2)
    kept = []
    for verdict in ("false", "true"):
        settings = [f"train.verdict={verdict}", "train.refit=true", f"train.run_name={verdict}"]
        train(finetune, "train.lr=1e-3", *settings, *options)
        assert summary(finetune, verdict)["refit"] is not None
        kept.append(read_arrays(finetune.parent / f"weights/{verdict}/best.safetensors")[0])
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(array, kept[1][name]) for name, array in kept[0].items())
