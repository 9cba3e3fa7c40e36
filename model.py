"""The Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), written out.

Shape letters, here and everywhere: B batch, N tokens (the class token and one a patch), D width,
H heads, K head width (D / H), C classes; c, h and w are an image's channels, height and width.
Parameters carry timm's names, so a state dict means the same in both.

Presets (arXiv:2010.11929 table 1; Ti and S: arXiv:2012.12877), as keys of the config's `vit`:

    name   hidden_dim  num_heads  num_layers  ff_dim   parameters (patch 16, dim 224, 1000 classes)
    Ti        192          3          12        768      5,717,416
    S         384          6          12       1536     22,050,664
    B         768         12          12       3072     86,567,656
    L        1024         16          24       4096    304,326,632
    H        1280         16          32       5120    632,045,800 (patch 14)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certainty.certainty import Certainty
from config import Preprocessing, ViTConfig
from products import Linear

CELLS = 3  # a side: EXPERIMENTS.md, 2026-11-26


class PatchEmbed(nn.Module):
    """Cut images into patches and project each to a token (paper, equation 1)."""

    def __init__(self, vit: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(vit.input_channels, vit.hidden_dim, vit.patch_dim, vit.patch_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # B c h w -> B N-1 D


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, vit: ViTConfig) -> None:
        super().__init__()
        self.num_heads = vit.num_heads
        self.attention_dropout = vit.attention_dropout
        self.qkv = Linear(vit.hidden_dim, 3 * vit.hidden_dim)
        self.proj = Linear(vit.hidden_dim, vit.hidden_dim)
        self.proj_drop = nn.Dropout(vit.dropout)
        self.kept: list[Tensor] | None = None  # see attention_kept

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        H, K = self.num_heads, D // self.num_heads
        q, k, v = self.qkv(x).view(B, N, 3, H, K).permute(2, 0, 3, 1, 4)  # 3 of B H N K
        dropout = self.attention_dropout if self.training else 0.0
        if self.kept is None:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # B H N K
        else:
            a = (q @ k.transpose(-2, -1) * K**-0.5).softmax(-1)  # B H N N
            self.kept.append(a)
            x = F.dropout(a, dropout) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, D)))

    def forward_cls(self, normalised: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The class token's output (B, D), without the large products of keys and values.

        `normalised` (B, N, D) holds the tokens n_j before `norm`'s weight g and bias b, so the
        plain block's inputs are h_j = g n_j + b. For one query q a head, associativity takes the
        D x D products off the N tokens:

            q . (W_k h_j + b_k)       =  (g W_k^T q) . n_j + a constant, which softmax ignores
            sum_j a_j (W_v h_j + b_v) =  W_v (g sum_j a_j n_j + b s) + b_v s,  with s = sum_j a_j

        Exact, at O(N D H + D^2) a sample instead of O(N D^2). s is 1, except under dropout.
        """
        B, _, D = normalised.shape
        H, K = self.num_heads, D // self.num_heads
        W_q, W_k, W_v = self.qkv.weight.view(3, H, K, D).unbind()
        b_q, _, b_v = self.qkv.bias.view(3, D).unbind()
        h = normalised[:, 0] * norm.weight + norm.bias  # B D
        q = F.linear(h, W_q.flatten(0, 1), b_q).view(B, H, K) * K**-0.5
        q = torch.einsum("bhk,hkd->bhd", q, W_k) * norm.weight  # B H D
        a = torch.bmm(q, normalised.transpose(1, 2)).softmax(-1)  # B H N
        a = F.dropout(a, self.attention_dropout, self.training)
        s = a.sum(-1, keepdim=True)  # B H 1
        x = torch.bmm(a, normalised) * norm.weight + s * norm.bias  # B H D
        x = torch.einsum("bhd,hkd->bhk", x, W_v) + s * b_v.view(H, K)
        return self.proj_drop(self.proj(x.reshape(B, D)))


class Mlp(nn.Module):
    """Two linear layers with one GELU between them, and none after."""

    def __init__(self, vit: ViTConfig) -> None:
        super().__init__()
        self.fc1 = Linear(vit.hidden_dim, vit.ff_dim)
        self.act = nn.GELU(approximate="tanh" if vit.gelu == "tanh" else "none")
        self.drop1 = nn.Dropout(vit.dropout)
        self.fc2 = Linear(vit.ff_dim, vit.hidden_dim)
        self.drop2 = nn.Dropout(vit.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.act(self.fc1(x)))  # B N D -> B N ff_dim
        return self.drop2(self.fc2(x))


class Block(nn.Module):
    """A pre-norm encoder block (paper, equations 2 and 3)."""

    def __init__(self, vit: ViTConfig, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(vit.hidden_dim, eps=eps)
        self.attn = Attention(vit)
        self.norm2 = nn.LayerNorm(vit.hidden_dim, eps=eps)
        self.mlp = Mlp(vit)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def normalise(self, tokens: Tensor) -> Tensor:
        """(x - mean) / std of each token (B, N, D): what norm1 does before its weight and bias."""
        return F.layer_norm(tokens, self.norm1.normalized_shape, eps=self.norm1.eps)

    def forward_cls(self, normalised: Tensor, cls: Tensor) -> Tensor:
        """The class token (B, D) that leaves the block, and nothing else of what `forward` gives.

        Takes the `normalise`d tokens (B, N, D) and the class token that enters (B, D).
        """
        x = cls + self.attn.forward_cls(normalised, self.norm1)
        return x + self.mlp(self.norm2(x))


class PreLogits(nn.Module):
    """The dense layer and tanh between the final norm and the head (paper, section 3.2)."""

    def __init__(self, width: int, representation_size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


def summaries(tokens: Tensor) -> Tensor:
    """The class token and the mean of the patch tokens (B, 2, D), of tokens (B, N, D)."""
    return torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)


def cells(tokens: Tensor) -> Tensor:
    """The means of the patch tokens in each cell of a 3 x 3 grid (B, 9, D), of tokens (B, N, D)."""
    side = math.isqrt(tokens.shape[1] - 1)
    x = tokens[:, 1:].unflatten(1, (side, side))
    spans = [slice(i * side // CELLS, -(-(i + 1) * side // CELLS)) for i in range(CELLS)]
    return torch.stack([x[:, rows, columns].mean((1, 2)) for rows in spans for columns in spans], 1)


def entering(layers: Tensor, depths: Sequence[int]) -> Tensor:
    """The `summaries` that enter the blocks of numbers `depths` (B, P), of `Tokens.layers`."""
    rows = [2 * (depth - 1) + row for depth in depths for row in (0, 1)]
    return layers[:, rows].flatten(1)


def readable(layers: Tensor, depths: Sequence[int]) -> Tensor:
    """What a head over layers reads (B, P): what is `entering`, and the last one's `cells`."""
    return torch.cat([entering(layers, depths), layers[:, -(CELLS**2) :].flatten(1)], 1)


class LayersHead(nn.Module):
    """Logits (B, C) of what is `readable` at the blocks of numbers `depths`.

    Beside a class head, the answer is the mean of the probabilities of the two; `scale` multiplies
    the class head's logits before, so that both are as sure as they are right.
    """

    def __init__(self, depths: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.blocks = tuple(depths)
        self.register_buffer("depths", torch.tensor(self.blocks))  # for whoever reads the arrays
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.fc = nn.Linear((2 * len(self.blocks) + CELLS**2) * width, num_classes)

    def forward(self, layers: Tensor) -> Tensor:
        return self.fc(readable(layers, self.blocks))

    def joined(self, logits: Tensor | None, layers: Tensor) -> Tensor:
        """The log of the mean of both heads' probabilities (B, C), by the class head's logits."""
        if logits is None:
            return self(layers)
        both = self(layers).log_softmax(1), (self.scale * logits).log_softmax(1)
        return torch.stack(both).logsumexp(0) - math.log(2)


class VisionTransformer(nn.Module):
    """Images (B, c, dim, dim), normalised, to logits (B, C); with 0 classes, to features (B, D).

    `auto` keys of the architecture are settled as by `ViTConfig.concrete`. `preprocessing` says
    how an image becomes the input, `classes` what the logits mean, where known. `layers` is a head
    beside the one on the class token or, with `num_classes` 0 in `vit`, instead of it.
    """

    def __init__(
        self,
        vit: ViTConfig,
        preprocessing: Preprocessing | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        vit = vit.concrete()
        assert isinstance(vit.eps, float) and isinstance(vit.num_classes, int)
        self.vit = vit
        self.preprocessing = preprocessing or Preprocessing(image_size=vit.dim)
        self.classes = classes
        self.frozen_depth: int | None = None
        self.full_last_block = False  # True: all its tokens, which attention maps need

        D = vit.hidden_dim
        self.patch_embed = PatchEmbed(vit)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, (vit.dim // vit.patch_dim) ** 2 + 1, D))
        self.pos_drop = nn.Dropout(vit.dropout)
        self.blocks = nn.ModuleList(Block(vit, vit.eps) for _ in range(vit.num_layers))
        self.norm = nn.LayerNorm(D, eps=vit.eps)
        R, C = vit.representation_size, vit.num_classes
        self.pre_logits: nn.Module = PreLogits(D, R) if R else nn.Identity()
        self.head: nn.Module = nn.Linear(R or D, C) if C else nn.Identity()
        self.layers: LayersHead | None = None
        self.certainty: Certainty | None = None  # docs/certainty.md
        self._initialise()

    def _initialise(self) -> None:
        """timm's `init_weights_vit_timm` and, for the patches and a zero head, Google's Flax code.

        https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py
        https://github.com/google-research/vision_transformer/blob/main/vit_jax/models_vit.py
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # LeCun normal, as Flax's convolutions: the variance is 1 / (values of a patch). Flax cuts
        # the normal at 2 sigma, which leaves 0.8796 of the deviation, and makes up for it.
        sigma = self.patch_embed.proj.weight[0].numel() ** -0.5 / 0.87962566103423978
        nn.init.trunc_normal_(self.patch_embed.proj.weight, 0.0, sigma, -2 * sigma, 2 * sigma)
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if isinstance(self.head, nn.Linear):
            # A zero head starts at a loss of exactly ln(C), whatever the features.
            nn.init.zeros_(self.head.weight)

    @property
    def num_classes(self) -> int:
        assert isinstance(self.vit.num_classes, int)  # concrete
        return self.vit.num_classes or (len(self.layers.fc.bias) if self.layers else 0)

    @property
    def device(self) -> torch.device:
        return self.cls_token.device

    def forward(self, images: Tensor) -> Tensor:
        if self.layers is None:
            return self.forward_tail(self.forward_trunk(images, 0), 0)
        x, layers = self.forward_layers(images)
        by_class = self.forward_tail(x, self.last_read) if self.vit.num_classes else None
        return self.layers.joined(by_class, layers)

    @property
    def last_read(self) -> int:
        """The last block whose input a head over layers reads; without such a head the last."""
        return len(self.blocks) - 1 if self.layers is None else self.layers.blocks[-1]

    def forward_layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (B, N, D) that enter block `last_read`, and `Tokens.layers` (B, R, D)."""
        x, seen = self.forward_trunk(images, 0), []
        for block in self.blocks[: self.last_read]:
            x = block(x)
            seen.append(summaries(x))
        return x, torch.cat([*seen, cells(x)], 1)

    def forward_trunk(self, images: Tensor, depth: int) -> Tensor:
        """The tokens (B, N, D) that enter block `depth`, or the final norm after the last."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # B N D
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks[:depth]:
            x = block(x)
        return x

    def forward_tail(self, tokens: Tensor, depth: int) -> Tensor:
        """Logits (B, C) from the tokens (B, N, D) that enter block `depth`."""
        if depth == len(self.blocks):
            return self.forward_head(tokens[:, 0])
        for block in self.blocks[depth:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        # Only the class token is read from here on, so only its row of the last block is computed.
        if self.full_last_block:
            return self.forward_head(last(tokens)[:, 0])
        return self.forward_head(last.forward_cls(last.normalise(tokens), tokens[:, 0]))

    def forward_head(self, cls: Tensor) -> Tensor:
        """Logits (B, C) from the class token (B, D) that leaves the last block."""
        return self.head(self.pre_logits(self.norm(cls)))

    def freeze_trunk(self, depth: int) -> None:
        """Stop training everything before block `depth`; it stays in eval mode from now on."""
        self.frozen_depth = depth
        frozen: list[nn.Module | Tensor] = [self.cls_token, self.pos_embed, *self._trunk()]
        for part in frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def _trunk(self) -> list[nn.Module]:
        return [self.patch_embed, self.pos_drop, *self.blocks[: self.frozen_depth]]

    def train(self, mode: bool = True) -> VisionTransformer:
        super().train(mode)
        for module in self._trunk() if self.frozen_depth is not None else ():
            module.eval()
        return self

    def parameter_counts(self) -> tuple[int, int]:
        """The number of parameters, and of those that train."""
        sizes = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


@contextlib.contextmanager
def attention_kept(net: VisionTransformer) -> Iterator[list[Tensor]]:
    """While it lasts, a forward pass leaves the attention of each block (B H N N, rows sum to 1) in
    the list, block by block and as part of the graph, and computes all tokens of the last block.

    The network's answers stay what they are. A second pass appends to what the first left.
    """
    kept: list[Tensor] = []
    modules = [module for module in net.modules() if isinstance(module, Attention)]
    before, net.full_last_block = net.full_last_block, True
    try:
        for module in modules:
            module.kept = kept
        yield kept
    finally:
        net.full_last_block = before
        for module in modules:
            module.kept = None


@dataclass(frozen=True)
class Tokens:
    """A batch of what enters the first trainable block.

    `tokens` is (B, N, D). Where that block is the last one they are normalised, (x - mean) / std,
    and `cls` (B, D) is the class token itself; else `cls` is None. With no trainable block, they
    are the class token alone, (B, 1, D), as it leaves the last block. `layers` (B, R, D), if known,
    are the `summaries` of what enters the second block, the third, ..., and the last's `cells`.
    """

    tokens: Tensor
    cls: Tensor | None = None
    layers: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Tokens:
        parts = (self.tokens, self.cls, self.layers)
        moved = (None if x is None else x.to(device, non_blocking=non_blocking) for x in parts)
        return Tokens(*moved)  # type: ignore[arg-type]


class Tail(nn.Module):
    """The trainable end of a network: Tokens to logits (B, C). Its parameters are the network's."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tokens) -> Tensor:
        heads, has_class = self.net.layers, self.net.vit.num_classes
        if heads is None:
            return self.forward_class(inputs)
        assert inputs.layers is not None
        return heads.joined(self.forward_class(inputs) if has_class else None, inputs.layers)

    def forward_class(self, inputs: Tokens) -> Tensor:
        """What the class head says."""
        net = self.net
        assert net.frozen_depth is not None
        tokens = inputs.tokens.to(net.norm.weight.dtype)
        if inputs.cls is None:
            return net.forward_tail(tokens, net.frozen_depth)
        last = net.blocks[-1]
        assert isinstance(last, Block)
        return net.forward_head(last.forward_cls(tokens, inputs.cls))
