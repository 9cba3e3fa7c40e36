"""A token cache made by several processes is that of one, byte by byte."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from config import Config
from dataset import Split
from model import Tokens, VisionTransformer
from system import parallel
from tests.helpers import CPU, prepared
from tokens.builder import open_cache, open_together
from tokens.plan import Plan
from tokens.trunk import Trunk

pytestmark = [
    pytest.mark.usefixtures("new_files_are_remembered"),
    pytest.mark.skipif(sys.platform != "linux", reason="forks: a fresh process takes seconds"),
]
RECORDS = 36 + 30  # the plain pictures, and the second view of those to train on


class Job:
    """A tiny network and its pictures, and a cache of them made by some processes."""

    def __init__(self, config_file: Path) -> None:
        prepared_ = prepared(config_file, "train.views=2", "train.max_epochs=2")
        self.config: Config = prepared_[0]
        self.split: Split = prepared_[1]
        self.net: VisionTransformer = prepared_[2]
        self.folder = config_file.parent

    def plan(self, data: str, views: int = 2) -> tuple[Plan, Config]:
        train = self.config.train.model_copy(update={"data": str(self.folder / data)})
        train = train.model_copy(update={"views": views})
        return Plan(self.net, self.split, train), self.config.model_copy(update={"train": train})

    def alone(self, data: str, views: int = 2) -> dict[str, bytes]:
        plan, config = self.plan(data, views)
        open_cache(plan, self.net, config.train, CPU)
        return bytes_of(plan)

    def together(
        self, *data: str, stop: Callable[[int, int], None] = lambda rank, batch: None
    ) -> tuple[list[int], list[int]]:
        """A process a folder; how each ended, and how many images it computed. `stop` is called
        with the rank and the number of a batch before that."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        counts = context.Array("i", len(data))

        def child(rank: int) -> None:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(data)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()})
            original, batches = Trunk.__call__, iter(range(10**6))

            def counted(trunk: Trunk, images: Tensor) -> Tokens:
                stop(rank, next(batches))
                counts[rank] += len(images)
                return original(trunk, images)

            Trunk.__call__ = counted  # type: ignore[method-assign]
            plan, config = self.plan(data[rank])
            with parallel.together():
                open_together(plan, self.net, config.train, CPU)

        children = [context.Process(target=child, args=(rank,)) for rank in range(len(data))]
        for each in children:
            each.start()
        for each in children:
            each.join(60)
        return [each.exitcode or 0 for each in children], list(counts)


def bytes_of(plan: Plan) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in plan.path.iterdir()}


@pytest.fixture
def job(finetune: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr("tokens.trunk.HIDDEN_BYTES", 4 * 17 * 96 * 5)  # batches of 5
    monkeypatch.setattr("tokens.parts.SYNC_SECONDS", -1)  # each batch is noted
    return Job(finetune)


@pytest.mark.parametrize("copied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_make_the_bytes_of_one(job: Job, copied: bool) -> None:
    for data in ("one", "two") if copied else ():  # the plain pictures are there already
        job.alone(data, views=1)
    wanted = job.alone("one")
    status, counts = job.together("two", "two")
    assert status == [0, 0] and sum(counts) == (30 if copied else RECORDS)
    assert max(counts) - min(counts) <= 5, "each made half"
    assert bytes_of(job.plan("two")[0]) == wanted
    left = {path.name for path in job.plan("two")[0].folder.iterdir()}
    assert not any(".partial" in name for name in left)
    assert job.together("two", "two") == ([0, 0], [0, 0]), "it is there"


def killed(wanted: int) -> Callable[[int, int], None]:
    def stop(rank: int, batch: int) -> None:
        if rank == wanted and batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    return stop


@pytest.mark.parametrize(
    "processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_what_a_killed_process_made_is_not_made_again(job: Job, processes: int) -> None:
    wanted = job.alone("one")
    status, before = job.together("two", "two", stop=killed(1))
    assert status[1] == -signal.SIGKILL and status[0] not in (0, -signal.SIGKILL)
    assert before[1] == 15
    status, after = job.together(*["two"] * processes)
    assert status == [0] * processes and sum(before) + sum(after) == RECORDS
    assert bytes_of(job.plan("two")[0]) == wanted


def test_a_host_with_a_disk_of_its_own_makes_its_own(job: Job) -> None:
    wanted = job.alone("one")
    status, counts = job.together("two", "two", "three")
    assert status == [0, 0, 0] and counts[2] == RECORDS == counts[0] + counts[1]
    assert bytes_of(job.plan("two")[0]) == wanted == bytes_of(job.plan("three")[0])


@pytest.mark.slow
def test_parts_that_are_damaged_are_made_again(job: Job) -> None:
    """As a disk may leave them: notes without files, a file that is cut, a part twice."""
    wanted = job.alone("one")
    job.together("two", "two", stop=killed(1))
    plan = job.plan("two")[0]
    folder = plan.path.with_suffix(".partial")
    (part,) = folder.glob("from-*")
    shutil.copytree(part, folder / "from-000000005")  # of numbers that are there
    (folder / "from-000000060").mkdir()
    with open(part / "tokens.bin", "r+b") as file:
        file.truncate(7 * plan.record.itemsize + 1)
    (part / "progress").write_text("15")
    assert job.alone("two") == wanted
