"""A finished cache that is not what was written: what is whole of it stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from system.filenames import text_of
from tokens.cache import TokenCache
from tokens.plan import Plan, read_header, write_header
from tokens.records import SUMS, as_bytes, checksum, read_sums
from utils import UserError, log, replacing, some, write_text

# From records' identities to the records, and their layers, a batch at a time.
Compute = Callable[[list[str]], Iterator[tuple[np.ndarray, np.ndarray]]]


def leave_whole(plan: Plan) -> None:
    """Make of a cache that was cut an unfinished one, which a build goes on with; one whose header
    is not whole is removed."""
    try:
        _, ids = read_header(plan.path)
    except ValueError:
        shutil.rmtree(plan.path)
        return
    partial = plan.path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_text(plan.path / "progress", str(len(ids)))
    plan.path.rename(partial)


def add_sums(plan: Plan) -> None:
    """Give the cache of an older version its checksums: from now on a change is noticed."""
    log.info("the token cache %s has no checksums yet: it gets them, taken as it is", plan.path)
    cache = TokenCache(plan.path, plan.record, plan.layers)
    sums = np.zeros(len(cache.records), SUMS)
    for name, records in cache.files().items():
        for row in range(len(records)):
            sums[name][row] = checksum(as_bytes(records[np.array([row])])[0])
    _write_sums(plan.path, sums)
    write_header(plan.path, plan, list(cache.rows))


def mend(plan: Plan, cache: TokenCache, compute: Compute) -> None:
    """Compute a cache's damaged records again, and write them in their places."""
    assert cache.sums is not None
    cache.sums[:] = read_sums(plan.path)  # another run may have mended it meanwhile
    damaged = {name: set(records.damaged()) for name, records in cache.files().items()}
    rows, ids = sorted(set().union(*damaged.values())), list(cache.rows)
    if not rows:
        return
    log.warning(
        "the token cache %s is damaged: %s of its %s records are not what was written, of %s; they "
        "are computed again",
        plan.path,
        f"{len(rows):,}",
        f"{len(ids):,}",
        some(dict.fromkeys(_picture(plan, ids[row]) for row in rows)),
    )
    other, left = 0, rows
    try:
        for batch in compute([ids[row] for row in rows]):
            for (name, bad), records in zip(damaged.items(), batch, strict=False):
                for row, record in zip(left, records, strict=False):
                    other += row in bad and _put(cache, name, row, as_bytes(record[None])[0])
            left = left[len(batch[0]) :]
        if other:
            _write_sums(plan.path, cache.sums)
    except PermissionError as error:
        raise UserError(
            f"{error.filename} can't be written to, and records of this token cache are damaged; "
            "train.data names another place"
        ) from None
    if other:
        log.warning(
            "%s of them have another checksum than they had: where another machine or version of "
            "PyTorch made them, they may differ in their last digits",
            other,
        )
    else:
        log.info("bit by bit they are as they were")


def _picture(plan: Plan, id_: str) -> str:
    images, (index, _) = plan.draws[id_]
    return text_of(images.samples[index].path.name)


def _put(cache: TokenCache, name: str, row: int, record: np.ndarray) -> bool:
    """Write a record in its place; whether its checksum is another than it was."""
    assert cache.sums is not None
    with open(cache.files()[name].path, "r+b") as file:
        file.seek(row * len(record))
        file.write(record.data)
        file.flush()
        os.fsync(file.fileno())
    before, cache.sums[name][row] = cache.sums[name][row], checksum(record)
    return bool(before != cache.sums[name][row])


def _write_sums(folder: Path, sums: np.ndarray) -> None:
    with replacing(folder / "sums.bin") as temporary:
        sums.tofile(temporary)
