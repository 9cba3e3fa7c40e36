"""Greys and colours of more than 8 bits: which values are black and white, by one rule for a set.

8 bits hold what a screen shows. Of a camera's 12 bits, of CT numbers, of floats, a file does not
say which values are its black and white, and its own darkest and brightest are no measure: a dim
picture would look like a bright one. So the training pictures have one scale together. It travels
with the weights (`Preprocessing.greys`), and whatever is shown to them later is shown by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from decoding.formats import NO_DATA, SAMPLE_FORMAT
from decoding.halves import LOWER, both

Greys = tuple[float, float]  # the values that are shown black and white
# Usual scales, the smallest first: bits of cameras and scanners, CT numbers of 12 bits.
WHOLE: tuple[Greys, ...] = ((0, 1), (0, 255), (0, 1023), (0, 4095), (-1024, 3071))
WHOLE += ((0, 16383), (0, 65535))
FRACTIONS: tuple[Greys, ...] = ((0, 1), (-1, 1), (0, 255), (0, 65535))
LEAST_SHARE = 0.25  # of a usual scale: with less of it, the set's own is taken, for contrast
IGNORED = 1e-4  # the share of a picture's pixels at either end that is no measure: hot pixels
SAMPLE = 1 << 24  # pixels that are looked at, at most
ROWS = 1 << 22  # pixels that are scaled at once: in float64 a large picture would take gigabytes


class Values(NamedTuple):
    """What a picture's values are like: the lowest, the highest (but for `IGNORED`), all whole."""

    low: float
    high: float
    whole: bool

    @property
    def reach(self) -> float:
        return self.high - self.low


def is_deep(picture: Image.Image) -> bool:
    """Whether a picture's greys, or colours, have more than 8 bits."""
    return picture.mode.startswith("I") or picture.mode == "F" or LOWER in picture.info


def values_of(picture: Image.Image) -> np.ndarray:
    """A deep picture's values (h, w), as the file means them, NaN where it says there is none; or
    its colours (h, w, 3)."""
    if LOWER in picture.info:
        return both(picture)
    values, tags = np.asarray(picture), picture.info.get("tags", {})
    if values.dtype == np.int32 and tags.get(SAMPLE_FORMAT) in (1, (1,)) and values.min() < 0:
        values = values.view(np.uint32)  # Pillow has no such mode
    try:
        none = float(str(tags[NO_DATA]).strip(" \0"))
    except (KeyError, ValueError):
        return values
    return np.where(values == none, np.float32(np.nan), values) if none == none else values


def describe(values: np.ndarray) -> Values:
    """What the values of a picture are like."""
    some = values.reshape(-1)[:: 1 + values.size // SAMPLE]
    some = some[np.isfinite(some)]
    if not some.size:
        return Values(0.0, 0.0, True)
    low = np.quantile(some, IGNORED, method="lower")
    high = np.quantile(some, 1 - IGNORED, method="higher")
    return Values(float(low), float(high), bool((some == np.floor(some)).all()))


def scale(pictures: Iterable[Values]) -> Greys:
    """The values that are black and white in a set of pictures: the smallest usual scale that
    holds all of theirs, or where they are little of it, from the lowest to the highest."""
    each = list(pictures)
    low, high = min(v.low for v in each), max(v.high for v in each)
    known = WHOLE if all(v.whole for v in each) else FRACTIONS
    for black, white in known:
        fills = high == low or high - low >= LEAST_SHARE * (white - black)
        if black <= low and high <= white and fills:
            return float(black), float(white)
    return low, high if high > low else low + 1


def usual(values: np.ndarray) -> Greys:
    """The scale of one picture of which nothing else is known: colours use all of their bits."""
    return WHOLE[-1] if values.ndim == 3 else scale([describe(values)])


def shown(values: np.ndarray, greys: Greys) -> np.ndarray:
    """Values (h, w) or (h, w, 3) as uint8, black and white where `greys` says; NaN is black."""
    low, high = greys
    out = np.empty(values.shape, dtype=np.uint8)
    step = max(1, ROWS // max(1, values.shape[1]))
    for top in range(0, len(values), step):
        rows = np.clip(values[top : top + step].astype(np.float64), low, high)
        rows = (rows - low) * (255 / (high - low)) + 0.5
        out[top : top + step] = np.nan_to_num(rows, nan=0.0).clip(0, 255).astype(np.uint8)
    return out
