"""What the tests share: pictures, small networks and configs, and short ways to train."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor

import pretrained
import training
from config import Config, ConfigError, TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split, make_loaders
from model import VisionTransformer
from pretrained.build import build_for
from tokens.plan import Plan
from utils import UserError

REPO = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
SHARED_DATA = REPO.parent / "shared" / "data"
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
TINY_VIT = {
    "patch_dim": 8,
    "hidden_dim": 48,
    "num_heads": 4,
    "num_layers": 2,
    "ff_dim": 96,
    "dim": 32,
}


def picture(name: str, index: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    """A noisy picture of the class's colour."""
    rng = np.random.default_rng([index, *name.encode()])
    noise = rng.normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noise + COLOURS[name], 0, 255).astype(np.uint8))


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture of a dozen coloured shapes, each with its own."""
    rng = np.random.default_rng(seed)
    found = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(found)
    for shape in (pen.ellipse, pen.rectangle) * 6:
        (x, y), (w, h) = rng.uniform(-0.1, 0.8, 2) * size, rng.uniform(0.1, 0.4, 2) * size
        shape((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return found


CPU = torch.device("cpu")
DEEP = {**TINY_VIT, "num_layers": 4}


def random_weights(path: Path, seed: int = 0, **vit: Any) -> Path:
    """A file of ours with a small network whose tokens differ from image to image."""
    torch.manual_seed(seed)
    net = VisionTransformer(ViTConfig(**{**DEEP, "num_classes": 7, **vit}))
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    pretrained.save_model(path, net)
    return path


def train(config_file: Path, *overrides: str) -> int:
    return training.main(["--config", str(config_file), *overrides])


def pictures_of(folder: Path, each: int = 12) -> Path:
    """Three classes of noisy pictures below a folder."""
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture(name, i).save(folder / name / f"{i:02}.png")
    return folder


def small_run(home: Path, images: Path, run: str, **keys: Any) -> Path:
    """Finetune a small network on a folder of pictures, its logs and weights below `home`; the
    config's file. `keys` of `train` take the place of these."""
    weights = home / "from.safetensors"
    if not weights.exists():
        random_weights(weights, num_classes=0)
    own = {"mode": "finetune", "checkpoint": str(weights), "base_dir": str(images)}
    own |= {"data": str(home), "log_path": str(home / "logs"), "save_path": str(home / "weights")}
    quick_ones = {"max_epochs": 2, "batch_size": 8, "lr": 0.01, "views": 1, "device": "cpu"}
    bare = {"refit": False, "report": False, "verdict": False, "run_name": run}
    config = home / f"{run}.yaml"
    config.write_text(yaml.safe_dump({"train": own | quick_ones | bare | keys}))
    train(config)
    return config


def prepared(config_file: Path, *overrides: str) -> tuple[Config, Any, Any]:
    config, _ = load_config(config_file, list(overrides))
    split = load_split(config.train)
    return config, split, build_for(config, split.classes)


def plan(config_file: Path, *overrides: str) -> Plan:
    config, split, net = prepared(config_file, *overrides)
    return Plan(net, split, config.train)


def logits(config_file: Path, run: str, *overrides: str) -> Tensor:
    """What a run's best network, loaded as an ordinary one, answers for the validation images."""
    config, _ = load_config(config_file, list(overrides))
    split = load_split(config.train)
    net = pretrained.load_model(config_file.parent / f"weights/{run}/best.safetensors").eval()
    loader = make_loaders(split, config.train, net.preprocessing, 3, CPU)["val"]
    with torch.no_grad():
        return torch.cat([net(images) for images, _ in loader])


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


def fail(config_file: Path, *overrides: str) -> str:
    with pytest.raises((UserError, ConfigError)) as caught:
        train(config_file, *overrides)
    return str(caught.value)


def without_vit(config_file: Path) -> None:
    """Leave the architecture to the weights."""
    raw = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({"train": raw["train"]}))


def summary(config_file: Path, run: str = "tiny") -> dict[str, Any]:
    return json.loads((config_file.parent / "logs" / run / "summary.json").read_text())


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in rows]


def reached(config_file: Path, *overrides: str) -> dict[str, Any]:
    training.main(["--config", str(config_file), *overrides])
    return summary(config_file)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of a search than for real pictures, and of a short training as much as of a long one."""
    monkeypatch.setattr("engine.trials.SHORT", 0.0)
    monkeypatch.setattr("engine.search.LEAST_STEPS", 700)


def settings(root: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(base_dir=str(root), **changes)


def no_files(folder: Path) -> list[tuple[Path, str]]:
    """What is no text of a sane size, in a folder that it is put into, and why it can't be read;
    `huge`, beside it, has 100 GB of nothing."""
    os.mkfifo(folder / "pipe")
    with open(folder / "huge", "wb") as file:
        file.truncate(10**11)
    waits = "it is a pipe or a device"
    return [(folder, "Is a directory"), (folder / "pipe", waits), (Path("/dev/zero"), waits)]
