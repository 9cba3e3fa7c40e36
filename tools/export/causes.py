"""Why a library's own reading makes something else of a picture file than this project does."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from config import Preprocessing
from decoding.greys import is_deep

CLIPPED = "greys of 16 bits, which it clips"
TRANSPARENT = "transparency, which it leaves out"
HALF_A_PIXEL = "its middle is cut out one pixel further to the left or up"
PADDED_FIRST = "filled up to a square before it is resized"
RESIZED = "resized by other code"


def cause(path: Path, known: tuple[str, ...], preprocessing: Preprocessing) -> str:
    """The first of the `known` causes, of a target's, that there is in a picture file."""
    with Image.open(path) as picture:
        there = {
            CLIPPED: is_deep(picture),
            TRANSPARENT: "A" in picture.getbands() or "transparency" in picture.info,
            HALF_A_PIXEL: preprocessing.fit == "crop" and between(picture.size, preprocessing),
            PADDED_FIRST: preprocessing.fit == "pad" and picture.width != picture.height,
        }
    return next((name for name in known if there.get(name)), RESIZED)


def between(sides: tuple[int, int], preprocessing: Preprocessing) -> bool:
    """Whether a crop's middle lies between two pixels, of which torchvision takes the second: it
    rounds half a pixel to the even number, and transformers cuts it off."""
    size, shorter = preprocessing.image_size, min(sides)
    target = round(size / preprocessing.crop)
    margins = [int(side * target / shorter) - size for side in sides]
    return any(round(margin / 2) != margin // 2 for margin in margins)
