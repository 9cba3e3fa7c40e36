"""Small networks with random weights, for every layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from config import ViTConfig

SMALL = ViTConfig(
    patch_dim=16, hidden_dim=128, num_heads=2, num_layers=2, ff_dim=256, dim=64, num_classes=7
)


def randomise(net: nn.Module, seed: int = 0) -> Any:
    """Every parameter random, none left where it could hide an array that was not loaded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net.eval()


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
