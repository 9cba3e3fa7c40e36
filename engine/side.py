"""Several jobs side by side: branches of one network on the same cached tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor
from tqdm import tqdm

from config import TrainConfig
from engine.cores import one_core
from engine.job import Diverged, Job, Setting
from model import Tail, Tokens, VisionTransformer
from tokens.cache import TokenLoader


def side_job(
    net: VisionTransformer,
    setting: Setting | None,
    train: TrainConfig,
    batches: TokenLoader,
    steps: int,
) -> Job:
    """A job beside the main one: a branch of the network, some batches, so many steps."""
    own = branch(net)
    train = setting.applied(own, train) if setting else train
    return Job(own, Tail(own), train, batches.dataset.tolist(), steps)


@dataclass(frozen=True)
class Side:
    """Jobs that train on the same batches: a batch is read once and serves all of them."""

    jobs: list[Job]
    batches: TokenLoader


def train_side_by_side(sides: list[Side], steps: int, bar: tqdm) -> None:
    """So many steps of each job; one that diverges stays as it was before.

    On a CPU each core takes jobs of its own: a step's small products gain little from several
    cores at once. Where they draw from one stream of random numbers, they take turns.
    """
    jobs = [(job, which) for which, side in enumerate(sides) for job in side.jobs]
    for job, _ in jobs:
        job.net.train()
    alive = dict.fromkeys(range(len(jobs)), True)

    def step(number: int, batch: tuple[Tokens, Tensor]) -> None:
        try:
            if alive[number]:
                jobs[number][0].step(*batch)
        except Diverged:
            alive[number] = False

    cores = cores_for([job for job, _ in jobs])
    small = jobs[0][0].is_small
    alone = partial(torch.set_num_threads, 1) if small or cores > 1 else None
    feeds = [endless(side.batches) for side in sides]
    with one_core(small), ThreadPoolExecutor(cores, initializer=alone) as pool:
        for batches in islice(zip(*feeds, strict=True), steps):
            list(pool.map(step, range(len(jobs)), [batches[which] for _, which in jobs]))
            bar.update(len(jobs))


def cores_for(jobs: list[Job]) -> int:
    """How many of them train at the same time."""
    if len(jobs) == 1 or jobs[0].device.type != "cpu" or any(job.draws for job in jobs):
        return 1
    return torch.get_num_threads()


def endless(batches: TokenLoader) -> Iterator[tuple[Tokens, Tensor]]:
    """Epoch after epoch."""
    assert batches.sampler is not None
    for epoch in count(1):
        batches.sampler.epoch = epoch
        yield from batches


def branch(net: VisionTransformer) -> VisionTransformer:
    """A copy of the network that trains by itself; what is frozen is shared."""
    return copy.deepcopy(net, {id(p): p for p in net.parameters() if not p.requires_grad})
