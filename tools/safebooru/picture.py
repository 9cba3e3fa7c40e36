"""A file's bytes as a picture, if they are the published ones and all of them can be decoded."""

from __future__ import annotations

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from decoding.formats import MEGA, TooLarge, open_picture
from images import pixels_of
from tools.safebooru.board import Again, Refused

MOST_PIXELS = 100 * MEGA  # a poster at 600 dots an inch; one that unpacks to more is a trap
MOVING = ("GIF", "WEBP", "PNG", "AVIF")  # formats whose further frames are a film


class Picture(NamedTuple):
    """A file's content, its sha256, and its pixels (h, w, 3)."""

    content: bytes
    sha256: str
    pixels: np.ndarray

    @property
    def size(self) -> int:
        """How many pixels it has."""
        return self.pixels.shape[0] * self.pixels.shape[1]


def see_that_it_is(content: bytes, md5: str) -> None:
    """Raise Again where a file is not the one with this md5."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found == md5:
        return
    if content.lstrip()[:1] == b"<":
        raise Again("a web page instead of the picture")
    raise Again(f"its md5 is {found}, and {md5} was published", lasting=True)


def decoded(content: bytes, name: str) -> Picture:
    """All of a file's pixels. Raises Refused where it is no still picture that can be read."""
    try:
        image = open_picture(content, name, MOST_PIXELS)
        if _moves(content):
            raise Refused("no still picture: it is animated")
        return Picture(content, hashlib.sha256(content).hexdigest(), pixels_of(image))
    except (Refused, MemoryError):
        raise
    except TooLarge as error:
        raise Refused(f"too large: {str(error).partition(' pixels')[0]} pixels") from None
    except UnidentifiedImageError:
        raise Refused("unreadable: not an image") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything
        words = " ".join(str(error).split())[:120]
        raise Refused(f"unreadable: {words or type(error).__name__}") from None


def _moves(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        return image.format in MOVING and getattr(image, "n_frames", 1) > 1
