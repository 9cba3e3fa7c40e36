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
from tokens.mending import add_sums, leave_whole, mend
from tokens.plan import Draw, Plan, caches, damage, read_header, size_of, trunk_hash, write_header
from tokens.records import SUMS, Damaged, checksums, read_sums
from tokens.trunk import Trunk, has_bfloat16
from utils import UserError, log, progress_bar, write_text

SYNC_SECONDS = 10  # a killed build loses at most so much work


def open_cache(
    plan: Plan, net: VisionTransformer, train: TrainConfig, device: torch.device
) -> TokenCache:
    """The cache of a plan: the one that is there, or a new one. Raises UserError on a full disk.

    Of a damaged one as much is made anew as is damaged: what was cut off here, records that are not
    what was written when the first of them is read.
    """
    lock = plan.folder / f"{plan.key}.lock"
    if damage(plan.path):
        with waiting_for(lock):
            reason = damage(plan.path)  # another run may have made it meanwhile
            if reason and plan.path.exists():
                log.warning("the token cache %s is damaged: %s; it is mended", plan.path, reason)
                leave_whole(plan)
            if reason:
                Builder(plan, net, train, device).build()
    with contextlib.suppress(OSError):  # `tools.cache` knows by it when it was last used
        (plan.path / "header.json").touch()
    if read_sums(plan.path) is None:
        with contextlib.suppress(OSError), waiting_for(lock):  # where it can be written to
            add_sums(plan)
    cache = TokenCache(plan.path, plan.record, plan.layers)

    def put_right() -> None:
        with waiting_for(lock):
            mend(plan, cache, Builder(plan, net, train, device).compute_again)

    for records in cache.files().values():
        records.mend = put_right
    return cache


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
        if self.train.trunk_bf16 and self.device.type == "cpu" and not has_bfloat16():
            log.warning(
                "this CPU has no bfloat16 products (AVX-512 BF16, AMX), as far as PyTorch can tell:"
                " train.trunk_dtype=float32 would be faster here"
            )
        plan.check_disk()
        if not done:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        write_header(self.folder, plan, ids)
        started, first = time.perf_counter(), done
        with contextlib.ExitStack() as stack:
            files = self._opened(stack, done)
            synced = time.monotonic()
            try:
                for records, layers in self._records(ids[done:]):
                    files["tokens.bin"].write(records.data)
                    if plan.layers.itemsize:
                        files["layers.bin"].write(layers.data)
                    files["sums.bin"].write(sums_of(records, layers).data)
                    done += len(records)
                    if time.monotonic() > synced + SYNC_SECONDS:
                        self._sync(files, done)
                        synced = time.monotonic()
            finally:
                self._sync(files, done)
        os.replace(self.folder, plan.path)
        (plan.path / self.progress.name).unlink(missing_ok=True)
        seconds = time.perf_counter() - started
        log.info("token cache made in %.1f s, %.1f images/s", seconds, (len(ids) - first) / seconds)

    def _opened(self, stack: contextlib.ExitStack, done: int) -> dict[str, BinaryIO]:
        """The cache's files, cut behind the records that are there."""
        plan = self.plan
        sizes = {"tokens.bin": done * plan.record.itemsize, "sums.bin": done * SUMS.itemsize}
        if plan.layers.itemsize:
            sizes["layers.bin"] = min(done, len(plan.plain)) * plan.layers.itemsize
        files: dict[str, BinaryIO] = {}
        for name, size in sizes.items():
            file = files[name] = stack.enter_context((self.folder / name).open("ab"))
            file.truncate(size)
        return files

    def _order(self) -> tuple[list[str], int]:
        """The records in the file's order, and how many of them an earlier build has left."""
        with contextlib.suppress(OSError, ValueError):
            _, ids = read_header(self.folder)
            done = int(self.progress.read_text())
            for name, each in (("tokens.bin", self.plan.record), ("sums.bin", SUMS)):
                done = min(done, (self.folder / name).stat().st_size // each.itemsize)
            if self.plan.layers.itemsize:
                kept = size_of(self.folder / "layers.bin") // self.plan.layers.itemsize
                done = done if kept >= min(done, len(self.plan.plain)) else kept
            return [*ids[:done], *self._ordered(ids[done:])], done
        return self._ordered(self.plan.draws), 0

    def _ordered(self, ids: Iterable[str]) -> list[str]:
        """Those whose layers are kept come first, and what must be computed in whole batches."""
        plain = self.plan.plain if self.plan.layers.itemsize else ()
        return sorted(ids, key=lambda id_: (id_ not in plain, id_ not in self.donors))

    def _sync(self, files: dict[str, BinaryIO], done: int) -> None:
        """Note how many records are surely on the disk."""
        for file in files.values():
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
            try:
                yield self._given(some)
            except Damaged as damaged:
                log.warning("%s; what was to be copied of it is computed", damaged)
                yield from self._computed(some)

    def _given(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The records and layers of some, as older caches have them."""
        given = [(donor, np.array([row])) for donor, row in (self.donors[id_] for id_ in ids)]
        kept = given[: self._plain(ids)]
        records = np.concatenate([donor.records[row] for donor, row in given])
        layers = [donor.layers[row][0] for donor, row in kept if donor.layers is not None]
        return records, np.array(layers, self.plan.layers.base)

    def _plain(self, ids: Sequence[str]) -> int:
        """How many of some records have their layers kept."""
        return sum(id_ in self.plan.plain for id_ in ids) if self.plan.layers.itemsize else 0

    def compute_again(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The records of `ids` as `build` made them, and more of the last in the last batch.

        A run that is under way draws and trains afterwards as if this had not been.
        """
        if trunk_hash(self.net) != self.plan.recipe["trunk"]:
            raise UserError(f"{self.plan.path} is damaged; run again: it is mended")
        was_training = self.net.training
        try:
            with torch.random.fork_rng(devices=[]):
                yield from self._computed(ids, whole=True)
        finally:
            self.net.train(was_training)

    def _computed(
        self, ids: Sequence[str], whole: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        layers = self.plan.layers.itemsize > 0
        trunk = Trunk(self.net.eval(), self.device, self.train.trunk_bf16, layers)
        log.debug("trunk pass: %s, batches of %d", trunk.engine, trunk.batch_size)
        if whole:  # smaller batches may go through other products, with other last bits
            ids = [*ids, *[ids[-1]] * (-len(ids) % trunk.batch_size)]
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
        records = np.zeros(len(tokens.tokens), self.plan.record)
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


def sums_of(records: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """The checksums of records, and of the layers that are kept of the first of them."""
    sums = np.zeros(len(records), SUMS)
    sums["tokens"] = checksums(records)
    if layers.size:
        sums["layers"][: len(layers)] = checksums(layers)
    return sums


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
