"""One image file, read right; many of them, as samples; the index of files already read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from utils import UserError, write_text

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Decoded images stay in memory while they take less than this share of what is free.
CACHE_SHARE = 0.25


@dataclass(frozen=True)
class Sample:
    """One image: where it lies, the index of its class, its part, and its content's hash."""

    path: Path
    label: int
    part: str
    sha256: str


def read_image(source: Path | BinaryIO) -> np.ndarray:
    """An image file of any mode as RGB, uint8, (h, w, 3).

    EXIF rotation is applied, an animation gives its first frame, 16 bits are scaled to 8, and
    transparency is laid on white. Raises OSError, SyntaxError or ValueError where it can't be read.
    """
    with Image.open(source) as image:
        image.seek(0)
        image.load()
        picture = ImageOps.exif_transpose(image)
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        # PIL gives 16-bit greys as I;16 or I, and would clip them instead of scaling.
        scale = 257.0 if picture.mode.startswith("I;16") or values.max() > 255 else 1.0
        picture = Image.fromarray(np.clip(values / scale + 0.5, 0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (h, w, 3) as what the transforms take, (3, h, w), uint8."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _hash_and_decode(
    path: Path, known: FileIndex | None
) -> tuple[str, np.ndarray | None, str | None]:
    """The content's sha256, the pixels, and otherwise the reason why there are none.

    A file that `known` vouches for is not read: its hash comes without pixels and reason.
    """
    try:
        if known is not None and (digest := known.get(path)):
            return digest, None, None
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), read_image(io.BytesIO(content)), None
    except Image.UnidentifiedImageError:
        return "", None, "not an image"
    except Exception as error:  # damaged files make Pillow raise nearly anything
        return "", None, str(error).partition("\n")[0] or type(error).__name__


class FileIndex:
    """The content hashes of images that were read before, so that an unchanged file is not read
    again: one with the same path, size, and times of modification and of change.

    A file that was changed just before it was read is not remembered: what changes it again within
    the clock's tick could not be told. Windows has no time of change, so nothing is remembered.
    """

    TICK_NS = 2_000_000_000  # FAT's

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            entries = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            entries = {}
        self.entries = {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 4}
        self.unknown: dict[str, list[int]] = {}

    def get(self, path: Path) -> str | None:
        """The sha256 of a file that is as it was when it was read."""
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entry = self.entries.get(str(path.absolute()))
        if entry and entry[:3] == state:
            return entry[3]
        # As it was before it is read: a change meanwhile makes it unknown the next time.
        if os.name != "nt" and time.time_ns() - max(state[1:]) >= self.TICK_NS:
            self.unknown[str(path.absolute())] = state
        return None

    def update(self, samples: Sequence[Sample]) -> None:
        """Remember, and write down, what was asked for in vain and is an image."""
        names = {str(sample.path.absolute()): sample.sha256 for sample in samples}
        new = {name: [*self.unknown[name], names[name]] for name in names.keys() & self.unknown}
        if new:
            self.entries |= new
            with contextlib.suppress(OSError, UserError):  # it only saves time
                write_text(self.path, json.dumps(self.entries))


def available_memory() -> int:
    """Bytes of memory that a program can take now; a guess of 4 GB where the system won't say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return min(int(line.split()[1]) * 1024, container_memory())
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def container_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are left to a container with a limit of its own (cgroup v2); else no end of them.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        pairs = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        cached = int(dict(pairs)["inactive_file"])
    except (OSError, ValueError, KeyError):  # no limit reads "max"
        return sys.maxsize
    return max(0, limit - used + cached)


@dataclass
class Reading:
    """What reading many files gave: the contents' hashes, the pixels (3, h, w) of some, and the
    files that can't be read, with the reason."""

    digests: dict[Path, str] = field(default_factory=dict)
    decoded: dict[Path, Tensor] = field(default_factory=dict)
    bad: list[tuple[Path, str]] = field(default_factory=list)


def read_all(paths: Sequence[Path], known: FileIndex | None = None) -> Reading:
    """Hash and decode every file once; the decoded ones are kept while they fit the memory."""
    found = Reading()
    budget = CACHE_SHARE * available_memory()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_hash_and_decode, paths, repeat(known))
        bar = tqdm(zip(paths, results, strict=True), "reading images", len(paths), leave=False)
        for path, (digest, pixels, reason) in bar:
            if reason is not None:
                found.bad.append((path, reason))
                continue
            found.digests[path] = digest
            if pixels is None:
                continue
            budget -= pixels.nbytes
            if budget > 0:
                found.decoded[path] = as_tensor(pixels)
            else:
                found.decoded.clear()
    return found


def read_unchanged(sample: Sample) -> np.ndarray:
    """A sample's pixels; UserError where the file is no longer what was split."""
    with contextlib.suppress(OSError):
        content = sample.path.read_bytes()
        if hashlib.sha256(content).hexdigest() == sample.sha256:
            return read_image(io.BytesIO(content))
    raise UserError(f"{sample.path} was changed while it was in use; run again")


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Samples through a transform: an item is the image (c, h, w), float32, and its label.

    A key (index, draw) takes that draw of the transform's random numbers; they depend on it, the
    seed and the picture's content alone, so they are the same whatever the number of workers, the
    other pictures, and after a resume. With `first`, draw 1 is that transform instead.
    """

    def __init__(
        self,
        samples: list[Sample],
        transform: v2.Compose,
        decoded: dict[Path, Tensor],
        seed: int,
        first: v2.Compose | None = None,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.decoded = decoded
        self.seed = seed
        self.first = first

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        sample = self.samples[index]
        pixels = self.decoded.get(sample.path)
        if pixels is None:
            pixels = as_tensor(read_unchanged(sample))
        with torch.random.fork_rng(devices=[]):
            seeds = np.random.SeedSequence([self.seed, draw, int(sample.sha256[:16], 16)])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
            transform = self.first if draw == 1 and self.first is not None else self.transform
            try:
                return transform(pixels), sample.label
            except UserError as error:  # by a transform of one's own
                raise UserError(f"{error}, on {sample.path}") from error
