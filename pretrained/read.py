"""A weights file -> arrays -> Weights: every array is consumed, declared ignored, or an error.

What the arrays alone can't say is settled, in this order, by the file's own metadata, by what lies
beside it (the manifest.json of tools.export, then config.json and preprocessor_config.json), and by
these rules, which the log names:
  heads          Google's query kernels have the number in their shape; else width / 64, which
                 holds for every published size but H (width 1280: 16 heads)
  GELU           tanh for Google's (Flax's default, with which they were trained), else exact
  eps            1e-6; 1e-12 for Hugging Face's ViT (its own default)
  preprocessing  mean and std 0.5 for Google's and Hugging Face's ViT; ImageNet's for the others
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certainty.certainty import certainty_in, faults_of
from config import Preprocessing, ViTConfig
from model import LayersHead, VisionTransformer
from pretrained.describe import brief, checked, json_metadata
from pretrained.files import read_arrays, weights_in
from pretrained.layouts import Layout
from pretrained.manifest import export_metadata, unfolded
from pretrained.others import GATED, kind_of, variant_of
from pretrained.unwrap import HEADS, peel
from utils import UserError, some

__all__ = ["Weights", "convert", "layers_head", "read", "read_arrays"]


@dataclass(frozen=True)
class Weights:
    """Arrays under our names, with all that must travel with them.

    `vit.num_classes` is 0 where the file has no head. `notes` say what was settled by a rule and
    what was left out.
    """

    state: dict[str, Tensor]
    vit: ViTConfig
    preprocessing: Preprocessing
    layout: str
    source: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None


def convert(
    arrays: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None, source: str = "arrays"
) -> Weights:
    """Recognise a layout and bring its arrays under our names.

    `metadata` may hold num_heads, gelu, eps, preprocessing and classes, and wins over the rules;
    with temperature and set_level the head was divided by the first.
    Raises UserError naming every array that is missing, not understood, or of a wrong shape.
    """
    try:
        return _converted(arrays, dict(metadata or {}), source)
    except NOT_UNDERSTOOD as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{source}: not a ViT of a kind that is understood ({reason})") from None


# What arrays of odd shapes raise of whoever takes them for a network's.
NOT_UNDERSTOOD = (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, MemoryError)


def _converted(arrays: Mapping[str, Tensor], metadata: dict[str, Any], source: str) -> Weights:
    peeled = peel(arrays)
    names = arrays if peeled is None else peeled.arrays
    if kind := kind_of(list(names)):
        raise UserError(
            f"{source}: this is {kind}, not a Vision Transformer of the kind that is trained here; "
            f"name weights of an ordinary ViT (its arrays are {some(arrays, 4)})"
        )
    if peeled is None:
        raise UserError(
            f"{source}: no Vision Transformer in a known layout (Google npz, Hugging Face ViT or "
            f"Dinov2, timm/DeiT/MAE/DINOv2, torchvision, ours); its arrays are {some(arrays)}"
        )
    layout = peeled.layout
    given, extra = _spelled(peeled.arrays, layout)
    state, unread, ignored = _translate(given, layout, source)
    extra = sorted([*extra, *unread, *peeled.unknown])
    if extra and (reason := variant_of(extra)):
        raise UserError(f"{source}: {reason} (not understood {some(extra)})")
    ignored = sorted([*ignored, *peeled.heads])
    notes = [f"ignored by declaration: {some(ignored)}"] if ignored else []
    notes += [*metadata.get("notes", ()), *peeled.notes]
    _leave_wide_head(state, notes)
    vit, preprocessing = _infer(state, given, layout, metadata, notes, source)
    if "temperature" in metadata and "head.weight" in state:
        state = unfolded(state, metadata["temperature"], metadata["set_level"])
    _account(state, extra, vit, f"{source} ({layout.name} layout)")
    classes = metadata.get("classes")
    _check_classes(classes, state, vit, source)
    if seen := metadata.get("seen"):  # of a training that was measured before its last fit
        notes.append(
            f"beware: {source} has learned its run's validation pictures, too ({seen}): on them it "
            "would be measured by what it knows; train.refit=false keeps a network that has not"
        )
    return Weights(
        state=state,
        vit=vit,
        preprocessing=preprocessing,
        layout=layout.name,
        source=source,
        notes=tuple(notes),
        classes=tuple(classes) if classes else None,
    )


def _spelled(arrays: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """The arrays under the table's names, and the names that would be another's."""
    given: dict[str, Tensor] = {}
    doubled = []
    for name, array in arrays.items():
        spelled = name
        for pattern, replacement in layout.aliases:
            spelled = re.sub(pattern, replacement, spelled)
        if spelled in given:
            doubled.append(name)
        given.setdefault(spelled, array)
    return given, doubled


MOST_BLOCKS = 1000  # the deepest published Vision Transformer has 48
BLOCK = re.compile(r"(?:encoderblock_|encoder_layer_|encoder\.layer\.|^blocks\.)(\d{1,9})[./]")


def _depth(names: Iterable[str], source: str) -> int:
    """How many blocks there are; UserError where a number is left out, or far too large."""
    first = {int(m[1]): name for name in names if (m := BLOCK.search(name))}
    if len(first) > MOST_BLOCKS:
        raise UserError(
            f"{source}: it has arrays of {len(first):,} blocks, and no Vision Transformer has more "
            f"than {MOST_BLOCKS:,}; name other weights"
        )
    for number, name in sorted(first.items()):
        if number >= len(first):
            absent = next(i for i in range(number) if i not in first)
            raise UserError(
                f"{source}: it has an array {name}, but none of block {absent}; the file was put "
                "together wrongly, or is not whole"
            )
    return len(first)


def _translate(
    given: dict[str, Tensor], layout: Layout, source: str
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our state, the names that nothing consumed, and those declared ignored."""
    unused = [name for name in given if re.search(layout.ignored, name)]
    depth = _depth(given.keys() - set(unused), source)
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs, kind in layout.table:
        for i in range(depth) if "{i}" in ours else (0,):
            names = [name.replace("{i}", str(i)) for name in theirs]
            if all(name in given for name in names):
                _check_values({name: given[name] for name in names}, source)
                tensors = [given[name].float() for name in names]
                state[ours.replace("{i}", str(i))] = kind.read(tensors).contiguous()
                used.update(names)
    for i in range(depth) if layout.layer_scale else ():
        assert layout.layer_scale is not None
        for scale, module in zip(layout.layer_scale, ("attn.proj", "mlp.fc2"), strict=True):
            name = scale.replace("{i}", str(i))
            if name in given:
                used.add(name)
                _check_values({name: given[name]}, source)
                _fold(state, f"blocks.{i}.{module}", given[name].float())
    rest = given.keys() - used
    ignored = sorted(n for n in rest if n in unused or HEADS.search(n))
    return state, sorted(rest - set(ignored)), ignored


def _check_values(arrays: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError where an array is none of finite numbers in floating point."""
    for name, array in arrays.items():
        if not array.is_floating_point() and not name.endswith("depths"):
            raise UserError(
                f"{source}: {name} holds {array.dtype}, as of a quantised network; name weights in "
                "floating point"
            )
        if not array.numel() or array.is_complex():
            continue
        low, high = array.float().aminmax()  # 14 ms for a B/16; isfinite takes 400
        if not (low.isfinite() and high.isfinite()):
            nan, inf = int(array.isnan().sum()), int(array.isinf().sum())
            what = " and ".join([f"{nan:,} NaN"] * bool(nan) + [f"{inf:,} infinite"] * bool(inf))
            raise UserError(
                f"{source}: {name} holds {what} of its {array.numel():,} values, so nothing that "
                "the network says means anything: its training diverged, or the file is damaged; "
                "fetch or write it again"
            )


def _leave_wide_head(state: dict[str, Tensor], notes: list[str]) -> None:
    """DINOv2's classifiers read the patches' mean, or several blocks, beside the class token: no
    head of ours, and dropped by a training anyway."""
    head, cls = state.get("head.weight"), state.get("cls_token")
    if head is None or cls is None or head.ndim != 2 or "pre_logits.fc.weight" in state:
        return
    D = cls.shape[-1]
    if head.shape[1] > D and head.shape[1] % D == 0:
        del state["head.weight"]
        state.pop("head.bias", None)
        notes.append(
            f"its classifier reads {head.shape[1]} features, not the class token's {D}: left out"
        )


def _check_classes(classes: Any, state: Mapping[str, Tensor], vit: ViTConfig, source: str) -> None:
    bias = state.get("head.bias", state.get("layers.fc.bias"))
    if classes and bias is not None and len(classes) != len(bias):
        raise UserError(
            f"{source}: its metadata names {len(classes)} classes ({some(classes, 4)}), and its "
            f"head has {len(bias)}; fetch or write the file again"
        )


def _fold(state: dict[str, Tensor], module: str, gamma: Tensor) -> None:
    """LayerScale multiplies a projection's output, so it can multiply the projection (exact)."""
    for name, scale in ((f"{module}.weight", gamma[:, None]), (f"{module}.bias", gamma)):
        if name in state:
            state[name] = state[name] * scale


def _infer(
    state: dict[str, Tensor],
    given: dict[str, Tensor],
    layout: Layout,
    metadata: dict[str, Any],
    notes: list[str],
    source: str,
) -> tuple[ViTConfig, Preprocessing]:
    """The architecture and the preprocessing, from the arrays, the metadata and the rules."""
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        raise UserError(f"{source}: not a ViT with a class token: it lacks {', '.join(missing)}")
    into, out = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if into is not None and out is not None and len(into) == 2 * out.shape[-1]:  # timm packs it
        raise UserError(f"{source}: {GATED}")
    _, channels, patch, _ = state["patch_embed.proj.weight"].shape
    D = state["cls_token"].shape[-1]
    state["cls_token"] = state["cls_token"].reshape(1, 1, D)
    state["pos_embed"] = _with_class_position(state["pos_embed"], notes)
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    pre_logits, head = state.get("pre_logits.fc.weight"), state.get("head.weight")
    sizes = {
        "patch_dim": patch,
        "input_channels": channels,
        "num_classes": 0 if head is None else len(head),
        "hidden_dim": D,
        "num_heads": _heads(given, layout, D, metadata, notes, source),
        "num_layers": 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks.")),
        "ff_dim": len(state["blocks.0.mlp.fc1.weight"]),
        "dim": grid * patch,
        "representation_size": None if pre_logits is None else len(pre_logits),
        "eps": _settle("eps", metadata, layout.eps, notes),
        "gelu": _settle("gelu", metadata, layout.gelu, notes),
    }
    vit = checked(ViTConfig, sizes, f"{source}: by its arrays ")
    given_preprocessing = metadata.get("preprocessing")
    defaults = {"image_size": vit.dim, **layout.preprocessing}
    if given_preprocessing is None:
        notes.append(f"preprocessing by the {layout.name} rule: mean {defaults['mean']}")
    values = {**defaults, **(given_preprocessing or {})}
    return vit, checked(Preprocessing, values, f"{source}: preprocessing.")


def _settle(key: str, metadata: dict[str, Any], rule: Any, notes: list[str]) -> Any:
    if key in metadata:
        return metadata[key]
    notes.append(f"{key} {rule} by the layout's rule")
    return rule


def _heads(
    given: dict[str, Tensor],
    layout: Layout,
    D: int,
    metadata: dict[str, Any],
    notes: list[str],
    source: str,
) -> int:
    kernel = given.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel")
    if layout.name == "google" and kernel is not None and kernel.ndim == 3:
        return int(kernel.shape[1])
    if "num_heads" in metadata:
        own = metadata["num_heads"]
        if type(own) is not int or own < 1 or D % own:
            raise UserError(
                f"{source}: num_heads is {brief(own)}, which does not divide the width ({D}); "
                "fetch or write the file again"
            )
        return own
    if D % 64:
        raise UserError(
            f"{source}: the arrays don't say how many heads a width of {D} has; put the model's "
            "config.json (num_attention_heads) beside the file"
        )
    heads = 16 if D == 1280 else D // 64
    notes.append(f"num_heads {heads} by the rule width / 64 (width 1280: 16)")
    return heads


def _with_class_position(pos_embed: Tensor, notes: list[str]) -> Tensor:
    """Some tables (big_vision's) position the patches alone: the class token's row is then 0."""
    pos_embed = pos_embed.reshape(1, *pos_embed.shape[-2:])
    N = pos_embed.shape[1]
    if round(N**0.5) ** 2 != N:
        return pos_embed
    notes.append("the class token has no position in this file: 0")
    return torch.cat([torch.zeros_like(pos_embed[:, :1]), pos_embed], dim=1)


def _account(state: dict[str, Tensor], extra: list[str], vit: ViTConfig, source: str) -> None:
    """Raise UserError unless the arrays are exactly those of the architecture."""
    with torch.device("meta"):
        net = VisionTransformer(vit)
        net.layers, net.certainty = layers_head(state, vit), certainty_in(state)
        wanted = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {some(missing)}")
    if extra := sorted({*extra, *(state.keys() - wanted.keys())}):
        problems.append(f"not understood {some(extra)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        problems.append("wrong shapes: " + some(wrong))
    if problems:
        raise UserError(f"{source}: " + "; ".join(problems))
    if wrong_values := faults_of(state, vit.num_layers, vit.hidden_dim):
        raise UserError(
            f"{source}: of what it knows of its answers, {some(wrong_values, 3)}; fetch or write "
            "the file again"
        )


def layers_head(state: Mapping[str, Tensor], vit: ViTConfig) -> LayersHead | None:
    """The head over layers that a state has arrays for, without their values; None without any."""
    depths, bias = state.get("layers.depths"), state.get("layers.fc.bias")
    if depths is None or bias is None:
        return None
    numbers = [int(depth) for depth in depths[: vit.num_layers + 1]]
    if not numbers or numbers != sorted({*numbers} & {*range(1, vit.num_layers + 1)}):
        raise UserError(
            f"layers.depths is {some(map(str, numbers))}, which are no numbers of {vit.num_layers} "
            "blocks in their order; fetch or write the file again"
        )
    return LayersHead(numbers, vit.hidden_dim, len(bias))


def read(path: Path) -> Weights:
    """Read a weights file (or a Hugging Face model folder) of any known layout.

    Raises UserError in one sentence where it is missing, truncated or not weights.
    """
    path = weights_in(path) if path.is_dir() else path
    arrays, own = read_arrays(path)
    if "base" in own:
        raise UserError(
            f"{path} holds only what was trained from {own['base']}; pretrained.load_model puts "
            "the two together"
        )
    beside: dict[str, Any] = {}
    if "num_heads" not in own:
        exported = export_metadata(path)
        beside = json_metadata(path.parent, arrays)
        beside |= {**exported, "notes": (*beside["notes"], *exported.get("notes", ()))}
    notes = (*beside.get("notes", ()), *own.get("notes", ()))
    return convert(arrays, {**beside, **own, "notes": notes}, str(path))
