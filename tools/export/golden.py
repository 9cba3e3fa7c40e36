"""The golden pictures of an export: what it must answer as the classifier does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from classifier import Answer, Classifier
from config import ConfigError
from config_file import load_config
from decoding.files import is_there
from decoding.greys import Greys
from images import read_image
from layout.split_file import read_split
from shards.place import root_of
from system.filenames import name_of
from tools.export.given import Given
from utils import progress_bar

PICTURES = 32
LONGER = 256  # pixels of the longer side, at most: they travel along
DEEPEST = 65_535  # the brightest of 16 bits
HELD_OUT = ("test", "val")
MOST_ASKED = 1_000  # held-out pictures, for an accuracy
ORIENTATION, TURNED = 0x112, 6  # EXIF's: shown turned by 90 degrees, clockwise


def golden_pictures(given: Given) -> list[tuple[str, bytes]]:
    """Names and contents of 32 small picture files: one of each kind that readers disagree about,
    and as many plain ones of every class from the run's held-out pictures; drawn noise where those
    are not to be had."""
    variants = [name for name in _VARIANTS if name != "tiny"]
    needed = PICTURES - len(_VARIANTS)
    own = not getattr(given.options, "no_pictures", False)
    plain = _held_out(given, needed) if own else []
    while len(plain) < needed:
        plain.append((f"noise {len(plain)}", _noise(len(plain))))
    found = [
        (f"{i:02}-{_short(label)}.jpg", _jpeg(picture)) for i, (label, picture) in enumerate(plain)
    ]
    greys = given.classifier.preprocessing.greys
    for i, name in enumerate([*variants, "tiny"]):
        extension, content = _variant(name, plain[i * len(plain) // len(_VARIANTS)][1], greys)
        found.append((f"{needed + i:02}-{name}.{extension}", content))
    return found


def expected(classifier: Classifier, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's inputs (n, c, h, w) of picture files, float32, and its probabilities
    (n, C)."""
    import torch

    inputs = torch.stack([classifier.input_of(file) for file in files])
    return inputs.numpy(), classifier.probabilities(inputs)[0].numpy()


def held_out_files(run: Path | None, parts: tuple[str, ...] = HELD_OUT) -> dict[str, list[Path]]:
    """A run's held-out pictures by class, as far as they are still there; those of the test part
    come first."""
    if run is None or not (run / "split.csv").is_file() or not (run / "config.yaml").is_file():
        return {}
    try:
        train = load_config(run / "config.yaml")[0].train
    except ConfigError:  # of an older version
        return {}
    root = root_of(train.base_dir, train.data).expanduser()
    rows = [row for row in read_split(run / "split.csv").values() if row["part"] in parts]
    found: dict[str, list[Path]] = {}
    for row in sorted(rows, key=lambda row: HELD_OUT.index(row["part"])):
        path = root / name_of(row["path"])
        if is_there(path):
            found.setdefault(name_of(row["label"]), []).append(path)
    return found


def answered(
    classifier: Classifier, files: dict[str, list[Path]], what: str
) -> Iterator[tuple[Path, str, Answer]]:
    """Pictures with their labels and the classifier's answers, MOST_ASKED at most, of each class
    its share; without those that can't be read any more."""
    some = [(path, label) for label, paths in files.items() for path in paths]
    if len(some) > MOST_ASKED:
        some = [some[i * len(some) // MOST_ASKED] for i in range(MOST_ASKED)]
    truth = dict(some)
    if not truth:
        return
    answers = classifier.stream(list(truth))
    for path, answer in progress_bar(answers, what, len(truth), unit="picture"):
        if isinstance(answer, Answer):
            yield path, truth[path], answer


def _held_out(given: Given, most: int) -> list[tuple[str, Image.Image]]:
    """So many held-out pictures with their classes, each class in its turn."""
    by_class = held_out_files(given.run)
    greys = given.classifier.preprocessing.greys
    labels = sorted(by_class)
    turns = zip_longest(*(by_class[label] for label in labels))
    order = [(labels[i], path) for turn in turns for i, path in enumerate(turn) if path]
    found: list[tuple[str, Image.Image]] = []
    for label, path in order:
        if len(found) == most:
            break
        try:
            picture = Image.fromarray(read_image(path, greys))
        except Exception:  # damaged since: another will do
            continue
        picture.thumbnail((LONGER, LONGER), Image.Resampling.LANCZOS)
        found.append((label, picture))
    return sorted(found, key=lambda pair: pair[0])


def _noise(seed: int) -> Image.Image:
    """Coarse coloured noise, a picture's size."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((LONGER, LONGER * 3 // 4), Image.Resampling.BICUBIC)


def _short(label: str) -> str:
    """A class's name as part of a file's, plain letters alone."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in label)
    return kept.strip("-")[:24] or "class"


def _jpeg(picture: Image.Image, **options: object) -> bytes:
    return _encoded(picture, "JPEG", quality=90, **options)


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


_VARIANTS = ("exif", "cmyk", "grey", "grey16", "alpha", "palette", "wide", "tall", "tiny")


def _variant(name: str, picture: Image.Image, greys: Greys | None) -> tuple[str, bytes]:
    """A picture in a kind of file that readers disagree about: its extension and content."""
    w, h = picture.size
    if name == "exif":
        exif = Image.Exif()
        exif[ORIENTATION] = TURNED
        return "jpg", _jpeg(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
    if name == "cmyk":
        return "jpg", _jpeg(picture.convert("CMYK"))
    if name == "grey":
        return "jpg", _jpeg(picture.convert("L"))
    if name == "grey16":
        black, white = np.clip(greys or (0, DEEPEST), 0, DEEPEST)
        values = black + np.asarray(picture.convert("L")) / 255 * (white - black)
        return "png", _encoded(Image.fromarray(values.round().astype(np.uint16)), "PNG")
    if name == "alpha":
        ramp = np.linspace(0, 255, w).astype(np.uint8)
        picture.putalpha(Image.fromarray(np.tile(ramp, (h, 1))))
        return "png", _encoded(picture, "PNG")
    if name == "palette":
        return "png", _encoded(picture.quantize(64), "PNG")
    sizes = {"wide": (2 * LONGER, LONGER // 8), "tall": (LONGER // 8, 2 * LONGER), "tiny": (5, 3)}
    resized = picture.resize(sizes[name], Image.Resampling.BICUBIC)
    return ("png", _encoded(resized, "PNG")) if name == "tiny" else ("jpg", _jpeg(resized))
