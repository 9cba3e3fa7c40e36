"""Making a token cache, going on where an earlier build was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from config import TrainConfig
from dataset import loader_options
from model import Tokens, VisionTransformer
from tokens.cache import TokenCache, chunks
from tokens.plan import Draw, Plan, caches, damage, layers_size, read_header, write_header
from tokens.trunk import Trunk
from utils import UserError, log, progress_bar, write_text

SYNC_SECONDS = 10  # a killed build loses at most so much work


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
    return TokenCache(plan.path, plan.record, plan.layers)


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
        with contextlib.ExitStack() as stack:
            files: list[BinaryIO] = [stack.enter_context(open(self.folder / "tokens.bin", "ab"))]
            files[0].truncate(done * plan.record.itemsize)
            if plan.layers.itemsize:
                files.append(stack.enter_context(open(self.folder / "layers.bin", "ab")))
                files[1].truncate(min(done, len(plan.plain)) * plan.layers.itemsize)
            synced = time.monotonic()
            try:
                for batch in self._records(ids[done:]):
                    for file, records in zip(files, batch, strict=False):
                        file.write(records.data)
                    done += len(batch[0])
                    if time.monotonic() > synced + SYNC_SECONDS:
                        self._sync(files, done)
                        synced = time.monotonic()
            finally:
                self._sync(files, done)
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
            if self.plan.layers.itemsize:
                kept = layers_size(self.folder) // self.plan.layers.itemsize
                done = done if kept >= min(done, len(self.plan.plain)) else kept
            return [*ids[:done], *self._ordered(ids[done:])], done
        return self._ordered(self.plan.draws), 0

    def _ordered(self, ids: Iterable[str]) -> list[str]:
        """Those whose layers are kept come first, and what must be computed in whole batches."""
        plain = self.plan.plain if self.plan.layers.itemsize else ()
        return sorted(ids, key=lambda id_: (id_ not in plain, id_ not in self.donors))

    def _sync(self, files: list[BinaryIO], done: int) -> None:
        """Note how many records are surely on the disk."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        write_text(self.progress, str(done))

    def _records(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The records of `ids` in their order, copied or computed, a batch at a time; and what is
        kept of the layers of the plain ones among them, which are the first."""
        with progress_bar(total=len(ids), desc="caching tokens", unit="image") as bar:
            for donated, group in groupby(ids, lambda id_: id_ in self.donors):
                make = self._copied if donated else self._computed
                for batch in make(list(group)):
                    yield batch
                    bar.update(len(batch[0]))

    def _copied(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in chunks(ids, 64):
            given = [self.donors[id_] for id_ in some]
            kept = given[: self._plain(some)]
            records = np.array([donor.records[row] for donor, row in given])
            layers = [donor.layers[row].numpy() for donor, row in kept if donor.layers is not None]
            yield records, np.array(layers, self.plan.layers.base)

    def _plain(self, ids: Sequence[str]) -> int:
        """How many of some records have their layers kept."""
        return sum(id_ in self.plan.plain for id_ in ids) if self.plan.layers.itemsize else 0

    def _computed(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        layers = self.plan.layers.itemsize > 0
        trunk = Trunk(self.net.eval(), self.device, self.train.bf16, layers)
        log.debug("trunk pass: %s, batches of %d", trunk.engine, trunk.batch_size)
        # On a CPU no process decodes meanwhile: the products then lose more than that gains
        # (11.8 images/s without, 11.5 with a thread, 11.3 with a process).
        loader = DataLoader(
            Drawn([self.plan.draws[id_] for id_ in ids]),
            trunk.batch_size,
            **loader_options(self.train, self.device),
        )
        done = 0
        for images in loader:
            tokens = trunk(images)
            kept = self._plain(ids[done : done + len(images)])
            done += len(images)
            yield self._as_records(tokens), self._as_layers(tokens, kept)

    def _as_records(self, tokens: Tokens) -> np.ndarray:
        records = np.empty(len(tokens.tokens), self.plan.record)
        records["tokens"] = self._small(tokens.tokens)
        if tokens.cls is not None:
            records["cls"] = tokens.cls.cpu().numpy()
        return records

    def _as_layers(self, tokens: Tokens, kept: int) -> np.ndarray:
        if tokens.layers is None:
            return np.empty(0)
        most = torch.finfo(getattr(torch, self.train.cache_dtype)).max
        return self._small(tokens.layers[:kept].clamp(-most, most))

    def _small(self, values: Tensor) -> np.ndarray:
        """Values in the cache's precision."""
        small = values.to(getattr(torch, self.train.cache_dtype))
        if not small.isfinite().all():
            raise UserError(
                "the trunk's tokens are not finite numbers in "
                f"{self.train.cache_dtype}; set train.cache_dtype=float32 (or train.cache=off)"
            )
        return small.cpu().numpy()


def find_donors(plan: Plan) -> dict[str, tuple[TokenCache, int]]:
    """Records of the plan that older caches of the same trunk hold: the cache and its row."""
    found: dict[str, tuple[TokenCache, int]] = {}
    for folder in caches(plan.folder):
        with contextlib.suppress(ValueError, OSError):
            header, ids = read_header(folder)
            if header["recipe"] == plan.recipe and not damage(folder):
                donor = TokenCache(folder, plan.record, plan.layers)
                found |= {id_: (donor, i) for i, id_ in enumerate(ids) if id_ in plan.draws}
    return found
