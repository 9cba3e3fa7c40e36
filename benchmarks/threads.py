"""Threads and loader processes on a CPU: which numbers get in each other's way.

    python -m benchmarks.threads --images DIR     S/16, all weights, batches of 16 with augmentation

Images a second of training steps fed by the loader, for each number of PyTorch's threads and of
loader processes (`train.num_workers`); the combinations take turns, each with a loader of its own
whose first batch, which starts the processes, is left aside. On idle cores: threads of one product
wait for one another, so another program on one of the cores costs both. Written to
benchmarks/results/threads.csv.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from typing import Any

import torch

from benchmarks.machine import RESULTS, machine
from benchmarks.throughput import CLASSES
from config import TrainConfig, ViTConfig
from dataset import load_split, make_loaders
from engine.job import Job
from model import VisionTransformer
from utils import UserError, command_line, keep_freed_memory, write_csv

CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    keep_freed_memory()  # as training.py does
    vit = ViTConfig.model_validate({"preset": args.size, "num_classes": CLASSES}).concrete()
    train = TrainConfig(mode="pretrained", base_dir=args.images, batch_size=args.batch)
    split = load_split(train)
    images = len(split.part("train"))
    if images < args.batch * (args.batches + 1):
        raise UserError(f"{args.images} has {images} images to train on: --batches is too many")
    net = VisionTransformer(vit).train()
    job = Job(net, net, train.settled(images), [i % CLASSES for i in range(images)])
    ways = list(itertools.product(args.threads, args.workers))
    rates: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for threads, workers in ways:
            torch.set_num_threads(threads)
            own = train.model_copy(update={"num_workers": workers})
            loaders: Any = make_loaders(split, own, net.preprocessing, vit.input_channels, CPU)
            rates[threads, workers].append(rate(job, loaders["train"], args.batches))
    torch.set_num_threads(max(args.threads))
    rows: list[dict[str, Any]] = []
    for (threads, workers), found in rates.items():
        row: dict[str, Any] = {"machine": machine(), "size": args.size, "batch": args.batch}
        row |= {"threads": threads, "workers": workers, "rounds": args.rounds}
        row |= {"images_per_second": f"{statistics.median(found):.2f}"}
        row |= {"lowest": f"{min(found):.2f}", "highest": f"{max(found):.2f}"}
        rows.append(row)
        print(row)
    write_csv(RESULTS / "threads.csv", rows)
    return 0


def rate(job: Job, loader: Any, batches: int) -> float:
    """Images a second of some steps behind the first."""
    seen, started = 0, 0.0
    for i, (images, labels) in enumerate(loader):
        job.step(images, labels % CLASSES)
        if i == 0:
            started = time.perf_counter()
            continue
        seen += len(labels)
        if i == batches:
            break
    return seen / (time.perf_counter() - started)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--images", default="data/pilots", help="what is trained on (data/pilots)")
    add("--size", default="S", choices=("Ti", "S", "B"))
    add("--batch", type=int, default=16)
    add("--batches", type=int, default=6, help="of each turn, behind its first (6)")
    add("--rounds", type=int, default=3, help="turns of each combination (3)")
    add("--threads", type=int, nargs="+", default=sorted({1, cores}), help="1 and all cores")
    add("--workers", type=int, nargs="+", default=[0, 1, 2], help="0 1 2")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
