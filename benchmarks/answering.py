"""Images a second of one classifier in each of its forms: a B/16, from picture files to answers.

    python -m benchmarks.answering [--images 64] [--rounds 3] [--preset B] [--csv FILE]

The same picture files (photos of noise, 500 x 375, JPEG) by `Classifier` (oneDNN's packed products,
and without them), by its exports in ONNX Runtime (fp32, int8) and OpenVINO, by transformers'
pipeline and by timm's model and own transform. Every round times all of them, one after the other;
the median counts. Random weights: how fast a network is does not depend on what it knows.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import RESULTS, ROOT
from classifier import Classifier
from config import PRESETS, ViTConfig
from model import VisionTransformer
from pretrained.write import save_model
from utils import command_line, write_csv

CSV = RESULTS / "answering.csv"
CLASSES = tuple("abcde")
BATCH = 16
PIPELINE = "transformers' pipeline"
FIELDS = ("way", "images_per_second", "lowest", "highest", "times_the_pipeline")
Way = Callable[[list[str]], object]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.answering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="B", choices=list(PRESETS))
    parser.add_argument("--csv", type=Path, default=CSV, metavar="FILE")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        checkpoint = network(home / "net" / "best.safetensors", args.preset)
        pictures = photos(home / "pictures", args.images)
        ways = forms(checkpoint, home)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way(pictures[:BATCH])  # warm
        for _ in range(args.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way(pictures)
                taken[name].append(len(pictures) / (time.perf_counter() - started))
    rates = {name: statistics.median(found) for name, found in taken.items()}
    rows = []
    for name, rate in rates.items():
        times = rate / rates[PIPELINE]
        low, high = min(taken[name]), max(taken[name])
        print(f"{name:<28}{rate:7.2f} images/s ({low:.2f} to {high:.2f}), ", end="")
        print(f"{times:.2f} x the pipeline")
        row = (name, round(rate, 3), round(low, 3), round(high, 3), round(times, 3))
        rows.append(dict(zip(FIELDS, row, strict=True)))
    write_csv(args.csv, rows)
    return 0


def network(path: Path, preset: str) -> Path:
    torch.manual_seed(0)
    sizes = {**PRESETS[preset], "num_classes": len(CLASSES)}
    path.parent.mkdir(parents=True)
    net = VisionTransformer(ViTConfig(**sizes), classes=CLASSES)  # type: ignore[arg-type]
    torch.nn.init.normal_(net.head.weight, std=0.02)  # type: ignore[arg-type]
    save_model(path, net)
    return path


def photos(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:03}.jpg", quality=92)
    return [str(path) for path in sorted(folder.iterdir())]


def forms(checkpoint: Path, home: Path) -> dict[str, Way]:
    """Each way of answering a list of picture files."""
    packed, plain = Classifier(checkpoint, device="cpu"), Classifier(checkpoint, device="cpu")
    plain._trunk.blocks = list(plain.net.blocks[: plain._trunk.depth])
    return {
        "Classifier": packed,
        "Classifier, plain products": plain,
        "ONNX Runtime, fp32": onnx(exported(checkpoint, home, "onnx", "--precision", "fp32")),
        "ONNX Runtime, int8": onnx(
            exported(checkpoint, home, "onnx", "--precision", "int8", "--most-loss", "1")
        ),
        "OpenVINO, fp32": openvino(exported(checkpoint, home, "openvino")),
        PIPELINE: pipeline(exported(checkpoint, home, "hf")),
        "timm": timm_loop(exported(checkpoint, home, "timm")),
    }


def exported(checkpoint: Path, home: Path, target: str, *more: str) -> Path:
    out = home / "-".join([target, *more[1:2]])
    command = [sys.executable, "-m", "tools.export", str(checkpoint), "--to", target]
    subprocess.run([*command, "--out", str(out), *more], check=True, cwd=ROOT, capture_output=True)
    return out


def onnx(folder: Path) -> Way:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return in_batches(lambda pixels: session.run(["probabilities"], {"pixels": pixels})[0])


def openvino(folder: Path) -> Way:
    import openvino

    model = openvino.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return in_batches(lambda pixels: model({"pixels": pixels})["probabilities"])


def in_batches(graph: Callable[[np.ndarray], np.ndarray]) -> Way:
    """A graph from pixels (n, h, w, 3) to probabilities (n, C), asked about picture files."""

    def answer(paths: list[str]) -> list[int]:
        found = []
        for start in range(0, len(paths), BATCH):  # all of one size: a batch at once
            some = paths[start : start + BATCH]
            pixels = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in some])
            found += graph(pixels).argmax(1).tolist()
        return found

    return answer


def pipeline(folder: Path) -> Way:
    from transformers import pipeline

    found = pipeline("image-classification", model=str(folder), device="cpu")
    return lambda paths: found(paths, batch_size=BATCH)


def timm_loop(folder: Path) -> Way:
    """As timm's inference.py does it: its transform, its model, batches."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    def answer(paths: list[str]) -> list[int]:
        found = []
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH):
                some = [Image.open(p).convert("RGB") for p in paths[start : start + BATCH]]
                images = torch.stack([transform(picture) for picture in some])
                found += model(images).softmax(1).argmax(1).tolist()
        return found

    return answer


if __name__ == "__main__":
    raise SystemExit(command_line(main))
