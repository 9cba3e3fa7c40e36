"""Less is kept, and the gradient is the same."""

from __future__ import annotations

import torch
from torch import Tensor

from config import ViTConfig
from engine.memory import recompute
from model import VisionTransformer
from tests.helpers import DEEP


def kept_and_gradient(net: VisionTransformer) -> tuple[int, Tensor]:
    """The bytes that are kept for the gradient of a batch, and the gradient."""
    kept = 0

    def keep(values: Tensor) -> Tensor:
        nonlocal kept
        kept += values.nbytes
        return values

    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        loss = net(images).square().sum()
    before = kept  # what is made again is not kept
    loss.backward()
    return before, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def test_less_is_kept_and_the_gradient_is_the_same() -> None:
    torch.manual_seed(1)
    net = VisionTransformer(ViTConfig(**{**DEEP, "num_classes": 3, "dropout": 0.1}))  # type: ignore[arg-type]
    torch.nn.init.normal_(net.head.weight)
    much, gradient = kept_and_gradient(net)
    net.zero_grad()
    net.blocks[0].requires_grad_(False)
    recompute(net)
    net.blocks[0].requires_grad_(True)
    assert "forward" not in vars(net.blocks[0]) and "forward" in vars(net.blocks[1])
    little, again = kept_and_gradient(net)
    assert little < 0.6 * much  # one of four blocks keeps all
    assert torch.equal(gradient, again)
    with torch.inference_mode():
        assert net.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
