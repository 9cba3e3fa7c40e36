"""A training step of ours, of timm and of Hugging Face, in turns: images a second, and of what.

    python -m benchmarks.throughput                         Ti, S and B, scratch and pretrained
    python -m benchmarks.throughput --size B --mode pretrained --bf16 --compile --eight-bit

The same network in each mode's recipe (RECIPES in config.py), a batch that lies in memory; the
steps take turns, so that what else the machine does falls on all alike: `ratio` is the median of
theirs by ours, step by step; of one thread the processor's own seconds count. timm's step is
that of its train.py (create_optimizer_v2, LabelSmoothingCrossEntropy or Mixup, dispatch_clip_grad,
ModelEmaV3), Hugging Face's that of its Trainer (fused AdamW, clipped at 1; no average, no layer
decay). `share`: of the best matrix product to be had here in that precision, counting three forward
passes of a textbook's ViT a step. `memory_mb`: what a way's weights and steps take at most; on a
CPU all that a process of its own takes for two steps, PyTorch included. `loader`: the loader's
seconds by our step's, of the drawn pictures, which are decoded once and augmented each time: above
1 it is what an epoch waits for. Written to benchmarks/results/throughput-*.csv; rows of other
sizes, modes and precisions stay there.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import RESULTS, clock, keep_others, machine, matrix_peak, timed
from config import PRESETS, Mode, TrainConfig, ViTConfig
from dataset import load_split, make_loaders
from engine.job import Job
from model import VisionTransformer
from tools.baseline.networks import AUGREG2, SMOOTHING, timm_model
from utils import autocast, command_line, keep_freed_memory, pick_device

CLASSES, IMAGES = 5, 600
KIND = ("size", "mode", "precision", "compiled", "optimizer", "batch", "way")
FIELDS = (
    *KIND,
    *("images_per_second", "ratio", "gflops", "share", "memory_mb", "loader"),
)
Step = Callable[[Tensor, Tensor], object]


@dataclass
class Way:
    """Somebody's step, how long each took, and the memory that it came to."""

    name: str
    step: Step
    memory: float | None = None
    seconds: list[float] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    keep_freed_memory()  # as training.py does
    device = pick_device(args.device)[0]
    if args.child:
        for name in args.way:
            begun(name, *a_job(args, args.size[0], args.mode[0]), device, steps=2)
        return 0
    kept = [" ".join(machine().split()), *(["bf16"] if args.bf16 else [])]
    name = re.sub(r"[^a-z0-9.]+", "-", "-".join(kept).lower()).strip("-")
    path = RESULTS / f"throughput-torch{torch.__version__.partition('+')[0]}-{name}.csv"
    peak = matrix_peak(device.type, args.bf16, 64 if device.type == "cuda" else 8)
    print(f"{machine()}; torch {torch.__version__}; best matrix product {peak:,.0f} GFLOP/s")
    for size in args.size:
        for mode in args.mode:
            keep_others(path, measured(args, size, mode, device, peak), KIND, FIELDS)
    print(f"written to {path}")
    return 0


def a_job(args: argparse.Namespace, size: str, mode: Mode) -> tuple[ViTConfig, TrainConfig]:
    """A network and its mode's recipe."""
    vit = ViTConfig.model_validate({"preset": size, "num_classes": CLASSES}).concrete()
    train = TrainConfig(
        mode=mode,
        bf16=args.bf16,
        compile=args.compile,
        batch_size=args.batch,
        use_bitsandbytes=args.eight_bit,
        base_dir=args.images,
    )
    return vit, train.settled(IMAGES)


def measured(
    args: argparse.Namespace, size: str, mode: Mode, device: torch.device, peak: float
) -> list[dict[str, Any]]:
    """A row for each way with one network in one mode."""
    vit, train = a_job(args, size, mode)
    ways = [begun(name, vit, train, device) for name in args.way]
    images, labels = a_batch(vit, train.batch_size, device)
    for _ in range(args.steps):
        for way in ways:
            way.seconds.append(timed_step(way, images, labels, device))
    loader = loader_seconds(args, vit, train, device)
    if device.type == "cpu" and args.memory:
        for way in ways:
            way.memory = process_memory(args, size, mode, way.name)
    rows = []
    for way in ways:
        seconds = statistics.median(way.seconds)
        gflops = 3 * forward_flops(vit) * train.batch_size / seconds / 1e9
        rows.append(
            {
                "size": size,
                "mode": mode,
                "precision": "bfloat16" if args.bf16 else "float32",
                "compiled": args.compile,
                "optimizer": "8-bit" if args.eight_bit and way.name == "ours" else "32-bit",
                "batch": train.batch_size,
                "way": way.name,
                "images_per_second": f"{train.batch_size / seconds:.2f}",
                "ratio": f"{ratio(way, ways[0]):.3f}",
                "gflops": f"{gflops:.0f}",
                "share": f"{gflops / peak:.3f}",
                "memory_mb": "" if way.memory is None else f"{way.memory:.0f}",
                "loader": f"{loader / seconds:.2f}" if loader and way.name == "ours" else "",
            }
        )
        print(rows[-1], flush=True)
    return rows


def a_batch(vit: ViTConfig, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(size, vit.input_channels, vit.dim, vit.dim, device=device)
    return images, torch.randint(CLASSES, (size,), device=device)


def begun(
    name: str, vit: ViTConfig, train: TrainConfig, device: torch.device, steps: int = 2
) -> Way:
    """A way after its first steps, which compile and allocate; its memory, where that is known."""
    before = 0
    if device.type == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    torch.manual_seed(0)
    way = Way(name, WAYS[name](vit, train, device))
    images, labels = a_batch(vit, train.batch_size, device)
    for _ in range(steps):
        timed_step(way, images, labels, device)
    if device.type == "cuda":
        way.memory = (torch.cuda.max_memory_allocated() - before) / 2**20
    return way


def timed_step(way: Way, images: Tensor, labels: Tensor, device: torch.device) -> float:
    """The seconds of a step, to its end on the device."""
    started = clock(device.type)
    way.step(images, labels)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock(device.type) - started


def ratio(way: Way, first: Way) -> float:
    """Its seconds by those of the step of the first that was taken in the same turn."""
    return statistics.median(a / b for a, b in zip(way.seconds, first.seconds, strict=True))


def process_memory(args: argparse.Namespace, size: str, mode: Mode, way: str) -> float:
    """What a process takes at most that imports all, and takes two steps."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--child", "--device", "cpu"]
    command += ["--size", size, "--mode", mode, "--way", way, "--batch", str(args.batch)]
    command += [word for word in ("--bf16", "--compile") if getattr(args, word[2:])]
    return timed(command)[2] / 2**20


def forward_flops(vit: ViTConfig) -> float:
    """Of one image through the network: a multiplication and an addition are two."""
    N, D, F = (vit.dim // vit.patch_dim) ** 2 + 1, vit.hidden_dim, vit.ff_dim
    block = 2 * N * (4 * D * D + 2 * D * F) + 4 * N * N * D
    patches = 2 * (N - 1) * vit.patch_dim**2 * vit.input_channels * D
    return vit.num_layers * block + patches


def loader_seconds(
    args: argparse.Namespace, vit: ViTConfig, train: TrainConfig, device: torch.device
) -> float | None:
    """What a batch of pictures takes our loader, after its first epoch; None without pictures."""
    if not Path(args.images).is_dir():
        return None
    net = VisionTransformer(vit)
    split = load_split(train)
    loaders: Any = make_loaders(split, train, net.preprocessing, vit.input_channels, device)
    loader = loaders["train"]
    seconds = 0.0
    for epoch in (1, 2):
        loader.sampler.epoch = epoch
        started = clock(device.type)
        for _ in loader:
            pass
        seconds = (clock(device.type) - started) / len(loader)
    return seconds


# ----------------------------------------------------------------------------------------- the ways


def ours(vit: ViTConfig, train: TrainConfig, device: torch.device) -> Step:
    net = VisionTransformer(vit).to(device).train()
    job = Job(net, net, train, [i % CLASSES for i in range(IMAGES)])
    if train.compile:
        net.compile()
    return job.step


def timm(vit: ViTConfig, train: TrainConfig, device: torch.device) -> Step:
    from timm.data.mixup import Mixup
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, dispatch_clip_grad

    net = timm_model(VisionTransformer(vit).to(device)).train()
    chosen: Any = train  # settled: nothing is auto
    decay = chosen.layer_decay if chosen.layer_decay != 1.0 else None
    optimizer = create_optimizer_v2(
        net, "adamw", chosen.lr, AUGREG2.weight_decay, layer_decay=decay
    )
    ema = ModelEmaV3(net, decay=chosen.ema) if chosen.ema else None
    mix = None
    criterion: nn.Module = LabelSmoothingCrossEntropy(SMOOTHING)
    if train.mixup or train.cutmix:
        strengths = {"mixup_alpha": train.mixup, "cutmix_alpha": train.cutmix}
        mix = Mixup(**strengths, label_smoothing=SMOOTHING, num_classes=CLASSES)
        criterion = SoftTargetCrossEntropy()
    forward = torch.compile(net) if train.compile else net

    def step(images: Tensor, labels: Tensor) -> None:
        if mix is not None:
            images, labels = mix(images.clone(), labels)
        with autocast(device, train.bf16):
            loss = criterion(forward(images), labels)
        loss.backward()
        dispatch_clip_grad(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.update(net)

    return step


def huggingface(vit: ViTConfig, train: TrainConfig, device: torch.device) -> Step:
    from transformers import ViTConfig as Theirs
    from transformers import ViTForImageClassification

    config: Any = Theirs
    theirs = config(
        hidden_size=vit.hidden_dim,
        num_hidden_layers=vit.num_layers,
        num_attention_heads=vit.num_heads,
        intermediate_size=vit.ff_dim,
        num_labels=CLASSES,
    )
    net: Any = ViTForImageClassification(theirs)
    net.to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    if train.compile:
        net = torch.compile(net)

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(device, train.bf16):
            loss = net(pixel_values=images, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


WAYS = {"ours": ours, "timm": timm, "huggingface": huggingface}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", nargs="+", choices=PRESETS, default=["Ti", "S", "B"])
    add("--mode", nargs="+", choices=("scratch", "pretrained"), default=["scratch", "pretrained"])
    add("--way", nargs="+", choices=WAYS, default=list(WAYS))
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--batch", type=int, default=16, help="images a step (16)")
    add("--steps", type=int, default=12, help="of each way (12)")
    add("--bf16", action="store_true", help="bfloat16 autocast for all")
    add("--compile", action="store_true", help="torch.compile for all")
    add("--eight-bit", action="store_true", help="bitsandbytes' AdamW for ours")
    add("--memory", action="store_true", help="on a CPU, measure that, too, in processes")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    add("--images", default="data/pilots", help="what the loader reads (data/pilots)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
