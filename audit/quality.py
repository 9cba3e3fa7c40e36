"""Pictures that teach little, whatever they show: blank, tiny, very dark, blurred, or strips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from audit.odd import far_out
from filing.csv_files import read_csv
from images import Sample, read_unchanged
from utils import UserError, progress_bar, write_csv

SIDE = 256  # pixels of the shorter side that are looked at, about what a network is shown
BLANK = 4.0  # grey levels, the standard deviation: hardly anything is to be seen
DARK = 40.0  # grey levels: the brightest percent is no brighter
TINY = 48  # pixels of the shorter side: a network is shown one pixel of it as twenty
STRIP = 5.0  # times as long as wide: a centre crop shows a fifth
BLURRED = -3.5  # ln: of the sharpness of a picture, at most, beside that it is far below the others
COLUMNS = ("sha256", "width", "height", "contrast", "brightest", "sharpness")


@dataclass(frozen=True)
class Look:
    """A picture's size in pixels, contrast (the standard deviation of its greys), brightest percent
    and sharpness (ln of the Laplacian's variance over that of the greys)."""

    width: int
    height: int
    contrast: float
    brightest: float
    sharpness: float


def look(pixels: np.ndarray) -> Look:
    """The numbers of pixels (h, w, 3)."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    if (factor := SIDE / min(width, height)) < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    contrast = float(grey.std())
    sharp = 0.0
    if min(grey.shape) > 2 and contrast > 0:
        centre = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
        sharp = float(np.log((laplacian.var() + 1e-6) / contrast**2))
    return Look(width, height, contrast, float(np.quantile(grey, 0.99)), sharp)


def looks(samples: Sequence[Sample], remembered: Path) -> list[Look]:
    """The numbers of each picture; those that the table `remembered` has are not read again."""
    known = _known(remembered)
    missing = {s.sha256: s for s in samples if s.sha256 not in known}
    if missing:
        with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda s: look(read_unchanged(s)), missing.values())
            bar = progress_bar(found, "quality", total=len(missing), unit="image")
            known |= dict(zip(missing, bar, strict=True))
        values = ((digest, *vars(x).values()) for digest, x in known.items())
        write_csv(remembered, (dict(zip(COLUMNS, v, strict=True)) for v in values), COLUMNS)
    return [known[s.sha256] for s in samples]


def _known(path: Path) -> dict[str, Look]:
    try:
        rows = read_csv(path, COLUMNS)
        return {
            r["sha256"]: Look(
                int(r["width"]),
                int(r["height"]),
                *(float(r[name]) for name in COLUMNS[3:]),
            )
            for r in rows
        }
    except (UserError, ValueError):
        return {}


def faults(found: Sequence[Look]) -> list[tuple[float, str] | None]:
    """What is wrong with each picture, and how many times the limit it is; None: nothing."""
    if not found:
        return []
    least = -far_out(np.array([-x.sharpness for x in found]))
    return [_fault(x, min(least, BLURRED)) for x in found]


def _fault(x: Look, least_sharp: float) -> tuple[float, str] | None:
    short, long = sorted((x.width, x.height))
    size = f"{x.width} × {x.height} pixels"
    if x.contrast < BLANK:
        return BLANK / max(x.contrast, 0.1), "blank: hardly anything is to be seen"
    if short < TINY:
        return TINY / short, f"tiny: {size}"
    if x.brightest < DARK:
        return DARK / max(
            x.brightest, 1.0
        ), f"very dark: hardly a pixel above {x.brightest:.0f} of 255"
    if long > STRIP * short:
        return long / short / STRIP, f"a strip: {size}"
    if x.sharpness < least_sharp:
        return float(np.exp(least_sharp - x.sharpness)), "blurred, far more than the others"
    return None
