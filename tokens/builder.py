"""Making a token cache, going on where an earlier build was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from config import TrainConfig
from dataset import loader_options
from model import Tokens, VisionTransformer
from tokens.cache import TokenCache, chunks
from tokens.plan import Draw, Plan, caches, damage, read_header, write_header
from tokens.trunk import Trunk
from utils import UserError, log, write_text

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
