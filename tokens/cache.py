"""A finished token cache, read as a memory map, and batches of it."""

from __future__ import annotations

import math
import mmap
import warnings
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
from tokens.plan import Plan
from transforms import EpochSampler, train_sampler

LARGE_SHARE = 0.25  # of the free memory: a smaller cache just stays there


class TokenCache:
    """A finished cache: its records by number, and the number of each identity."""

    def __init__(self, folder: Path, record: np.dtype, layers: np.dtype | None = None) -> None:
        ids = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
        self.rows = {id_: row for row, id_ in enumerate(ids)}
        with open(folder / "tokens.bin", "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.records = np.frombuffer(self.map, record)
        with warnings.catch_warnings():  # that it can't be written to, which nobody wants
            warnings.simplefilter("ignore", UserWarning)
            fields = [torch.from_numpy(self.records[name]) for name in record.names or ()]
        self.tokens, self.cls = fields[0], fields[1] if len(fields) > 1 else None
        self.layers: Tensor | None = None  # of the first records
        if layers is not None and layers.itemsize:
            kept = self._layers = np.memmap(folder / "layers.bin", layers, "r")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                self.layers = torch.from_numpy(np.asarray(kept))
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
        chosen = torch.from_numpy(rows)
        cls = None if self.cls is None else self.cls[chosen]
        if self.layers is None or rows.max(initial=0) >= len(self.layers):
            return Tokens(tokens, cls)
        return Tokens(tokens, cls, self.layers[chosen].float())

    def let_go_of_layers(self) -> None:
        """Let the pages of `layers` that were read count as the system's cache, no longer as this
        process's memory: for who reads very many once."""
        mapped = getattr(getattr(self, "_layers", None), "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

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

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

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
    layers = loader.cache.layers
    assert layers is not None, "no block is frozen"
    return layers[torch.from_numpy(loader.rows[:, 0])].float(), loader.dataset


def chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
