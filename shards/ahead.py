"""Shards of elsewhere, fetched while those before them are read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from types import TracebackType

import numpy as np
from torch.utils.data import Sampler

from images import Sample
from shards.fetch import Fetcher
from shards.packed import Packed
from system.parallel import world_size
from transforms import streams_for
from utils import UserError, log

THREADS = 2


class Ahead:
    """Fetches the shards that come next: `numbers` (n,) say in which one each picture of a sequence
    lies, `most` how many are fetched beyond those that were reached.

    What can't be had is left to whoever reads it, which says why.
    """

    def __init__(self, fetch: Fetcher | None, numbers: np.ndarray, most: int) -> None:
        self.fetch, self.most = fetch, most
        shards, first = np.unique(numbers, return_index=True)
        order = first.argsort()
        self.shards, self.first = shards[order].tolist(), first[order].tolist()
        self.asked = 0  # of them, for so many
        self.waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.is_over = False

    def __enter__(self) -> Ahead:
        if self.fetch is not None and self.most and len(self.shards) > 1:
            for _ in range(THREADS):  # a stop does not wait for what they fetch
                threading.Thread(target=self._work, daemon=True).start()
            self.reached(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_over = True
        for _ in range(THREADS):
            self.waiting.put(None)

    def reached(self, place: int) -> None:
        """The sequence is read up to there."""
        while self.asked < len(self.shards):
            before = max(0, self.asked - self.most)
            if place < self.first[before]:
                return
            self.waiting.put(self.shards[self.asked])
            self.asked += 1

    def _work(self) -> None:
        assert self.fetch is not None
        while (number := self.waiting.get()) is not None and not self.is_over:
            try:
                self.fetch(number)
            except (UserError, OSError) as error:
                log.debug("shard %d was not fetched ahead: %s", number, error)


def following(
    samples: Packed, size: int, window: int
) -> Callable[[np.ndarray], Iterator[int]] | None:
    """What fetches ahead of the pictures that an epoch asks for, in batches of `size`, each at most
    `window` places from where it lies; None where all shards are here."""
    fetch, lots = samples.tars.fetch, int(np.count_nonzero(samples.lots))
    if fetch is None:
        return None
    streams = -(-streams_for(size, lots) // world_size())
    each = max(1.0, len(samples) / max(1, lots))
    open_at_once = 2 * streams + int(min(window, len(samples)) / each / world_size())
    needs = min(open_at_once * world_size(), lots)
    if fetch.holds() < needs:
        log.warning(
            "train.shard_cache has room for %d shards, and %d are read side by side: they are "
            "fetched again and again; give it more, or lower train.shuffle_buffer",
            *(fetch.holds(), needs),
        )
    most = how_many(fetch, streams, open_at_once)

    def followed(order: np.ndarray) -> Iterator[int]:
        with Ahead(fetch, samples.shards_of(order), most) as ahead:
            for place, index in enumerate(order.tolist()):
                ahead.reached(place)
                yield index

    return followed


class InOrder(Sampler[int]):
    """Pictures one after the other, as an evaluation reads them."""

    def __init__(self, samples: Packed) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[int]:
        everyone = range(len(self.samples))
        with ahead_of([(self.samples, place) for place in everyone]) as ahead:
            for place in everyone:
                ahead.reached(place)
                yield place


def ahead_of(places: Sequence[tuple[Sequence[Sample], int]]) -> Ahead:
    """What fetches ahead of pictures that are read in this order, by their sets and numbers."""
    numbers: list[np.ndarray] = []
    fetch = None
    for _, some in groupby(places, key=lambda place: id(place[0])):
        own = list(some)
        samples = own[0][0]
        if not isinstance(samples, Packed) or samples.tars.fetch is None:
            return Ahead(None, np.zeros(0, int), 0)
        fetch = samples.tars.fetch
        numbers.append(samples.shards_of([index for _, index in own]))
    found = np.concatenate(numbers) if numbers else np.zeros(0, int)
    return Ahead(fetch, found, how_many(fetch, 1, 2))


def how_many(fetch: Fetcher | None, streams: int, open_at_once: int) -> int:
    """How many shards may be fetched before they are read: none where they, or what fetches them,
    would take the room of those that are being read."""
    if fetch is None:
        return 0
    return max(0, min(streams + 1, fetch.holds() // world_size() - open_at_once - THREADS))
