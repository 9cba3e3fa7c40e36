"""Colours of 16 bits: Pillow gives the upper 8 of each, and the lower 8 to whoever asks for the
bytes in the other order."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from PIL import Image

LOWER = "lower"  # of a picture's `info`: another one, of the lower bytes
OTHER_ORDER = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B"}
OTHER_ORDER["RGB;16N"] = OTHER_ORDER["RGB;16L" if sys.byteorder == "little" else "RGB;16B"]


def tiles_of_lower(picture: Image.Image) -> list[Any] | None:
    """How a PNG or TIFF that isn't loaded yet is to be read for its lower bytes; None where it has
    no colours of 16 bits."""
    found = []
    for tile in getattr(picture, "tile", ()):
        how = tile[3]
        order = how if isinstance(how, str) else how[0] if how else None
        if order not in OTHER_ORDER:
            return None
        turned_over = OTHER_ORDER[order]
        other = turned_over if isinstance(how, str) else (turned_over, *how[1:])
        found.append(tile._replace(args=other) if hasattr(tile, "_replace") else (*tile[:3], other))
    return found or None


def lower_of(content: bytes, formats: tuple[str, ...], tiles: list[Any]) -> Image.Image:
    """A picture of a file's lower bytes."""
    with Image.open(io.BytesIO(content), formats=formats) as other:
        other.tile = tiles
        other.load()
    return other


def turned(picture: Image.Image, how: Image.Transpose) -> Image.Image:
    """A picture upright, with its lower bytes."""
    found = picture.transpose(how)
    if LOWER in picture.info:
        found.info[LOWER] = picture.info[LOWER].transpose(how)
    return found


def both(picture: Image.Image) -> np.ndarray:
    """The values (h, w, 3), uint16, of a picture with its lower bytes."""
    values = np.asarray(picture).astype(np.uint16) << 8
    values |= np.asarray(picture.info[LOWER])
    return values
