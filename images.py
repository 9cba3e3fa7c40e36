"""One image file, read right; many of them, as samples.

Which files are pictures stands in formats.py, and what becomes of more than 8 bits in greys.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from decoding.duplicates import descriptor
from decoding.file_index import FileIndex, Read
from decoding.files import content_of, few_large
from decoding.formats import (
    MAX_PIXELS,
    check_size,
    one_by_one,
    open_picture,
    why,
)
from decoding.greys import Greys, Values, describe, is_deep, scale, shown, usual, values_of
from system.filenames import text_of
from utils import UserError, progress_bar, some

# Decoded images stay in memory while they take less than this share of what is free.
CACHE_SHARE = 0.25
AHEAD = 64  # files that are read while others are looked at
BAND = 1 << 24  # pixels that are converted at once
LEAST_LEVELS = 8  # of 256, of which a picture is made, or its set has no scale for it


@dataclass(frozen=True)
class Sample:
    """One image: where it lies, the index of its class, its part, its content's hash, the values
    that are its black and white, where it has greys of more than 8 bits, and the group of pictures
    that stay together in a part and a fold: its copies', where no other is given."""

    path: Path
    label: int
    part: str
    sha256: str
    greys: Greys | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.sha256)

    def content(self) -> bytes:
        """The bytes of its file. Raises OSError or ValueError where it can't be read."""
        return content_of(self.path)

    @property
    def remedy(self) -> str:
        """What to do where its bytes are no longer those that were read first."""
        return "run again"


def read_image(
    source: Path | BinaryIO, greys: Greys | None = None, most: int | None = MAX_PIXELS
) -> np.ndarray:
    """An image file of any mode as RGB, uint8, (h, w, 3).

    EXIF rotation is applied, an animation gives its first frame, transparency is laid on white.
    Greys of more than 8 bits are black and white at `greys`: what their training pictures have
    together; without, the scale is found from this one alone. Raises OSError, SyntaxError or
    ValueError where it can't be read, or has more than `most` pixels.
    """
    if isinstance(source, Path):
        with few_large(source):
            return pixels_of(open_picture(content_of(source), source.name, most), greys)
    return pixels_of(open_picture(source.read(), most=most), greys)


def pixels_of(picture: Image.Image, greys: Greys | None = None) -> np.ndarray:
    """A picture of any mode as `read_image` gives it."""
    if is_deep(picture):
        values = values_of(picture)
        picture = Image.fromarray(shown(values, greys or usual(values)))
    width, height = picture.size
    if width * height <= BAND:
        return _rgb(picture)
    pixels = np.empty((height, width, 3), np.uint8)  # in bands: copies of all would take gigabytes
    step = max(1, BAND // width)
    for top in range(0, height, step):
        end = min(height, top + step)
        pixels[top:end] = _rgb(picture.crop((0, top, width, end)))
    return pixels


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (h, w, 3) as what the transforms take, (3, h, w), uint8."""
    own = pixels if pixels.flags.writeable else pixels.copy()
    return torch.from_numpy(own).permute(2, 0, 1)


def _hash_and_decode(path: Path, known: FileIndex | None, most: int | None = MAX_PIXELS) -> Read:
    """Read one file, and let `known` know of it."""
    try:
        with few_large(path):
            content = content_of(path)
            read = _decoded(hashlib.sha256(content).hexdigest(), content, path.name, most)
        if known is not None:
            known.note(path, read)
        return read
    except Exception as error:  # damaged files make Pillow raise nearly anything
        return Read("", None, why(error))


def _decoded(digest: str, content: bytes, name: str, most: int | None) -> Read:
    picture = open_picture(content, name, most)
    with one_by_one(picture.size):
        if not is_deep(picture):
            pixels = pixels_of(picture)
            return Read(digest, pixels, None, picture.size, None, descriptor(pixels))
        values = values_of(picture)
        about = describe(values)
        full = (about.low, about.high) if about.low < about.high else (0.0, 1.0)
        small = descriptor(shown(values, full))
        return Read(digest, values, None, picture.size, about, small)


def available_memory() -> int:
    """Bytes of memory that a program can take now; a guess of 4 GB where the system won't say."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
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
    """What reading many files gave: the contents' hashes, the pixels (3, h, w) of some, the values
    (h, w) of some deep ones (see greys.py) and what all of those are like, the descriptors (see
    decoding/duplicates.py), and the files that can't be read, with the reason."""

    digests: dict[Path, str] = field(default_factory=dict)
    decoded: dict[Path, Tensor] = field(default_factory=dict)
    deep: dict[Path, np.ndarray] = field(default_factory=dict)
    values: dict[Path, Values] = field(default_factory=dict)
    descriptors: dict[Path, np.ndarray] = field(default_factory=dict)
    bad: list[tuple[Path, str]] = field(default_factory=list)


def read_all(
    paths: Sequence[Path], known: FileIndex | None = None, most: int | None = MAX_PIXELS
) -> Reading:
    """Hash and decode every file once; the decoded ones are kept while they fit the memory.

    A picture of more than `most` pixels is not read.
    """
    found = Reading()
    budget = CACHE_SHARE * available_memory()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = _read_in_order(pool, paths, known, most)
        for path, read in progress_bar(results, "reading images", len(paths)):
            if read.reason is not None:
                found.bad.append((path, read.reason))
                continue
            found.digests[path] = read.digest
            if read.descriptor is not None:
                found.descriptors[path] = read.descriptor
            if read.values is not None:
                found.values[path] = read.values
            if read.pixels is None:
                continue
            budget -= read.pixels.nbytes
            if budget <= 0:
                found.decoded.clear()
                found.deep.clear()
            elif read.values is not None:
                found.deep[path] = read.pixels
            else:
                found.decoded[path] = as_tensor(read.pixels)
    return found


def _read_in_order(
    pool: ThreadPoolExecutor, paths: Sequence[Path], known: FileIndex | None, most: int | None
) -> Iterator[tuple[Path, Read]]:
    """What each file gives; those that `known` vouches for are not opened. A few files are read
    ahead: for all at once, what is to be done would take more memory than what comes of it."""
    ahead: deque[tuple[Path, Read | Future[Read]]] = deque()
    for path in paths:
        entry = None if known is None else _known(path, known, most)
        ahead.append((path, entry or pool.submit(_hash_and_decode, path, known, most)))
        while len(ahead) > AHEAD or (ahead and isinstance(ahead[0][1], Read)):
            yield _waited_for(*ahead.popleft())
    yield from (_waited_for(*one) for one in ahead)


def _known(path: Path, known: FileIndex, most: int | None) -> Read | None:
    entry = known.get(path)
    try:
        if entry is not None:
            check_size(entry.size, most)
    except ValueError as error:
        return Read("", None, why(error))
    return entry


def _waited_for(path: Path, read: Read | Future[Read]) -> tuple[Path, Read]:
    return path, read if isinstance(read, Read) else read.result()


def with_greys(
    samples: list[Sample], reading: Reading, asked: Greys | Literal["auto"], notes: list[str]
) -> list[Sample]:
    """The samples with the values that are black and white of those with more than 8 bits: what is
    asked for, or by `greys.scale` of the training part. The notes get a line that says so.

    Pictures whose values were kept are shown by it, and kept so.
    """
    deep = [sample for sample in samples if sample.path in reading.values]
    if not deep:
        return samples
    training = [sample for sample in deep if sample.part == "train"] or deep
    auto = asked == "auto"
    if asked != "auto" and not asked[0] < asked[1]:
        raise UserError(f"train.greys: black, {asked[0]:g}, must be less than white, {asked[1]:g}")
    greys = scale(reading.values[s.path] for s in training) if asked == "auto" else asked
    for path in list(reading.deep):
        values = Image.fromarray(shown(reading.deep.pop(path), greys))
        reading.decoded[path] = as_tensor(np.asarray(values.convert("RGB")))
    held = [reading.values[sample.path] for sample in training]
    low, high = min(v.low for v in held), max(v.high for v in held)
    note = (
        f"{len(deep)} picture{' has' if len(deep) == 1 else 's have'} greys or colours of more "
        f"than 8 bits ({low:g} to {high:g} in the training part): shown with {greys[0]:g} black "
        f"and {greys[1]:g} white"
    )
    note += "; train.greys=[black,white] sets others" if auto else ", as train.greys says"
    notes.append(note)
    least = LEAST_LEVELS / 256 * (greys[1] - greys[0])
    if flat := [s for s in deep if 0 < reading.values[s.path].reach < least]:
        notes.append(
            f"beware: {len(flat)} of them have less than 1/{256 // LEAST_LEVELS} of that, and are "
            f"nearly of one grey: {some(sorted(text_of(str(s.path)) for s in flat), 3)}; give all "
            "pictures one kind of values"
        )
    return [replace(s, greys=greys) if s.path in reading.values else s for s in samples]


def greys_of(samples: Iterable[Sample]) -> Greys | None:
    """The values that are black and white in those with more than 8 bits, if there are any."""
    return next((sample.greys for sample in samples if sample.greys), None)


def unchanged(sample: Sample) -> bytes:
    """A sample's bytes; UserError where the file is no longer what was split."""
    with contextlib.suppress(OSError, ValueError):
        content = sample.content()
        if hashlib.sha256(content).hexdigest() == sample.sha256:
            return content
    raise _changed(sample)


def read_unchanged(sample: Sample) -> np.ndarray:
    """A sample's pixels; UserError where the file is no longer what was split."""
    content = unchanged(sample)
    with contextlib.suppress(OSError, ValueError):
        return pixels_of(open_picture(content, sample.path.name, None), sample.greys)
    raise _changed(sample)


def _changed(sample: Sample) -> UserError:
    return UserError(f"{sample.path} was changed while it was in use; {sample.remedy}")


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Samples through a transform: an item is the image (c, h, w), float32, and its label.

    A key (index, draw) takes that draw of the transform's random numbers; they depend on it, the
    seed and the picture's content alone, so they are the same whatever the number of workers, the
    other pictures, and after a resume. With `first`, draw 1 is that transform instead.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
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
