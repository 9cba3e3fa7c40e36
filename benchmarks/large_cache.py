"""Training from a cache that is larger than the memory: 100,000 images of a B/16, 30 GB.

    python -m benchmarks.large_cache [--records N] [--folder DIR] [--steps N]

Writes a synthetic cache (random tokens: their values do not matter here), trains the last block on
random batches of it, and prints the images a second and the memory that it took.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from config import ViTConfig
from model import Tail, VisionTransformer
from tokens.cache import TokenCache, TokenLoader
from tokens.plan import record_type
from transforms import EpochSampler
from utils import check_disk, command_line


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    net = VisionTransformer(ViTConfig(num_classes=5))
    net.freeze_trunk(net.vit.num_layers - 1)
    record = record_type(net, "float16")
    check_disk(args.folder, args.records * record.itemsize, "the synthetic cache")
    folder = Path(tempfile.mkdtemp(prefix="large-cache-", dir=args.folder))
    try:
        write(folder, args.records, record)
        train(net, folder, record, args)
    finally:
        shutil.rmtree(folder)
    return 0


def write(folder: Path, records: int, record: np.dtype) -> None:
    rng = np.random.default_rng(0)
    block = np.zeros(64, record)
    block["tokens"] = rng.standard_normal(block["tokens"].shape, dtype=np.float32)
    with open(folder / "tokens.bin", "wb") as file:
        for start in tqdm(range(0, records, 64), "writing", unit="batch"):
            block["cls"][:, 0] = start
            file.write(block[: records - start].data)
    (folder / "records.txt").write_text("".join(f"{i}\n" for i in range(records)))


def train(net: VisionTransformer, folder: Path, record: np.dtype, args: argparse.Namespace) -> None:
    cache = TokenCache(folder, record)
    labels = torch.arange(args.records) % 5
    sampler = EpochSampler(args.records, 0, 1)
    rows = np.arange(args.records)[:, None]
    loader = TokenLoader(cache, rows, labels, 20, sampler)
    tail = Tail(net)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    started, most, steps = time.perf_counter(), 0, min(args.steps or len(loader), len(loader))
    for step, (tokens, chosen) in enumerate(tqdm(loader, "training", total=steps), 1):
        loss = torch.nn.functional.cross_entropy(tail(tokens), chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            most = max(most, resident())
        if step == steps:
            break
    seconds = time.perf_counter() - started
    size = cache.records.bytes
    print(f"cache: {args.records:,} records, {size / 1e9:.1f} GB; taken as large: {cache.is_large}")
    print(f"training: {steps:,} steps, {20 * steps / seconds:,.0f} images/s")
    print(f"resident memory while training: {most / 1e6:,.0f} MB at most, seen every 50 steps")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"resident memory of the process, writing included: {peak / 1e6:,.0f} MB at most")


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path("data"))
    parser.add_argument("--steps", type=int, help="of an epoch (all)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
