"""What is known of a weights file, by its arrays, its metadata and the descriptions beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from certainty.certainty import PREFIX, Certainty, certainty_in, faults_of
from classifier import MIN_CONFIDENCE, UNLIKE
from config import PRESETS, Preprocessing, ViTConfig
from filing.yaml_files import section_of
from model import VisionTransformer
from pretrained.build import build, whole
from pretrained.describe import checked, own_metadata
from pretrained.files import files_of, metadata_in, read_arrays
from pretrained.manifest import manifest_of
from pretrained.names import missing
from pretrained.read import MOST_BLOCKS, NOT_UNDERSTOOD, layers_head
from utils import UserError, progress_bar, sha256_of, shell

# What a text raises that is no YAML, or none of ours: a date of a 13th month is a ValueError.
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
OURS = ("num_heads", "gelu", "eps")  # a file's own metadata has them where it is ours
# What our files say of themselves; any other key is another program's.
KNOWN: tuple[str, ...] = (
    "format",
    "architecture",
    "preprocessing",
    "classes",
    "config",
    "epoch",
    "certainty",
)
KNOWN += ("seen", "measured", "trained_blocks", "base", "frozen", "provenance", "checksums")
ERRORS = ("calibration_error", "calibration_error_calibrated")
OF_AN_EXPORT = ("format", "run", "exported", "training", "notes")  # of its manifest.json
TRAINED = ("mode", "finetune_blocks", "base_dir", "checkpoint", "seed")  # of a config's `train`


@dataclass(frozen=True)
class Opened:
    """A network with what was said of it as it was read.

    `lacks` is the sentence for a file that holds only what was trained, where the rest is not here:
    the network has no values then.
    """

    net: VisionTransformer
    preprocessing: Preprocessing
    layout: str
    ours: bool
    notes: tuple[str, ...]
    lacks: str | None = None


def facts_of(path: Path) -> dict[str, Any]:
    """All that is known of a weights file, as JSON takes it; UserError where it is none."""
    header = metadata_in(path)
    found = opened(path, header)
    net = found.net
    own = header if found.ours else {}
    return {
        "file": str(path),
        "layout": found.layout,
        "ours": found.ours,
        "architecture": architecture(net.vit),
        "parameters": net.parameter_counts()[0],
        "head": head(net),
        "head_blocks": list(net.layers.blocks) if net.layers is not None else None,
        "num_classes": net.num_classes,
        "classes": list(net.classes) if net.classes else None,
        "preprocessing": found.preprocessing.model_dump(),
        "certainty": certainty(net.certainty, parsed(own, "certainty")),
        "measured": measured(parsed(own, "measured")),
        "seen": parsed(own, "seen"),
        "trained": trained_by(own),
        "export": export_of(manifest_of(path)),
        "provenance": header.get("provenance"),
        "metadata": {name: text for name, text in header.items() if name not in KNOWN},
        "notes": list(found.notes),
        "lacks": found.lacks,
        "files": hashed(files_of(path)),
        "commands": commands(path, net, found.lacks),
    }


def opened(path: Path, header: Mapping[str, str]) -> Opened:
    """The network of a file; nothing is fetched."""
    base = own_metadata(header, str(path)).get("base")
    if base is not None:
        lacks = f"it holds only what was trained from {base}, which is not here"
        if missing(base):
            return described(path, lacks)
    try:
        weights = whole(path)
    except UserError as error:
        if base is None:
            raise
        return described(path, str(error).removeprefix(f"{path} ") or lacks)
    net = build(weights)
    # A training resamples the positions to the size that the weights were made for; what has a
    # head answers at that of its positions.
    preprocessing = net.preprocessing if net.num_classes else weights.preprocessing
    ours = "architecture" in header and header.get("format", "vit") == "vit"
    if path.suffix == ".pt":  # our own last.pt has the same words inside
        ours = set(OURS) <= read_arrays(path)[1].keys()
    return Opened(net, preprocessing, weights.layout, ours, weights.notes)


def described(path: Path, lacks: str) -> Opened:
    """What a file that holds only what was trained says, without the rest."""
    header = metadata_in(path)
    own = own_metadata(header, str(path))
    arrays, _ = read_arrays(path)
    said = json.loads(header["architecture"])
    vit = checked(ViTConfig, said, f"{path}: its metadata's architecture.")
    if vit.num_layers > MOST_BLOCKS:
        raise UserError(f"{path}: its metadata speaks of {vit.num_layers:,} blocks; fetch it again")
    preprocessing = Preprocessing.model_validate(own["preprocessing"])
    try:
        with torch.device("meta"):
            net = VisionTransformer(vit, preprocessing, tuple(own["classes"] or ()) or None)
            net.layers = layers_head(arrays, vit)
        net.certainty = certainty_in(arrays)
        if net.certainty is not None:
            kept = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
            net.certainty.load_state_dict(kept)
        wrong = faults_of(arrays, vit.num_layers, vit.hidden_dim)
    except NOT_UNDERSTOOD as error:
        wrong = [str(error).partition("\n")[0][:200]]
    if wrong:
        raise UserError(f"{path} is not a whole file of ours ({wrong[0]}); fetch it again")
    return Opened(net, preprocessing, "timm", True, (), lacks)


def architecture(vit: ViTConfig) -> dict[str, Any]:
    """The sizes, and the name of them where they are a preset's: ViT-S/14."""
    sizes = vit.model_dump(exclude={"preset", "num_classes", "dropout", "attention_dropout"})
    same = (n for n, preset in PRESETS.items() if all(sizes[k] == v for k, v in preset.items()))
    preset = next(same, None)
    return {"name": f"ViT-{preset}/{vit.patch_dim}" if preset else None, **sizes}


def head(net: VisionTransformer) -> str | None:
    """As `train.head` names it; None without one."""
    if net.layers is not None:
        return "both" if net.vit.num_classes else "layers"
    return "class" if net.vit.num_classes else None


def certainty(known: Certainty | None, said: Any) -> dict[str, Any] | None:
    """The calibration and the likeness that travel with the weights, with what the metadata says of
    how they were found."""
    if known is None:
        return None
    held_out, likeness = known.held_out, known.likeness
    said = said if isinstance(said, dict) else {}
    by = said.get("temperature_by")
    part = "test" if "test_calibration_error" in said else "val"
    errors = [said.get(f"{part}_{name}") for name in ERRORS]
    there = all(isinstance(error, (int, float)) for error in errors)
    meant = known.meant(MIN_CONFIDENCE, None if likeness is None else UNLIKE)
    return {
        "temperature": round(known.temperature.item(), 4),
        "temperature_by": by if isinstance(by, str) else None,
        "calibration_error": {"part": part, **dict(zip(("before", "after"), errors, strict=True))}
        if there
        else None,
        "set_level": round(known.set_level.item(), 6),
        "held_out": len(held_out),
        "right": int(held_out[:, 1].sum()),
        "min_confidence": MIN_CONFIDENCE,
        "unlike": UNLIKE,
        "answered": meant.answered,
        "answered_right": meant.right,
        "likeness": None
        if likeness is None
        else {
            "blocks": likeness.depths.tolist(),
            "examples": len(likeness.examples),
            "known": len(likeness.known),
        },
    }


def export_of(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What an export's manifest says of how it came to be; None without one."""
    return {key: manifest.get(key) for key in OF_AN_EXPORT} if manifest else None


def parsed(header: Mapping[str, str], key: str) -> Any:
    """What a key of the metadata holds as JSON; None where it isn't there, or is no JSON."""
    try:
        return json.loads(header[key])
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def measured(said: Any) -> dict[str, Any] | None:
    """The accuracy that the file says was measured; None where that can't be read."""
    try:
        low, high = map(float, said["interval"])
        found = {"part": str(said["part"]), "accuracy": float(said["accuracy"])}
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    by = said.get("by")
    return {**found, "interval": [low, high], "by": None if by is None else str(by)}


def trained_by(header: Mapping[str, str]) -> dict[str, Any] | None:
    """What the config in a file's metadata says of its training; None without one."""
    with contextlib.suppress(*UNREADABLE):
        if not (train := section_of(header["config"], "train")):
            return None
        found: dict[str, Any] = {key: train.get(key) for key in TRAINED}
        if (blocks := header.get("trained_blocks", "")).isdecimal():  # what a search came to
            found["finetune_blocks"] = int(blocks)
        if found["mode"] == "scratch":
            found["checkpoint"] = None
        epoch = header.get("epoch", "")
        return {**found, "epoch": int(epoch) if epoch.isdecimal() else None}
    return None


def hashed(files: list[Path]) -> list[dict[str, Any]]:
    """The SHA-256 of each file, in the form that `sha256sum` prints."""
    sizes = [file.stat().st_size for file in files]
    rows = []
    with progress_bar(total=sum(sizes), desc="sha256", unit="B", unit_scale=True) as bar:
        for path, size in zip(files, sizes, strict=True):
            rows.append({"file": str(path), "bytes": size, "sha256": sha256_of(path, bar.update)})
    return rows


def commands(path: Path, net: VisionTransformer, lacks: str | None) -> dict[str, str]:
    """What can be done with a file next, as it is pasted into a shell."""
    if lacks is not None:
        return {}
    found = {}
    if net.num_classes:
        found["predict"] = shell("python", "-m", "tools.predict", "PICTURES", "--checkpoint", path)
        found["export"] = shell(
            "python", "-m", "tools.export", path, "--to", "onnx", "--out", "EXPORTED"
        )
    training = ("train.base_dir=PICTURES", f"train.checkpoint={path}")
    return found | {"train": shell("python", "training.py", *training)}
