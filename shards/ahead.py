"""Shards of elsewhere, fetched while those before them are read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

import numpy as np
from torch.utils.data import Sampler

from images import Sample
from parallel import world_size
from shards.fetch import Fetcher
from shards.packed import InTar, Packed
from transforms import Key, streams_for
from utils import UserError, log

THREADS = 2


class Ahead:
    """Fetches the shards that come next: `numbers` (n,) say in which one each picture of a sequence
    lies, `most` how many are fetched beyond those that were reached.

    What can't be had is left to whoever reads it, which says why.
    """

    def __init__(self, fetch: Fetcher | None, numbers: Sequence[int], most: int) -> None:
        self.fetch, self.most = fetch, most
        shards, first = np.unique(np.asarray(numbers, dtype=np.int64), return_index=True)
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


def following(samples: Packed, size: int) -> Callable[[list[Key]], Iterator[Key]]:
    """What fetches ahead of the pictures that an epoch asks for, in batches of `size`."""
    fetch, lots = samples.tars.fetch, int(np.count_nonzero(samples.lots))
    streams = -(-streams_for(size, lots) // world_size())

    def followed(keys: list[Key]) -> Iterator[Key]:
        numbers = samples.shards_of([index for index, _ in keys]).tolist()
        with Ahead(fetch, numbers, how_many(fetch, streams)) as ahead:
            for place, key in enumerate(keys):
                ahead.reached(place)
                yield key

    return followed


class InOrder(Sampler[int]):
    """Pictures one after the other, as an evaluation reads them."""

    def __init__(self, samples: Packed) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[int]:
        fetch, everyone = self.samples.tars.fetch, range(len(self.samples))
        with Ahead(fetch, self.samples.shards_of(everyone).tolist(), how_many(fetch, 1)) as ahead:
            for place in everyone:
                ahead.reached(place)
                yield place


def ahead_of(samples: Iterable[Sample]) -> Ahead:
    """What fetches ahead of pictures that are read in this order."""
    there = [s for s in samples if isinstance(s, InTar)]
    fetch = there[0].tars.fetch if there and there[0].tars else None
    return Ahead(fetch, [sample.where[0] for sample in there], how_many(fetch, 1))


def how_many(fetch: Fetcher | None, streams: int) -> int:
    """How many shards may be fetched before they are read: none where they would take the room of
    those that so many streams are reading."""
    return 0 if fetch is None else max(0, min(streams + 1, fetch.holds() - 2 * streams))
