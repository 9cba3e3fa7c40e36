"""A small network with dropout, its settings and a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from config import TrainConfig, ViTConfig
from model import VisionTransformer
from tests.helpers import TINY_VIT


def network() -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3, dropout=0.5))
    torch.nn.init.normal_(net.head.weight)  # type: ignore[arg-type]
    return net


def settled(**train: Any) -> TrainConfig:
    return TrainConfig(**{"mode": "pretrained", "checkpoint": "x", **train}).settled(100)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
