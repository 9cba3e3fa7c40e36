"""The pass through the frozen trunk, as fast as the machine does it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from model import Block, Tokens, VisionTransformer, cells, summaries
from utils import autocast, log, minutes

# A batch of the trunk pass makes so much of an MLP's hidden layer: 16 images of a B/16. Half of
# that loses 3 %, twice of it gains nothing.
HIDDEN_BYTES = 38 << 20
SCORES_BYTES = 4 << 20  # of attention weights at a time: four images of a B/16
NEAR, HALF_NEAR = 1e-5, 2e-2  # to the plain block's result, as a share of it
CUDA_HIDDEN_BYTES = 320 << 20  # 128 images of a B/16 (the most), 14 of an L/14 at 518 pixels
MOST_AT_ONCE = 16  # batches on as many cores: 0.1 GB each
LONG = 60  # seconds of a pass that somebody waits for
HALF = 0.55  # of the seconds, in bfloat16 (EXPERIMENTS.md, 2026-11-27: S/14 0.57, B/16 0.53)
FEWEST_ROWS = 16  # of a product that is the same to the last bit whatever the number of threads


def trunk_batch(net: VisionTransformer, device: torch.device) -> int:
    """How many images go through a trunk at a time."""
    vit = net.vit
    N = (vit.dim // vit.patch_dim) ** 2 + 1
    hidden = CUDA_HIDDEN_BYTES if device.type == "cuda" else HIDDEN_BYTES
    return max(1, min(128, hidden // (4 * N * vit.ff_dim)))


class Trunk:
    """The frozen part of a network: images (B, c, h, w) to Tokens, as fast as the machine does it.

    On a CPU the blocks' four products go to oneDNN with weights packed once and GELU (in float32
    the residual sums, too) fused in, where PyTorch has it and it gives the plain blocks' result.
    With `bf16` the products and the attention take bfloat16; the patches, the layer norms and the
    sums stay float32.
    """

    def __init__(
        self,
        net: VisionTransformer,
        device: torch.device,
        bf16: bool = False,
        layers: bool = False,
    ) -> None:
        assert net.frozen_depth is not None
        self.net, self.device, self.layers = net, device, layers
        self.depth = net.frozen_depth
        vit = net.vit
        N = (vit.dim // vit.patch_dim) ** 2 + 1
        self.batch_size = trunk_batch(net, device)
        blocks: list[Callable[[Tensor], Tensor]] = list(net.blocks[: self.depth])
        self.blocks = packed(blocks, self.batch_size, N, device, bf16)
        is_plain = self.blocks is blocks
        self.casts = bf16 and is_plain  # by autocast; packed blocks do it themselves
        self.engine = "plain" if is_plain else "oneDNN, packed"
        self.engine += ", bfloat16" if bf16 else ""
        self.is_left = False  # whether nobody waits for what it is computing
        # The last block's class tokens are few rows; of fewer than these some products differ.
        has_rows = self.depth < len(net.blocks) or self.batch_size >= FEWEST_ROWS
        self.by_core = device.type == "cpu" and has_rows

    @torch.no_grad()  # inference mode's tensors could not be trained on
    def __call__(self, images: Tensor) -> Tokens:
        net, last = self.net, len(self.net.blocks)
        with autocast(self.device, self.casts):
            x = net.forward_trunk(images.to(self.device), 0)  # B N D
            seen = []
            for block in self.blocks[: last - 1]:
                if self.is_left:
                    raise Left
                x = block(x)
                seen += [summaries(x.float())] if self.layers else []
        x = x.float()
        layers = torch.cat([*seen, cells(x)], 1) if seen else None  # B R D
        end = net.blocks[-1]
        assert isinstance(end, Block)
        if self.depth == last - 1:
            return Tokens(end.normalise(x), x[:, 0], layers)
        if self.depth == last:
            with autocast(self.device, self.casts):
                x = end.forward_cls(end.normalise(x), x[:, 0]).float()[:, None]  # B 1 D
        return Tokens(x, None, layers)


class Left(Exception):
    """Nobody waits for this batch any more."""


def in_turn(trunk: Trunk, batches: Iterable[Tensor], images: int) -> Iterator[Tokens]:
    """What a trunk makes of `images` images in batches, one after the other, as `map` gives them.

    On a CPU each core takes a whole batch of its own, so that none waits for another at each
    product, and the next images are decoded meanwhile. What is left over for some cores alone, and
    a batch that is not whole, take all cores: so the results are the same to the last bit wherever
    a pass was stopped (of few rows a product's last bits are others by the number of threads).
    Where a batch can't be read, those before it are given first.
    """
    cores, whole = torch.get_num_threads(), images // trunk.batch_size
    each = -(-cores // max(1, min(whole, MOST_AT_ONCE)))
    at_once = cores // each if trunk.by_core else 1
    read = iter(batches)
    if at_once > 1:
        failed: BaseException | None = None
        own = partial(torch.set_num_threads, each)
        with ThreadPoolExecutor(at_once, initializer=own) as pool:
            begun: deque[Future[Tokens]] = deque()
            try:
                torch.set_num_threads(1)  # here, where images are decoded
                for _ in range(whole - whole % at_once):
                    try:
                        begun.append(pool.submit(trunk, next(read)))
                    except BaseException as error:
                        failed = error
                        break
                    if len(begun) > at_once:
                        yield begun.popleft().result()
                while begun and (failed is None or isinstance(failed, Exception)):
                    yield begun.popleft().result()
            finally:  # Ctrl-C, a full disk: a batch takes seconds
                trunk.is_left = bool(begun)
                pool.shutdown(cancel_futures=True)
                trunk.is_left = False
                torch.set_num_threads(cores)
        if failed is not None:
            raise failed
    yield from map(trunk, read)


class PackedBlock:
    """A frozen block through oneDNN, 1.9 times as fast as PyTorch's own products on a Zen 5 CPU.

    These are the operators that torch.compile's CPU backend calls for frozen weights; calling them
    gives the same speed without its half minute of compilation.
    """

    dtype = torch.float32

    def __init__(self, block: Block, rows: int) -> None:
        self.block = block
        self.gelu = "tanh" if block.mlp.act.approximate == "tanh" else "none"
        attn, mlp = block.attn, block.mlp
        self.qkv, self.proj, self.fc1, self.fc2 = (
            (
                torch.ops.mkldnn._reorder_linear_weight(m.weight.detach().to(self.dtype), rows),
                m.bias.detach().to(self.dtype),
            )
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


class HalfBlock(PackedBlock):
    """The same with products in bfloat16, as autocast would have it, twice as fast again where the
    CPU has instructions for them (AVX-512 BF16, AMX).

    The tokens between the blocks stay float32: a sum of 24 terms in 8 bits would lose what the
    later ones add.
    """

    dtype = torch.bfloat16

    def __call__(self, x: Tensor) -> Tensor:
        linear, block = torch.ops.mkldnn._linear_pointwise, self.block
        qkv = linear(block.norm1(x).to(self.dtype), *self.qkv, "none", [], "")
        x = x + linear(self.attention(qkv), *self.proj, "none", [], "")
        hidden = linear(block.norm2(x).to(self.dtype), *self.fc1, "gelu", [], self.gelu)
        return x.add_(linear(hidden, *self.fc2, "none", [], ""))

    def attention(self, qkv: Tensor) -> Tensor:
        """What the heads read (B, N, D), of queries, keys and values (B, N, 3 D).

        Written out, some images at a time, so that the weights stay in the processor's cache: 1.0
        ms an image of a B/16, where PyTorch's kernel for CPUs takes 1.9 (float32: 2.4).
        """
        B, N, _ = qkv.shape
        H = self.block.attn.num_heads
        K = qkv.shape[-1] // (3 * H)
        found = qkv.new_empty(B, N, H, K)
        some = max(1, SCORES_BYTES // (qkv.itemsize * H * N * N))
        for part, out in zip(qkv.split(some), found.split(some), strict=True):
            q, k, v = part.view(-1, N, 3, H, K).permute(2, 0, 3, 1, 4)  # 3 of B H N K
            a = ((q * K**-0.5) @ k.transpose(-2, -1)).softmax(-1)  # B H N N
            out.copy_((a @ v).transpose(1, 2))
        return found.flatten(2)


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32, as far as PyTorch can tell."""
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in known)


def in_half(seconds: float, bf16: bool, device: torch.device) -> str:
    """Of a pass that is waited for, what bfloat16 would make of its seconds here; else nothing."""
    if bf16 or device.type != "cpu" or seconds < LONG or not has_bfloat16():
        return ""
    return f"train.trunk_dtype=bfloat16: about {minutes(HALF * seconds)} here, with fewer digits"


@torch.inference_mode()
def packed(
    blocks: list[Callable[[Tensor], Tensor]],
    batch_size: int,
    N: int,
    device: torch.device,
    bf16: bool = False,
) -> list[Callable[[Tensor], Tensor]]:
    """The blocks through oneDNN, or as they are where that is not to be had or not the same."""
    if not blocks or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return blocks
    kind, near = (HalfBlock, HALF_NEAR) if bf16 else (PackedBlock, NEAR)
    first = blocks[0]
    assert isinstance(first, Block)
    x = torch.randn(1, N, first.norm1.normalized_shape[0])
    try:
        found, wanted = kind(first, batch_size * N)(x), first(x)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        log.debug("oneDNN's packed products are not to be had: %s", error)
        return blocks
    if not (found - wanted).norm() < near * wanted.norm():
        log.debug("oneDNN's packed products differ from PyTorch's")
        return blocks
    return [kind(block, batch_size * N) for block in blocks if isinstance(block, Block)]
