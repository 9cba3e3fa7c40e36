"""The pictures of shards as samples: made when they are asked for, read where they lie.

A million samples as Python's objects are a gigabyte, and slow to make. Here they are a few arrays
and the rows beside the tars.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, overload

import numpy as np

from decoding.files import MOST_BYTES
from images import Sample
from layout.split_file import PARTS
from shards.fetch import Fetcher
from shards.index import Shard, read_rows
from system.plain_files import without_waiting
from utils import UserError

MOST_OPEN = 8  # tars that a process keeps open


@dataclass(frozen=True)
class Place:
    """Where a shard's tar and rows lie, and which number each of its classes has in the set, where
    that is another than its own."""

    shard: Shard
    tar: Path
    rows: Path
    classes: np.ndarray | None = None
    own_classes: int = 0


class Tars:
    """Shards and what reads them. `fetch` brings a tar that isn't there, and may take others away.

    Files that are open stay with the process that opened them: one that is forked off would share
    their position.
    """

    def __init__(self, places: Sequence[Place], fetch: Fetcher | None = None) -> None:
        self.places = tuple(places)
        self.fetch = fetch
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._rows: dict[int, np.ndarray] = {}
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"places": self.places, "fetch": self.fetch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def rows(self, number: int) -> np.ndarray:
        """A shard's rows (see `index.row_type`)."""
        if number not in self._rows:
            place = self.places[number]
            try:
                self._rows[number] = read_rows(place.rows, place.shard, place.own_classes)
            except (OSError, ValueError, EOFError) as error:
                raise UserError(
                    f"{place.rows} can't be used: {error}; make the shards again"
                ) from None
        return self._rows[number]

    def labels(self, number: int) -> np.ndarray:
        """The classes of a shard's pictures, as the set numbers them."""
        own, classes = self.rows(number)["label"], self.places[number].classes
        return own if classes is None else classes[own]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """So many bytes of a tar. Raises OSError or ValueError."""
        if size > MOST_BYTES:
            raise ValueError(f"a picture of {size:,} bytes")
        if self._process != os.getpid():
            self._forget()
        file = self._open.get(number) or self._opened(number)
        self._open.move_to_end(number)
        file.seek(offset)
        content = file.read(size)
        if len(content) != size:
            raise ValueError("it was cut")
        return content

    def _opened(self, number: int) -> BinaryIO:
        path = self.places[number].tar
        for again in (True, True, False):
            if self.fetch is not None:
                self.fetch(number)
            try:
                file = open(path, "rb", buffering=0, opener=without_waiting)  # noqa: SIM115  kept
                break
            except FileNotFoundError:  # taken away again to make room for another one
                if self.fetch is None or not again:
                    raise
        with contextlib.suppress(AttributeError, OSError):  # all of it is going to be read
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        self._open[number] = file
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return file


@dataclass(frozen=True)
class InTar(Sample):
    """A picture in a shard: also, where its bytes are."""

    tars: Tars | None = field(default=None, compare=False, repr=False)
    where: tuple[int, int, int] = (0, 0, 0)  # shard, offset, size

    def content(self) -> bytes:
        assert self.tars is not None
        return self.tars.read(*self.where)

    @property
    def remedy(self) -> str:
        assert self.tars is not None
        number, fetch = self.where[0], self.tars.fetch
        if fetch is not None and fetch.wanted[number].source.remote is not None:
            return f"remove {self.tars.places[number].tar}, and it is fetched again"
        return "make the shards again"


class Packed(Sequence[Sample]):
    """Samples of shards, some of their pictures in the order in which they lie.

    `chosen` are their numbers among all, ascending; `labels` and `parts` (numbers in PARTS) are
    theirs. `greys` are the values that are black and white in those with more than 8 bits.
    """

    def __init__(
        self,
        tars: Tars,
        chosen: np.ndarray,
        labels: np.ndarray,
        parts: np.ndarray,
        greys: tuple[float, float] | None = None,
    ) -> None:
        self.tars, self.chosen, self.labels, self.parts = tars, chosen, labels, parts
        self.greys = greys
        self.starts = np.cumsum([0, *(place.shard.count for place in tars.places)])

    @property
    def lots(self) -> np.ndarray:
        """How many of them lie in each shard."""
        ends = np.searchsorted(self.chosen, self.starts)
        return np.diff(ends)

    def shards_of(self, these: Sequence[int] | np.ndarray) -> np.ndarray:
        """The numbers of the shards in which some of them lie."""
        wanted = self.chosen[np.asarray(these, dtype=np.int64)]
        return np.searchsorted(self.starts, wanted, side="right") - 1

    def only(self, part: str) -> Packed:
        """Those of a part."""
        return self.of(self.parts == PARTS.index(part))

    def of(self, these: np.ndarray | slice) -> Packed:
        """Some of them, by a mask, their numbers in ascending order, or a slice."""
        arrays = (self.chosen[these], self.labels[these], self.parts[these])
        return Packed(self.tars, *arrays, self.greys)

    def with_parts(self, parts: np.ndarray) -> Packed:
        return Packed(self.tars, self.chosen, self.labels, parts, self.greys)

    def counts(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        """Pictures by class and part."""
        found = np.zeros((len(classes), len(PARTS)), int)
        np.add.at(found, (self.labels, self.parts), 1)
        return {
            name: dict(zip(PARTS, row, strict=True))
            for name, row in zip(classes, found.tolist(), strict=True)
        }

    def digests(self) -> np.ndarray:
        """The first 64 bits of each picture's SHA-256."""
        return self._column("sha256", lambda column: column.view("<u8").reshape(-1, 4)[:, 0])

    def deep(self) -> np.ndarray:
        """Whether each has greys of more than 8 bits."""
        return self._column("deep", lambda column: column)

    def _column(self, name: str, made: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = []
        for number in np.flatnonzero(self.lots):
            own = self.chosen[slice(*np.searchsorted(self.chosen, self.starts[number:][:2]))]
            rows = self.tars.rows(int(number))[name]
            found.append(made(np.ascontiguousarray(rows))[own - self.starts[number]])
        return np.concatenate(found) if found else np.zeros(0, "<u8")

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Packed: ...

    def __getitem__(self, index: int | slice) -> Sample | Packed:
        if isinstance(index, slice):
            return self.of(index)
        wanted = int(self.chosen[index])  # raises IndexError, which ends an iteration
        number = int(self.shards_of([index])[0])
        place = self.tars.places[number]
        row = self.tars.rows(number)[wanted - int(self.starts[number])]
        name = os.fsdecode(row["name"].item())
        if PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise UserError(f"{place.tar} names a picture outside of it: {name!a:.80}")
        return InTar(
            path=place.tar / name,
            label=int(self.labels[index]),
            part=PARTS[self.parts[index]],
            sha256=row["sha256"].tobytes().hex(),
            greys=self.greys if row["deep"] else None,
            group=row["group"].tobytes().hex(),
            tars=self.tars,
            where=(number, int(row["offset"]), int(row["size"])),
        )
