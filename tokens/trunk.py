"""The pass through the frozen trunk, as fast as the machine does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model import Block, Tokens, VisionTransformer, cells, summaries
from utils import autocast, log

# A batch of the trunk pass makes so much of an MLP's hidden layer: 16 images of a B/16. Half of
# that loses 3 %, twice of it gains nothing.
HIDDEN_BYTES = 38 << 20
CUDA_HIDDEN_BYTES = 320 << 20  # 128 images of a B/16 (the most), 14 of an L/14 at 518 pixels


class Trunk:
    """The frozen part of a network: images (B, c, h, w) to Tokens, as fast as the machine does it.

    On a CPU in float32 the blocks' four products go to oneDNN with weights packed once and GELU and
    the residual sums fused in, where PyTorch has it and it gives the plain blocks' result.
    """

    def __init__(
        self,
        net: VisionTransformer,
        device: torch.device,
        bf16: bool = False,
        layers: bool = False,
    ) -> None:
        assert net.frozen_depth is not None
        self.net, self.device, self.bf16, self.layers = net, device, bf16, layers
        self.depth = net.frozen_depth
        vit = net.vit
        N = (vit.dim // vit.patch_dim) ** 2 + 1
        hidden = CUDA_HIDDEN_BYTES if device.type == "cuda" else HIDDEN_BYTES
        self.batch_size = max(1, min(128, hidden // (4 * N * vit.ff_dim)))
        blocks: list[Callable[[Tensor], Tensor]] = list(net.blocks[: self.depth])
        self.blocks = blocks if bf16 else packed(blocks, self.batch_size, N, device)
        self.engine = "plain" if self.blocks is blocks else "oneDNN, packed"

    @torch.no_grad()  # inference mode's tensors could not be trained on
    def __call__(self, images: Tensor) -> Tokens:
        net, last = self.net, len(self.net.blocks)
        with autocast(self.device, self.bf16):
            x = net.forward_trunk(images.to(self.device), 0)  # B N D
            seen = []
            for block in self.blocks[: last - 1]:
                x = block(x)
                seen += [summaries(x.float())] if self.layers else []
        x = x.float()
        layers = torch.cat([*seen, cells(x)], 1) if seen else None  # B R D
        end = net.blocks[-1]
        assert isinstance(end, Block)
        if self.depth == last - 1:
            return Tokens(end.normalise(x), x[:, 0], layers)
        if self.depth == last:
            with autocast(self.device, self.bf16):
                x = end.forward_cls(end.normalise(x), x[:, 0]).float()[:, None]  # B 1 D
        return Tokens(x, None, layers)


class PackedBlock:
    """A frozen block through oneDNN, 1.9 times as fast as PyTorch's own products on a Zen 5 CPU.

    These are the operators that torch.compile's CPU backend calls for frozen weights; calling them
    gives the same speed without its half minute of compilation.
    """

    def __init__(self, block: Block, rows: int) -> None:
        self.block = block
        self.gelu = "tanh" if block.mlp.act.approximate == "tanh" else "none"
        attn, mlp = block.attn, block.mlp
        self.qkv, self.proj, self.fc1, self.fc2 = (
            (torch.ops.mkldnn._reorder_linear_weight(m.weight.detach(), rows), m.bias.detach())
            for m in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2)
        )

    def __call__(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        B, N, D = x.shape
        H = self.block.attn.num_heads
        qkv = linear(self.block.norm1(x), *self.qkv, "none", [], "")
        q, k, v = qkv.view(B, N, 3, H, D // H).permute(2, 0, 3, 1, 4)  # 3 of B H N K
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D)
        x = linear(a, x, *self.proj, "add")
        hidden = linear(self.block.norm2(x), *self.fc1, "gelu", [], self.gelu)  # B N ff_dim
        return linear(hidden, x, *self.fc2, "add")


@torch.inference_mode()
def packed(
    blocks: list[Callable[[Tensor], Tensor]], batch_size: int, N: int, device: torch.device
) -> list[Callable[[Tensor], Tensor]]:
    """The blocks through oneDNN, or as they are where that is not to be had or not the same."""
    if not blocks or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return blocks
    first = blocks[0]
    assert isinstance(first, Block)
    x = torch.randn(1, N, first.norm1.normalized_shape[0])
    try:
        found, wanted = PackedBlock(first, batch_size * N)(x), first(x)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        log.debug("oneDNN's packed products are not to be had: %s", error)
        return blocks
    if not (found - wanted).norm() < 1e-5 * wanted.norm():
        log.debug("oneDNN's packed products differ from PyTorch's")
        return blocks
    return [PackedBlock(block, batch_size * N) for block in blocks if isinstance(block, Block)]
