"""A finished token cache, and batches of it."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import TrainConfig
from dataset import PARTS, Split
from images import available_memory
from model import Tail, Tokens, VisionTransformer
from system.parallel import share_of
from tokens.plan import Plan, caches, damage, read_header
from tokens.records import Records, read_sums
from transforms import EpochSampler, train_sampler

LARGE_SHARE = 0.25  # of the free memory: a smaller cache just stays there


class TokenCache:
    """A finished cache: its records by number, and the number of each identity."""

    def __init__(self, folder: Path, record: np.dtype, layers: np.dtype | None = None) -> None:
        ids = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
        self.rows = {id_: row for row, id_ in enumerate(ids)}
        self.sums = sums = read_sums(folder)
        kept = None if sums is None else sums["tokens"]
        self.records = Records(folder / "tokens.bin", record, kept)
        self.layers: Records | None = None
        if layers is not None and layers.itemsize:
            kept = None if sums is None else sums["layers"]
            self.layers = Records(folder / "layers.bin", layers, kept)
        self.is_large = self.records.bytes > LARGE_SHARE * available_memory()
        if not self.is_large:
            self.records.expect()

    @classmethod
    def holding(cls, plan: Plan) -> TokenCache | None:
        """A finished cache of the same trunk that has every record of a plan, and maybe others."""
        for folder in caches(plan.folder):
            with contextlib.suppress(ValueError, OSError):
                header, ids = read_header(folder)
                same = header["recipe"] == plan.recipe and plan.draws.keys() <= set(ids)
                if same and not damage(folder):
                    return cls(folder, plan.record, plan.layers)
        return None

    def files(self) -> dict[str, Records]:
        """Its files of records, by the names of their checksums."""
        tokens = {"tokens": self.records}
        return tokens if self.layers is None else {**tokens, "layers": self.layers}

    def read(self, rows: np.ndarray, pinned: bool = False) -> Tokens:
        """The records of some rows: unpacked to float32, or pinned in the cache's precision, which
        is how they travel to a GPU."""
        records = self.records[rows]
        small = torch.from_numpy(records["tokens"])
        dtype = small.dtype if pinned else torch.float32
        tokens = torch.empty(small.shape, dtype=dtype, pin_memory=pinned).copy_(small)
        cls = None
        if "cls" in (records.dtype.names or ()):
            cls = torch.from_numpy(np.ascontiguousarray(records["cls"]))
        if self.layers is None:
            return Tokens(tokens, cls)
        return Tokens(tokens, cls, torch.from_numpy(self.layers[rows]).float())

    def expect(self, rows: np.ndarray) -> None:
        """Let the system read these rows from the disk meanwhile."""
        if self.is_large:
            self.records.expect(sorted(rows.tolist()))

    def loaders(
        self, plan: Plan, split: Split, train: TrainConfig, device: torch.device
    ) -> Loaders:
        """A loader a part, as `dataset.make_loaders` gives them, of Tokens instead of images."""
        found: dict[str, TokenLoader] = {}
        for part in PARTS:
            rows = np.array([[self.rows[id_] for id_ in ids] for ids in plan.ids[part]])
            labels = torch.tensor([sample.label for sample in split.part(part)])
            groups = np.array([sample.group for sample in split.part(part)])
            pinned = device.type == "cuda"
            if part == "train":
                sampler = train_sampler(labels.tolist(), train)
                size = train.batch_size
                found[part] = TokenLoader(self, rows, labels, size, sampler, pinned, groups)
            elif len(labels):
                size = train.eval_batch_size
                found[part] = TokenLoader(self, rows, labels, size, None, pinned, groups)
        return found


class TokenLoader:
    """Batches of Tokens and labels: those of the same part's loader of images, in its order.

    `groups` (n,) names what stays together in a fold, as `Sample.group` does; without, copies do,
    which share their records.
    """

    def __init__(
        self,
        cache: TokenCache,
        rows: np.ndarray,
        labels: Tensor,
        batch_size: int,
        sampler: EpochSampler | None = None,
        pinned: bool = False,
        groups: np.ndarray | None = None,
    ) -> None:
        self.cache, self.rows, self.dataset, self.batch_size = cache, rows, labels, batch_size
        self.sampler, self.pinned = sampler, pinned
        self.groups = rows[:, 0] if groups is None else groups
        self.is_shared = False

    def shared(self) -> TokenLoader:
        """This process's share of each batch."""
        found = copy.copy(self)
        found.is_shared = True
        return found

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    @property
    def batch_bytes(self) -> int:
        """Of a batch's tokens as they are read."""
        return self.batch_size * math.prod(self.cache.records.dtype["tokens"].shape) * 4

    def plain(self, indices: np.ndarray | None = None) -> TokenLoader:
        """The same images, or some, in their own order, as evaluation sees them."""
        some = slice(None) if indices is None else indices
        rows, labels, groups = self.rows[some], self.dataset[some], self.groups[some]
        return TokenLoader(self.cache, rows, labels, self.batch_size, None, self.pinned, groups)

    def with_views(self, views: int) -> TokenLoader:
        """The same batches, of each image's first draws alone."""
        some = self.rows[:, :views]
        known = (self.batch_size, self.sampler, self.pinned, self.groups)
        return TokenLoader(self.cache, some, self.dataset, *known)

    def joined(self, other: TokenLoader, train: TrainConfig) -> TokenLoader:
        """The images of both as training batches."""
        rows = np.concatenate([self.rows, other.rows])
        labels = torch.cat([self.dataset, other.dataset])
        groups = np.concatenate([self.groups, other.groups])
        sampler = train_sampler(labels.tolist(), train)
        size = train.batch_size
        return TokenLoader(self.cache, rows, labels, size, sampler, self.pinned, groups)

    def training(
        self, train: TrainConfig, indices: np.ndarray, labels: Tensor | None = None
    ) -> TokenLoader:
        """Some of the images as training batches, or the same with other labels."""
        rows, own = self.rows[indices], self.dataset[indices] if labels is None else labels
        sampler, groups = train_sampler(own.tolist(), train), self.groups[indices]
        size = train.batch_size
        return TokenLoader(self.cache, rows, own, size, sampler, self.pinned, groups)

    def __iter__(self) -> Iterator[tuple[Tokens, Tensor]]:
        keys = np.array(list(self.sampler or ((i, 1) for i in range(len(self.dataset)))))
        if not len(keys):  # the epoch was stopped behind its last batch
            return
        indices, draws = keys[:, 0], (keys[:, 1] - 1) % self.rows.shape[1]
        starts = range(0, len(indices), self.batch_size)
        batches = []
        for batch in (range(len(keys))[start : start + self.batch_size] for start in starts):
            own = share_of(batch) if self.is_shared else list(batch)
            batches.append((self.rows[indices[own], draws[own]], indices[own]))
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
    tail, head, layers = Tail(net), net.head, net.layers
    net.head, net.layers = torch.nn.Identity(), None
    try:
        found = [(tail(tokens.to(device)).float().cpu(), labels) for tokens, labels in loader]
    finally:
        net.head, net.layers = head, layers
        net.train(was_training)
    return torch.cat([f for f, _ in found]), torch.cat([labels for _, labels in found])


def layers_of(loader: TokenLoader) -> tuple[Tensor, Tensor]:
    """What the frozen blocks made of the plain images (n, R, D), float32, and the labels (n,), in
    the loader's order."""
    layers, labels = layers_of_views(loader, 1)
    return layers[:, 0], labels


def layers_of_views(loader: TokenLoader, views: int) -> tuple[Tensor, Tensor]:
    """The same of each image's first draws, of which the plain one comes first (n, V, R, D)."""
    layers = loader.cache.layers
    assert layers is not None, "no block is frozen"
    rows = loader.rows[:, :views]
    found = torch.as_tensor(layers[rows.reshape(-1)]).float()
    return found.unflatten(0, rows.shape), loader.dataset


def chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
