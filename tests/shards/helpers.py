"""Small sets of shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from config import TrainConfig
from dataset import Split, load_split
from tests.helpers import COLOURS, picture
from tools import shard


def shards_of(pictures: Path, out: Path, *words: str, size: str = "40KB") -> Path:
    """Shards of a folder of pictures, some of them."""
    shard.main([str(pictures), str(out), f"--size={size}", f"train.data={out.parent}", *words])
    return out


def split_of(base_dir: Path | str, data: Path, **keys: Any) -> Split:
    return load_split(TrainConfig(base_dir=str(base_dir), data=str(data), **keys))


def png(name: str, number: int) -> bytes:
    file = io.BytesIO()
    picture(name, number, (16, 12)).save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    """A tar as Python writes it."""
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5  # type: ignore[assignment]  a pax header's
            tar.addfile(info, io.BytesIO(content))
    return path


def sample_files(each: int = 6) -> dict[str, bytes]:
    """A WebDataset of others: pictures and the numbers of their classes."""
    found = {}
    for number in range(each):
        for label, name in enumerate(COLOURS):
            key = f"{name}/{number:03}"
            found |= {f"{key}.png": png(name, number), f"{key}.cls": str(label).encode()}
    return found
