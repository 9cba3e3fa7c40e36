"""What reads files that others may have written: for each kind of file, small ones that are right,
how they are made wrong, what reads them, and which errors it may raise.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor

import pretrained
from benchmarks import mutations as m
from certainty.certainty import Certainty
from certainty.likeness import Likeness, Sizes
from classifier import class_names, load_classifier
from config import Config, ConfigError, ViTConfig
from config_file import dump_config, load_config
from engine.job import Setting
from engine.last import write_last
from engine.metrics_log import COLUMNS, read_metrics
from engine.run import Run
from filing.csv_files import read_csv
from images import read_image
from inspection.record import read_run
from layout.decisions import read_decisions
from layout.groups import COLUMNS as OF_GROUPS
from layout.split_file import read_split
from model import VisionTransformer
from tools.show.facts import facts_of
from tools.show.words import said
from utils import UserError

MOST_PIXELS = 1 << 20  # as train.max_pixels: a picture of more is not decoded


@dataclass(frozen=True)
class Reader:
    """A kind of file: the names of those that are right below a folder, how it is changed, what
    reads it, and the errors that are documented."""

    name: str
    file: str  # what it is called, below a folder of its own
    seeds: Callable[[], list[bytes]]
    aware: Sequence[m.Mutation]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (UserError,)


def small(seed: int = 0, **vit: Any) -> VisionTransformer:
    """A network of 1 block and 8 numbers a token."""
    torch.manual_seed(seed)
    sizes = {
        "patch_dim": 4,
        "hidden_dim": 8,
        "num_heads": 2,
        "num_layers": 1,
        "ff_dim": 8,
        "dim": 8,
    }
    net = VisionTransformer(ViTConfig(**{**sizes, "num_classes": 2, **vit}), None, ("a", "b"))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def arrays_of(net: VisionTransformer, layout: str) -> dict[str, Tensor]:
    return {n: a.contiguous() for n, a in pretrained.export(net, layout).items()}


def of_ours() -> list[bytes]:
    """Two networks, of which one knows how sure its answers are."""
    sure = small(1, num_layers=2)
    likeness = Likeness(Sizes(blocks=1, P=16, Q=2, C=2, examples=3, known=3))
    likeness.depths += 1
    sure.certainty = Certainty(4, likeness)
    extra = {"config": "train:\n  mode: finetune\n", "epoch": "3", "seen": '{"train": 4}'}
    extra["certainty"] = json.dumps({"temperature_by": "val", "val_calibration_error": 0.1})
    measured = {"part": "val", "accuracy": 0.5, "interval": [0.1, 0.9]}
    extra["measured"] = json.dumps(measured)
    return [save(net.state_dict(), pretrained.metadata_of(net, **extra)) for net in (small(), sure)]


def of_numpy(save: Callable[..., None]) -> list[bytes]:
    """Google's layout, and the same with what else an archive may hold."""
    arrays = {n: a.numpy() for n, a in arrays_of(small(), "google").items()}
    found = []
    for more in ({}, {"version": np.array("1.0")}):
        file = io.BytesIO()
        save(file, **arrays, **more)
        found.append(file.getvalue())
    return found


def of_torch(as_zip: bool) -> list[bytes]:
    """timm's arrays alone, in a wrapper, and beside our own metadata."""
    net = small(hidden_dim=64, num_heads=1)
    state = {n: a.detach() for n, a in net.state_dict().items()}
    run = {"metadata": pretrained.metadata_of(net), "model": state, "epoch": 3}
    found = []
    for content in (state, {"model": state, "args": {"lr": 0.1}, "epoch": 3}, run):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=as_zip)
        found.append(file.getvalue())
    return found


def of_checkpoints() -> list[bytes]:
    """A run's last.pt after an epoch, as it is written and as an older version wrote it."""
    net = small(hidden_dim=64, num_heads=1)
    model = {name: array.detach() for name, array in net.state_dict().items()}
    state = {"model": model, "optimizer": {}, "scheduler": {"last_epoch": 3}, "classes": ["a", "b"]}
    state["progress"] = {"epoch": 1, "best_epoch": 1}
    row = dict.fromkeys(COLUMNS, 0.5) | {"epoch": 1}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        write_last(path, state | {"rows": [row]}, 1)
        old = io.BytesIO()
        torch.save(state, old)
        return [path.read_bytes(), old.getvalue()]


def of_pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), np.uint8)
    found = []
    for mode, kinds in (
        ("RGB", "PNG JPEG WEBP GIF TIFF BMP"),
        ("I;16", "PNG TIFF"),
        ("P", "GIF PNG"),
    ):
        for kind in kinds.split():
            picture = Image.fromarray(pixels)
            picture = Image.fromarray(pixels[:, :, 0] * np.uint16(9)) if mode == "I;16" else picture
            picture = picture.convert(mode) if mode == "P" else picture
            exif = Image.Exif()
            exif[0x0112] = 6
            file = io.BytesIO()
            picture.save(file, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
            found.append(file.getvalue())
    return found


def table(columns: Iterable[str], *rows: Sequence[object]) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([list(columns), *rows])
    return file.getvalue().encode()


def of_configs() -> list[bytes]:
    own = (Path(__file__).parents[1] / "config.yaml").read_bytes()
    short = {"vit": {"preset": "S"}, "train": {"lr": 1e-3, "classes": ["a", "b"], "greys": [0, 9]}}
    return [own, dump_config(Config()).encode(), yaml.safe_dump(short).encode()]


def of_indexes() -> list[bytes]:
    held = {name: "a.safetensors" for name in small().state_dict()}
    return [json.dumps({"metadata": {"total_size": 9}, "weight_map": held}).encode()]


def of_descriptions() -> list[bytes]:
    hugging: dict[str, Any] = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "id2label": {"0": "a"},
    }
    hugging |= {"layer_norm_eps": 1e-6}
    timm: dict[str, Any] = {
        "hidden_size": 8,
        "architecture": "vit",
        "global_pool": "token",
        "model_args": {"num_heads": 2},
    }
    timm["pretrained_cfg"] = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    timm["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    return [json.dumps(found).encode() for found in (hugging, timm)]


def of_processors() -> list[bytes]:
    vit: dict[str, Any] = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"height": 8, "width": 8},
    }
    vit |= {"resample": 2, "do_normalize": True, "rescale_factor": 1 / 255, "do_resize": True}
    cut: dict[str, Any] = {
        "image_mean": [0.4] * 3,
        "size": {"shortest_edge": 9},
        "crop_size": [8, 8],
    }
    return [json.dumps(found).encode() for found in (vit, cut | {"do_center_crop": True})]


# ----------------------------------------------------------------------------------------- reading


def classified(path: Path) -> None:
    """As a classifier does, and what it makes of a picture."""
    net = load_classifier(path)
    class_names(net)
    with torch.inference_mode():
        logits = net(torch.zeros(1, net.vit.input_channels, net.vit.dim, net.vit.dim))
        if net.certainty is not None:
            net.certainty.probabilities(logits)


def shown(path: Path) -> None:
    said(facts_of(path))


def described(path: Path) -> None:
    """Weights of Hugging Face's with the descriptions beside them."""
    if not (weights := path.with_name("model.safetensors")).exists():
        save_file(arrays_of(small(), "huggingface-vit"), weights)
    if not (config := path.with_name("config.json")).exists():
        config.write_bytes(of_descriptions()[0])
    pretrained.read(path.parent)


def in_shards(path: Path) -> None:
    if not (shard := path.with_name("a.safetensors")).exists():
        save_file(arrays_of(small(hidden_dim=64, num_heads=1), "timm"), shard)
    pretrained.read(path)


def gone_on_with(path: Path) -> None:
    """A run's last.pt, as going on reads it."""
    Run(path.parent.name, str(path.parents[1]), str(path.parents[1])).load_last()


SHELL = (m.header, m.header, m.said, m.said, m.values)
ZIP = (m.repacked, m.repacked, m.directory)
JSON = (m.changed_json, m.nested)
TEXT = (m.words, m.words, m.lines)
SPLIT = ("path", "label", "part", "sha256")
MEASURED = ("epoch", "train_loss", "val_loss", "val_accuracy", "lr", "seconds")
FOUND = ("part", "optim", "lr", "weight_decay", "steps", "accuracy", "loss", "chosen")
ANSWERED = ("part", "path", "label", "predicted", "probability", "label_probability")
OPEN = (OSError, SyntaxError, ValueError)  # images.read_image
READERS = (
    Reader("safetensors", "w.safetensors", of_ours, SHELL, classified),
    Reader("tools.show", "w.safetensors", of_ours, SHELL, shown),
    Reader("npz", "w.npz", lambda: of_numpy(np.savez), ZIP, pretrained.read),
    Reader(
        "npz, compressed",
        "w.npz",
        lambda: of_numpy(np.savez_compressed),
        ZIP,
        pretrained.read,
    ),
    Reader("PyTorch, zip", "w.pth", lambda: of_torch(True), ZIP, pretrained.read),
    Reader("PyTorch, legacy", "w.pth", lambda: of_torch(False), (), pretrained.read),
    Reader("last.pt", "r/last.pt", of_checkpoints, ZIP, gone_on_with),
    Reader(
        "index.json",
        "model.safetensors.index.json",
        of_indexes,
        JSON,
        in_shards,
    ),
    Reader("config.json", "config.json", of_descriptions, JSON, described),
    Reader(
        "preprocessor_config.json",
        "preprocessor_config.json",
        of_processors,
        JSON,
        described,
    ),
    Reader(
        "pictures",
        "picture",
        of_pictures,
        (),
        lambda path: read_image(path, most=MOST_PIXELS),
        OPEN,
    ),
    Reader(
        "split.csv",
        "split.csv",
        lambda: [table(SPLIT, ("a/1.png", "a", "train", "0" * 64))],
        TEXT,
        read_split,
    ),
    Reader(
        "decisions.csv",
        "decisions.csv",
        lambda: [
            table(
                ("path", "decision", "label"),
                ("a/1.png", "relabel", "b"),
                ("a/2.png", "leave out", ""),
            )
        ],
        TEXT,
        read_decisions,
    ),
    Reader(
        "groups",
        "groups.csv",
        lambda: [table(OF_GROUPS, ("a/1.png", "g"))],
        TEXT,
        lambda path: read_csv(path, OF_GROUPS, "table of groups"),
    ),
    Reader(
        "metrics.csv",
        "metrics.csv",
        lambda: [table(MEASURED, (1, 0.5, 0.4, 0.9, 1e-3, 2.0), (2, 0.4, "", "", 1e-4, 2.0))],
        TEXT,
        read_metrics,
    ),
    Reader(
        "search.csv",
        "search.csv",
        lambda: [table(FOUND, ("block", "adamw", 1e-3, 0.01, 9, 0.5, 0.4, 1))],
        TEXT,
        Setting.read,
    ),
    Reader(
        "predictions.csv",
        "predictions.csv",
        lambda: [table(ANSWERED, ("val", "a/1.png", "a", "b", 0.6, 0.4))],
        TEXT,
        lambda path: read_run(path.parent),
    ),
    Reader(
        "config.yaml",
        "config.yaml",
        of_configs,
        (*TEXT, m.nested),
        lambda path: load_config(path),
        (ConfigError,),
    ),
)
