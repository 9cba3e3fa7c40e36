"""A run's pictures on a page: data URLs, small and undistorted."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from filenames import name_of
from images import read_image
from inspection.record import Record

LONGER = 200  # pixels of a thumbnail's longer side
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data URL; None where it can't be read any more."""

    url: str | None
    width: int = LONGER
    height: int = LONGER


def thumbnail(record: Record, listed: str) -> Thumbnail:
    """A picture of a run, by its path below the run's folder of pictures."""
    path = below(record.pictures, listed)
    try:
        return as_thumbnail(small(path, record.greys)) if path else Thumbnail(None)
    except Exception:  # damaged files make Pillow raise nearly anything
        return Thumbnail(None)


def small(path: Path, greys: tuple[float, float] | None = None) -> Image.Image:
    """A picture's file, its longer side LONGER pixels at most."""
    picture = Image.fromarray(read_image(path, greys, None))
    picture.thumbnail((LONGER, LONGER))
    return picture


def as_thumbnail(picture: Image.Image) -> Thumbnail:
    """A picture, as large as it is, as a data URL."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail(data_url(file, "jpeg"), *picture.size)


def data_url(file: BytesIO, kind: str) -> str:
    """A picture's file as a page holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def below(root: Path | None, path: str) -> Path | None:
    """A listed path in its folder, where links may lead anywhere; None where the path itself leads
    out of it."""
    inner = Path(name_of(path))
    if root is None or inner.is_absolute() or inner.drive or ".." in inner.parts:
        return None
    return root / inner
