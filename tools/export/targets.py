"""The targets of an export, by the modules that write them."""

from __future__ import annotations

import importlib
from typing import Any

TARGETS: dict[str, str] = {
    "hf": "tools.export.hf",
    "timm": "tools.export.timm_folder",
    "npz": "tools.export.npz",
    "pt2": "tools.export.pt2",
    "onnx": "tools.export.onnx_folder",
    "openvino": "tools.export.openvino_folder",
    "web": "tools.export.web",
}


def target(name: str) -> Any:
    """The module of a target: its `write(given, folder)`, and `ORDINARY`, True where it knows only
    a ViT with one head on the class token."""
    return importlib.import_module(TARGETS[name])
