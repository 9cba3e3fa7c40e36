"""Features that stand for pictures: a cluster a class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from audit.features import Seen
from dataset import Split
from images import Sample

CLASSES = ("a", "b", "c")


def clusters(each: int = 30, apart: float = 4.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, 8) of three classes, and their labels (n,), the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3 * each) % 3
    centres = torch.eye(3, 8) * apart
    return centres[labels] + torch.randn(len(labels), 8, generator=generator), labels


def seen_of(features: Tensor, labels: Tensor, parts: list[str] | None = None) -> Seen:
    """What an audit begins with, of pictures a/0.png, b/1.png ... with contents of their own."""
    where = parts or ["train"] * len(labels)
    samples = tuple(
        Sample(Path("set") / CLASSES[label] / f"{i}.png", label, part, f"digest {i}")
        for i, (label, part) in enumerate(zip(labels.tolist(), where, strict=True))
    )
    split = Split(Path("set"), CLASSES, samples)
    tokens = torch.nn.functional.normalize(features, dim=1)
    return Seen(split, samples, labels, features, tokens)
