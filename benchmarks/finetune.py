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
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from config import TrainConfig, ViTConfig
from dataset import load_split
from images import Sample, read_image
from model import VisionTransformer
from pretrained.build import load_model
from pretrained.write import export, save_model
from tokens.trunk import Trunk
from transforms import eval_transform
from utils import autocast, command_line, keep_freed_memory, replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
CLASSES, BATCH, EPOCHS, LR = 5, 20, 50, 3e-4
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
    args = parse(argv)
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
    with open(work / "logs" / "ours" / "metrics.csv", newline="") as file:
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
    for line in log.read_text().splitlines():
        if match := stamp.search(line):
            h, m, s, ms = (int(match[i]) for i in range(1, 5))
            times.append(h * 3600 + m * 60 + s + ms / 1000)
    return (times[-1] - times[0]) % 86400


# ------------------------------------------------------------------------------------------ peers


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures of a part as any tutorial reads them: decoded and resized when asked for."""

    def __init__(self, samples: list[Sample], transform: Callable) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(read_image(self.samples[i].path).copy()).permute(2, 0, 1)
        return self.transform(pixels), self.samples[i].label


def pictures(args: argparse.Namespace, weights: VisionTransformer) -> tuple[Pictures, Pictures]:
    split = load_split(TrainConfig(base_dir=args.images))
    transform = eval_transform(weights.preprocessing)
    train, val = (Pictures(split.part(part), transform) for part in ("train", "val"))
    return train, val


def check_same(net: Callable[[Tensor], Tensor], weights: VisionTransformer) -> None:
    """The peer is the same network: it answers the same for an image."""
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net(image), weights(image), rtol=1e-3, atol=1e-3)


def freeze(net: nn.Module, trained: Iterable[nn.Module]) -> list[nn.Parameter]:
    net.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return [p for p in net.parameters() if p.requires_grad]


def timm_loop(args: argparse.Namespace) -> dict[str, Any]:
    """timm's ViT in the plain loop of PyTorch's tutorials."""
    import timm

    started, device = time.perf_counter(), torch.device(args.device)
    weights = load_model(args.weights)
    net: Any = timm.create_model("vit_base_patch16_224", num_classes=CLASSES, act_layer="gelu_tanh")
    net.load_state_dict(weights.state_dict())
    check_same(net, weights)
    net.to(device)
    parameters = freeze(net, [net.blocks[-1], net.norm, net.head])
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    train, val = pictures(args, weights)
    loader = DataLoader(train, BATCH, shuffle=True, num_workers=args.workers)
    start_seconds = time.perf_counter() - started

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(device, args.bf16):
            loss = F.cross_entropy(net(images.to(device)).float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    net.train()
    train_rate = rate(loader, step, args.batches)
    net.eval()

    @torch.no_grad()
    def score(images: Tensor, labels: Tensor) -> None:
        with autocast(device, args.bf16):
            net(images.to(device)).argmax(1).cpu()

    eval_rate = rate(DataLoader(val, 32, num_workers=args.workers), score, args.batches)
    return {"start": start_seconds, "train": train_rate, "eval": eval_rate, "images": len(train)}


def rate(loader: Iterable, step: Callable, batches: int) -> float:
    """Images a second over some batches, the first one aside where there are several."""
    seen, started = 0, time.perf_counter()
    for i, (images, labels) in enumerate(loader):
        step(images, labels)
        if i == 0:
            seen, started = 0, time.perf_counter()
            continue
        seen += len(labels)
        if i == batches:
            break
    return seen / (time.perf_counter() - started)


def huggingface_trainer(args: argparse.Namespace) -> dict[str, Any]:
    """Hugging Face's Trainer over its ViTForImageClassification, as its documentation has it."""
    import transformers

    started = time.perf_counter()
    weights = load_model(args.weights)
    with tempfile.TemporaryDirectory() as folder:  # as its users load weights
        config: Any = transformers.ViTConfig
        config(num_labels=CLASSES, hidden_act="gelu_pytorch_tanh").save_pretrained(folder)
        arrays = export(weights, "huggingface-vit")
        save_file(arrays, Path(folder) / "model.safetensors", {"format": "pt"})
        net: Any = transformers.ViTForImageClassification.from_pretrained(folder)
    check_same(lambda images: net(images).logits, weights)
    layers = net.vit.layers if hasattr(net.vit, "layers") else net.vit.encoder.layer
    freeze(net, [layers[-1], net.vit.layernorm, net.classifier])
    train, val = pictures(args, weights)
    stamps: list[float] = []

    class Stamp(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        images, labels = zip(*items, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    training = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=32,
        max_steps=min(args.batches + 1, len(train) // BATCH),
        learning_rate=LR,
        weight_decay=0.01,
        save_strategy="no",
        logging_steps=1000,
        report_to=[],
        use_cpu=args.device == "cpu",
        bf16=args.bf16,
        dataloader_num_workers=args.workers,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=net,
        args=training,
        train_dataset=train,
        eval_dataset=torch.utils.data.Subset(val, range(min(len(val), 32 * args.batches))),
        data_collator=collate,
        callbacks=[Stamp()],
    )
    start_seconds = time.perf_counter() - started
    trainer.train()
    train_rate = (len(stamps) - 1) * BATCH / (stamps[-1] - stamps[0])
    scored = trainer.evaluate()
    return {
        "start": start_seconds,
        "train": train_rate,
        "eval": scored["eval_samples_per_second"],
        "images": len(train),
    }


PEER_LOOPS = {"timm": timm_loop, "huggingface": huggingface_trainer}


def run_peer(name: str, args: argparse.Namespace, weights: Path) -> Outcome:
    """A peer in a process of its own, a part of its epochs, and what all of them would take."""
    command = [sys.executable, "-m", "benchmarks.finetune", "--child", name]
    command += ["--weights", str(weights), "--images", args.images, "--device", args.device]
    command += ["--batches", str(4 if args.short else 29), "--workers", str(args.workers)]
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


def sgemm_peak(device: str, bf16: bool) -> dict[str, float]:
    """GFLOP/s of the best matrix products to be had here, at the sizes of a B/16's layers.

    `torch.mm` is what the peers get; oneDNN's packed products are what our trunk pass calls.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    M, peak = 8 * 197, {"torch.mm": 0.0}
    for K, N in ((768, 768), (768, 2304), (768, 3072), (3072, 768), (2048, 2048)):
        a = torch.randn(M, K, device=device, dtype=dtype)
        w = torch.randn(N, K, device=device, dtype=dtype)
        b = torch.zeros(N, device=device, dtype=dtype)
        out = torch.empty(M, N, device=device, dtype=dtype)

        def product(a: Tensor = a, w: Tensor = w, out: Tensor = out) -> object:
            return torch.mm(a, w.t(), out=out)

        peak["torch.mm"] = max(peak["torch.mm"], gflops(product, 2 * M * K * N, device))
        if device == "cpu" and torch.backends.mkldnn.is_available() and not bf16:
            packed = torch.ops.mkldnn._reorder_linear_weight(w, M)

            def fused(a: Tensor = a, packed: Tensor = packed, b: Tensor = b) -> object:
                return torch.ops.mkldnn._linear_pointwise(a, packed, b, "none", [], "")

            found = gflops(fused, 2 * M * K * N, device)
            peak["oneDNN"] = max(peak.get("oneDNN", 0.0), found)
    return peak


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


def gflops(product: Callable[[], object], flops: float, device: str) -> float:
    """The median of 15 calls after 3."""
    times = []
    with torch.inference_mode():
        for _ in range(18):
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            product()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    return flops / sorted(times[3:])[7] / 1e9


def trunk_gflop() -> float:
    """Of one image: the patches' projection and 11 of B/16's blocks, a multiply-add being two."""
    N, D = 197, 768
    return (2 * (N - 1) * D * D + 11 * (24 * N * D * D + 4 * N * N * D)) / 1e9


def timed(command: list[str]) -> tuple[str, float, int]:
    """A process's output, wall seconds, and its largest resident memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{out[-2000:]}")
    return out, wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """The processor and its cores, or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (match := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        name = match[1]
    return f"{name}, {torch.get_num_threads()} cores"


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
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
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


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune",
        description=__doc__,
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
    parser.add_argument("--child", choices=sorted(PEER_LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
