"""The frozen blocks in float32 and in bfloat16: how fast, and what the results are.

    python -m benchmarks.trunk_dtype                        the speed of both, in turns
    python -m benchmarks.trunk_dtype --accuracy --data DIR  the sets of the table of results

Speed: the pass alone, on images in memory, the two taking turns batch by batch; the best of a
large bfloat16 matrix product is the peak that `share` is of. Accuracy: a run of `ours` of
benchmarks.results for each set, seed and precision, which share a token cache where they can; of
the reported part's pictures those that both, or one alone, get right. Resumable: a run that is
there is not run again. Written to benchmarks/results/trunk-dtype*.csv.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.finetune import draw
from benchmarks.folders import few_shots
from benchmarks.machine import RESULTS, clock, keep_others, machine, matrix_peak
from benchmarks.results import BARE, ROWS
from benchmarks.throughput import forward_flops
from config import ConfigError, ViTConfig
from engine.answers import PREDICTIONS
from filing.csv_files import read_csv
from model import VisionTransformer
from tokens.trunk import Trunk
from tools.repeat import finished, reported, took
from utils import UserError, command_line, keep_freed_memory, write_csv

DTYPES = ("float32", "bfloat16")
NETWORKS: dict[str, dict[str, Any]] = {
    "S/14": {"preset": "S", "patch_dim": 14, "num_classes": 0},
    "B/16": {"preset": "B", "num_classes": 0},
}
LOGS, SHOTS = Path("logs") / "trunk-dtype", Path("data") / "shots"
COUNTS = ("both_right", "float32_alone", "bfloat16_alone", "both_wrong", "same_answer")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return accuracy(args) if args.accuracy else speed(args)


# ------------------------------------------------------------------------------------------ speed


def speed(args: argparse.Namespace) -> int:
    keep_freed_memory()  # as training.py does
    peaks = [matrix_peak("cpu", bf16) for bf16 in (False, True)]
    print(f"{machine()}; best products {peaks[0]:.0f} and {peaks[1]:.0f} GFLOP/s")
    rows = []
    for name, keys in NETWORKS.items():
        vit = ViTConfig.model_validate(keys)
        torch.manual_seed(0)
        net = VisionTransformer(vit).eval()
        net.freeze_trunk(vit.num_layers - 1)
        trunks = [Trunk(net, torch.device("cpu"), bf16, layers=True) for bf16 in (False, True)]
        images = torch.randn(trunks[0].batch_size, 3, vit.dim, vit.dim)
        seconds = in_turns(trunks, images, args.rounds)
        flops = forward_flops(vit.model_copy(update={"num_layers": vit.num_layers - 1}))
        for trunk, found, peak in zip(trunks, seconds, peaks, strict=True):
            rate = len(images) / statistics.median(found)
            ratios = [a / b for a, b in zip(seconds[0], found, strict=True)]
            row: dict[str, Any] = {"machine": machine(), "network": name}
            row |= {"engine": trunk.engine}
            row |= {"batch": len(images), "images_per_second": f"{rate:.2f}"}
            row |= {"times_float32": f"{statistics.median(ratios):.2f}"}
            row |= {"gflops": f"{rate * flops / 1e9:.0f}", "peak": f"{peak:.0f}"}
            row |= {"share": f"{rate * flops / 1e9 / peak:.2f}"}
            rows.append(row)
            print(row, flush=True)
    write_csv(RESULTS / f"trunk-dtype-speed-{torch.get_num_threads()}-threads.csv", rows)
    return 0


def in_turns(trunks: list[Trunk], images: torch.Tensor, rounds: int) -> list[list[float]]:
    """The seconds of each trunk's passes, of which those of one round follow one another."""
    found: list[list[float]] = [[] for _ in trunks]
    for i in range(-2, rounds):
        for trunk, seconds in zip(trunks, found, strict=True):
            started = clock()
            trunk(images)
            if i >= 0:
                seconds.append(clock() - started)
    return found


# --------------------------------------------------------------------------------------- accuracy


def accuracy(args: argparse.Namespace) -> int:
    path = RESULTS / "trunk-dtype.csv"
    rows: list[dict[str, Any]] = []
    for name in args.only or ROWS:
        for seed in range(args.seeds):
            runs = [measure(name, seed, dtype, args.data) for dtype in DTYPES]
            rows.append(compared(name, seed, runs))
            print(rows[-1], flush=True)
            keep_others(path, rows, ("row", "seed"), list(rows[0]))
    shutil.rmtree(LOGS / "data", ignore_errors=True)  # the token caches
    return 0


def measure(name: str, seed: int, dtype: str, data: str) -> tuple[Path, dict[str, Any]]:
    """A run's folder, and what its summary.json says."""
    row, run_name = ROWS[name], f"{name}-{dtype}-seed{seed}"
    overrides = [*row.overrides, *BARE, f"train.trunk_dtype={dtype}", f"train.seed={seed}"]
    overrides += [f"train.log_path={LOGS}", f"train.save_path={LOGS / 'weights'}"]
    overrides += [f"train.data={LOGS / 'data'}", f"train.run_name={run_name}"]
    if row.shots:
        source = Path(data) / str(row.folder)
        folder = few_shots(source, SHOTS / f"{name}-seed{seed}", row.shots, seed)
        overrides.append(f"train.base_dir={folder}")
    elif row.folder:
        overrides.append(f"train.base_dir={Path(data) / row.folder}")
    else:
        draw("data/pilots", 150)
    return LOGS / run_name, finished(row.config, overrides)


def compared(name: str, seed: int, runs: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """The accuracies of both, and of how many pictures the two answers agree."""
    summaries = [summary for _, summary in runs]
    part = reported(summaries[0])
    one, other = (
        {row["path"]: row for row in read_csv(folder / PREDICTIONS) if row["part"] == part}
        for folder, _ in runs
    )
    if one.keys() != other.keys():
        raise UserError(f"{name}, seed {seed}: the runs have other pictures in their {part} part")
    counts = dict.fromkeys(COUNTS, 0)
    for picture, mine in one.items():
        right = [row["label"] == row["predicted"] for row in (mine, other[picture])]
        counts["same_answer"] += mine["predicted"] == other[picture]["predicted"]
        counts["both_right"] += all(right)
        counts["both_wrong"] += not any(right)
        counts["float32_alone"] += right == [True, False]
        counts["bfloat16_alone"] += right == [False, True]
    found: dict[str, Any] = {"row": name, "seed": seed, "part": part, "images": len(one)}
    for dtype, summary in zip(DTYPES, summaries, strict=True):
        found[dtype] = round(summary[f"{part}_accuracy"], 4)
    found |= counts
    for dtype, summary in zip(DTYPES, summaries, strict=True):
        found[f"{dtype}_seconds"] = round(took(summary), 1)
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trunk_dtype",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=15, help="passes of each, in turns (15)")
    add("--accuracy", action="store_true", help="the results of both instead of their speed")
    add("--seeds", type=int, default=3, help="of each set (3)")
    add("--only", nargs="+", choices=ROWS, help="some of the sets")
    add("--data", default="data", help="holds characters5, hymenoptera, signdigits")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
