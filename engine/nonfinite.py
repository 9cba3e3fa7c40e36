"""A loss or a gradient that is NaN or infinite: where it began. Nothing of this costs anything
before it happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.job import Diverged, Job
from engine.position import Position
from engine.sharding import is_shared_out
from model import Tokens
from system.parallel import is_first, told_by_all
from transforms import EpochSampler
from utils import log, some

SAID = 3  # steps of an epoch that are left out, each with a line
MOST_FILES = 4
OVERFLOW = "the gradients' norm, which overflows"
UNSEEN = "the network (train.parallel fsdp: no process can look at its layers alone)"


def leave_out(
    what: Diverged,
    job: Job,
    position: Position,
    batch: tuple[Tensor | Tokens, Tensor],
    sampler: EpochSampler,
) -> None:
    """Say at which step, on which pictures and in which layer it began; that step is not taken.

    Raises Diverged with that sentence, unless `train.on_nonfinite` is skip.
    """
    train, lr = job.train, job.scheduler.get_last_lr()[0]
    size, first = train.batch_size, position.steps * train.batch_size
    sampler.begin(position.epoch, first)
    chosen = sampler.order()[:size].tolist()
    files = some((job.pictures[i] for i in chosen if i < len(job.pictures)), MOST_FILES)
    position.seed(train.seed)  # the same random numbers as before
    where = f"step {position.steps + 1} of epoch {position.epoch} (lr {lr:.3g})"
    began = first_of(told_by_all(began_in(job, *batch)))
    said = f"the {what} is not finite at {where}, first in {began}, on {files}"
    if train.on_nonfinite == "stop":
        if not is_first():  # which says it
            raise SystemExit(2)
        raise Diverged(said)
    position.leave_out()
    if position.left_out <= SAID:
        log.info("%s; left out", said)


def first_of(found: list[str]) -> str:
    """What one of the processes found in its share of the batch; the others may have found no more
    than what came of it."""
    return next((where for where in found if where not in (OVERFLOW, UNSEEN)), found[0])


def check_taken(position: Position) -> None:
    """Say how many steps of an epoch were left out; Diverged where it was every one."""
    if position.left_out == position.steps > 0:
        if not is_first():
            raise SystemExit(2)
        raise Diverged(f"no loss or gradient of epoch {position.epoch} is finite")
    if position.left_out > SAID:
        told = (position.epoch, position.left_out, position.steps)
        log.info("epoch %d: %d of %d steps were left out", *told)


def began_in(job: Job, inputs: Tensor | Tokens, labels: Tensor) -> str:
    """The layer of the network in which a batch, once more, has its first value that is not finite;
    else that of the gradients, which come from behind."""
    given = inputs if isinstance(inputs, Tensor) else inputs.tokens
    if not is_finite(given):
        return "the pictures themselves"
    if is_shared_out(job.net):
        return UNSEEN
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(watched(job.net, found))
        if job.train.compile:  # a compiled network's layers are not called one by one
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        loss, _, _ = job.loss(inputs, labels)
    if found:
        own = "" if all(map(is_finite, weights(job.net, found[0]))) else ", whose weights are not"
        return f"the output of {found[0]}{own}"
    if not is_finite(loss):
        return "the loss itself"
    job.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    wrong = [n for n, p in job.trained() if p.grad is not None and not is_finite(p.grad)]
    job.optimizer.zero_grad(set_to_none=True)
    return f"the gradient of {wrong[-1]}" if wrong else OVERFLOW


@contextlib.contextmanager
def watched(net: nn.Module, found: list[str]) -> Iterator[None]:
    """Note the modules with an output that is not finite, in the order in which they are done."""

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not is_finite(output):
                found.append(name)

        return hook

    hooks = [m.register_forward_hook(note(name)) for name, m in net.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def weights(net: nn.Module, name: str) -> Iterator[Tensor]:
    return net.get_submodule(name).parameters()


def is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
