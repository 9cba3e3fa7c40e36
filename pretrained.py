"""Weights in and out of the known layouts: Google's npz, Hugging Face, timm and its kin, our own.

A layout is recognised by the names of its arrays, never by the file's extension. Import and
export read the same table, and every array is consumed, declared ignored, or an error.

What the arrays alone can't say is settled, in this order, by the file's own metadata, by the
config.json and preprocessor_config.json beside it, and by these rules, which the log names:
  heads          Google's query kernels have the number in their shape; else width / 64, which
                 holds for every published size but H (width 1280: 16 heads)
  GELU           tanh for Google's (Flax's default, with which they were trained), else exact
  eps            1e-6; 1e-12 for Hugging Face's ViT (its own default)
  preprocessing  mean and std 0.5 for Google's and Hugging Face's ViT; ImageNet's for the others
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from config import Config, Preprocessing, ViTConfig
from model import VisionTransformer, resample_positions
from utils import UserError, download, log, replacing

WEIGHTS = Path("weights")
GOOGLE_BUCKET = "https://storage.googleapis.com/vit_models"
GOOGLE_FILES = {
    "google-in21k": "imagenet21k/ViT-B_16.npz",
    "google-in21k-b32": "imagenet21k/ViT-B_32.npz",
    "google-in21k-l16": "imagenet21k/ViT-L_16.npz",
    "google-in1k": "imagenet21k+imagenet2012/ViT-B_16.npz",
    "google-in21k-augreg": "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
    "google-in21k-augreg-ti16": "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-s16": "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-b32": "augreg/B_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-l16": "augreg/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
    ".npz",
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


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


# ------------------------------------------------------------------------- the table of layouts


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


def _timm_table() -> Table:
    modules = ["patch_embed.proj", "norm", "pre_logits.fc", "head"]
    inner = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    modules += [f"blocks.{{i}}.{name}" for name in inner]
    rows = _pairs({name: name for name in modules}, ".weight", ".bias", SAME)
    return [(name, (name,), SAME) for name in ("cls_token", "pos_embed")] + rows


@dataclass(frozen=True)
class Layout:
    """A naming of the arrays: how to know it, its table, and what its arrays leave unsaid."""

    name: str
    signature: str  # a regular expression that one name must match
    table: Table
    preprocessing: dict[str, Any]
    gelu: str = "exact"
    eps: float = 1e-6
    layer_scale: tuple[str, str] | None = None  # behind the attention, behind the MLP
    ignored: str = "$^"  # declared: read by nobody at inference
    aliases: tuple[tuple[str, str], ...] = field(default=())  # other spellings -> the table's


HUGGINGFACE_ALIASES = (
    (r"^(vit|dinov2)\.", ""),
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
)
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="google",
            signature=r"^(params/)?embedding/kernel$",
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
            signature=r"layernorm_before\.weight$",
            table=_huggingface_table(
                "layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"
            ),
            preprocessing={**HALF, "interpolation": "bilinear"},
            eps=1e-12,
            # The pooler's output goes nowhere in ViTForImageClassification.
            ignored=r"^(pooler\.dense\.|embeddings\.mask_token$)",
            aliases=(
                *HUGGINGFACE_ALIASES,
                (r"\.mlp\.fc1\.", ".intermediate.dense."),
                (r"\.mlp\.fc2\.", ".output.dense."),
            ),
        ),
        Layout(
            name="huggingface-dinov2",
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
            name="timm",
            signature=r"(^|\.)patch_embed\.proj\.weight$",
            table=_timm_table(),
            preprocessing={**IMAGENET, "interpolation": "bicubic"},
            layer_scale=("blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"),
            # MAE's decoder, and the mask tokens of MAE and DINOv2, serve pre-training only.
            ignored=r"^(mask_token$|decoder_)",
            aliases=((r"^module\.", ""),),
        ),
    )
}


# ------------------------------------------------------------------------------ arrays -> Weights


def convert(
    arrays: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None, source: str = "arrays"
) -> Weights:
    """Recognise a layout and bring its arrays under our names.

    `metadata` may hold num_heads, gelu, eps, preprocessing and classes, and wins over the rules.
    Raises UserError naming every array that is missing, not understood, or of a wrong shape.
    """
    layout = next(
        (x for x in LAYOUTS.values() if any(re.search(x.signature, name) for name in arrays)), None
    )
    if layout is None:
        raise UserError(
            f"{source}: no Vision Transformer in a known layout (Google npz, Hugging Face ViT or "
            f"Dinov2, timm/DeiT/MAE/DINOv2, ours); its arrays are {_some(arrays)}"
        )
    given = {_spell(name, layout): array for name, array in arrays.items()}
    state, extra, ignored = _translate(given, layout)
    notes = [f"ignored by declaration: {_some(ignored)}"] if ignored else []
    vit, preprocessing = _infer(state, given, layout, dict(metadata or {}), notes, source)
    _account(state, extra, vit, f"{source} ({layout.name} layout)")
    classes = (metadata or {}).get("classes")
    return Weights(
        state=state,
        vit=vit,
        preprocessing=preprocessing,
        layout=layout.name,
        source=source,
        notes=tuple(notes),
        classes=tuple(classes) if classes else None,
    )


def _spell(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.aliases:
        name = re.sub(pattern, replacement, name)
    return name


def _translate(
    given: dict[str, Tensor], layout: Layout
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our state, the names that nothing consumed, and those declared ignored."""
    numbers = [re.search(r"(?:encoderblock_|layer\.|^blocks\.)(\d+)[./]", name) for name in given]
    depth = max((int(m.group(1)) + 1 for m in numbers if m), default=0)
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for ours, theirs, kind in layout.table:
        for i in range(depth) if "{i}" in ours else (0,):
            names = [name.replace("{i}", str(i)) for name in theirs]
            if all(name in given for name in names):
                tensors = [given[name].float() for name in names]
                state[ours.replace("{i}", str(i))] = kind.read(tensors).contiguous()
                used.update(names)
    for i in range(depth) if layout.layer_scale else ():
        assert layout.layer_scale is not None
        for scale, module in zip(layout.layer_scale, ("attn.proj", "mlp.fc2"), strict=True):
            name = scale.replace("{i}", str(i))
            if name in given:
                used.add(name)
                _fold(state, f"blocks.{i}.{module}", given[name].float())
    ignored = sorted(n for n in given.keys() - used if re.search(layout.ignored, n))
    return state, sorted(given.keys() - used - set(ignored)), ignored


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
    _, channels, patch, _ = state["patch_embed.proj.weight"].shape
    D = state["cls_token"].shape[-1]
    state["cls_token"] = state["cls_token"].reshape(1, 1, D)
    state["pos_embed"] = _with_class_position(state["pos_embed"], notes)
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    pre_logits, head = state.get("pre_logits.fc.weight"), state.get("head.weight")
    vit = ViTConfig(
        patch_dim=patch,
        input_channels=channels,  # type: ignore[arg-type]
        num_classes=0 if head is None else len(head),
        hidden_dim=D,
        num_heads=_heads(given, layout, D, metadata, notes, source),
        num_layers=1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks.")),
        ff_dim=len(state["blocks.0.mlp.fc1.weight"]),
        dim=grid * patch,
        representation_size=None if pre_logits is None else len(pre_logits),
        eps=_settle("eps", metadata, layout.eps, notes),
        gelu=_settle("gelu", metadata, layout.gelu, notes),
    )
    given_preprocessing = metadata.get("preprocessing")
    defaults = {"image_size": vit.dim, **layout.preprocessing}
    if given_preprocessing is None:
        notes.append(f"preprocessing by the {layout.name} rule: mean {defaults['mean']}")
    return vit, Preprocessing.model_validate({**defaults, **(given_preprocessing or {})})


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
        return int(metadata["num_heads"])
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
        wanted = {k: tuple(v.shape) for k, v in VisionTransformer(vit).state_dict().items()}
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {_some(missing)}")
    if extra:
        problems.append(f"not understood {_some(extra)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        problems.append("wrong shapes: " + _some(wrong))
    if problems:
        raise UserError(f"{source}: " + "; ".join(problems))


def _some(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + rest


# -------------------------------------------------------------------------------- files -> Weights


def read(path: Path) -> Weights:
    """Read a weights file (or a Hugging Face model folder) of any known layout.

    Raises UserError in one sentence where it is missing, truncated or not weights.
    """
    if path.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        found = next((path / name for name in names if (path / name).exists()), None)
        if found is None:
            raise UserError(f"{path} is a folder without {' or '.join(names)}")
        path = found
    arrays, metadata = read_arrays(path)
    try:
        return convert(arrays, {**_json_metadata(path.parent, arrays), **metadata}, str(path))
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a ViT of a kind that is understood ({reason})") from None


def read_arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's arrays under its own names, and the metadata that it carries, by its content."""
    if not path.exists():
        raise UserError(
            f"{path}: no such weights file; names are {_some(GOOGLE_FILES)}, or owner/name"
        )
    with open(path, "rb") as file:
        start = file.read(9)
    try:
        if start[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                is_npz = any(name.endswith(".npy") for name in archive.namelist())
            return (_read_npz(path), {}) if is_npz else _read_torch(path)
        if start[8:9] == b"{":
            with safe_open(path, "pt") as file_:
                # Copies: the tensors are a mapping of the file, which another may overwrite.
                names = list(file_.keys())
                arrays = {name: file_.get_tensor(name).clone() for name in names}
                return arrays, _own_metadata(file_.metadata() or {})
        if start[:1] == b"\x80":
            return _read_torch(path)
    except (zipfile.BadZipFile, SafetensorError, EOFError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged or cut short ({error}); remove it and fetch it again"
        ) from None
    raise UserError(
        f"{path} is not a weights file (.npz, .safetensors or PyTorch): it begins with {start!r}"
    )


def _read_npz(path: Path) -> dict[str, Tensor]:
    # numpy's zip reader checks each member's CRC as it reads it to the end.
    with np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} can't be read as tensors alone, and nothing else is ever unpickled: {reason}"
        ) from None
    metadata = _own_metadata(content.get("metadata", {})) if isinstance(content, dict) else {}
    for key in ("model", "state_dict"):  # DeiT and MAE wrap their arrays
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not named arrays")
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}, metadata


def _own_metadata(header: Mapping[str, str]) -> dict[str, Any]:
    """What our own checkpoints say in their safetensors header (or last.pt)."""
    if "architecture" not in header:
        return {}
    vit = json.loads(header["architecture"])
    found = {key: vit[key] for key in ("num_heads", "gelu", "eps")}
    found["preprocessing"] = json.loads(header["preprocessing"])
    found["classes"] = json.loads(header.get("classes", "null"))
    return found


def _json_metadata(folder: Path, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    """What config.json and preprocessor_config.json beside the weights say (Hugging Face, timm).

    A config.json that speaks of another width is not this file's, and is left alone.
    """
    config = _json_file(folder / "config.json")
    width = config.get("hidden_size", config.get("num_features"))
    if not any(width in tensor.shape for name, tensor in arrays.items() if "cls_token" in name):
        return {}
    found: dict[str, Any] = {}
    if "num_attention_heads" in config:
        found["num_heads"] = config["num_attention_heads"]
    if "layer_norm_eps" in config:
        found["eps"] = config["layer_norm_eps"]
    if "hidden_act" in config:
        found["gelu"] = "exact" if config["hidden_act"] == "gelu" else "tanh"
    processor = _json_file(folder / "preprocessor_config.json")
    timm = config.get("pretrained_cfg", {})
    size = processor.get("crop_size") or processor.get("size") or {}
    candidates = {
        "mean": processor.get("image_mean") or timm.get("mean"),
        "std": processor.get("image_std") or timm.get("std"),
        "image_size": (size.get("height") if isinstance(size, dict) else size)
        or (timm.get("input_size") or [None])[-1],
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(processor.get("resample", -1))
        or timm.get("interpolation"),
        "crop": timm.get("crop_pct"),
    }
    preprocessing = {key: value for key, value in candidates.items() if value is not None}
    return found | ({"preprocessing": preprocessing} if "mean" in preprocessing else {})


def _json_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ---------------------------------------------------------------------------- names -> files


def resolve(name: str) -> Path:
    """The file or folder that a name, owner/name, URL or path stands for, fetched if need be.

    Raises UserError where it can't be had, saying which file to put where.
    """
    if name in GOOGLE_FILES:
        return _fetched(f"{GOOGLE_BUCKET}/{GOOGLE_FILES[name]}", WEIGHTS / f"{name}.npz")
    if re.match(r"https?://", name):
        file = re.sub(r"[?#].*", "", name).rstrip("/").rpartition("/")[2]
        # Many addresses end in model.safetensors: the hash keeps them apart.
        address = hashlib.sha256(name.encode()).hexdigest()[:8]
        return _fetched(name, WEIGHTS / f"{address}-{file or 'weights'}")
    if Path(name).exists():
        return Path(name)
    is_file = re.search(r"\.(npz|safetensors|pth|pt|bin)$", name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not is_file:
        return _from_hub(name)
    raise UserError(
        f"{name}: no such weights: a path, a URL, owner/name on Hugging Face, or one of "
        f"{', '.join(GOOGLE_FILES)}"
    )


def _fetched(url: str, path: Path) -> Path:
    if not path.exists():
        log.info("fetching %s", url)
        download(url, path, check=read)
    return path


def _from_hub(name: str) -> Path:
    """A model repository's weights and its two descriptions, under weights/owner--name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = WEIGHTS / name.replace("/", "--")
    weights = ("model.safetensors", "pytorch_model.bin")
    if any((folder / file).exists() for file in weights):
        return folder
    endpoint = os.environ.get("HF_ENDPOINT")
    there: set[str] = set()
    for file in ("config.json", "preprocessor_config.json", *weights):
        if there & set(weights):
            break
        try:
            hf_hub_download(name, file, local_dir=folder, endpoint=endpoint)
            there.add(file)
        except LocalEntryNotFoundError:
            raise UserError(
                f"{name} can't be reached; without a network, put the repository's config.json, "
                f"preprocessor_config.json and model.safetensors into {folder}"
            ) from None
        except EntryNotFoundError:
            continue
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{name} can't be had from the Hugging Face hub: {reason}") from None
    if not there & set(weights):
        raise UserError(f"{name} on Hugging Face has neither {' nor '.join(weights)}")
    return folder


# --------------------------------------------------------------------------- Weights -> a model


def load_model(
    path_or_name: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    device: str | torch.device = "cpu",
) -> VisionTransformer:
    """A VisionTransformer from any known weights, its architecture inferred from the arrays.

    `num_classes=None` keeps the file's head (and pre_logits; without a head, features come out);
    a number gives a fresh zero head. `image_size`, in pixels, resamples the positions; None keeps
    the table's own size. Raises UserError where the weights can't be had or understood.
    """
    weights = read(resolve(str(path_or_name)))
    return build(weights, num_classes=num_classes, image_size=image_size).to(device)


def build(
    weights: Weights,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    classes: tuple[str, ...] | None = None,
) -> VisionTransformer:
    """The model that `load_model` promises, of weights already read, in eval mode.

    Its parameters are the weights' own arrays, not copies.
    """
    changes: dict[str, Any] = {"dropout": dropout, "attention_dropout": attention_dropout}
    state = dict(weights.state)
    fresh: set[str] = set()
    if num_classes is not None:
        changes |= {"num_classes": num_classes, "representation_size": None}
        dropped = {name for name in state if name.startswith(("head.", "pre_logits."))}
        state = {name: tensor for name, tensor in state.items() if name not in dropped}
        fresh = {"head.weight", "head.bias"} if num_classes else set()
        if dropped:
            log.info("dropped for a fresh head: %s", ", ".join(sorted(dropped)))
    if image_size is not None:
        patch = weights.vit.patch_dim
        if image_size % patch:
            raise UserError(
                f"vit.dim: {image_size} is not a multiple of the weights' patch_dim ({patch}); the "
                f"nearest is {max(1, round(image_size / patch)) * patch}"
            )
        changes["dim"] = image_size
        state["pos_embed"] = resample_positions(state["pos_embed"], image_size // patch)
    vit = weights.vit.model_copy(update=changes)
    preprocessing = weights.preprocessing.model_copy(update={"image_size": vit.dim})
    kept = weights.classes if num_classes is None else classes
    with torch.device("meta"):  # no random values that would be overwritten: 1.4 s for a B/16
        net = VisionTransformer(vit, preprocessing, kept)
    state |= {name: torch.zeros(net.get_parameter(name).shape) for name in fresh}
    net.load_state_dict(state, assign=True)
    return net.eval()


def build_for(config: Config, classes: tuple[str, ...]) -> VisionTransformer:
    """The model that a config asks for, with a head for `classes`, frozen as its mode says.

    The head is fresh, unless the weights are a checkpoint of ours for the very same classes.

    Raises UserError listing the keys of `vit` that the file sets unlike its weights.
    """
    vit = config.vit
    if vit.num_classes not in ("auto", len(classes)):
        raise UserError(
            f"vit.num_classes is {vit.num_classes}, but {config.train.base_dir} has "
            f"{len(classes)} classes ({_some(classes)}); set it to {len(classes)} or auto"
        )
    if config.train.mode == "scratch":
        return VisionTransformer(vit.concrete(len(classes)), classes=classes)
    assert config.train.checkpoint is not None
    weights = read(resolve(config.train.checkpoint))
    log.info("weights: %s, %s layout", weights.source, weights.layout)
    for note in weights.notes:
        log.info("  %s", note)
    _check_architecture(vit, weights)
    size = vit.dim if "dim" in vit.model_fields_set else weights.preprocessing.image_size
    keeps_head = weights.classes == classes and weights.vit.num_classes == len(classes)
    if keeps_head:
        log.info("  the head is kept: it was trained on these classes")
    net = build(
        weights,
        num_classes=None if keeps_head else len(classes),
        image_size=size,
        dropout=vit.dropout,
        attention_dropout=vit.attention_dropout,
        classes=classes,
    )
    if config.train.mode == "finetune":
        depth = net.vit.num_layers - config.train.finetune_blocks
        if depth < 0:
            raise UserError(
                f"train.finetune_blocks is {config.train.finetune_blocks}, but {weights.source} "
                f"has {net.vit.num_layers} blocks"
            )
        net.freeze_trunk(depth)
    return net


def _check_architecture(vit: ViTConfig, weights: Weights) -> None:
    keys = ("patch_dim", "input_channels", "hidden_dim", "num_heads", "num_layers", "ff_dim")
    differing = [
        f"{key}: {getattr(vit, key)} in the config, {getattr(weights.vit, key)} in the weights"
        for key in keys
        if key in vit.model_fields_set and getattr(vit, key) != getattr(weights.vit, key)
    ]
    if differing:
        raise UserError(f"vit does not fit {weights.source}: " + "; ".join(differing))
    for key in ("eps", "gelu"):
        asked, own = getattr(vit, key), getattr(weights.vit, key)
        if asked not in ("auto", own):
            log.info(
                "vit.%s: %s is not what the weights were trained with; using %s", key, asked, own
            )


# ------------------------------------------------------------------------------- Weights out


def export(net: VisionTransformer, layout: str) -> dict[str, Tensor]:
    """A model's arrays under the names of another layout (`google`, `big_vision`,
    `huggingface-vit`, `huggingface-dinov2`, `timm`); LayerScale, where it has one, is 1."""
    big_vision = layout == "big_vision"
    plan = LAYOUTS["google" if big_vision else layout]
    state = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    arrays: dict[str, Tensor] = {}
    for ours, theirs, kind in plan.table:
        for i in range(net.vit.num_layers) if "{i}" in ours else (0,):
            tensor = state.pop(ours.replace("{i}", str(i)), None)
            if tensor is not None:
                names = [name.replace("{i}", str(i)) for name in theirs]
                parts = kind.write(tensor, net.vit.num_heads)
                arrays |= dict(zip(names, (p.contiguous() for p in parts), strict=True))
    if state:
        raise UserError(f"the {layout} layout has no place for {_some(state)}")
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
    of `other` take the place of its own."""
    arrays = net.state_dict() | dict(other or {})
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in arrays.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with replacing(path, size) as temporary:
        save_file(state, temporary, metadata_of(net, **extra))


def save_weights(path: Path, weights: Weights, provenance: str) -> None:
    """Write weights as one of our own files, with where they come from."""
    net = build(replace(weights, notes=()))
    net.preprocessing = weights.preprocessing
    save_model(path, net, provenance=provenance)
