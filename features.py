"""The frozen trunk's tokens: computed once an image, kept on disk, read as a memory map.

In finetune mode the trunk never changes, so what enters the first trainable block is the same in
every epoch. It is computed once; an epoch then costs what the last block and the head cost. Nothing
is approximated: the same weights, the same losses (up to the rounding of `cache_dtype`).

    <data>/cache/<key>/header.json   what it was made of, with a hash of itself
    <data>/cache/<key>/records.txt   the identity of each record, a line each
    <data>/cache/<key>/tokens.bin    the records, all of one size
    <data>/cache/<key>.partial/      the same, unfinished: a later run goes on with it

The key is a hash of the trunk's weights and architecture, the precision, and the set of records. A
record is one image, by its content, under one draw of one transform. So whatever changes makes a
new key, and what did not change is copied from an older cache instead of being computed again.
The tokens carry no checksum: what a failing disk does to them is not noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
import torchvision
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import TrainConfig
from dataset import (
    PARTS,
    EpochSampler,
    ImageDataset,
    Split,
    eval_transform,
    loader_options,
    train_sampler,
    train_transform,
)
from images import available_memory
from model import Block, Tail, Tokens, VisionTransformer
from utils import UserError, autocast, check_disk, existing, free_bytes, log, same_disk, write_text

KEY_LENGTH = 16
FORMAT = 1  # raise it whenever the same inputs would give other bytes
SYNC_SECONDS = 10  # a killed build loses at most so much work
# A batch of the trunk pass makes so much of an MLP's hidden layer: 16 images of a B/16. Half of
# that loses 3 %, twice of it gains nothing.
HIDDEN_BYTES = 38 << 20
CUDA_HIDDEN_BYTES = 320 << 20  # 128 images of a B/16 (the most), 14 of an L/14 at 518 pixels
LARGE_SHARE = 0.25  # of the free memory: a smaller cache just stays there
MOST_OF_FREE = 0.9  # of the free disk: `cache: auto` leaves the rest to others

# ---------------------------------------------------------------------------------- the trunk pass


class Trunk:
    """The frozen part of a network: images (B, c, h, w) to Tokens, as fast as the machine does it.

    On a CPU in float32 the blocks' four products go to oneDNN with weights packed once and GELU and
    the residual sums fused in, where PyTorch has it and it gives the plain blocks' result.
    """

    def __init__(self, net: VisionTransformer, device: torch.device, bf16: bool = False) -> None:
        assert net.frozen_depth is not None
        self.net, self.device, self.bf16 = net, device, bf16
        self.depth = net.frozen_depth
        vit = net.vit
        N = (vit.dim // vit.patch_dim) ** 2 + 1
        hidden = CUDA_HIDDEN_BYTES if device.type == "cuda" else HIDDEN_BYTES
        self.batch_size = max(1, min(128, hidden // (4 * N * vit.ff_dim)))
        blocks: list[Callable[[Tensor], Tensor]] = list(net.blocks[: self.depth])
        self.blocks = blocks if bf16 else packed(blocks, self.batch_size, N, device)
        self.engine = "plain" if self.blocks is blocks else "oneDNN, packed"

    @torch.no_grad()  # inference mode's tensors could not be trained on
    def __call__(self, images: Tensor) -> Tokens:
        net, last = self.net, len(self.net.blocks)
        with autocast(self.device, self.bf16):
            x = net.forward_trunk(images.to(self.device), 0)  # B N D
            for block in self.blocks[: last - 1]:
                x = block(x)
        x = x.float()
        end = net.blocks[-1]
        assert isinstance(end, Block)
        if self.depth == last - 1:
            return Tokens(end.normalise(x), x[:, 0])
        if self.depth == last:
            with autocast(self.device, self.bf16):
                x = end.forward_cls(end.normalise(x), x[:, 0]).float()[:, None]  # B 1 D
        return Tokens(x)


class PackedBlock:
    """A frozen block through oneDNN, 1.9 times as fast as PyTorch's own products on a Zen 5 CPU.

    These are the operators that torch.compile's CPU backend calls for frozen weights; calling them
    gives the same speed without its half minute of compilation.
    """

    def __init__(self, block: Block, rows: int) -> None:
        self.block = block
        self.gelu = "tanh" if block.mlp.act.approximate == "tanh" else "none"
        attn, mlp = block.attn, block.mlp
        self.qkv, self.proj, self.fc1, self.fc2 = (
            (torch.ops.mkldnn._reorder_linear_weight(m.weight.detach(), rows), m.bias.detach())
            for m in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2)
        )

    def __call__(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        B, N, D = x.shape
        H = self.block.attn.num_heads
        qkv = linear(self.block.norm1(x), *self.qkv, "none", [], "")
        q, k, v = qkv.view(B, N, 3, H, D // H).permute(2, 0, 3, 1, 4)  # 3 of B H N K
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D)
        x = linear(a, x, *self.proj, "add")
        hidden = linear(self.block.norm2(x), *self.fc1, "gelu", [], self.gelu)  # B N ff_dim
        return linear(hidden, x, *self.fc2, "add")


@torch.inference_mode()
def packed(
    blocks: list[Callable[[Tensor], Tensor]], batch_size: int, N: int, device: torch.device
) -> list[Callable[[Tensor], Tensor]]:
    """The blocks through oneDNN, or as they are where that is not to be had or not the same."""
    if not blocks or device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return blocks
    first = blocks[0]
    assert isinstance(first, Block)
    x = torch.randn(1, N, first.norm1.normalized_shape[0])
    try:
        found, wanted = PackedBlock(first, batch_size * N)(x), first(x)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError) as error:
        log.debug("oneDNN's packed products are not to be had: %s", error)
        return blocks
    if not (found - wanted).norm() < 1e-5 * wanted.norm():
        log.debug("oneDNN's packed products differ from PyTorch's")
        return blocks
    return [PackedBlock(block, batch_size * N) for block in blocks if isinstance(block, Block)]


# ------------------------------------------------------------------------------ what a cache is of


Draw = tuple[ImageDataset, tuple[int, int]]  # an image under one draw of a transform


class Plan:
    """What a run's cache holds: its key, its size, and where each record comes from.

    `ids` names the records of each image of a part, one for each of its draws; `draws` says what a
    record is made of.
    """

    def __init__(
        self, net: VisionTransformer, split: Split, train: TrainConfig, checkpoints: int = 0
    ) -> None:
        self.folder = cache_folder(train)
        self.reserved = checkpoints if same_disk(self.folder, Path(train.save_path)) else 0
        self.remedy = f"`python -m tools.cache prune{data_option(train)}` frees some, train.data "
        self.remedy += "names another place"
        self.record = record_type(net, train.cache_dtype)
        self.ids: dict[str, list[list[str]]] = {}
        self.draws: dict[str, Draw] = {}
        for part in PARTS:
            self._add(part, net, split, train)
        self.recipe = {
            "format": FORMAT,
            "trunk": trunk_hash(net),
            "blocks": net.frozen_depth,
            "dtype": train.cache_dtype,
            "shape": list(self.record["tokens"].shape),
            "bf16": train.bf16,
        }
        self.key = key_of(self.recipe, self.draws)
        self.path = self.folder / self.key
        self.bytes = len(self.draws) * self.record.itemsize
        self.about = {"images": str(split.root), "weights": train.checkpoint}

    def check_disk(self) -> None:
        """Raise UserError where the disk has no room for what is still to be written."""
        what = f"the token cache in {self.folder} ({self.remedy}; train.cache=off does without)"
        if missing := self.missing_bytes():
            check_disk(self.folder, missing + self.reserved, what)

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
                for n in draws:
                    ids.append(f"{sample.sha256}-{name}-{n}")
                    self.draws[ids[-1]] = (images, (i, n))

        add(eval_transform(preprocessing, channels), [1])
        if part == "train" and train.draws and train.draws > 1:
            assert train.max_epochs != "auto"
            augmented = range(2, min(train.draws, train.max_epochs) + 1)  # an epoch uses one
            add(train_transform(preprocessing, train, channels), augmented, train.seed)

    def said(self) -> str:
        return f"{len(self.draws):,} records, {megabytes(self.bytes)} in {self.path}"

    def missing_bytes(self) -> int:
        """What is still to be written; 0 where the cache is there."""
        for folder in (self.path, self.path.with_suffix(".partial")):
            with contextlib.suppress(OSError):
                return self.bytes - min(self.bytes, (folder / "tokens.bin").stat().st_size)
        return self.bytes


def cache_folder(train: TrainConfig) -> Path:
    return Path(train.data) / "cache"


def may_cache(train: TrainConfig) -> bool:
    """Whether the config lets a run cache tokens; whether they fit the disk is seen later."""
    return train.mode == "finetune" and train.cache != "off"


def data_option(train: TrainConfig) -> str:
    return "" if train.data == "data" else f" --data {train.data}"


def plan_cache(
    net: VisionTransformer, split: Split, train: TrainConfig, checkpoints: int = 0
) -> Plan | None:
    """What the run's cache holds; None, with a line that says why, where it runs without one.

    `checkpoints`: the bytes that the run is going to write besides.
    """
    if not may_cache(train):
        return None
    plan = Plan(net, split, train, checkpoints)
    if damage(plan.path) and train.cache == "auto" and not may_write(plan.folder):
        log.info(
            "no token cache: %s can't be written to; train.data names another place", plan.folder
        )
        return None
    missing, free = plan.missing_bytes(), free_bytes(plan.folder) - plan.reserved
    if train.cache == "auto" and missing and missing > MOST_OF_FREE * free:
        log.info(
            "no token cache: it would take %s of %s free in %s, so every epoch runs the whole "
            "network; %s",
            megabytes(missing),
            megabytes(max(0, free)),
            plan.folder,
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


def trunk_hash(net: VisionTransformer) -> str:
    """A hash of all that the trunk's output depends on: its parameters and its architecture."""
    vit = net.vit
    architecture = [vit.patch_dim, vit.num_heads, vit.num_layers, vit.eps, vit.gelu]
    digest = hashlib.sha256(json.dumps(architecture).encode())
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


# ----------------------------------------------------------------------------- a cache on the disk


def write_header(folder: Path, plan: Plan, ids: list[str]) -> None:
    """header.json and records.txt, before the first record."""
    content = {"key": plan.key, "recipe": plan.recipe, "records": len(ids), "about": plan.about}
    content["record_bytes"] = plan.record.itemsize
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
        size = (folder / "tokens.bin").stat().st_size
    except (OSError, ValueError) as error:
        return str(error)
    if size != len(ids) * header["record_bytes"]:
        return f"tokens.bin has {size:,} bytes instead of {len(ids) * header['record_bytes']:,}"
    return None


class TokenCache:
    """A finished cache: its records by number, and the number of each identity."""

    def __init__(self, folder: Path, record: np.dtype) -> None:
        ids = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
        self.rows = {id_: row for row, id_ in enumerate(ids)}
        with open(folder / "tokens.bin", "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.records = np.frombuffer(self.map, record)
        with warnings.catch_warnings():  # that it can't be written to, which nobody wants
            warnings.simplefilter("ignore", UserWarning)
            fields = [torch.from_numpy(self.records[name]) for name in record.names or ()]
        self.tokens, self.cls = fields[0], fields[1] if len(fields) > 1 else None
        self.is_large = len(self.map) > LARGE_SHARE * available_memory()
        if not self.is_large:
            self._advise("MADV_WILLNEED")

    def read(self, rows: np.ndarray, pinned: bool = False) -> Tokens:
        """The records of some rows: unpacked to float32, or pinned in the cache's precision, which
        is how they travel to a GPU."""
        dtype = self.tokens.dtype if pinned else torch.float32
        tokens = torch.empty((len(rows), *self.tokens.shape[1:]), dtype=dtype, pin_memory=pinned)
        for i in rows.argsort().tolist():  # a disk is read forwards
            tokens[i].copy_(self.tokens[int(rows[i])])
        # Pages that were read stay in the system's cache, but no longer count as this process's.
        # It costs 1 ms a batch of 20 (B/16): only where it matters.
        if self.is_large:
            self._advise("MADV_DONTNEED")
        return Tokens(tokens, None if self.cls is None else self.cls[torch.from_numpy(rows)])

    def expect(self, rows: np.ndarray) -> None:
        """Let the system read these rows from the disk meanwhile."""
        size = self.records.itemsize
        for row in sorted(rows.tolist()) if self.is_large else ():
            start = row * size // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise("MADV_WILLNEED", start, (row + 1) * size - start)

    def _advise(self, advice: str, *where: int) -> None:
        if hasattr(mmap, advice):  # Windows has none
            self.map.madvise(getattr(mmap, advice), *where)

    def loaders(
        self, plan: Plan, split: Split, train: TrainConfig, device: torch.device
    ) -> Loaders:
        """A loader a part, as `dataset.make_loaders` gives them, of Tokens instead of images."""
        found: dict[str, TokenLoader] = {}
        for part in PARTS:
            rows = np.array([[self.rows[id_] for id_ in ids] for ids in plan.ids[part]])
            labels = torch.tensor([sample.label for sample in split.part(part)])
            pinned = device.type == "cuda"
            if part == "train":
                sampler = train_sampler(labels.tolist(), train)
                found[part] = TokenLoader(self, rows, labels, train.batch_size, sampler, pinned)
            elif len(labels):
                size = train.eval_batch_size
                found[part] = TokenLoader(self, rows, labels, size, pinned=pinned)
        return found


class TokenLoader:
    """Batches of Tokens and labels: those of the same part's loader of images, in its order."""

    def __init__(
        self,
        cache: TokenCache,
        rows: np.ndarray,
        labels: Tensor,
        batch_size: int,
        sampler: EpochSampler | None = None,
        pinned: bool = False,
    ) -> None:
        self.cache, self.rows, self.dataset, self.batch_size = cache, rows, labels, batch_size
        self.sampler, self.pinned = sampler, pinned

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def plain(self, indices: np.ndarray | None = None) -> TokenLoader:
        """The same images, or some, in their own order, as evaluation sees them."""
        some = slice(None) if indices is None else indices
        rows, labels = self.rows[some], self.dataset[some]
        return TokenLoader(self.cache, rows, labels, self.batch_size, None, self.pinned)

    def training(
        self, train: TrainConfig, indices: np.ndarray, labels: Tensor | None = None
    ) -> TokenLoader:
        """Some of the images as training batches, or the same with other labels."""
        rows, own = self.rows[indices], self.dataset[indices] if labels is None else labels
        sampler = train_sampler(own.tolist(), train)
        return TokenLoader(self.cache, rows, own, train.batch_size, sampler, self.pinned)

    def __iter__(self) -> Iterator[tuple[Tokens, Tensor]]:
        keys = np.array(list(self.sampler or ((i, 1) for i in range(len(self.dataset)))))
        indices, draws = keys[:, 0], (keys[:, 1] - 1) % self.rows.shape[1]
        starts = range(0, len(indices), self.batch_size)
        batches = []
        for batch in (slice(start, start + self.batch_size) for start in starts):
            batches.append((self.rows[indices[batch], draws[batch]], indices[batch]))
        for (rows, chosen), following in zip(batches, [*batches[1:], None], strict=True):
            if following is not None:
                self.cache.expect(following[0])
            yield self.cache.read(rows, self.pinned), self.dataset[chosen]


Loaders = Mapping[str, "DataLoader | TokenLoader"]


@torch.inference_mode()
def class_tokens(
    net: VisionTransformer, loader: TokenLoader, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the head would read, (n, D) in float32 on the CPU, and the labels (n,), in the loader's
    order: the class tokens after the final norm of the network as it is now."""
    was_training = net.training
    net.eval()
    tail, head = Tail(net), net.head
    net.head = torch.nn.Identity()
    try:
        found = [(tail(tokens.to(device)).float().cpu(), labels) for tokens, labels in loader]
    finally:
        net.head = head
        net.train(was_training)
    return torch.cat([f for f, _ in found]), torch.cat([labels for _, labels in found])


# ---------------------------------------------------------------------------------- making a cache


def open_cache(
    plan: Plan, net: VisionTransformer, train: TrainConfig, device: torch.device
) -> TokenCache:
    """The cache of a plan: the one that is there, or a new one. Raises UserError on a full disk."""
    if damage(plan.path):
        with waiting_for(plan.folder / f"{plan.key}.lock"):
            reason = damage(plan.path)  # another run may have made it meanwhile
            if reason and plan.path.exists():
                log.info("the token cache %s is damaged (%s): it is made anew", plan.path, reason)
                shutil.rmtree(plan.path)
            if reason:
                Builder(plan, net, train, device).build()
    with contextlib.suppress(OSError):  # `tools.cache` knows by it when it was last used
        (plan.path / "header.json").touch()
    return TokenCache(plan.path, plan.record)


@contextlib.contextmanager
def waiting_for(path: Path) -> Iterator[None]:
    """Hold a lock, and say so where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is making this token cache: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Drawn(Dataset[Tensor]):
    """The images (c, h, w) of some draws."""

    def __init__(self, draws: list[Draw]) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, i: int) -> Tensor:
        images, key = self.draws[i]
        return images[key][0]


class Builder:
    """Makes a plan's cache, going on where an earlier build was stopped."""

    def __init__(
        self, plan: Plan, net: VisionTransformer, train: TrainConfig, device: torch.device
    ) -> None:
        self.plan, self.net, self.train, self.device = plan, net, train, device
        self.folder = plan.folder / f"{plan.key}.partial"
        self.progress = self.folder / "progress"
        self.donors = find_donors(plan)

    def build(self) -> None:
        plan = self.plan
        ids, done = self._order()
        given = sum(id_ in self.donors for id_ in ids[done:])
        log.info(
            "token cache: %s%s%s",
            plan.said(),
            f"; {done:,} are there already" if done else "",
            f"; {given:,} are copied from an older cache" if given else "",
        )
        plan.check_disk()
        if not done:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        write_header(self.folder, plan, ids)
        started, first = time.perf_counter(), done
        with open(self.folder / "tokens.bin", "ab") as file:
            file.truncate(done * plan.record.itemsize)
            synced = time.monotonic()
            try:
                for records in self._records(ids[done:]):
                    file.write(records.data)
                    done += len(records)
                    if time.monotonic() > synced + SYNC_SECONDS:
                        self._sync(file, done)
                        synced = time.monotonic()
            finally:
                self._sync(file, done)
        os.replace(self.folder, plan.path)
        (plan.path / self.progress.name).unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        log.info("token cache made in %.1f s, %.1f images/s", seconds, (len(ids) - first) / seconds)

    def _order(self) -> tuple[list[str], int]:
        """The records in the file's order, and how many of them an earlier build has left."""
        with contextlib.suppress(OSError, ValueError):
            _, ids = read_header(self.folder)
            done = int(self.progress.read_text())
            size = (self.folder / "tokens.bin").stat().st_size
            done = min(done, size // self.plan.record.itemsize)
            return [*ids[:done], *self._copied_first(ids[done:])], done
        return self._copied_first(self.plan.draws), 0

    def _copied_first(self, ids: Iterable[str]) -> list[str]:
        """What must be computed then comes in whole batches."""
        return sorted(ids, key=lambda id_: id_ not in self.donors)

    def _sync(self, file: Any, done: int) -> None:
        """Note how many records are surely on the disk."""
        file.flush()
        os.fsync(file.fileno())
        write_text(self.progress, str(done))

    def _records(self, ids: list[str]) -> Iterator[np.ndarray]:
        """The records of `ids` in their order, copied or computed, a batch at a time."""
        with tqdm(total=len(ids), desc="caching tokens", unit="image", leave=False) as bar:
            for donated, group in groupby(ids, lambda id_: id_ in self.donors):
                make = self._copied if donated else self._computed
                for records in make(list(group)):
                    yield records
                    bar.update(len(records))

    def _copied(self, ids: list[str]) -> Iterator[np.ndarray]:
        for some in chunks(ids, 64):
            yield np.array([self.donors[id_][0][self.donors[id_][1]] for id_ in some])

    def _computed(self, ids: list[str]) -> Iterator[np.ndarray]:
        trunk = Trunk(self.net.eval(), self.device, self.train.bf16)
        log.debug("trunk pass: %s, batches of %d", trunk.engine, trunk.batch_size)
        # On a CPU no process decodes meanwhile: the products then lose more than that gains
        # (11.8 images/s without, 11.5 with a thread, 11.3 with a process).
        loader = DataLoader(
            Drawn([self.plan.draws[id_] for id_ in ids]),
            trunk.batch_size,
            **loader_options(self.train, self.device),
        )
        for images in loader:
            yield self._as_records(trunk(images))

    def _as_records(self, tokens: Tokens) -> np.ndarray:
        records = np.empty(len(tokens.tokens), self.plan.record)
        wanted = getattr(torch, self.train.cache_dtype)
        small = tokens.tokens.to(wanted)
        if not small.isfinite().all():
            raise UserError(
                "the trunk's tokens are not finite numbers in "
                f"{self.train.cache_dtype}; set train.cache_dtype=float32 (or train.cache=off)"
            )
        records["tokens"] = small.cpu().numpy()
        if tokens.cls is not None:
            records["cls"] = tokens.cls.cpu().numpy()
        return records


def find_donors(plan: Plan) -> dict[str, tuple[np.ndarray, int]]:
    """Records of the plan that older caches of the same trunk hold: their array and row."""
    found: dict[str, tuple[np.ndarray, int]] = {}
    for folder in caches(plan.folder):
        with contextlib.suppress(ValueError, OSError):
            header, ids = read_header(folder)
            if header["recipe"] == plan.recipe and not damage(folder):
                records = TokenCache(folder, plan.record).records
                found |= {id_: (records, i) for i, id_ in enumerate(ids) if id_ in plan.draws}
    return found


def caches(folder: Path, suffix: str = "") -> list[Path]:
    """The finished caches in a folder, or those of another suffix; nothing else that lies there."""
    return sorted(p for p in folder.glob("[0-9a-f]" * KEY_LENGTH + suffix) if p.is_dir())


def chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"
