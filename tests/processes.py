"""Several processes that train as one, without torchrun's own start: PyTorch is imported once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import training
from config import ConfigError
from utils import command_line

MANY = multiprocessing.get_context("forkserver")
MANY.set_forkserver_preload(["tests.processes"])
SECONDS = 120  # then it hangs
# Where a machine's own name leads nowhere, gloo says so, and takes this.
HERE = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def train_together(
    home: Path, argv: list[str], processes: int = 2, first: Callable[[int], None] | None = None
) -> list[tuple[int | None, str]]:
    """Train by several processes; `first` is called in each with its number. Of each its exit
    status and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [home / f"process-{number}.txt" for number in range(processes)]
    there = [
        MANY.Process(target=_one, args=(number, processes, port, argv, said[number], first))
        for number in range(processes)
    ]
    for process in there:
        process.start()
    for process in there:
        process.join(SECONDS)
    for process in there:
        process.kill()
    return [(p.exitcode, file.read_text()) for p, file in zip(there, said, strict=True)]


def _one(
    number: int,
    processes: int,
    port: int,
    argv: list[str],
    said: Path,
    first: Callable[[int], None] | None,
) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **HERE}
    torch.set_num_threads(1)
    with open(said, "w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if first is not None:
        first(number)
    sys.exit(command_line(lambda: training.main(argv), ConfigError))
