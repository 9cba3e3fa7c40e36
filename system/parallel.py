"""Several processes that train as one, as torchrun starts them: which one this is, and what they
tell one another."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from system.durable import ticks_of

T = TypeVar("T")
SAID_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PORT = 29500  # where torchrun's processes meet by default
PATIENCE = timedelta(days=1)  # the first process may read a million pictures meanwhile


def _said(name: str, otherwise: int) -> int:
    """A number that torchrun has put into the environment."""
    if not all(each in os.environ for each in SAID_BY_TORCHRUN):
        return otherwise
    return int(os.environ.get(name, otherwise))


def rank() -> int:
    """Which of the processes this is: 0 is the first, which alone writes and speaks."""
    return _said("RANK", 0)


def world_size() -> int:
    """How many they are."""
    return _said("WORLD_SIZE", 1)


def local_rank() -> int:
    """Which of those of this machine this is."""
    return _said("LOCAL_RANK", 0)


def begun_by() -> list[str]:
    """The command that began these processes, as far as their environment tells it: on several
    machines it is typed on each of them."""
    if world_size() == 1:
        return ["python"]
    here = f"--nproc-per-node={_said('LOCAL_WORLD_SIZE', world_size())}"
    machines = _said("GROUP_WORLD_SIZE", 1)
    if machines == 1:
        return ["torchrun", here]
    first = f"--rdzv-endpoint={os.environ['MASTER_ADDR']}:{PORT}"
    return ["torchrun", f"--nnodes={machines}", here, "--rdzv-backend=c10d", first]


def is_first() -> bool:
    return rank() == 0


def alone() -> dict[str, str]:
    """The environment of a program of its own, which is none of these processes."""
    return {k: v for k, v in os.environ.items() if k not in SAID_BY_TORCHRUN}


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let the processes hear one another in the block: through gloo, and NCCL between GPUs."""
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    given: dict[str, Any] = {"store": _own_store(), "timeout": PATIENCE}
    dist.init_process_group(backend, rank=rank(), world_size=world_size(), **given)
    # Of how a gradient lies in memory, once, to no avail: DDP copies it.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _own_store() -> dist.Store:
    """A part of torchrun's store that these processes alone write to.

    It outlives them when they are started once more, and the addresses of their dead forerunners
    are still in it (https://github.com/pytorch/pytorch/issues/135712); what torchrun counts as
    restarts differs between machines. So the first tells each of the others a new name, until it
    was heard.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    own, others = uuid.uuid4().hex, set(range(1, world_size()))
    if not is_first():
        store.set(f"here-{rank()}", own)
        while (said := store.get(f"begin-{rank()}").decode().split(":"))[0] != own:
            time.sleep(0.05)
        store.set(f"heard-{rank()}", said[1])
        return dist.PrefixStore(said[1], store)
    while others:
        for other in sorted(others):
            here = store.get(f"here-{other}").decode()
            store.set(f"begin-{other}", f"{here}:{own}")
            if store.check([f"heard-{other}"]) and store.get(f"heard-{other}").decode() == own:
                others.remove(other)
        time.sleep(0.05)
    return dist.PrefixStore(own, store)


def by_first(make: Callable[..., T], *given: Any, told: Callable[[T], Any] | None = None) -> T:
    """What a function returns, called by the first process alone; the others get a copy of it, or
    of what `told` makes of it.

    What it raises is raised there, and ends the others without a word.
    """
    if world_size() == 1:
        return make(*given)
    box: list[Any] = [None, False]
    if is_first():
        try:
            found = make(*given)
            box = [told(found) if told else found, True]
        except BaseException:
            with contextlib.suppress(Lost):  # whoever waits may have been stopped as well
                _from_first(box)
            raise
        _from_first(box)
        return found
    _from_first(box)
    if not box[1]:
        raise SystemExit(2)
    return box[0]


def _from_first(box: list[Any]) -> None:
    """Fill the others' boxes with what the first has in its own."""
    with heard():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))


def share(n: int) -> range:
    """This process's part of n things in their order; the parts differ by one at most."""
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())


def share_of(batch: Sequence[T], neighbour: bool = False) -> list[T]:
    """This process's part of a batch's items, after the one before them where that `neighbour` is
    asked for (Mixup blends an image with it); never nothing: one stands in for none."""
    own = share(len(batch))
    if neighbour and world_size() > 1:
        return [batch[own.start - 1], *(batch[i] for i in own)]
    return [batch[i] for i in own] or [batch[0]]


def told_by_all(value: T) -> list[T]:
    """What each of the processes says, in their order."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        with heard():
            dist.all_gather_object(found, value)
    return found


def summed(values: Tensor) -> Tensor:
    """The sum of all processes' tensors, in the place of this one's."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for the others."""
    told_by_all(None)


class Lost(RuntimeError):
    """Another of the processes has ended, so that no step can be taken any more."""


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Around what the processes do together: Lost where one of them has gone."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if world_size() > 1 and any(word in said for word in ("gloo", "nccl", "connection")):
            raise Lost(str(error).partition("\n")[0]) from error
        raise


def tell_torchrun(sentence: str) -> None:
    """What torchrun names as the reason when it reports that a process has failed.

    https://docs.pytorch.org/docs/stable/elastic/errors.html
    """
    if (path := os.environ.get("TORCHELASTIC_ERROR_FILE")) and not os.path.exists(path):
        more = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": sentence, "extraInfo": more}}, file)


# ------------------------------------------------------------------------------ started once more


def job_id() -> str | None:
    """What tells torchrun's job from others, the same when the processes are started once more:
    its name, and the process that starts them; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    starter = os.getppid()
    return name and f"{name}, {socket.gethostname()}, {starter}, {ticks_of(starter)}"
