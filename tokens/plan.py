"""What a token cache is of, and what it looks like on the disk.

    <data>/cache/<key>/header.json   what it was made of, with a hash of itself
    <data>/cache/<key>/records.txt   the identity of each record, a line each
    <data>/cache/<key>/tokens.bin    the records, all of one size
    <data>/cache/<key>/layers.bin    what each frozen block made of them
    <data>/cache/<key>/sums.bin      the checksums of each record and its layers
    <data>/cache/<key>.partial/      the same, unfinished: a later run goes on with it (parts.py)

The key is a hash of the trunk's weights and architecture, the precision, and the set of records. A
record is one image, by its content, under one draw of one transform. So whatever changes makes a
new key, and what did not change is copied from an older cache instead of being computed again.
What a failing disk does to them is noticed when a record is first read, and mended (mending.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torchvision
from torch import nn

from config import TrainConfig
from dataset import PARTS, Split
from images import FileIndex, ImageDataset
from model import CELLS, VisionTransformer
from tokens.records import SUMS
from transforms import eval_transform, train_transform
from utils import check_disk, existing, free_bytes, log, same_disk, shell, write_text

KEY_LENGTH = 16
FORMAT = 2  # raise it whenever the same inputs would give other bytes
MOST_OF_FREE = 0.9  # of the free disk: `cache: auto` leaves the rest to others
Draw = tuple[ImageDataset, tuple[int, int]]  # an image under one draw of a transform


class Plan:
    """What a run's cache holds: its key, its size, and where each record comes from.

    `ids` names the records of each image of a part, one for each of its draws; `draws` says what a
    record is made of. The `summaries` of each at every frozen block are kept, too.
    """

    def __init__(
        self,
        net: VisionTransformer,
        split: Split,
        train: TrainConfig,
        checkpoints: int = 0,
    ) -> None:
        self.folder = cache_folder(train)
        self.reserved = checkpoints if same_disk(self.folder, Path(train.save_path)) else 0
        self.remedy = "train.data names another place"
        if self.folder.is_dir() and any(self.folder.iterdir()):
            prune = f"`python -m tools.cache prune{data_option(train)}` frees some"
            self.remedy = f"{prune}, {self.remedy}"
        self.record = record_type(net, train.cache_dtype)
        self.ids: dict[str, list[list[str]]] = {}
        self.draws: dict[str, Draw] = {}
        depths = min(net.frozen_depth or 0, net.vit.num_layers - 1)
        rows = 2 * depths + CELLS**2 if depths else 0
        self.layers = np.dtype((train.cache_dtype, (rows, net.vit.hidden_dim)))
        for part in PARTS:
            self._add(part, net, split, train)
        self.recipe = {
            "format": FORMAT,
            "trunk": trunk_hash(net),
            "blocks": net.frozen_depth,
            "dtype": train.cache_dtype,
            "shape": list(self.record["tokens"].shape),
            "bf16": train.trunk_bf16,
        }
        if depths:
            self.recipe["layers"] = rows
        self.key = key_of(self.recipe, self.draws)
        self.path = self.folder / self.key
        each = self.record.itemsize + self.layers.itemsize + SUMS.itemsize
        self.bytes = len(self.draws) * each
        self.about = {"images": str(split.root), "weights": train.checkpoint}

    def check_disk(self, processes: int = 1) -> None:
        """Raise UserError where the disk has no room for what is still to be written; the share of
        one of several processes is there twice while they are put together."""
        what = f"the token cache in {self.folder} ({self.remedy}; train.cache=off does without)"
        if missing := self.missing_bytes():
            twice = missing // processes if processes > 1 else 0
            check_disk(self.folder, missing + twice + self.reserved, what)

    def lacks_room(self) -> str:
        """How much it would take of what is free, where that is too much; else nothing."""
        missing, free = self.missing_bytes(), free_bytes(self.folder)
        if not missing or missing <= MOST_OF_FREE * (free - self.reserved):
            return ""
        other = f", beside {megabytes(self.reserved)} for checkpoints" if self.reserved else ""
        return f"{megabytes(missing)} of {megabytes(free)} free in {self.folder}{other}"

    def _add(self, part: str, net: VisionTransformer, split: Split, train: TrainConfig) -> None:
        """A part's images, under the draws that its loader asks for."""
        preprocessing, channels = net.preprocessing, net.vit.input_channels
        settings: list[Any] = [torchvision.__version__, PIL.__version__]
        samples = split.part(part)
        self.ids[part] = [[] for _ in samples]

        def add(transform: Any, draws: Iterable[int], *more: int) -> None:
            name = sha256(repr(transform), [*settings, *more])[:16]
            images = ImageDataset(samples, transform, split.decoded, train.seed)
            for i, (sample, ids) in enumerate(zip(samples, self.ids[part], strict=True)):
                shown = ":{:g}..{:g}".format(*sample.greys) if sample.greys else ""
                for n in draws:
                    ids.append(f"{sample.sha256}{shown}-{name}-{n}")
                    self.draws[ids[-1]] = (images, (i, n))

        add(eval_transform(preprocessing, channels), [1])
        learned = part == "train" or (part == "val" and train.refits)
        if learned and train.draws and train.draws > 1:
            assert train.max_epochs != "auto"
            used = train.draws if train.head == "layers" else train.max_epochs  # an epoch uses one
            augmented = range(2, min(train.draws, used) + 1)
            add(train_transform(preprocessing, train, channels), augmented, train.seed)

    def said(self) -> str:
        return f"{len(self.draws):,} records, {megabytes(self.bytes)} in {self.path}"

    def missing_bytes(self) -> int:
        """What is still to be written; 0 where the cache is there."""
        for folder in (self.path, self.path.with_suffix(".partial")):
            if there := sum(map(size_of, folder.rglob("*.bin"))):
                return self.bytes - min(self.bytes, there)
        return self.bytes


def cache_folder(train: TrainConfig) -> Path:
    return Path(train.data) / "cache"


def known_files(train: TrainConfig) -> FileIndex:
    """The index of images that were read before: one whose tokens are cached need not be read."""
    return FileIndex(cache_folder(train) / "files.npy")


def data_option(train: TrainConfig) -> str:
    return "" if train.data == "data" else f" {shell('--data', train.data)}"


def plan_cache(
    net: VisionTransformer,
    split: Split,
    train: TrainConfig,
    checkpoints: int = 0,
) -> Plan | None:
    """What the run's cache holds; None, with a line that says why, where it runs without one.

    `checkpoints`: the bytes that the run is going to write besides.
    """
    if not train.may_cache:
        return None
    plan = Plan(net, split, train, checkpoints)
    if damage(plan.path) and train.cache == "auto" and not may_write(plan.folder):
        log.info(
            "no token cache: %s can't be written to; train.data names another place", plan.folder
        )
        return None
    if train.cache == "auto" and (lacks := plan.lacks_room()):
        log.info(
            "no token cache: it would take %s, so every epoch runs the whole network; %s",
            lacks,
            plan.remedy,
        )
        return None
    return plan


def may_write(folder: Path) -> bool:
    """Whether a folder, there already or not, can be written to."""
    there = existing(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def sha256(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def key_of(recipe: dict[str, Any], ids: Iterable[str]) -> str:
    return sha256(recipe, sorted(ids))[:KEY_LENGTH]


def record_type(net: VisionTransformer, dtype: str) -> np.dtype:
    """One image's Tokens as they lie in the file: (N, D) in `dtype`, the class token in float32."""
    L, D = net.vit.num_layers, net.vit.hidden_dim
    N = 1 if net.frozen_depth == L else net.pos_embed.shape[1]
    fields: list[Any] = [("tokens", dtype, (N, D))]
    if net.frozen_depth == L - 1:
        fields.append(("cls", "float32", (D,)))
    return np.dtype(fields, align=True)


def trunk_of(net: VisionTransformer) -> dict[str, nn.Parameter]:
    """The parameters that the trunk's output depends on, before anything else is frozen, too."""
    return {name: p for name, p in net.named_parameters() if not p.requires_grad}


def trunk_hash(net: VisionTransformer, trunk: dict[str, nn.Parameter] | None = None) -> str:
    """A hash of all that the trunk's output depends on: its parameters, `trunk_of` the network
    where they are not given, and its architecture."""
    vit = net.vit
    architecture = [vit.patch_dim, vit.num_heads, vit.num_layers, vit.eps, vit.gelu]
    digest = hashlib.sha256(json.dumps(architecture).encode())
    for name, parameter in (trunk_of(net) if trunk is None else trunk).items():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def write_header(folder: Path, plan: Plan, ids: list[str]) -> None:
    """header.json and records.txt, before the first record."""
    content = {"key": plan.key, "recipe": plan.recipe, "records": len(ids), "about": plan.about}
    content["record_bytes"], content["sums_bytes"] = plan.record.itemsize, SUMS.itemsize
    if plan.layers.itemsize:
        content["layers_bytes"] = plan.layers.itemsize
    write_text(folder / "records.txt", "\n".join(ids) + "\n")
    header = {"content": content, "sha256": sha256(content)}
    write_text(folder / "header.json", json.dumps(header, indent=2) + "\n")


def read_header(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A cache's header and the identities of its records; ValueError where they are not whole."""
    try:
        text = (folder / "header.json").read_text(encoding="utf-8")
        header = json.loads(text)
        content, stamp = header["content"], header["sha256"]
        ids = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
        key = key_of(content["recipe"], ids)
    except OSError as error:
        raise ValueError(f"{error.filename} can't be read") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its header is not whole: {error!r:.80}") from None
    whole = text == json.dumps(header, indent=2) + "\n" and stamp == sha256(content)
    if not whole or content["key"] != key or folder.name.partition(".")[0] != key:
        raise ValueError("its header was changed")
    return content, ids


def damage(folder: Path) -> str | None:
    """Why a finished cache can't be read, None where nothing is wrong with it."""
    try:
        header, ids = read_header(folder)
    except ValueError as error:
        return str(error)
    wanted = {"tokens.bin": len(ids) * header["record_bytes"]}
    for name in ("layers", "sums"):
        if f"{name}_bytes" in header:
            wanted[f"{name}.bin"] = len(ids) * header[f"{name}_bytes"]
    for name, size in wanted.items():
        if (there := size_of(folder / name)) != size:
            return f"{name} has {there:,} bytes instead of {size:,}"
    return None


def size_of(file: Path) -> int:
    """A file's size; 0 where there is none."""
    with contextlib.suppress(OSError):
        return file.stat().st_size
    return 0


def caches(folder: Path, suffix: str = "") -> list[Path]:
    """The finished caches in a folder, or those of another suffix; nothing else that lies there."""
    return sorted(p for p in folder.glob("[0-9a-f]" * KEY_LENGTH + suffix) if p.is_dir())


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"
