"""What it costs that the token cache's records are read and checked, at the size of a B/16.

    python -m benchmarks.checksums [--records N] [--rounds N] [--threads N] [--folder DIR]

An epoch reads each record once and trains the last block on it. Three ways in turn, so that other
work on the machine meets each of them: as a memory map (how it was), read, and read and checked.
Prints and writes CPU and wall time a record; a run checks a record when it first reads it, once.
Beside other work, take one thread: several wait for each other, and waiting counts as CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.large_cache import write
from benchmarks.machine import RESULTS, machine
from config import ViTConfig
from model import Tail, Tokens, VisionTransformer
from tokens.cache import TokenCache
from tokens.parts import sums_of
from tokens.plan import record_type
from utils import command_line, progress_bar, write_csv

BATCH = 20


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    net = VisionTransformer(ViTConfig(num_classes=5))
    net.freeze_trunk(net.vit.num_layers - 1)
    record = record_type(net, "float16")
    with tempfile.TemporaryDirectory(prefix="checksums-", dir=args.folder) as name:
        folder = Path(name)
        write(folder, args.records, record)
        records = np.fromfile(folder / "tokens.bin", record)
        sums_of(records, np.empty(0)).tofile(folder / "sums.bin")
        del records
        took = measure(TokenCache(folder, record), mapped(folder, record), net, args)
    about = {"machine": machine(), "threads": args.threads, "records": args.records}
    rows: list[dict[str, Any]] = [{**about, "what": what, **t} for what, t in took]
    epoch = rows[0]["cpu_us"]
    for row in rows:
        row["share_of_an_epoch"] = f"{row['cpu_us'] / epoch:.2%}"
        print(
            "{what:32} {cpu_us:8.1f} us CPU {wall_us:8.1f} us wall {share_of_an_epoch}".format(
                **row
            )
        )
    write_csv(RESULTS / "checksums.csv", rows)
    return 0


def mapped(folder: Path, record: np.dtype) -> Callable[[np.ndarray], Tokens]:
    """Reading as it was: a record at a time out of a memory map."""
    found = np.memmap(
        folder / "tokens.bin", record, "c"
    )  # written to by nobody; it saves a warning
    tokens, cls = (torch.from_numpy(found[name]) for name in ("tokens", "cls"))

    def read(rows: np.ndarray) -> Tokens:
        out = torch.empty((len(rows), *tokens.shape[1:]))
        for i in rows.argsort().tolist():
            out[i].copy_(tokens[int(rows[i])])
        return Tokens(out, cls[torch.from_numpy(rows)])

    return read


def measure(
    cache: TokenCache,
    by_map: Callable[[np.ndarray], Tokens],
    net: VisionTransformer,
    args: argparse.Namespace,
) -> list[tuple[str, dict[str, float]]]:
    """Medians over the rounds of each way's time a record, and of their differences in a round."""
    rng, step = np.random.default_rng(0), trainer(net)
    ways = ("an epoch of training", "read from a map", "read", "read and checked", "all at opening")
    seen: dict[str, list[np.ndarray]] = {way: [] for way in ways}

    def epoch(read: Callable[[np.ndarray], Tokens], use: Callable[[Tokens], None]) -> None:
        order = rng.permutation(args.records)
        for start in range(0, args.records, BATCH):
            use(read(order[start : start + BATCH]))

    def checked(rows: np.ndarray) -> Tokens:
        cache.records.checked[rows] = False
        return cache.read(rows)

    calls = {
        ways[0]: lambda: epoch(by_map, step),
        ways[1]: lambda: epoch(by_map, lambda tokens: None),
        ways[2]: lambda: epoch(cache.read, lambda tokens: None),
        ways[3]: lambda: epoch(checked, lambda tokens: None),
        ways[4]: lambda: list(cache.records.damaged()),
    }
    for round_ in progress_bar(range(args.rounds + 1), "rounds"):
        for way, call in calls.items():
            if way == ways[0] and round_ % 10:  # the others are short
                continue
            before = np.array([time.process_time(), time.perf_counter()])
            call()
            took = np.array([time.process_time(), time.perf_counter()]) - before
            if round_:  # the first warms up
                seen[way].append(1e6 / args.records * took)
    found = [(way, np.median(seen[way], 0)) for way in ways]
    for way, other in ((ways[2], ways[1]), (ways[3], ways[1])):
        more = np.median(np.array(seen[way]) - np.array(seen[other]), 0)
        found.append((f"{way}, more than a map", more))
    return [(way, {"cpu_us": float(took[0]), "wall_us": float(took[1])}) for way, took in found]


def trainer(net: VisionTransformer) -> Callable[[Tokens], None]:
    tail = Tail(net)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step(tokens: Tokens) -> None:
        labels: Tensor = torch.arange(len(tokens.tokens)) % 5
        loss = torch.nn.functional.cross_entropy(tail(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checksums",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path("data"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
