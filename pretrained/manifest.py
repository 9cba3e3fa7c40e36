"""What the manifest.json beside an export (tools.export) says of its file, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certainty.certainty import PREFIX
from config import Preprocessing, ViTConfig
from pretrained.claims import json_of
from pretrained.describe import checked
from utils import sha256_of

MANIFEST = "manifest.json"
HOTTEST_SAID = 1e6  # of a temperature: far above certainty.sure's own
OF_THE_NETWORK = ("num_heads", "gelu", "eps")  # what the arrays leave unsaid


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of the export that a file is the model of; {} where there is none, or it is of
    another file."""
    content, is_its_own = _read(path)
    return content if is_its_own else {}


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """The manifest that lists a file of this name, and whether its SHA-256 is the file's."""
    try:
        content = json_of(path.parent / MANIFEST)
        return content, content["files"][path.name]["sha256"] == sha256_of(path)
    except (OSError, ValueError, TypeError, KeyError):
        return {}, False


def export_metadata(path: Path) -> dict[str, Any]:
    """What `convert` takes of an export's manifest, the temperature and the set level that its
    head was divided by included; {} for any other file. Raises UserError naming a faulty key."""
    manifest, is_its_own = _read(path)
    if not is_its_own:
        beware = f"beware: {path.parent / MANIFEST} is of another {path.name}, and was left out"
        return {"notes": (beware,)} if manifest else {}
    place = f"{path.parent / MANIFEST}: "
    found: dict[str, Any] = {}
    network = manifest.get("architecture")
    if isinstance(network, dict) and set(OF_THE_NETWORK) <= network.keys():
        vit = checked(
            ViTConfig, {key: network[key] for key in OF_THE_NETWORK}, f"{place}architecture."
        )
        found = {key: getattr(vit, key) for key in OF_THE_NETWORK}
    if isinstance(manifest.get("preprocessing"), dict):
        how = checked(Preprocessing, manifest["preprocessing"], f"{place}preprocessing.")
        found["preprocessing"] = how.model_dump()
    labels = manifest.get("labels")
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        found["classes"] = labels
    known: list[Any] = [manifest.get(key) for key in ("temperature", "set_level")]
    there = all(isinstance(value, (int, float)) for value in known)
    if there and 0 < known[0] < HOTTEST_SAID and 0 <= known[1] <= 1:
        found["temperature"], found["set_level"] = map(float, known)
    return found


def unfolded(
    state: Mapping[str, Tensor], temperature: float, set_level: float
) -> dict[str, Tensor]:
    """A state whose head was divided by a temperature, with the two apart again."""
    found = {n: a * temperature if n.startswith("head.") else a for n, a in state.items()}
    known = {"temperature": torch.tensor(temperature), "set_level": torch.tensor(set_level)}
    known["held_out"] = torch.zeros(0, 3)
    return found | {f"{PREFIX}{name}": array for name, array in known.items()}
