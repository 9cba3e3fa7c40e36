"""What a machine has too little of ends a program with a sentence, not with a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import training
from engine.job import Job
from system.shortages import shortage
from utils import command_line


def said_of(main: Any, capsys: pytest.CaptureFixture[str]) -> str:
    assert command_line(main) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50)])
def test_memory_that_is_full_is_one_sentence(
    allocate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(allocate, capsys)
    assert "this machine's memory is full (" in said and "train.accumulate=2" in said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has"),
            "the GPU's memory is full (1.50 GiB more were wanted); ",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "the GPU's memory is full; "),
        (RuntimeError("MPS backend out of memory (MPS allocated: 2 GB"), "the GPU's memory is fu"),
        (MemoryError(), "this machine's memory is full; "),
        (BrokenProcessPool("a child process terminated abruptly"), "a process was killed, "),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."), "a process th"),
        (RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly"), "a process that lo"),
        (RuntimeError("shapes don't fit"), None),
        (ConnectionResetError(errno.ECONNRESET, "by somebody else"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_what_is_a_shortage(error: Exception, expected: str | None) -> None:
    found = shortage(error)
    assert found is None if expected is None else (found or "").startswith(expected)


class Killed:
    """Pictures one of which ends the process that reads it, as the system's out-of-memory killer
    does."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(2)


@pytest.mark.skipif(sys.platform == "win32", reason="its processes are not killed by a signal")
def test_a_loader_that_is_killed_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    data: Any = Killed()
    before = signal.getsignal(signal.SIGCHLD)

    def main() -> None:
        for _ in DataLoader(data, num_workers=2):
            pass

    try:
        assert "train.num_workers=0" in said_of(main, capsys)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_training_that_does_not_fit_says_how_to_go_on(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, before = [0], Job.step

    def step(job: Job, *given: Any) -> Any:
        steps[0] += 1
        if steps[0] == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0")
        return before(job, *given)

    monkeypatch.setattr(Job, "step", step)
    options = ["train.max_epochs=4", "train.batch_size=8", "train.run_name=full"]
    assert command_line(lambda: training.main(["--config", str(config_file), *options])) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the GPU's memory is full (1.50 GiB more were wanted)" in said
    assert "go on with that and: " in said
    monkeypatch.undo()
    run = config_file.parent / "logs" / "full"
    assert str(run) in said
    assert training.main(["--resume", str(run), "train.accumulate=2"]) in (0, None)
    assert (run / "summary.json").exists()
