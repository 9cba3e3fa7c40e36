"""From train.base_dir to the samples of shards: their classes, parts, and what to know of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from config import TrainConfig
from decoding.greys import Greys, Values, scale
from decoding.members import TAR
from layout.split_file import PARTS
from shards.draw import drawn, without_held_out
from shards.fetch import Fetcher, Wanted, fetch, stamp
from shards.foreign import names_in_order, numbers_of, scan, see_tar, together
from shards.index import INDEX, Index, Shard, holds_rows, read_index
from shards.packed import Packed, Place, Tars
from shards.place import Source, fetched_folder, is_ours, root_of, sources_of
from system.filenames import nearest, same_name
from utils import UserError, log, progress_bar, quoted, sha256_of, some

# What is decided when shards are made, by tools.shard, of a folder.
OF_A_FOLDER = ("from_run", "labels", "groups", "new_images")
AT_ONCE = 4  # shards that are read, or asked for, at a time
T = TypeVar("T")


@dataclass
class Loaded:
    """What shards hold, as `dataset.Split` takes it."""

    root: Path
    classes: tuple[str, ...]
    samples: Packed
    unused: list[tuple[Path, str]]
    notes: list[str]


@dataclass(frozen=True)
class Piece:
    """A shard with where it lies, its own classes, the values of its deep pictures, if it has any,
    or the scale that its index gives them, and its pictures that can't be read."""

    source: Source
    shard: Shard
    rows: Path
    classes: tuple[str, ...]
    values: Values | None = None
    greys: Greys | None = None
    bad: tuple[tuple[str, str], ...] = ()


def load(train: TrainConfig) -> Loaded:
    """The shards that train.base_dir names. Raises UserError where they can't be used."""
    given = [key for key in OF_A_FOLDER if getattr(train, key)]
    if given:
        asks = f"train.{given[0]}=..."
        if given[0] == "from_run":
            asks = "train.split=logs/RUN/split.csv train.new_images=train"
        raise UserError(
            f"train.{given[0]} is for folders; shards have their parts and labels since they were "
            f"made: python -m tools.shard FOLDER OUT {asks}"
        )
    notes: list[str] = []
    pieces = _pieces(train, notes)
    own = {piece.classes for piece in pieces}
    every = {name for classes in own for name in classes}
    classes = own.pop() if len(own) == 1 else names_in_order(every)
    if len(classes) < 2:
        raise UserError(f"{train.base_dir:.200} has one class only ({some(classes)}); it takes 2")
    tars = _tars(pieces, classes, train)
    samples = _packed(tars, _greys(pieces, train))
    unused = [(p.source.path / name, f"unreadable: {why}") for p in pieces for name, why in p.bad]
    if unused and train.on_bad_image == "error":
        listed = some((f"{path} ({why})" for path, why in unused), 5, "; ")
        raise UserError(
            f"{len(unused):,} unreadable: {listed}; set train.on_bad_image to skip, or make the "
            "shards again"
        )
    if train.classes is not None:
        classes, samples = _only(train, classes, samples, notes)
    samples = _with_parts(samples, classes, train, notes)
    return Loaded(root_of(train.base_dir, train.data), classes, samples, unused, notes)


# ------------------------------------------------------------------------------ the shards


def _pieces(train: TrainConfig, notes: list[str]) -> list[Piece]:
    """Every shard with what its index says of it, or what reading it once found."""
    sources = sources_of(train.base_dir, train.data)
    found: list[Piece] = []
    without: list[Source] = []
    for folder in dict.fromkeys(source.path.parent for source in sources):
        here = [source for source in sources if source.path.parent == folder]
        index = _index(here[0], notes)
        if index is None:
            _see_that_none_is_ours(here)
            without += here
            continue
        found += _of_index(index, here, notes)
    found += _scanned(without, train)
    if not any(piece.shard.count for piece in found):
        raise UserError(
            f"{train.base_dir:.200} has no pictures: no file in it ends in .jpg, .png and the like "
            "and has its class beside it"
        )
    return found


def _index(of: Source, notes: list[str]) -> Index | None:
    """The index beside a shard; None where there is none."""
    source = of.sibling(INDEX)
    if source.remote is None:
        return read_index(source.path) if source.path.is_file() else None
    new = Source(source.path.with_name(f".new-{INDEX}"), source.remote)
    try:
        fetch(Wanted(new), tries=1)
        if not is_ours(new.path):  # a page that says so, a fixed answer
            new.path.unlink()
            raise UserError(f"{new.remote:.200} is no index of shards")
        os.replace(new.path, source.path)
    except UserError as error:
        if source.path.is_file():
            notes.append(f"{error}; the index that was fetched before is used")
        elif of.path.name == INDEX:
            raise UserError(str(error).replace(f".new-{INDEX}", INDEX)) from None
        else:
            log.debug("no index: %s", error)
            return None
    return read_index(source.path, source.remote)


def _see_that_none_is_ours(here: list[Source]) -> None:
    """Raise UserError where tools.shard was stopped: its tars, and no index yet that names all."""
    for source in here:
        rows = source.path.with_name(source.path.name.removesuffix(TAR) + ".npy")
        if source.remote is None and holds_rows(rows):
            raise UserError(
                f"{source.path.parent} has shards of tools.shard and no {INDEX}: it was stopped "
                "there; the same command goes on"
            )


def _of_index(index: Index, here: list[Source], notes: list[str]) -> list[Piece]:
    """The shards of an index that are named, each seen to be there."""
    by_name = {shard.name: shard for shard in index.shards}
    if here[0].path.name == INDEX:
        here = [here[0].sibling(name) for name in by_name]
    elif len(here) < len(by_name):
        notes.append(f"{len(here):,} of the {len(by_name):,} shards of {here[0].path.parent}")
    found = []
    for source in here:
        if (shard := by_name.get(source.path.name)) is None:
            own = source.sibling(INDEX)
            raise UserError(f"{own.remote or own.path} does not name {source.path.name}")
        rows = source.sibling(shard.rows)
        found.append(Piece(source, shard, rows.path, index.classes, greys=index.greys))
    _several(_see_that_it_is_there, found)
    return found


def _see_that_it_is_there(piece: Piece) -> None:
    shard, source = piece.shard, piece.source
    again = "; tools.shard makes what is missing again"
    if source.remote is not None:
        if not (piece.rows.is_file() and sha256_of(piece.rows) == shard.rows_sha256):
            piece.rows.unlink(missing_ok=True)
            fetch(Wanted(source.sibling(shard.rows), shard.rows_sha256))
        return
    try:
        size = source.path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{source.path} is not there, and the index names it{again}") from None
    if size != shard.bytes:
        raise UserError(
            f"{source.path} has {size:,} bytes, and the index says {shard.bytes:,}; remove it"
            f"{again}"
        )


def _scanned(sources: list[Source], train: TrainConfig) -> list[Piece]:
    """Tars of others, each read once."""
    kept = fetched_folder(train.data) / "scanned"
    wanted = [Wanted(source, see=see_tar) for source in sources]
    bring = Fetcher(wanted, fetched_folder(train.data), train.shard_cache)
    total = sum(s.path.stat().st_size for s in sources if s.remote is None) or None

    def one(number: int) -> Piece:
        source = sources[number]
        bring(number)
        if source.remote is None:
            at = source.path.stat()
            known_as = f"{source.path.resolve()} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino}"
        else:  # fetched anew it may be another
            there = stamp(source.path)
            known_as = f"{source.remote} {there.read_text() if there.exists() else ''}"
        found = scan(source.path, kept, known_as, train.max_pixels, bar.update)
        return Piece(source, found.shard, found.rows, found.classes, found.values, bad=found.bad)

    with progress_bar(total=total, desc="reading shards", unit="B", unit_scale=True) as bar:
        return _several(one, range(len(sources)))


def _several(work: Callable[[Any], T], given: Iterable[Any]) -> list[T]:
    """What comes of each, a few at a time: files may be far away."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, given))


def _tars(pieces: list[Piece], classes: tuple[str, ...], train: TrainConfig) -> Tars:
    places = [
        Place(p.shard, p.source.path, p.rows, numbers_of(p.classes, classes), len(p.classes))
        for p in pieces
    ]
    if all(piece.source.remote is None for piece in pieces):
        return Tars(places)
    wanted = [Wanted(p.source, p.shard.sha256, p.shard.bytes) for p in pieces]
    return Tars(places, Fetcher(wanted, fetched_folder(train.data), train.shard_cache))


def _packed(tars: Tars, greys: Greys | None) -> Packed:
    """All pictures, with the parts of their shards."""
    counts = [place.shard.count for place in tars.places]
    labels = np.concatenate([tars.labels(i) for i in range(len(counts))]).astype(np.int32)
    part = [PARTS.index(place.shard.part or "train") for place in tars.places]
    parts = np.repeat(np.array(part, dtype=np.uint8), counts)
    return Packed(tars, np.arange(len(labels)), labels, parts, greys)


def _greys(pieces: list[Piece], train: TrainConfig) -> Greys | None:
    """The values that are black and white in pictures with more than 8 bits."""
    values: Values | None = None
    for piece in pieces:
        if piece.values is not None:
            values = together(piece.values, values)
    given = next((piece.greys for piece in pieces if piece.greys), None)
    found = given or (scale([values]) if values else None)
    return train.greys if found and train.greys != "auto" else found


# ------------------------------------------------------------------------- classes and parts


def _only(
    train: TrainConfig, classes: tuple[str, ...], samples: Packed, notes: list[str]
) -> tuple[tuple[str, ...], Packed]:
    """The pictures of train.classes alone."""
    wanted = tuple(sorted(same_name(name) for name in train.classes or ()))
    for name in wanted:
        if name not in classes:
            near = nearest(name, classes)
            hint = f"did you mean '{near}'? They have" if near else "they have"
            raise UserError(f"train.classes: '{name}' is no class of the shards; {hint} "
                            f"{some(quoted(classes))}")  # fmt: skip
    notes.append(f"left out by train.classes: {some(sorted({*classes} - {*wanted}))}")
    number = np.array([wanted.index(n) if n in wanted else -1 for n in classes], dtype=np.int32)
    kept = samples.of(number[samples.labels] >= 0)
    kept.labels = number[kept.labels]
    return wanted, kept


def _with_parts(
    samples: Packed, classes: tuple[str, ...], train: TrainConfig, notes: list[str]
) -> Packed:
    """The shards' own parts; val, and test where it is asked for, are drawn where there is none."""
    there = {PARTS[number] for number in np.unique(samples.parts)}
    fractions = {"test": train.test_fraction, "val": train.val_fraction}
    if "test" in there and train.test_fraction:
        notes.append("train.test_fraction is not used: the shards have a test part of their own")
    cuts = {part: share for part, share in fractions.items() if share and part not in there}
    made = all(place.shard.sha256 for place in samples.tars.places)
    if not made and train.group_duplicates:
        notes.append(
            "near-duplicates are not looked for in tars of others; tools.shard does, in a folder"
        )
    if cuts:
        samples = samples.with_parts(drawn(samples, classes, train.seed, cuts))
    one_set = len({place.tar.parent for place in samples.tars.places}) == 1
    return samples if made and one_set and not cuts else without_held_out(samples, notes)
