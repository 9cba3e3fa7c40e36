"""What a weights file says of itself, and the descriptions beside it; checked, key by key."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from config import Preprocessing, Section, ViTConfig
from pretrained.claims import json_of
from utils import UserError

LONGEST_PATH = LONGEST_NAME = 1000  # letters
MOST_CONFIG = 100_000  # letters: config.yaml with every comment is 20,000
MOST_PIXELS = 4096  # a side of a partial file's pictures: its positions are made of it
Schema = TypeVar("Schema", bound=Section)


def checked(
    schema: type[Schema], values: Any, place: str, names: Mapping[str, str] | None = None
) -> Schema:
    """The values as the schema has them; UserError naming the place and its first faulty key, which
    `names` may call otherwise than the schema."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # What pydantic calls the branch of a choice is no key.
        loc = [str(p) for i, p in enumerate(first["loc"]) if i == 0 or isinstance(p, int)]
        key = ".".join([(names or {}).get(loc[0], loc[0]), *loc[1:]]) if loc else ""
        why = first["msg"].replace("Input should", "it should")
        raise UserError(
            f"{place}{key} is {brief(first['input'])}, which can't be used: {why}; put it "
            "right, or fetch the file again"
        ) from None


def brief(value: Any) -> str:
    """A value as an error shows it: whatever a stranger's file holds in its place."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) < 60 else f"{text[:57]}..."


def own_metadata(header: Any, source: str) -> dict[str, Any]:
    """What our own checkpoints say in their safetensors header (or last.pt); {} for others'.

    Raises UserError naming the file and the key that is missing or wrong.
    """
    if not isinstance(header, Mapping) or "architecture" not in header:
        return {}
    if header.get("format", "vit") != "vit":  # another program's word
        return {}
    architecture = _object(header, "architecture", source)
    keys = ("num_heads", "gelu", "eps")
    if missing := [key for key in keys if key not in architecture]:
        raise UserError(
            f"{source}: its metadata's architecture lacks {', '.join(missing)}; fetch or write the "
            "file again"
        )
    place = f"{source}: its metadata's"
    vit = checked(ViTConfig, {key: architecture[key] for key in keys}, f"{place} architecture.")
    preprocessing = _object(header, "preprocessing", source)
    found: dict[str, Any] = {key: getattr(vit, key) for key in keys}
    found["preprocessing"] = checked(
        Preprocessing, preprocessing, f"{place} preprocessing."
    ).model_dump()
    found["classes"] = _classes(header, source)
    if "base" in header:
        found |= {key: str(header.get(key, "")) for key in ("base", "frozen")}
        if len(found["base"]) > LONGEST_PATH:
            raise UserError(
                f"{source}: its metadata's base is no name or path ({brief(found['base'])}); fetch "
                "or write the file again"
            )
        found["dim"] = architecture.get("dim")
        if type(found["dim"]) is not int or not 1 <= found["dim"] <= MOST_PIXELS:
            raise UserError(
                f"{source}: its metadata's architecture.dim is {brief(found['dim'])}, which is "
                "no side of a picture; fetch or write the file again"
            )
    if len(str(header.get("config", ""))) > MOST_CONFIG:  # YAML is slow to read
        raise UserError(
            f"{source}: its metadata's config has more than {MOST_CONFIG:,} letters; fetch or "
            "write the file again"
        )
    if "seen" in header:
        found["seen"] = str(header["seen"])
    return found


def _parsed(header: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in header:
        raise UserError(f"{source}: its metadata has no {key}; fetch or write the file again")
    try:
        return json.loads(header[key])
    except (TypeError, ValueError, RecursionError):
        text = str(header[key])
        raise UserError(
            f"{source}: its metadata's {key} is no JSON that can be read ({text[:40]!r}); fetch or "
            "write the file again"
        ) from None


def _object(header: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    found = _parsed(header, key, source)
    if not isinstance(found, dict):
        raise UserError(
            f"{source}: its metadata's {key} is a {type(found).__name__} instead of keys and their "
            "values; fetch or write the file again"
        )
    return found


def _classes(header: Mapping[str, Any], source: str) -> list[str] | None:
    found = _parsed(header, "classes", source) if "classes" in header else None
    named = isinstance(found, list) and all(
        isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in found
    )
    if found is not None and not named:
        raise UserError(
            f"{source}: its metadata's classes are not a list of names; fetch or write the file "
            "again"
        )
    if found and len(set(found)) < len(found):
        raise UserError(
            f"{source}: its metadata names a class twice; fetch or write the file again"
        )
    return found


# --------------------------------------------------------- config.json, preprocessor_config.json

GELUS = {name: "exact" for name in ("gelu", "gelu_python")}
GELUS |= {
    name: "tanh"
    for name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "gelu_tanh")
}
FILTERS = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
TIMM_FITS = {"center": "crop", "squash": "squash", "border": "pad"}
TO_255 = 1 / 255


def json_metadata(folder: Path, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    """What config.json and preprocessor_config.json beside the weights say (Hugging Face, timm).

    A config.json that speaks of another width is not this file's, and is left alone. Keys that are
    null are not there. Raises UserError naming the file and a key that can't be followed.
    """
    notes: list[str] = []
    path = folder / "config.json"
    config = _json_file(path, notes)
    width = config.get("hidden_size", config.get("num_features"))
    tokens = [a for name, a in arrays.items() if "cls" in name or "class_token" in name]
    if not isinstance(width, int) or not any(width in tensor.shape for tensor in tokens):
        return {"notes": tuple(notes)}
    found = _architecture(config, width, path)
    preprocessing = _timm(config, notes)
    processor_path = folder / "preprocessor_config.json"
    processor = _json_file(processor_path, notes)
    preprocessing |= _processor(processor, processor_path, notes)
    if preprocessing:
        found["preprocessing"] = preprocessing
    if labels := _labels(config, arrays, notes):
        found["classes"] = labels
    return {**found, "notes": tuple(notes)}


HEAD_BIAS = re.compile(r"(^|\.)(classifier|head|heads\.head)\.bias$")
UNNAMED = re.compile(r"LABEL_\d+")  # transformers' own, where nobody gave names


def _labels(
    config: dict[str, Any], arrays: Mapping[str, Tensor], notes: list[str]
) -> list[str] | None:
    """The classes' names, transformers' id2label or timm's label_names; None where the head has
    other classes. A name that stands twice gets its number."""
    timm = config.get("pretrained_cfg")
    named = config.get("label_names", timm.get("label_names") if isinstance(timm, dict) else None)
    if isinstance(by_number := config.get("id2label"), dict):
        named = [by_number.get(str(i)) for i in range(len(by_number))]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return None
    counts = [len(array) for name, array in arrays.items() if HEAD_BIAS.search(name)]
    if not named or not counts or all(UNNAMED.fullmatch(name) for name in named):
        return None
    if counts[0] != len(named):
        notes.append(f"config.json names {len(named)} classes, its head has {counts[0]}: left out")
        return None
    times = Counter(named)
    return [name if times[name] == 1 else f"{name} ({i})" for i, name in enumerate(named)]


def _architecture(config: dict[str, Any], width: int, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "num_attention_heads" in config:
        heads = config["num_attention_heads"]
        if type(heads) is not int or heads < 1 or width % heads:
            raise UserError(
                f"{path}: num_attention_heads is {brief(heads)}, which does not divide hidden_size "
                f"({width})"
            )
        found["num_heads"] = heads
    asked = config.get("model_args")
    asked = asked if isinstance(asked, dict) else {}
    if type(heads := asked.get("num_heads")) is int and heads > 0 and not width % heads:
        found["num_heads"] = heads
    if "layer_norm_eps" in config:
        eps = {"eps": config["layer_norm_eps"]}
        found["eps"] = checked(ViTConfig, eps, f"{path}: ", {"eps": "layer_norm_eps"}).eps
    act = asked.get("act_layer")
    key, act = (
        ("hidden_act", config["hidden_act"]) if "hidden_act" in config else ("act_layer", act)
    )
    if act is not None:
        if not isinstance(act, str) or act not in GELUS:
            raise UserError(
                f"{path}: {key} is {brief(act)}, which this project's network does not compute (it "
                f"has {', '.join(GELUS)}); name other weights"
            )
        found["gelu"] = GELUS[act]
    pool = config.get("global_pool")
    if pool not in (None, "", "token"):
        raise UserError(
            f"{path}: global_pool is {brief(pool)}, and this project's network reads the class "
            "token; name weights that were made for it"
        )
    return found


def _timm(config: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The preprocessing of timm's pretrained_cfg; older files have its keys beside it."""
    timm = config.get("pretrained_cfg")
    if not isinstance(timm, dict):
        timm = config if "architecture" in config and "input_size" in config else {}
    size = timm.get("input_size")
    found = {
        "mean": timm.get("mean"),
        "std": timm.get("std"),
        "image_size": size[-1] if isinstance(size, list) and size else size,
        "interpolation": _filter(timm.get("interpolation"), notes),
        "crop": timm.get("crop_pct"),
        "fit": TIMM_FITS.get(str(timm.get("crop_mode"))),
    }
    return _three_channels({key: value for key, value in found.items() if value is not None})


def _processor(processor: dict[str, Any], path: Path, notes: list[str]) -> dict[str, Any]:
    """The preprocessing of a Hugging Face image processor, for values in [0, 1]."""
    found = {"mean": processor.get("image_mean"), "std": processor.get("image_std")}
    found = _three_channels({key: value for key, value in found.items() if value is not None})
    if processor.get("do_normalize") is False:
        found |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    found = _rescaled(found, processor, path)
    size = _side(processor.get("size"), f"{path}: size")
    crops = processor.get("do_center_crop")
    cut = _side(processor.get("crop_size"), f"{path}: crop_size") if crops is not False else None
    if cut or size:
        found["image_size"] = cut or size
    if cut and size and 0.1 <= cut / size <= 1:
        found["crop"] = cut / size
    elif crops is False:
        found["crop"] = 1.0
    if taps := _filter(processor.get("resample"), notes):
        found["interpolation"] = taps
    if fit := _fit(processor):
        found["fit"] = fit
    if found:
        names = {"mean": "image_mean", "std": "image_std", "image_size": "size"}
        checked(Preprocessing, found, f"{path}: ", names)
    return found


def _fit(processor: dict[str, Any]) -> str | None:
    """What becomes of a picture that is no square, where the processor's kind is known to say it:
    ViT's resizes both sides, which squashes, and LLaVA's can fill it up to a square."""
    if processor.get("do_pad") is True and "Llava" in str(processor.get("image_processor_type")):
        return "pad"
    size = processor.get("size")
    if processor.get("do_center_crop"):
        return "crop"
    squashed = isinstance(size, dict) and {"height", "width"} <= size.keys()
    return "squash" if squashed and processor.get("do_resize") is not False else None


def _rescaled(found: dict[str, Any], processor: dict[str, Any], path: Path) -> dict[str, Any]:
    """Mean and std of values to 255, or of another factor, as those of values in [0, 1]."""
    factor = processor.get("rescale_factor", TO_255)
    if processor.get("do_rescale") is False:
        factor = 1
    if type(factor) not in (int, float) or not 0 < factor <= 1:
        raise UserError(f"{path}: rescale_factor is {brief(factor)}, which is no number up to 1")
    if abs(factor / TO_255 - 1) < 1e-3:
        return found
    found = {"mean": [0.5] * 3, "std": [0.5] * 3, **found}
    try:
        return {key: [float(v) * TO_255 / factor for v in found[key]] for key in ("mean", "std")}
    except (TypeError, ValueError):
        raise UserError(f"{path}: image_mean and image_std must be lists of numbers") from None


def _three_channels(found: dict[str, Any]) -> dict[str, Any]:
    """One mean, or one std, is that of every channel."""
    for key in ("mean", "std"):
        value = found.get(key)
        if type(value) in (int, float):
            found[key] = [value] * 3
        elif isinstance(value, list) and len(value) == 1:
            found[key] = value * 3
    return found


def _side(size: Any, place: str) -> int | None:
    """The side of a square, of a number, a list, or a dict of height and width or shortest_edge."""
    if size is None:
        return None
    sides = [size]
    if isinstance(size, dict):
        sides = [size[key] for key in ("height", "width") if size.get(key) is not None]
        edge = size.get("shortest_edge") or size.get("longest_edge")
        sides = sides or ([] if edge is None else [edge])
    elif isinstance(size, list):
        sides = size
    if (
        not sides
        or any(type(side) is not int or not 1 <= side < 1_000_000 for side in sides)
        or len(sides) > 2
    ):
        raise UserError(f"{place} is {brief(size)}, which is no size in pixels")
    if len(set(sides)) > 1:
        raise UserError(f"{place} is {brief(size)}: not a square, and this project's pictures are")
    return sides[0]


def _filter(name: Any, notes: list[str]) -> str | None:
    """How a picture is resized, of Pillow's number or timm's word."""
    if name is None:
        return None
    found = FILTERS.get(name) if isinstance(name, (int, str)) else None
    if found is None:
        notes.append(f"resizing by {brief(name)} is not known here: the layout's own is taken")
    return found


def _json_file(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON object, without the keys that are null; {} where there is none."""
    try:
        content = json_of(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        notes.append(f"beware: {path} is no JSON that can be read, and was left out")
        return {}
    if not isinstance(content, dict):
        notes.append(f"beware: {path} holds a {type(content).__name__}, and was left out")
        return {}
    return {key: value for key, value in content.items() if value is not None}
