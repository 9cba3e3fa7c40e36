"""What the tests share: a small folder of images, a small config, and where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from images import FileIndex

# Nothing in the tests may reach the network.
os.environ["HF_HUB_OFFLINE"] = "0"  # the hub's client is tested against a local server
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# The networks here are too small for several threads to pay, above all beside other programs.
torch.set_num_threads(1)

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


@pytest.fixture
def new_files_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a FileIndex, though the pictures of a test are younger than its clock's tick."""
    monkeypatch.setattr(FileIndex, "TICK_NS", 0)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of twelve pictures."""
    root = tmp_path / "images"
    for name in COLOURS:
        (root / name).mkdir(parents=True)
        for i in range(12):
            picture(name, i).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture
def config_file(tmp_path: Path, image_folder: Path) -> Path:
    """A config that trains a tiny ViT from scratch on `image_folder` in a second or two."""
    path = tmp_path / "tiny.yaml"
    train = {
        "mode": "scratch",
        "base_dir": str(image_folder),
        "max_epochs": 3,
        "batch_size": 8,
        "lr": 1e-3,
        "device": "cpu",
        "report": False,  # a process of its own, some seconds
        "run_name": "tiny",
        "log_path": str(tmp_path / "logs"),
        "save_path": str(tmp_path / "weights"),
    }
    path.write_text(yaml.safe_dump({"vit": {**TINY_VIT, "dropout": 0.1}, "train": train}))
    return path
