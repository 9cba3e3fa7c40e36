"""The pictures of a page: data URLs, small and undistorted."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from images import read_image
from system.filenames import name_of

LONGER = 200  # pixels of a thumbnail's longer side
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URL; None where it can't be read any more."""

    url: str | None
    width: int = LONGER
    height: int = LONGER


def thumbnail(
    root: Path | None,
    listed: str,
    greys: tuple[float, float] | None = None,
    longer: int = LONGER,
) -> Thumbnail:
    """A picture, by its path below a folder of pictures."""
    path = below(root, listed)
    try:
        return as_thumbnail(small(path, greys, longer)) if path else Thumbnail(None)
    except Exception:  # damaged files make Pillow raise nearly anything
        return Thumbnail(None)


def small(
    path: Path, greys: tuple[float, float] | None = None, longer: int = LONGER
) -> Image.Image:
    picture = Image.fromarray(read_image(path, greys, None))
    picture.thumbnail((longer, longer))
    return picture


def as_thumbnail(picture: Image.Image) -> Thumbnail:
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail(data_url(file, "jpeg"), *picture.size)


def data_url(file: BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def below(root: Path | None, path: str) -> Path | None:
    """A listed path in its folder, where links may lead anywhere; None where the path itself leads
    out of it."""
    inner = Path(name_of(path))
    if root is None or inner.is_absolute() or inner.drive or ".." in inner.parts:
        return None
    return root / inner
