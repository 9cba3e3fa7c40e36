"""The fixtures that tests of several rooms share.

What they take of the project is imported inside them: where an import goes round in a circle, the
architecture test must be there to say so.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

# Nothing in the tests may reach the network.
os.environ["HF_HUB_OFFLINE"] = "0"  # the hub's client is tested against a local server
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# The networks here are too small for several threads to pay, above all beside other programs.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's own draws are the same each time: PyTorch begins every process with another seed."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    """Sets how many cores the test's thread takes; behind it there is one again."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture
def new_files_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a FileIndex, though the pictures of a test are younger than its clock's tick."""
    from images import FileIndex

    monkeypatch.setattr(FileIndex, "TICK_NS", 0)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of twelve pictures."""
    from tests.helpers import pictures_of

    return pictures_of(tmp_path / "images")


@pytest.fixture
def config_file(tmp_path: Path, image_folder: Path) -> Path:
    """A config that trains a tiny ViT from scratch on `image_folder` in a second or two."""
    from tests.helpers import TINY_VIT

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


@pytest.fixture
def finetune(config_file: Path) -> Path:
    """A config that fine-tunes the last block of a small network on three classes of pictures."""
    from tests.helpers import random_weights

    folder = config_file.parent
    train = yaml.safe_load(config_file.read_text())["train"] | {
        "mode": "finetune",
        "checkpoint": str(random_weights(folder / "random.safetensors")),
        "data": str(folder / "data"),
        "cache_dtype": "float32",
        "views": 1,
        "head": "class",
        "refit": False,
        "verdict": False,
    }
    config_file.write_text(yaml.safe_dump({"train": train}))
    return config_file


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through a trunk."""
    from tokens.trunk import Trunk

    sizes: list[int] = []
    original = Trunk.__call__

    def counting(self: Any, images: Tensor) -> Any:
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Trunk, "__call__", counting)
    return sizes


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every training step."""
    from engine.job import Job

    found: list[float] = []
    original = Job.step

    def noting(*args: Any) -> Any:
        result = original(*args)
        found.append(result[0])
        return result

    monkeypatch.setattr(Job, "step", noting)
    return found


@pytest.fixture
def untuned(config_file: Path) -> Path:
    """A config that fine-tunes a small network with the defaults, on 3 x 24 pictures."""
    from config import ViTConfig
    from model import VisionTransformer
    from pretrained import save_model
    from tests.helpers import COLOURS, TINY_VIT, picture

    folder = config_file.parent
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=7))
    for name, parameter in net.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.15)
    save_model(folder / "random.safetensors", net)
    raw = yaml.safe_load(config_file.read_text())["train"]
    for key in ("lr", "max_epochs"):
        del raw[key]
    raw |= {"mode": "finetune", "checkpoint": str(folder / "random.safetensors")}
    raw |= {"data": str(folder / "data"), "val_fraction": 0.5, "views": 1}
    raw |= {"head": "class", "refit": False}
    config_file.write_text(yaml.safe_dump({"train": raw}))
    for name in COLOURS:
        for i in range(12, 24):
            picture(name, i).save(folder / "images" / name / f"{i:02}.png")
    return config_file


@pytest.fixture
def held_out(config_file: Path) -> Path:
    """A config that fine-tunes a small random network whose tokens differ from image to image."""
    from config import ViTConfig
    from model import VisionTransformer
    from pretrained import save_model
    from tests.helpers import TINY_VIT

    folder = config_file.parent
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=7))
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    save_model(folder / "random.safetensors", net)
    train = yaml.safe_load(config_file.read_text())["train"] | {
        "mode": "finetune",
        "checkpoint": str(folder / "random.safetensors"),
        "data": str(folder / "data"),
        "max_epochs": 10,
        "batch_size": 8,
        "lr": 3e-3,
        "test_fraction": 0.25,
        "head": "class",
        "refit": False,
        "verdict": False,
    }
    config_file.write_text(yaml.safe_dump({"train": train}))
    return config_file


@pytest.fixture(scope="module")
def look() -> ModuleType:
    """The program, under a name that is not the standard library's `test`."""
    from tests.helpers import REPO

    spec = importlib.util.spec_from_file_location("look_inside", REPO / "test.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["look_inside"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network's weights, without classes: the head will be a fresh one."""
    from config import ViTConfig
    from model import VisionTransformer
    from pretrained import save_model
    from tests.helpers import TINY_VIT

    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_model(path, VisionTransformer(ViTConfig(**TINY_VIT, num_classes=0)))
    return path
