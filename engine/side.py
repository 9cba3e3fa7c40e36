"""Several jobs side by side: branches of one network on the same cached tokens."""

from __future__ import annotations

import copy
import threading
from collections import deque
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

READ_AHEAD = 8  # batches: cores with unlike jobs wait for one another behind them
READ_BYTES = 256 << 20  # of them together, where one does not take more


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
    """Jobs that train on the same batches, so many steps: a batch is read once and serves all of
    them."""

    jobs: list[Job]
    batches: TokenLoader
    steps: int


Turns = deque[tuple[Job, Iterator[tuple[Tokens, Tensor]]]]
Lost = dict[Job, Diverged]


def train_side_by_side(sides: list[Side], bar: tqdm) -> Lost:
    """Train all jobs; returns those that diverged, with why: each stays as it was before.

    On a CPU each core takes a step of the job whose turn it is: a step's small products gain little
    from several cores at once. Where jobs draw from one stream of random numbers, one core does.
    """
    jobs = [job for side in sides for job in side.jobs]
    for job in jobs:
        job.net.train()
    lost: Lost = {}
    over = threading.Event()
    at_once, small = cores_for(jobs), jobs[0].is_small
    each = 1 if small else torch.get_num_threads() // at_once
    own = partial(torch.set_num_threads, each) if jobs[0].device.type == "cpu" else None
    feeds = [islice(endless(side.batches), side.steps) for side in sides]
    room = READ_BYTES // sum(side.batches.batch_bytes for side in sides)
    ahead = max(1, min(READ_AHEAD, room)) if at_once > 1 else 1
    with one_core(small), ThreadPoolExecutor(at_once, initializer=own) as pool:
        for _ in range(0, max(side.steps for side in sides), ahead):
            read = [list(islice(feed, ahead)) for feed in feeds]
            both = list(zip(sides, read, strict=True))
            turns: Turns = deque((job, iter(some)) for side, some in both for job in side.jobs)
            try:
                if at_once == 1:  # on a GPU, whose choice is this thread's
                    take_turns(turns, lost, over)
                else:
                    each_core = [pool.submit(take_turns, turns, lost, over) for _ in range(at_once)]
                    for core in each_core:
                        core.result()
            except BaseException:  # Ctrl-C: what is not begun is left
                over.set()
                raise
            bar.update(sum(len(side.jobs) * len(some) for side, some in both))
            del read, both, turns  # before the next are read
    return lost


def take_turns(turns: Turns, lost: Lost, over: threading.Event) -> None:
    """Take one step of the first job there, which goes to the end, until none has a batch left or
    it is over."""
    while not over.is_set():
        try:
            job, batches = turns.popleft()
        except IndexError:  # none, or other cores have them
            return
        batch = None if job in lost else next(batches, None)
        if batch is None:
            continue
        try:
            job.step(*batch)
        except Diverged as what:
            lost[job] = what
        turns.append((job, batches))


def cores_for(jobs: list[Job]) -> int:
    """How many of them train at the same time."""
    if len(jobs) == 1 or jobs[0].device.type != "cpu" or any(job.draws for job in jobs):
        return 1
    return min(len(jobs), torch.get_num_threads())


def endless(batches: TokenLoader) -> Iterator[tuple[Tokens, Tensor]]:
    """Epoch after epoch."""
    assert batches.sampler is not None
    for epoch in count(1):
        batches.sampler.epoch = epoch
        yield from batches


def branch(net: VisionTransformer) -> VisionTransformer:
    """A copy of the network that trains by itself; what is frozen is shared."""
    return copy.deepcopy(net, {id(p): p for p in net.parameters() if not p.requires_grad})
