"""Weights out: the arrays of another layout, and our own checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from certainty.certainty import PREFIX
from model import VisionTransformer
from pretrained.build import build
from pretrained.checksums import with_checksums
from pretrained.files import digest_of
from pretrained.layouts import LAYOUTS
from pretrained.read import Weights
from utils import UserError, replacing, some


def export(net: VisionTransformer, layout: str) -> dict[str, Tensor]:
    """A model's arrays under the names of another layout (`google`, `big_vision`,
    `huggingface-vit`, `huggingface-dinov2`, `torchvision`, `timm`); LayerScale, where it has one,
    is 1."""
    if net.layers is not None:
        raise UserError(
            f"the {layout} layout has no place for a head over several layers; train with "
            "train.head=class for an ordinary ViT"
        )
    big_vision = layout == "big_vision"
    plan = LAYOUTS["google" if big_vision else layout]
    whole = net.state_dict()
    state = {n: a.detach().cpu() for n, a in whole.items() if not n.startswith(PREFIX)}
    arrays: dict[str, Tensor] = {}
    for ours, theirs, kind in plan.table:
        for i in range(net.vit.num_layers) if "{i}" in ours else (0,):
            tensor = state.pop(ours.replace("{i}", str(i)), None)
            if tensor is not None:
                names = [name.replace("{i}", str(i)) for name in theirs]
                parts = kind.write(tensor, net.vit.num_heads)
                arrays |= dict(zip(names, (p.contiguous() for p in parts), strict=True))
    if state:
        raise UserError(f"the {layout} layout has no place for {some(state)}")
    if layout == "huggingface-dinov2":
        assert plan.layer_scale is not None
        for i in range(net.vit.num_layers):
            for name in plan.layer_scale:
                arrays[name.replace("{i}", str(i))] = torch.ones(net.vit.hidden_dim)
    if layout == "huggingface-vit" and net.vit.num_classes:
        arrays = {n if n.startswith("classifier") else f"vit.{n}": a for n, a in arrays.items()}
    return {_big_vision_name(n): a for n, a in arrays.items()} if big_vision else arrays


def _big_vision_name(name: str) -> str:
    name = name.replace("/LayerNorm_2/", "/LayerNorm_1/").replace("/MlpBlock_3/", "/MlpBlock_0/")
    attention = "/MultiHeadDotProductAttention_"
    return "params/" + name.replace(f"{attention}1/", f"{attention}0/")


def metadata_of(net: VisionTransformer, **extra: str) -> dict[str, str]:
    """What our checkpoints carry beside their arrays, as text; `read` understands it."""
    own = {
        "format": "vit",
        "architecture": net.vit.model_dump_json(),
        "preprocessing": net.preprocessing.model_dump_json(),
        "classes": json.dumps(net.classes),
    }
    return own | extra


def save_model(
    path: Path, net: VisionTransformer, other: Mapping[str, Tensor] | None = None, **extra: str
) -> None:
    """Write a model as safetensors with everything that its use needs in the metadata; the arrays
    of `other` take the place of its own. The same model gives the same bytes."""
    _write(path, net.state_dict() | dict(other or {}), metadata_of(net, **extra))


def save_trained(
    path: Path,
    net: VisionTransformer,
    base: str,
    other: Mapping[str, Tensor] | None = None,
    **extra: str,
) -> None:
    """Write what was trained of a network alone, with the weights that it began with by their name
    or path, and a digest of what is left out."""
    frozen = [n for n, p in net.named_parameters() if not (p.requires_grad or in_head(n))]
    arrays = {n: a for n, a in net.state_dict().items() if n not in frozen} | dict(other or {})
    extra["base"] = str(Path(base).absolute()) if Path(base).exists() else base
    extra["frozen"] = digest_of({n: p for n, p in net.named_parameters() if n in frozen})
    _write(path, arrays, metadata_of(net, **extra))


def in_head(name: str) -> bool:
    """Whether an array is the head's over layers, which is solved for."""
    return name.startswith("layers.")


def _write(path: Path, arrays: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with replacing(path, size) as temporary:
        save_file(state, temporary, with_checksums(state, metadata))
        sort_metadata(temporary)


def sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in order; the arrays stay where they are.

    The library draws an order anew each time, and the same network should be the same file.

    https://github.com/huggingface/safetensors#format
    """
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # spaces fill it up, as the library's own do
            file.seek(8)
            file.write(text.ljust(length))


def save_weights(path: Path, weights: Weights, provenance: str) -> None:
    """Write weights as one of our own files, with where they come from."""
    net = build(replace(weights, notes=()))
    net.preprocessing = weights.preprocessing
    save_model(path, net, provenance=provenance)
