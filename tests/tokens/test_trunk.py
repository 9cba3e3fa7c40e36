"""The trunk's pass gives what the network gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from config import ViTConfig
from model import Tail, VisionTransformer
from tests.helpers import CPU, DEEP, TINY_VIT
from tokens.trunk import HalfBlock, PackedBlock, Trunk, packed

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def frozen(depth: int) -> tuple[VisionTransformer, Tensor]:
    """A small network whose first blocks are frozen, and images for it."""
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**DEEP, num_classes=3)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    net.freeze_trunk(depth)
    images = torch.randn(5, 3, 32, 32)
    return net, images


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_bfloat16_is_the_same_from_the_cache(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        single, half = (Trunk(net, CPU, bf16)(images) for bf16 in (False, True))
        with torch.autocast("cpu", torch.bfloat16):
            plain, cached = net(images), Tail(net)(half)
    assert plain.dtype == torch.bfloat16 and not torch.equal(single.tokens, half.tokens)
    torch.testing.assert_close(cached, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_packed_blocks_equal_the_plain_ones(gelu: str) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(num_classes=3, hidden_dim=192, num_heads=3, num_layers=3, ff_dim=768, gelu=gelu)
    blocks: list[Any] = list(VisionTransformer(vit).blocks)
    quick = packed(blocks, 4, 197, CPU)
    if torch.backends.mkldnn.is_available():
        assert all(isinstance(block, PackedBlock) for block in quick)
    x = y = torch.randn(3, 197, 192)
    with torch.no_grad():
        for plain, block in zip(blocks, quick, strict=True):
            x, y = plain(x), block(y)
    assert (x - y).norm() < 2e-6 * x.norm()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN's products")
@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_half_blocks_are_as_near_to_float32_as_autocast_is(
    monkeypatch: pytest.MonkeyPatch, gelu: str
) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(num_classes=3, hidden_dim=192, num_heads=3, num_layers=3, ff_dim=768, gelu=gelu)
    blocks: list[Any] = list(VisionTransformer(vit).blocks)
    half = packed(blocks, 4, 197, CPU, bf16=True)
    assert all(isinstance(block, HalfBlock) for block in half)
    x = y = z = given = torch.randn(5, 197, 192)
    before = given.clone()
    with torch.no_grad():
        for plain, block in zip(blocks, half, strict=True):
            x, y = plain(x), block(y)
            with torch.autocast("cpu", torch.bfloat16):
                z = plain(z)
        monkeypatch.setattr("tokens.trunk.SCORES_BYTES", 1)
        one_by_one = given
        for block in half:
            one_by_one = block(one_by_one)
    assert torch.equal(given, before), "what came in is as it was"
    apart, autocast_apart = (x - y).norm() / x.norm(), (x - z).norm() / x.norm()
    assert 1e-4 < apart < 1.2 * autocast_apart < 1e-2 and y.dtype == torch.float32
    torch.testing.assert_close(one_by_one, y, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fault", ["absent", "wrong"])
def test_without_packed_products_the_plain_blocks_are_used(
    monkeypatch: pytest.MonkeyPatch, fault: str, bf16: bool
) -> None:
    def call(self: Any, x: Tensor) -> Tensor:
        if fault == "absent":
            raise NotImplementedError("no such operator")
        return (1.05 if bf16 else 1.001) * self.block(x)

    monkeypatch.setattr(HalfBlock if bf16 else PackedBlock, "__call__", call)
    blocks: list[Any] = list(VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3)).blocks)
    assert packed(blocks, 4, 17, CPU, bf16) is blocks


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_the_tail_of_the_trunk_is_the_network(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        torch.testing.assert_close(
            Tail(net)(Trunk(net, CPU)(images)), net(images), rtol=1e-5, atol=1e-5
        )
