"""A batch that is learned from in parts: each process's, and of that one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler, Subset

from config import TrainConfig
from metrics import evaluate, predict, scores
from model import Tokens
from system.parallel import (
    by_first,
    is_first,
    rank,
    share,
    share_of,
    summed,
    told_by_all,
    world_size,
)
from tokens.cache import TokenLoader
from transforms import EpochSampler
from utils import UserError, autocast


def check_shares(train: TrainConfig) -> None:
    """Raise UserError where a batch can't be shared evenly."""
    parts = world_size() * train.accumulate
    if train.batch_size % parts:
        if not is_first():  # which says it
            raise SystemExit(2)
        fewer = train.batch_size // parts * parts
        sizes = f"{fewer} or {fewer + parts} can" if fewer else f"{parts} can"
        by = [f"{world_size()} processes"] * (world_size() > 1)
        by += [f"train.accumulate {train.accumulate}"] * (train.accumulate > 1)
        raise UserError(
            f"train.batch_size: {train.batch_size} images can't be shared evenly by "
            f"{' and '.join(by)}; {sizes}"
        )


class Parts:
    """How a job learns from a batch in parts, with the gradient of the whole of it.

    The losses of all images are summed, and divided by what the whole batch weighs; DDP's mean over
    the processes (https://docs.pytorch.org/docs/stable/notes/ddp.html) is that sum then.
    """

    def __init__(self, learner: nn.Module, criterion: nn.CrossEntropyLoss, train: TrainConfig):
        self.criterion, self.train = criterion, train  # which sums
        self.learner = learner
        self.is_shared_out = isinstance(learner, FSDPModule)
        if world_size() > 1 and not self.is_shared_out:
            self.learner = DistributedDataParallel(learner, gradient_as_bucket_view=True)

    def backward(
        self, inputs: Tensor | Tokens, labels: Tensor, mix: Callable | None, size: int
    ) -> tuple[Tensor, Tensor]:
        """Add to the gradients those of a batch of `size` images, of which these are this
        process's share; the whole batch's mean loss, and how many of its answers are right."""
        targets = labels
        if mix is not None:
            assert isinstance(inputs, Tensor)
            inputs, targets = mix(inputs, labels)
            labels = targets.argmax(1)
            if world_size() > 1 and len(share(size)):  # without the neighbour
                inputs, labels, targets = piece(inputs, slice(1, None)), labels[1:], targets[1:]
        if world_size() > 1:  # each draws its own from here on: dropout
            torch.manual_seed(torch.initial_seed() + rank())
        counts = float(len(share(size)) > 0)  # a stand-in does not
        total = self._weight(targets, counts, size)
        found = torch.zeros(2, dtype=torch.float64)
        pieces = turns_of(inputs, labels, targets, self.train.accumulate)
        # Those that hold parts of one network take their turns together, some of them for nothing.
        turns = [turn for turn in pieces if turn[3] or self.is_shared_out]
        for number, (some, those, wanted, own) in enumerate(turns, 1):
            with self._together(number == len(turns)):
                with autocast(labels.device, self.train.bf16):
                    logits = self.learner(some)  # B C
                loss = self.criterion(logits.float(), wanted) * counts * own / total
                (loss * world_size()).backward()
            right = (logits.argmax(1) == those).sum() * counts * own
            found = found.to(loss.device, loss.dtype) + torch.stack([loss.detach(), right])
        loss, right = summed(found)
        return loss, right

    @contextlib.contextmanager
    def _together(self, last: bool) -> Iterator[None]:
        """The gradients of all processes are put together in the last turn."""
        with contextlib.ExitStack() as stack:
            if isinstance(self.learner, FSDPModule):
                self.learner.set_requires_gradient_sync(last)
            elif isinstance(self.learner, DistributedDataParallel) and not last:
                stack.enter_context(self.learner.no_sync())
            yield

    def _weight(self, targets: Tensor, counts: float, size: int) -> float | Tensor:
        """What cross-entropy divides the sum of a batch's losses by, as PyTorch does it: its images
        or, where classes are weighted and targets are classes, their weights."""
        weight = self.criterion.weight
        if weight is None or targets.ndim > 1:
            return size
        return summed(weight[targets].sum() * counts)


def turns_of(
    inputs: Tensor | Tokens, labels: Tensor, targets: Tensor, turns: int
) -> Iterator[tuple[Tensor | Tokens, Tensor, Tensor, bool]]:
    """A batch in so many pieces, and whether a piece counts: where there are more of them than
    images, one stands in for none."""
    for own in torch.arange(len(labels)).tensor_split(turns):
        counts = len(own) > 0
        some = slice(int(own[0]), int(own[-1]) + 1) if counts else slice(0, 1)
        yield piece(inputs, some), labels[some], targets[some], counts


def piece(inputs: Tensor | Tokens, some: slice) -> Tensor | Tokens:
    if isinstance(inputs, Tensor):
        return inputs[some]
    cls, layers = inputs.cls, inputs.layers
    return Tokens(
        inputs.tokens[some],
        None if cls is None else cls[some],
        None if layers is None else layers[some],
    )


# ------------------------------------------------------------------------------ what they are fed


class Batches(Sampler[list[tuple[int, int]]]):
    """This process's share of each batch of a sampler's images."""

    def __init__(self, sampler: EpochSampler, size: int, neighbour: bool) -> None:
        self.sampler, self.size, self.neighbour = sampler, size, neighbour

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, draw = self.sampler.order().tolist(), self.sampler.draw
        starts = range(0, len(order), self.size)
        shares = [share_of(order[at : at + self.size], self.neighbour) for at in starts]
        ahead = self.sampler.ahead
        asked = ahead(np.array([i for own in shares for i in own])) if ahead else None
        for own in shares:
            yield [(index if asked is None else next(asked), draw) for index in own]


class SharedLoader:
    """A loader's share of the training batches: in its order, with its sampler to set."""

    def __init__(self, loader: DataLoader[Any], train: TrainConfig) -> None:
        assert isinstance(loader.sampler, EpochSampler)
        self.sampler = loader.sampler
        mixes = bool(train.mixup or train.cutmix)
        batches = Batches(loader.sampler, train.batch_size, mixes)
        self.loader = alike(loader, loader.dataset, batch_sampler=batches)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def alike(loader: DataLoader[Any], dataset: Any, **options: Any) -> DataLoader[Any]:
    """A loader of other batches that works as this one does."""
    same = ("num_workers", "persistent_workers", "worker_init_fn", "generator", "pin_memory")
    options |= {name: getattr(loader, name) for name in (*same, "multiprocessing_context")}
    return DataLoader(dataset, **options)


def shared(loaders: Any, train: TrainConfig) -> Any:
    """What the loop is fed where there are several processes: their shares of training batches and
    of the validation part; of cached tokens, which are quick to evaluate, all of the latter."""
    if world_size() == 1:
        return loaders
    training, val = loaders["train"], loaders["val"]
    if isinstance(training, TokenLoader):
        return {"train": training.shared(), "val": val}
    own = list(share(len(val.dataset)))
    most = -(-len(val.dataset) // world_size())
    own += [0] * (most - len(own))  # stand in, so that all take the same steps
    part = alike(val, Subset(val.dataset, own), batch_size=val.batch_size)
    return {"train": SharedLoader(training, train), "val": part}


def evaluate_together(
    net: nn.Module, loader: Any, device: torch.device, bf16: bool
) -> dict[str, float]:
    """A network's `scores` over a loader of `shared`, the same in all processes: each image is
    counted once."""
    if world_size() == 1 or isinstance(loader, TokenLoader):
        return by_first(evaluate, net, loader, device, bf16)
    logits, labels = predict(net, loader, device, bf16)
    own = len(share(len(loader.dataset.dataset)))  # without stand-ins
    parts = told_by_all((logits[:own], labels[:own]))
    return by_first(scores, *(torch.cat(both) for both in zip(*parts, strict=True)))
