"""Parts for pictures of shards that say none: a stratified draw by their contents."""

from __future__ import annotations

import numpy as np

from layout.split_file import PARTS
from shards.packed import Packed
from utils import UserError


def drawn(
    samples: Packed, classes: tuple[str, ...], seed: int, cuts: dict[str, float]
) -> np.ndarray:
    """The parts, with so large a share of each class's training pictures held out; copies stay
    together. A picture's place in the draw is its own, so others that come later move few."""
    parts, train = samples.parts.copy(), PARTS.index("train")
    place = _mixed(samples.digests(), seed)
    for label, name in enumerate(classes):
        mine = np.flatnonzero((samples.labels == label) & (parts == train))
        order = mine[np.argsort(place[mine], kind="stable")]
        different, first = np.unique(place[order], return_index=True)
        if len(order) and len(different) <= len(cuts):
            raise UserError(
                f"class {name} has {len(different)} different image(s): it needs {len(cuts) + 1} "
                f"or more, one to train on and one for {' and one for '.join(cuts)}"
            )
        ends, used = [*first[1:], len(order)], 0  # of the groups of copies
        for i, (part, share) in enumerate(cuts.items()):
            begin = ends[used - 1] if used else 0
            fit = int(np.searchsorted(ends, begin + round(share * len(order)), side="right"))
            used = max(used + 1, min(fit, len(ends) - (len(cuts) - i)))
            parts[order[begin : ends[used - 1]]] = PARTS.index(part)
    return parts


def _mixed(digests: np.ndarray, seed: int) -> np.ndarray:
    """64 bits of each, mixed with a seed: splitmix64, https://prng.di.unimi.it/splitmix64.c"""
    with np.errstate(over="ignore"):
        z = digests + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def without_held_out(samples: Packed, notes: list[str]) -> Packed:
    """Without the training pictures that are held out as well, and the validation pictures that
    are in the test part: what is held out stays so."""
    digests = samples.digests()
    gone = np.zeros(len(samples), bool)
    for earlier, later in (("train", ("val", "test")), ("val", ("test",))):
        held = np.isin(samples.parts, [PARTS.index(part) for part in later])
        gone |= (samples.parts == PARTS.index(earlier)) & np.isin(digests, digests[held])
    if not gone.any():
        return samples
    notes.append(f"{gone.sum():,} pictures are the same as held-out ones, and are not used")
    return samples.of(~gone)
