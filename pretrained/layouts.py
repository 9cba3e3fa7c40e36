"""The layouts of the known weights files: Google's, Hugging Face's, torchvision's, timm's.

A layout is recognised by the names of its arrays, never by the file's extension. Import and export
read the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class Kind:
    """How a tensor of ours is made of theirs, and back; `write` gets the number of heads."""

    read: Callable[[list[Tensor]], Tensor]
    write: Callable[[Tensor, int], list[Tensor]]


def _split_kernel(qkv: Tensor, heads: int) -> list[Tensor]:
    return [part.T.reshape(part.shape[1], heads, -1) for part in qkv.chunk(3)]  # D H K each


SAME = Kind(lambda a: a[0], lambda x, heads: [x])
DENSE = Kind(lambda a: a[0].T, lambda x, heads: [x.T])  # in out <-> out in
CONV = Kind(lambda a: a[0].permute(3, 2, 0, 1), lambda x, heads: [x.permute(2, 3, 1, 0)])
STACK = Kind(torch.cat, lambda x, heads: list(x.chunk(3)))
QKV_KERNEL = Kind(lambda a: torch.cat([x.flatten(1).T for x in a]), _split_kernel)
QKV_BIAS = Kind(
    lambda a: torch.cat([x.flatten() for x in a]),
    lambda x, heads: [part.reshape(heads, -1) for part in x.chunk(3)],
)
OUT_KERNEL = Kind(
    lambda a: a[0].flatten(0, 1).T,  # H K D -> D D
    lambda x, heads: [x.T.reshape(heads, -1, x.shape[0])],
)
Table = list[tuple[str, tuple[str, ...], Kind]]


def _pairs(names: dict[str, str], weight: str, bias: str, kind: Kind) -> Table:
    """Rows for modules with a weight and a bias, which is never transposed."""
    rows: Table = []
    for ours, theirs in names.items():
        rows.append((f"{ours}.weight", (f"{theirs}{weight}",), kind))
        rows.append((f"{ours}.bias", (f"{theirs}{bias}",), SAME))
    return rows


def _google_table() -> Table:
    block = "Transformer/encoderblock_{i}"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    qkv = [f"{attention}/{name}" for name in ("query", "key", "value")]
    norms = {
        "blocks.{i}.norm1": f"{block}/LayerNorm_0",
        "blocks.{i}.norm2": f"{block}/LayerNorm_2",
        "norm": "Transformer/encoder_norm",
    }
    dense = {
        "blocks.{i}.mlp.fc1": f"{block}/MlpBlock_3/Dense_0",
        "blocks.{i}.mlp.fc2": f"{block}/MlpBlock_3/Dense_1",
        "pre_logits.fc": "pre_logits",
        "head": "head",
    }
    return [
        ("cls_token", ("cls",), SAME),
        ("pos_embed", ("Transformer/posembed_input/pos_embedding",), SAME),
        *_pairs({"patch_embed.proj": "embedding"}, "/kernel", "/bias", CONV),
        *_pairs(norms, "/scale", "/bias", SAME),
        *_pairs(dense, "/kernel", "/bias", DENSE),
        ("blocks.{i}.attn.qkv.weight", tuple(f"{n}/kernel" for n in qkv), QKV_KERNEL),
        ("blocks.{i}.attn.qkv.bias", tuple(f"{n}/bias" for n in qkv), QKV_BIAS),
        ("blocks.{i}.attn.proj.weight", (f"{attention}/out/kernel",), OUT_KERNEL),
        ("blocks.{i}.attn.proj.bias", (f"{attention}/out/bias",), SAME),
    ]


def _huggingface_table(norm1: str, norm2: str, fc1: str, fc2: str) -> Table:
    block = "encoder.layer.{i}"
    qkv = [f"{block}.attention.attention.{name}" for name in ("query", "key", "value")]
    modules = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.{i}.norm1": f"{block}.{norm1}",
        "blocks.{i}.attn.proj": f"{block}.attention.output.dense",
        "blocks.{i}.norm2": f"{block}.{norm2}",
        "blocks.{i}.mlp.fc1": f"{block}.{fc1}",
        "blocks.{i}.mlp.fc2": f"{block}.{fc2}",
        "norm": "layernorm",
        "head": "classifier",
    }
    return [
        ("cls_token", ("embeddings.cls_token",), SAME),
        ("pos_embed", ("embeddings.position_embeddings",), SAME),
        *_pairs(modules, ".weight", ".bias", SAME),
        ("blocks.{i}.attn.qkv.weight", tuple(f"{n}.weight" for n in qkv), STACK),
        ("blocks.{i}.attn.qkv.bias", tuple(f"{n}.bias" for n in qkv), STACK),
    ]


LAYERS = ("depths", "scale", "fc.weight", "fc.bias")  # of our own files alone: model.LayersHead
CERTAINTY = ("temperature", "set_level", "held_out")  # and certainty.certainty.Certainty
LIKENESS: tuple[str, ...] = ("depths", "centre", "spread", "basis", "inverse", "ground")
LIKENESS += ("means", "examples", "usual", "known")


def _timm_table() -> Table:
    modules = ["patch_embed.proj", "norm", "pre_logits.fc", "head"]
    inner = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    modules += [f"blocks.{{i}}.{name}" for name in inner]
    rows = _pairs({name: name for name in modules}, ".weight", ".bias", SAME)
    alone = ["cls_token", "pos_embed", *(f"layers.{name}" for name in LAYERS)]
    alone += [f"certainty.{name}" for name in CERTAINTY]
    alone += [f"certainty.likeness.{name}" for name in LIKENESS]
    return [(name, (name,), SAME) for name in alone] + rows


def _torchvision_table() -> Table:
    block = "encoder.layers.encoder_layer_{i}"
    modules = {
        "patch_embed.proj": "conv_proj",
        "blocks.{i}.norm1": f"{block}.ln_1",
        "blocks.{i}.attn.proj": f"{block}.self_attention.out_proj",
        "blocks.{i}.norm2": f"{block}.ln_2",
        "blocks.{i}.mlp.fc1": f"{block}.mlp.0",
        "blocks.{i}.mlp.fc2": f"{block}.mlp.3",
        "norm": "encoder.ln",
        "pre_logits.fc": "heads.pre_logits",
        "head": "heads.head",
    }
    return [
        ("cls_token", ("class_token",), SAME),
        ("pos_embed", ("encoder.pos_embedding",), SAME),
        *_pairs(modules, ".weight", ".bias", SAME),
        ("blocks.{i}.attn.qkv.weight", (f"{block}.self_attention.in_proj_weight",), SAME),
        ("blocks.{i}.attn.qkv.bias", (f"{block}.self_attention.in_proj_bias",), SAME),
    ]


@dataclass(frozen=True)
class Layout:
    """A naming of the arrays: how to know it, its table, and what its arrays leave unsaid."""

    name: str
    anchor: str  # the name of the patches' projection, in every spelling
    signature: str  # what one of the names beside it must match
    table: Table
    preprocessing: dict[str, Any]
    gelu: str = "exact"
    eps: float = 1e-6
    layer_scale: tuple[str, str] | None = None  # behind the attention, behind the MLP
    ignored: str = "$^"  # declared: read by nobody at inference
    aliases: tuple[tuple[str, str], ...] = field(default=())  # other spellings -> the table's


HUGGINGFACE_ALIASES = (
    (r"^(vit|dinov2|deit)\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
)
HUGGINGFACE_ANCHOR = r"((vit|dinov2|deit)\.)?embeddings\.patch_embeddings\.projection\.weight"
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="google",
            anchor=r"(params/)?embedding/kernel",
            signature="",
            table=_google_table(),
            preprocessing={**HALF, "interpolation": "bilinear"},
            gelu="tanh",
            aliases=(
                (r"^params/", ""),
                (r"^pos_embedding$", "Transformer/posembed_input/pos_embedding"),
                # big_vision counts each class of layer on its own.
                (r"/LayerNorm_1/", "/LayerNorm_2/"),
                (r"/MultiHeadDotProductAttention_0/", "/MultiHeadDotProductAttention_1/"),
                (r"/MlpBlock_0/", "/MlpBlock_3/"),
            ),
        ),
        Layout(
            name="huggingface-vit",
            anchor=HUGGINGFACE_ANCHOR,
            signature=r"layernorm_before\.weight$",
            table=_huggingface_table(
                "layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"
            ),
            preprocessing={**HALF, "interpolation": "bilinear"},
            eps=1e-12,
            # The pooler's output goes nowhere in ViTForImageClassification; the decoder is that of
            # masked pre-training.
            ignored=r"^(pooler\.dense\.|embeddings\.mask_token$|decoder\.)",
            aliases=(
                *HUGGINGFACE_ALIASES,
                (r"\.mlp\.fc1\.", ".intermediate.dense."),
                (r"\.mlp\.fc2\.", ".output.dense."),
            ),
        ),
        Layout(
            name="huggingface-dinov2",
            anchor=HUGGINGFACE_ANCHOR,
            signature=r"(layer|layers)\.0\.layer_scale1\.lambda1$",
            table=_huggingface_table("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
            preprocessing={**IMAGENET, "interpolation": "bicubic", "image_size": 224},
            layer_scale=(
                "encoder.layer.{i}.layer_scale1.lambda1",
                "encoder.layer.{i}.layer_scale2.lambda1",
            ),
            ignored=r"^embeddings\.mask_token$",
            aliases=HUGGINGFACE_ALIASES,
        ),
        Layout(
            name="torchvision",
            anchor=r"conv_proj\.weight",
            signature="",
            table=_torchvision_table(),
            preprocessing={**IMAGENET, "interpolation": "bilinear"},
            # Before its version 0.13.
            aliases=(
                (r"\.mlp\.linear_1\.", ".mlp.0."),
                (r"\.mlp\.linear_2\.", ".mlp.3."),
            ),
        ),
        Layout(
            name="timm",
            anchor=r"patch_embed\.proj\.weight",
            signature="",
            table=_timm_table(),
            preprocessing={**IMAGENET, "interpolation": "bicubic"},
            layer_scale=("blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"),
            # MAE's decoder, and the mask tokens of MAE and DINOv2, serve pre-training only.
            ignored=r"^(mask_token$|decoder_)",
            aliases=(
                # DINOv2 trains its blocks in chunks and counts them through.
                (r"^blocks\.\d+\.(\d+\.)", r"blocks.\1"),
                (r"\.gamma_([12])$", r".ls\1.gamma"),  # DeiT III
            ),
        ),
    )
}
