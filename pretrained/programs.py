"""A network as a program that answers by itself: what such a file is, where weights are wanted."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pretrained.claims import special, zip_members

ENDINGS = (".pt2", ".onnx", ".tflite", ".xml")
# The first two fields of an ONNX file: its IR version, and the producer's name, or another text.
ONNX_FIELDS = b"\x12\x1a\x22\x3a\x42"
NEWEST_IR = 32


def program_kind(path: Path) -> str | None:
    """What a file that holds a program is, by its content; None for any other."""
    if special(path):
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        if start[:2] == b"PK":
            return _of_torch(path)
    except (OSError, zipfile.BadZipFile):
        return None
    if start[8:9] == b"{":  # safetensors
        return None
    if path.suffix in (".xml", ".bin") and _is_openvinos(path.with_suffix(".xml")):
        return "an OpenVINO model"
    if start[4:8] == b"TFL3":
        return "a LiteRT (TensorFlow Lite) model"
    if start[:1] == b"\x08" and len(start) > 2 and start[1] < NEWEST_IR and start[2] in ONNX_FIELDS:
        return "an ONNX graph"
    return None


def _is_openvinos(path: Path) -> bool:
    """Whether a file describes a network whose arrays lie in a .bin beside it."""
    if special(path):
        return False
    try:
        with open(path, "rb") as file:
            return b"<net " in file.read(200)
    except OSError:
        return False


def _of_torch(path: Path) -> str | None:
    names = [member.filename for member in zip_members(path)]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program"
    # torch.export.save, and before PyTorch 2.8 its older form.
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return "a PyTorch program (torch.export)"
    return None
