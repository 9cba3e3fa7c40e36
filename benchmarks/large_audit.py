"""What an audit of many pictures takes, once their tokens exist: seconds and memory.

    python -m benchmarks.large_audit [--pictures 100000]

Made-up tokens as a ViT-S/14 leaves them (31 rows of 384 numbers a picture, in 16 bits, on the
disk), of ten classes, 2 % of the labels wrong; made-up descriptors, 1 % of them nearly another's;
made-up numbers of pixels. All that `audit.whole` does with them, and the page without its
thumbnails. Prints each step's seconds and the peak of the memory, and writes
benchmarks/results/large-audit.csv.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from audit.features import Seen, features_of
from audit.quality import Look
from audit.whole import examined
from benchmarks.machine import RESULTS
from dataset import Split
from decoding.duplicates import SIDE
from images import Sample
from tokens.cache import TokenLoader
from tokens.records import Records
from utils import command_line, write_csv

ROWS, WIDTH, CLASSES = 31, 384, 10
WRONG, COPIES = 0.02, 0.01
DEPTHS = list(range(6, 12))
CHUNK = 1_000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=100_000)
    n = parser.parse_args(argv).pictures
    with tempfile.TemporaryDirectory() as folder:
        truth = torch.arange(n) % CLASSES
        loader = made_up(Path(folder) / "layers.bin", truth)
        labels, bad = wrong(truth)
        started = time.perf_counter()
        features, tokens = features_of([loader], labels, DEPTHS)
        row: dict[str, Any] = {"pictures": n, "features": time.perf_counter() - started}
        seen = Seen(split_of(labels), tuple(split_of(labels).samples), labels, features, tokens)
        started = time.perf_counter()
        found = examined(seen, descriptors(n), looks(n), "large", {})
        row["audit"] = time.perf_counter() - started
    score = torch.zeros(n)
    index = {path: i for i, path in enumerate(found.paths)}
    for suspect in found.suspects:
        if suspect.kind == "label":
            score[index[suspect.path]] = suspect.score
    row["average_precision"] = float(average_precision_score(bad.numpy(), score.numpy()))
    row["copies"] = sum(suspect.kind in ("duplicate", "leak") for suspect in found.suspects)
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads"
    print("\n".join(found.said))
    print(row)
    write_csv(RESULTS / "large-audit.csv", [row])
    return 0


def made_up(file: Path, truth: Tensor) -> TokenLoader:
    """Tokens by class, with noise of fewer directions than they have numbers, on the disk."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.6 * torch.randn(CLASSES, ROWS * WIDTH, generator=generator)
    directions = torch.randn(256, ROWS * WIDTH, generator=generator) / 4
    n = len(truth)
    layers = np.memmap(file, np.float16, "w+", shape=(n, ROWS, WIDTH))
    for start in range(0, n, CHUNK):
        own = truth[start : start + CHUNK]
        noise = torch.randn(len(own), 256, generator=generator) @ directions
        x = centres[own] + noise + torch.randn(noise.shape, generator=generator)
        layers[start : start + CHUNK] = x.half().numpy().reshape(-1, ROWS, WIDTH)
    layers.flush()
    del layers
    cache: Any = SimpleNamespace(layers=Records(file, np.dtype(("float16", (ROWS, WIDTH)))))
    return TokenLoader(cache, np.arange(n)[:, None], truth, 100)


def wrong(truth: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    bad = torch.rand(len(truth), generator=generator) < WRONG
    return torch.where(bad, (truth + 3) % CLASSES, truth), bad


def split_of(labels: Tensor) -> Split:
    held_out = np.random.default_rng(4).random(len(labels)) < 0.2
    samples = tuple(
        Sample(Path(f"set/{label}/{i}.jpg"), label, "val" if held_out[i] else "train", f"{i}")
        for i, label in enumerate(labels.tolist())
    )
    return Split(Path("set"), tuple(str(c) for c in range(CLASSES)), samples)


def descriptors(n: int) -> np.ndarray:
    """Smooth noise; some are nearly another's."""
    rng = np.random.default_rng(2)
    found = np.empty((n, SIDE, SIDE), np.uint8)
    for start in range(0, n, CHUNK):
        coarse = rng.normal(size=(min(CHUNK, n - start), 16, 16)).repeat(2, 1).repeat(2, 2)
        coarse += np.roll(coarse, 1, 1) + np.roll(coarse, 1, 2)
        found[start : start + CHUNK] = np.clip(128 + 30 * coarse, 0, 255)
    copies = rng.permutation(n)[: 2 * round(COPIES * n)]
    for i, j in copies.reshape(-1, 2):
        found[i] = np.clip(found[j] + rng.normal(0, 3, (SIDE, SIDE)), 0, 255)
    return found


def looks(n: int) -> list[Look]:
    rng = np.random.default_rng(3)
    return [Look(640, 480, 50.0, 240.0, float(x)) for x in rng.normal(-1, 0.5, n)]


if __name__ == "__main__":
    raise SystemExit(command_line(main))
