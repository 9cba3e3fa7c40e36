"""The same fine-tuning job three ways: ours, a plain loop over timm, and Hugging Face's Trainer.

    python -m benchmarks.finetune                the whole job of ours, an epoch of each peer
    python -m benchmarks.finetune --short        fewer epochs of ours, a few batches of each peer

ViT-B/16 (the same random weights for all), 750 drawn pictures (600 train, 150 val), batch 20, 50
epochs with a validation after each, AdamW on the last block, the final norm and the head. The peers
run the whole network for every image in every epoch; they are measured for a part of that and
extrapolated, and the output says so. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from benchmarks.machine import RESULTS, ROOT, machine, sgemm_peak, timed
from benchmarks.peers import BATCH, CLASSES, EPOCHS, LR, PEER_LOOPS
from config import ViTConfig
from model import VisionTransformer
from pretrained.build import load_model
from pretrained.write import save_model
from tokens.trunk import Trunk
from utils import command_line, keep_freed_memory, replacing

PEERS = {"timm": "timm, frozen", "huggingface": "HF Trainer, frozen"}


@dataclass
class Outcome:
    """What one way took: seconds, images/s, bytes; `extrapolated` where it was not run whole."""

    wall_seconds: float
    start_seconds: float  # imports, weights, data: everything that does not repeat
    train_images_per_second: float
    eval_images_per_second: float
    peak_bytes: int
    trunk_images_per_second: float | None = None
    trunk_seconds: float | None = None
    disk_bytes: int = 0
    extrapolated: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch_seconds(self) -> float:
        """A training epoch of the 600 pictures, without its validation."""
        return self.extra["train_images"] / self.train_images_per_second


def main(argv: list[str] | None = None) -> int:
    args = options("finetune", __doc__).parse_args(argv)
    if args.child:
        print(json.dumps(PEER_LOOPS[args.child](args)))
        return 0
    keep_freed_memory()  # as training.py does; the peers run in processes of their own
    draw(args.images, 150)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        weights = random_b16(work / "b16.safetensors")
        peak = sgemm_peak(args.device, args.bf16)
        print(f"{machine()}; torch {torch.__version__}; " + said_peak(peak), flush=True)
        profile_trunk(weights, args, max(peak.values()))
        outcomes = {"ours": run_ours(args, weights, work, EPOCHS if not args.short else 5)}
        for name in PEERS:
            outcomes[name] = run_peer(name, args, weights)
    show(outcomes, max(peak.values()))
    save(outcomes, peak, args)
    return 0


# ------------------------------------------------------------------------------------------- ours


def run_ours(
    args: argparse.Namespace, weights: Path, work: Path, epochs: int, images: str | None = None
) -> Outcome:
    """`python training.py` as a user runs it, from an empty cache, in a process of its own."""
    config = {
        "mode": "finetune",
        "checkpoint": str(weights),
        "base_dir": images or args.images,
        "views": 1,  # the peers' job: no augmentation
        "batch_size": BATCH,
        "max_epochs": epochs,
        "lr": LR,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "head": "class",  # the peers' too
        "refit": False,
        "verdict": False,
        "report": False,
        "device": args.device,
        "bf16": args.bf16,
        "run_name": "ours",
        "data": str(work / "data"),
        "log_path": str(work / "logs"),
        "save_path": str(work / "weights"),
    }
    (work / "ours.yaml").write_text(yaml.safe_dump({"train": config}))
    command = [sys.executable, "training.py", "--config", str(work / "ours.yaml")]
    _, wall, peak = timed(command)
    result = json.loads((work / "logs" / "ours" / "summary.json").read_text())
    with open(work / "logs" / "ours" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    seconds = [row["seconds"] for row in rows]
    counts = result["images"]
    epoch = sum(seconds) / len(seconds)
    # Validation, logs and checkpoints are what the training epochs and the start leave.
    rest = read_phases(work / "logs" / "ours" / "run.log")
    start = wall - result["cache_seconds"] - rest
    outcome = Outcome(
        wall_seconds=wall,
        start_seconds=start,
        train_images_per_second=counts["train"] / epoch,
        eval_images_per_second=counts["val"] * epochs / max(rest - sum(seconds), 1e-9),
        peak_bytes=peak,
        trunk_images_per_second=sum(counts.values()) / result["cache_seconds"],
        trunk_seconds=result["cache_seconds"],
        disk_bytes=sum(p.stat().st_size for p in (work / "data").rglob("*") if p.is_file()),
        extra={"train_images": counts["train"], "val_accuracy": result["val_accuracy"]},
    )
    if epochs < EPOCHS and images is None:
        outcome.wall_seconds += (EPOCHS - epochs) * rest / epochs
        outcome.extrapolated = f"{epochs} of {EPOCHS} epochs measured"
    return outcome


def read_phases(log: Path) -> float:
    """Seconds from the end of the trunk pass to the end of the last epoch, by the run's log."""
    stamp = re.compile(r"(\d+):(\d+):(\d+),(\d+) \w+ (epoch|token cache made)")
    times = []
    for line in log.read_text("utf-8").splitlines():
        if match := stamp.search(line):
            h, m, s, ms = (int(match[i]) for i in range(1, 5))
            times.append(h * 3600 + m * 60 + s + ms / 1000)
    return (times[-1] - times[0]) % 86400


# ------------------------------------------------------------------------------------------ peers


def run_peer(name: str, args: argparse.Namespace, weights: Path) -> Outcome:
    """A peer in a process of its own, a part of its epochs, and what all of them would take."""
    command = [sys.executable, "-m", "benchmarks.finetune", "--child", name]
    command += ["--weights", str(weights), "--images", args.images, "--device", args.device]
    command += ["--batches", str(4 if args.short else 29), "--workers", str(args.workers)]
    command += ["--augment"] if args.augment else []
    out, wall, peak = timed([*command, *(["--bf16"] if args.bf16 else [])])
    found = json.loads(out.splitlines()[-1])
    val = 150
    epoch = found["images"] / found["train"] + val / found["eval"]
    batches = "4 of 30" if args.short else "29 of 30"
    return Outcome(
        wall_seconds=found["start"] + EPOCHS * epoch,
        start_seconds=found["start"],
        train_images_per_second=found["train"],
        eval_images_per_second=found["eval"],
        peak_bytes=peak,
        extrapolated=f"{batches} batches of one epoch measured ({wall:.0f} s)",
        extra={"train_images": found["images"]},
    )


# ---------------------------------------------------------------------------------- the machine


def profile_trunk(weights: Path, args: argparse.Namespace, peak: float) -> None:
    """The trunk pass alone, on images in memory: its speed, and what it spends its time on."""
    net = load_model(weights)
    net.freeze_trunk(net.vit.num_layers - 1)
    device = torch.device(args.device)
    trunk = Trunk(net.to(device), device, args.bf16)
    images = torch.randn(trunk.batch_size, 3, 224, 224, device=device)
    for _ in range(2):
        trunk(images)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        trunk(images).tokens.cpu()
        times.append(time.perf_counter() - started)
    reached = trunk.batch_size * trunk_gflop() / sorted(times)[3]
    print(
        f"trunk pass alone ({trunk.engine}, batch {trunk.batch_size}): {reached:.0f} GFLOP/s, "
        f"{reached / peak:.0%} of the best product; of its time:"
    )
    if args.device == "cpu":
        with torch.profiler.profile() as profile:
            for _ in range(3):
                trunk(images)
        rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
        total = sum(row.self_cpu_time_total for row in rows)
        for row in rows[:5]:
            print(f"  {row.self_cpu_time_total / total:6.1%}  {row.key}")


def trunk_gflop() -> float:
    """Of one image: the patches' projection and 11 of B/16's blocks, a multiply-add being two."""
    N, D = 197, 768
    return (2 * (N - 1) * D * D + 11 * (24 * N * D * D + 4 * N * N * D)) / 1e9


def random_b16(path: Path) -> Path:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(num_classes=CLASSES, gelu="tanh"))
    nn.init.normal_(net.get_parameter("head.weight"), std=0.01)
    save_model(path, net)
    return path


def draw(folder: str, per_class: int) -> None:
    command = ["-m", "tools.draw_pilots", "--out", folder, "--per-class", str(per_class)]
    subprocess.run([sys.executable, *command, "--seed", "0"], cwd=ROOT, check=True)


# ------------------------------------------------------------------------------------- reporting


def said_peak(peak: dict[str, float]) -> str:
    found = ", ".join(f"{name} {value:.0f}" for name, value in peak.items())
    return f"matrix products, GFLOP/s: {found}"


def show(outcomes: dict[str, Outcome], peak: float) -> None:
    ours = outcomes["ours"]
    titles = {"ours": "ours", **PEERS}
    print(f"\n{'':<34}" + "".join(f"{titles[name]:>20}" for name in outcomes))
    lines: list[tuple[str, Callable[[Outcome], str]]] = [
        ("imports, weights, data, end: s", lambda o: f"{o.start_seconds:.1f}"),
        ("trunk pass: s", lambda o: f"{o.trunk_seconds:.1f}" if o.trunk_seconds else "-"),
        (
            "trunk pass: images/s",
            lambda o: f"{o.trunk_images_per_second:.1f}" if o.trunk_seconds else "-",
        ),
        ("training: images/s", lambda o: f"{o.train_images_per_second:,.1f}"),
        ("training epoch: s", lambda o: f"{o.epoch_seconds:,.2f}"),
        ("validation (ours: and logs): im./s", lambda o: f"{o.eval_images_per_second:,.1f}"),
        ("peak memory: MB", lambda o: f"{o.peak_bytes / 1e6:,.0f}"),
        ("disk for the cache: MB", lambda o: f"{o.disk_bytes / 1e6:,.0f}"),
        (f"{EPOCHS} epochs: s", lambda o: f"{o.wall_seconds:,.0f}{'*' * bool(o.extrapolated)}"),
        ("ours is faster: end to end", lambda o: f"{o.wall_seconds / ours.wall_seconds:.1f} x"),
        ("ours is faster: an epoch", lambda o: f"{o.epoch_seconds / ours.epoch_seconds:.0f} x"),
    ]
    for title, cell in lines:
        print(f"{title:<34}" + "".join(f"{cell(o):>20}" for o in outcomes.values()))
    for name, outcome in outcomes.items():
        if outcome.extrapolated:
            print(f"* {titles[name]}: {outcome.extrapolated}, the rest extrapolated")
    reached = (ours.trunk_images_per_second or 0) * trunk_gflop()
    share = f"{reached / peak:.0%} of the best product here"
    print(f"trunk pass in the run: {reached:.0f} GFLOP/s with decoding and writing, {share}")


def save(outcomes: dict[str, Outcome], peak: dict[str, float], args: argparse.Namespace) -> None:
    dtype = "bfloat16" if args.bf16 else "float32"
    slug = re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")
    short = "-short" if args.short else ""
    path = RESULTS / f"finetune-{dtype}-torch{torch.__version__.split('+')[0]}-{slug}{short}.csv"
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "figure", "value", "extrapolated"])
        for engine, value in peak.items():
            writer.writerow([engine, "gflops", f"{value:.1f}", ""])
        for name, outcome in outcomes.items():
            figures = {**vars(outcome), "epoch_seconds": outcome.epoch_seconds, **outcome.extra}
            for figure, value in figures.items():
                if isinstance(value, (int, float)):
                    is_guess = outcome.extrapolated if figure == "wall_seconds" else ""
                    writer.writerow([name, figure, f"{value:.6g}", is_guess])
    print(f"saved: {path.relative_to(ROOT)}")


def options(name: str, about: str | None) -> argparse.ArgumentParser:
    """What this benchmark takes, for one of another name, too."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--short", action="store_true", help="a few minutes, extrapolated")
    parser.add_argument("--device", default=here, choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast for all three")
    parser.add_argument("--images", default="data/pilots", help="drawn there if need be")
    parser.add_argument(
        "--workers",
        type=int,
        default=0 if here == "cpu" else 8,
        help="the peers' loader processes (0 on a CPU: with 2 they are 2 %% slower on 2 cores)",
    )
    parser.add_argument(
        "--augment", action="store_true", help="timm's loop with its default augmentation"
    )
    parser.add_argument("--child", choices=sorted(PEER_LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    raise SystemExit(command_line(main))
