"""A weights file -> arrays -> Weights: every array is consumed, declared ignored, or an error.

What the arrays alone can't say is settled, in this order, by the file's own metadata, by the
config.json and preprocessor_config.json beside it, and by these rules, which the log names:
  heads          Google's query kernels have the number in their shape; else width / 64, which
                 holds for every published size but H (width 1280: 16 heads)
  GELU           tanh for Google's (Flax's default, with which they were trained), else exact
  eps            1e-6; 1e-12 for Hugging Face's ViT (its own default)
  preprocessing  mean and std 0.5 for Google's and Hugging Face's ViT; ImageNet's for the others
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from config import Preprocessing, ViTConfig
from model import LayersHead, VisionTransformer
from pretrained.layouts import LAYOUTS, Layout
from utils import UserError, some


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

    `metadata` may hold num_heads, gelu, eps, preprocessing and classes, and wins over the rules.
    Raises UserError naming every array that is missing, not understood, or of a wrong shape.
    """
    layout = next(
        (x for x in LAYOUTS.values() if any(re.search(x.signature, name) for name in arrays)), None
    )
    if layout is None:
        raise UserError(
            f"{source}: no Vision Transformer in a known layout (Google npz, Hugging Face ViT or "
            f"Dinov2, timm/DeiT/MAE/DINOv2, ours); its arrays are {some(arrays)}"
        )
    given = {_spell(name, layout): array for name, array in arrays.items()}
    state, extra, ignored = _translate(given, layout)
    notes = [f"ignored by declaration: {some(ignored)}"] if ignored else []
    vit, preprocessing = _infer(state, given, layout, dict(metadata or {}), notes, source)
    _account(state, extra, vit, f"{source} ({layout.name} layout)")
    classes = (metadata or {}).get("classes")
    if seen := (metadata or {}).get("seen"):  # of a training that was measured before its last fit
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
        net = VisionTransformer(vit)
        net.layers = layers_head(state, vit)
        wanted = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {some(missing)}")
    if extra:
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


def layers_head(state: Mapping[str, Tensor], vit: ViTConfig) -> LayersHead | None:
    """The head over layers that a state has arrays for, without their values; None without any."""
    depths, bias = state.get("layers.depths"), state.get("layers.fc.bias")
    if depths is None or bias is None:
        return None
    return LayersHead([int(depth) for depth in depths], vit.hidden_dim, len(bias))


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
        raise UserError(f"{path}: no such weights file; fetch it, or name another")
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
    found |= {"seen": header["seen"]} if "seen" in header else {}
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
