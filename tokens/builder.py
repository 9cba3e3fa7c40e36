"""Making a token cache, going on where an earlier build was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from config import TrainConfig
from dataset import loader_options
from model import Tokens, VisionTransformer
from shards.ahead import ahead_of
from system.parallel import barrier, by_first, is_first, rank, told_by_all, world_size
from tokens.cache import TokenCache, chunks
from tokens.mending import add_sums, leave_whole, mend
from tokens.parts import PROGRESS, Part, part_at, parts
from tokens.plan import Draw, Plan, caches, damage, read_header, trunk_hash, trunk_of, write_header
from tokens.records import Damaged, read_sums
from tokens.trunk import Trunk, has_bfloat16, in_half, in_turn, trunk_batch
from utils import UserError, log, progress_bar

COPIED = 64  # records at a time
SEEN_SECONDS = 60.0  # a network disk shows others what was renamed some seconds later
Donors = dict[str, tuple[TokenCache, int]]
Ranges = list[tuple[int, int]]  # records from the first number up to the second


def open_together(
    plan: Plan, net: VisionTransformer, train: TrainConfig, device: torch.device
) -> TokenCache:
    """`open_cache` for several processes that train as one: each calls it, and makes a share."""
    if world_size() > 1:
        build_together(Builder(plan, net, train, device))
    return open_cache(plan, net, train, device)


def open_cache(
    plan: Plan, net: VisionTransformer, train: TrainConfig, device: torch.device
) -> TokenCache:
    """The cache of a plan: the one that is there, or a new one. Raises UserError on a full disk.

    Of a damaged one as much is made anew as is damaged: what was cut off here, records that are not
    what was written when the first of them is read.
    """
    builder = Builder(plan, net, train, device)
    if damage(plan.path):
        with waiting_for(builder.lock):
            if builder.is_wanted():  # another run may have made it meanwhile
                builder.build()
    with contextlib.suppress(OSError):  # `tools.cache` knows by it when it was last used
        (plan.path / "header.json").touch()
    if read_sums(plan.path) is None:
        with contextlib.suppress(OSError), waiting_for(builder.lock):  # where it can be written to
            add_sums(plan)
    cache = TokenCache(plan.path, plan.record, plan.layers)

    def put_right() -> None:
        with waiting_for(builder.lock):
            mend(plan, cache, builder.compute_again)

    for records in cache.files().values():
        records.mend = put_right
    return cache


def build_together(builder: Builder) -> None:
    """Make a cache that is not there with all processes that see its folder: each a share of its
    batches, which are those of one process alone, as a part of its own.

    A process that does not see the folder, on a host with a disk of its own, makes it there.
    """
    with contextlib.ExitStack() as held:  # the first process' lock

        def begun() -> str | None:
            if not damage(builder.plan.path):
                return None
            held.enter_context(waiting_for(builder.lock))
            return builder.begin(world_size()) if builder.is_wanted() else None

        if (mark := by_first(begun)) is None:
            return
        sees = (builder.folder / mark).exists()
        helpers = [each for each, seeing in enumerate(told_by_all(sees)) if seeing]
        shares = by_first(lambda: builder.shares(len(helpers)))
        if sees:
            builder.leads = is_first()
            builder.make(shares[helpers.index(rank())])
        else:
            with waiting_for(builder.lock):
                if builder.is_wanted():
                    builder.build()
        barrier()
        if is_first():
            builder.finish()
        barrier()
    until = time.monotonic() + SEEN_SECONDS
    while sees and damage(builder.plan.path) and time.monotonic() < until:
        time.sleep(0.2)


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
        self.trunk = trunk_of(net)  # a head over layers, or a block that is left, is frozen later
        self.folder = plan.folder / f"{plan.key}.partial"
        self.lock = plan.folder / f"{plan.key}.lock"
        self.ids: list[str] = []  # the records in the files' order
        self.donors: Donors = {}
        self.starts: list[int] = []  # of the parts that are being made
        self.leads = True  # whether the first records are its own
        self.started, self.there = 0.0, 0

    def is_wanted(self) -> bool:
        """Whether there is no such cache; of a damaged one what is whole becomes a beginning."""
        reason = damage(self.plan.path)
        if reason and self.plan.path.exists():
            log.warning("the token cache %s is damaged: %s; it is mended", self.plan.path, reason)
            leave_whole(self.plan)
        return bool(reason)

    def build(self) -> None:
        """Make it alone."""
        self.begin()
        self.make(self.shares(1)[0])
        self.finish()

    def begin(self, processes: int = 1) -> str:
        """Say what it is going to be, and write that down; the name of a new file beside it, by
        which others see that they share this disk."""
        plan, self.started = self.plan, time.perf_counter()
        self.donors = find_donors(plan)
        self.ids, self.there = self._order()
        wanted = (id_ for start, stop in self._gaps() for id_ in self.ids[start:stop])
        given = sum(id_ in self.donors for id_ in wanted)
        log.info(
            "token cache: %s%s%s",
            plan.said(),
            f"; {self.there:,} are there already" if self.there else "",
            f"; {given:,} are copied from an older cache" if given else "",
        )
        if self.train.trunk_bf16 and self.device.type == "cpu" and not has_bfloat16():
            log.warning(
                "this CPU has no bfloat16 products (AVX-512 BF16, AMX), as far as PyTorch can tell:"
                " train.trunk_dtype=float32 would be faster here"
            )
        plan.check_disk(processes)
        if not self.there:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_header(self.folder, plan, self.ids)
        mark = self.folder / f"begun-{uuid.uuid4().hex}"
        mark.touch()
        return mark.name

    def shares(self, processes: int) -> list[Ranges]:
        """What is to be made by each of some processes: whole batches, as of one process alone."""
        size = trunk_batch(self.net, self.device)
        batches: Ranges = []
        for start, stop in self._gaps():
            for given, group in groupby(self.ids[start:stop], lambda id_: id_ in self.donors):
                for some in chunks(list(group), COPIED if given else size):
                    batches.append((start, start + len(some)))
                    start += len(some)
        costs = [0 if self.ids[start] in self.donors else stop - start for start, stop in batches]
        whole, before = max(1, sum(costs)), 0
        found: list[Ranges] = [[] for _ in range(processes)]
        for (start, stop), cost in zip(batches, costs, strict=True):
            own = found[min(processes - 1, before * processes // whole)]
            if own and own[-1][1] == start:
                start = own.pop()[0]
            own.append((start, stop))
            before += cost
        self.starts = [start for share in found for start, _ in share]
        return found

    def make(self, share: Ranges) -> None:
        """Compute or copy some records: what follows the first ones there, the rest as parts."""
        if not self.ids:  # another process has begun it
            self.donors, self.ids = find_donors(self.plan), read_header(self.folder)[1]
        for start, stop in share:
            part = part_at(self.plan, self.folder, start)
            if self.leads and start == (main := Part(self.plan, self.folder)).end:
                part = main
            with part.growing():
                for records, layers in self._records(self.ids[start:stop]):
                    part.write(records, layers)

    def finish(self) -> None:
        """Put the parts together, and give the cache its name."""
        self._join()
        for start, stop in self._gaps():  # what another process made is not to be seen here
            self.make([(start, stop)])
            self._join()
        with Part(self.plan, self.folder).growing():
            pass  # its files end behind the last record
        for mark in self.folder.glob("begun-*"):
            mark.unlink()
        os.replace(self.folder, self.plan.path)
        (self.plan.path / PROGRESS).unlink(missing_ok=True)
        seconds, made = time.perf_counter() - self.started, len(self.ids) - self.there
        log.info("token cache made in %.1f s, %.1f images/s", seconds, made / seconds)
        if hint := in_half(seconds, self.train.trunk_bf16, self.device):
            log.info("  %s", hint)

    def _join(self) -> None:
        """Put what follows the first records behind them; a part that can't is made anew."""
        main = Part(self.plan, self.folder)
        for part in parts(self.plan, self.folder, self.starts):
            if part.first == main.end and part.count:
                main.take(part)
            elif part.first < main.end or not part.count:
                shutil.rmtree(part.folder)

    def _gaps(self) -> Ranges:
        """The records that are still to be made."""
        there = [Part(self.plan, self.folder), *parts(self.plan, self.folder, self.starts)]
        starts = [part.end for part in there]
        stops = [*(part.first for part in there[1:]), len(self.ids)]
        return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]

    def _order(self) -> tuple[list[str], int]:
        """The records in the file's order, and how many of them an earlier build has left."""
        with contextlib.suppress(OSError, ValueError):
            _, ids = read_header(self.folder)
            self._join()
            done, later = (
                Part(self.plan, self.folder).end,
                parts(self.plan, self.folder, self.starts),
            )
            if later:  # they keep their places
                return ids, done + sum(part.count for part in later)
            return [*ids[:done], *self._ordered(ids[done:])], done
        shutil.rmtree(self.folder, ignore_errors=True)
        return self._ordered(self.plan.draws), 0

    def _ordered(self, ids: Iterable[str]) -> list[str]:
        """What is copied comes first, and what must be computed in whole batches."""
        return sorted(ids, key=lambda id_: id_ not in self.donors)

    def _records(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The records of `ids` and their layers, copied or computed, a batch at a time."""
        quiet = None if self.leads else True
        with progress_bar(
            total=len(ids), desc="caching tokens", unit="image", disable=quiet
        ) as bar:
            for donated, group in groupby(ids, lambda id_: id_ in self.donors):
                make = self._copied if donated else self._computed
                for batch in make(list(group)):
                    yield batch
                    bar.update(len(batch[0]))

    def _copied(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in chunks(ids, COPIED):
            try:
                yield self._given(some)
            except Damaged as damaged:
                log.warning("%s; what was to be copied of it is computed", damaged)
                yield from self._computed(some)

    def _given(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The records and layers of some, as older caches have them."""
        given = [(donor, np.array([row])) for donor, row in (self.donors[id_] for id_ in ids)]
        records = np.concatenate([donor.records[row] for donor, row in given])
        layers = [donor.layers[row][0] for donor, row in given if donor.layers is not None]
        return records, np.array(layers, self.plan.layers.base)

    def compute_again(self, ids: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The records of `ids` as `build` made them, and more of the last in the last batch.

        A run that is under way draws and trains afterwards as if this had not been.
        """
        if trunk_hash(self.net, self.trunk) != self.plan.recipe["trunk"]:
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
        draws = [self.plan.draws[id_] for id_ in ids]
        loader = DataLoader(
            Drawn(draws), trunk.batch_size, **loader_options(self.train, self.device)
        )
        with ahead_of([(images.samples, key[0]) for images, key in draws]) as ahead:

            def read() -> Iterator[Tensor]:
                for number, images in enumerate(loader):
                    ahead.reached(number * trunk.batch_size)
                    yield images

            for tokens in in_turn(trunk, read(), len(draws)):
                yield self._as_records(tokens), self._as_layers(tokens)

    def _as_records(self, tokens: Tokens) -> np.ndarray:
        records = np.zeros(len(tokens.tokens), self.plan.record)
        records["tokens"] = self._small(tokens.tokens)
        if tokens.cls is not None:
            records["cls"] = tokens.cls.cpu().numpy()
        return records

    def _as_layers(self, tokens: Tokens) -> np.ndarray:
        if tokens.layers is None:
            return np.empty(0)
        most = torch.finfo(getattr(torch, self.train.cache_dtype)).max
        return self._small(tokens.layers.clamp(-most, most))

    def _small(self, values: Tensor) -> np.ndarray:
        """Values in the cache's precision."""
        small = values.to(getattr(torch, self.train.cache_dtype))
        if not small.isfinite().all():
            raise UserError(
                "the trunk's tokens are not finite numbers in "
                f"{self.train.cache_dtype}; set train.cache_dtype=float32 (or train.cache=off)"
            )
        return small.cpu().numpy()


def find_donors(plan: Plan) -> Donors:
    """Records of the plan that older caches of the same trunk hold: the cache and its row."""
    found: Donors = {}
    for folder in caches(plan.folder):
        with contextlib.suppress(ValueError, OSError):
            header, ids = read_header(folder)
            if header["recipe"] == plan.recipe and not damage(folder):
                donor = TokenCache(folder, plan.record, plan.layers)
                found |= {id_: (donor, i) for i, id_ in enumerate(ids) if id_ in plan.draws}
    return found
