"""Near-duplicates: how many that were planted are found, what leaks where they aren't, the cost.

    python -m benchmarks.duplicates [--data DIR] [--seeds 3] [--only planted leak cost]

`planted`: of each set up to 200 pictures are copied in eight ways; a pair is right where it joins a
copy with its original, or with a picture that the original was near before. `leak`: 20 photos a
class of signdigits, each with two copies, and the training part of hymenoptera, each with two; a
fifth is cut off for val by chance, or groups together. What val and the folds say against what a
test part of other photos says is the leak; the head over layers at 112 pixels. `cost`: 10,000
drawn pictures in files, seconds of one core, with grouping and without. Writes
benchmarks/results/duplicates.csv.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.folders import link
from benchmarks.machine import RESULTS
from config import TrainConfig
from dataset import load_split
from decoding.duplicates import SIDE, descriptor, near_pairs
from decoding.formats import EXTENSIONS
from filing.csv_files import read_csv
from images import FileIndex, read_image
from tools.repeat import finished
from utils import UserError, command_line, progress_bar, write_csv

COPIED = 200
SETS = {name: name for name in ("characters5", "hymenoptera", "signdigits", "pilots")}
WORK = Path("logs") / "duplicates"
COLUMNS = ("measure", "set", "kind", "seed", "value")
Way = Callable[[Image.Image, np.random.Generator], Image.Image]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    parts = {"planted": planted, "leak": leak, "cost": cost}
    path = RESULTS / "duplicates.csv"
    rows: list[dict[str, Any]] = []
    for name in args.only:  # the other measures' rows stay
        for row in parts[name](args):
            rows.append(dict(zip(COLUMNS, row, strict=True)))
            print(*row, flush=True)
    new = {row["measure"] for row in rows}
    kept = [row for row in (read_csv(path) if path.exists() else []) if row["measure"] not in new]
    write_csv(path, [*kept, *rows], COLUMNS)
    return 0


# ------------------------------------------------------------------------------ planted copies


def encoded(picture: Image.Image, quality: int = 90) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def rescaled(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    scale = random.choice([0.5, 0.7, 1.5])
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def cropped(picture: Image.Image, random: np.random.Generator, share: float = 0.05) -> Image.Image:
    """Without so large a share of the width and of the height, taken anywhere."""
    width, height = picture.size
    x, y = random.uniform(0, share, 2) * (width, height)
    return picture.crop(
        (round(x), round(y), round(x + width * (1 - share)), round(y + height * (1 - share)))
    )


def cropped_on_each_side(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageOps.crop(picture, round(0.05 * min(picture.size)))


def tinted(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    gains, shifts = random.uniform(0.75, 1.25, 3), random.uniform(-15, 15, 3)
    pixels = np.asarray(picture) * gains + shifts
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def sepia(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    grey = np.asarray(picture.convert("L"))[..., None] * np.array([1, 0.85, 0.6])
    return Image.fromarray(grey.astype(np.uint8))


def all_at_once(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    return tinted(cropped(ImageOps.mirror(encoded(picture, 40)), random), random)


WAYS: dict[str, Way] = {
    "rescaled": rescaled,
    "quality 40": lambda picture, random: encoded(picture, 40),
    "cropped by 5 %": cropped,
    "5 % off each side": cropped_on_each_side,
    "mirrored": lambda picture, random: ImageOps.mirror(picture),
    "tinted": tinted,
    "sepia": sepia,
    "mirrored, cropped, tinted, quality 40": all_at_once,
}


def planted(args: argparse.Namespace) -> Iterator[tuple[str, str, str, int, float]]:
    """Recall and precision of pairs, by the kind of copy; what is near as the sets are."""
    for name in SETS:
        folder = Path("data/pilots") if name == "pilots" else Path(args.data) / name
        pictures = [Image.fromarray(read_image(path)) for path in files(folder)]
        small = np.stack([descriptor(np.asarray(picture)) for picture in pictures])
        before, _ = near_pairs(small)
        yield "near as it is", name, "pairs", 0, len(before)
        kin = {i: {i} for i in range(len(pictures))}
        for i, j in before.tolist():
            kin[i].add(j)
            kin[j].add(i)
        random = np.random.default_rng(0)
        chosen = random.permutation(len(pictures))[:COPIED].tolist()
        for kind, way in WAYS.items():
            copies = [np.asarray(encoded(way(pictures[i], random))) for i in chosen]
            pairs, _ = near_pairs(np.concatenate([small, [descriptor(copy) for copy in copies]]))
            joined = [(i, chosen[j - len(small)]) for i, j in pairs.tolist() if j >= len(small)]
            of = [
                (i if i < len(small) else chosen[i - len(small)], original)
                for i, original in joined
            ]
            right = sum(i in kin[original] for i, original in of)
            found = len({original for i, original in joined if i == original})
            yield "recall", name, kind, 0, found / len(chosen)
            yield "precision", name, kind, 0, right / max(1, len(of))


def files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not found:
        raise UserError(f"{folder} holds no pictures; --data names the folder of the sets")
    return found


# ------------------------------------------------------------------------------------ the leak


def leak(args: argparse.Namespace) -> Iterator[tuple[str, str, str, int, float]]:
    """Accuracies of val, of the training pictures left out, and of the test part, in per cent."""
    for name in ("signdigits", "hymenoptera"):
        folder = WORK / "images" / name
        if not folder.is_dir():
            plant(Path(args.data) / name, folder)
        for kind, grouped in (("apart", "false"), ("grouped", "true")):
            for seed in range(args.seeds):
                found = reached(folder, f"{name}-{kind}-{seed}", seed, grouped)
                for part, value in found.items():
                    yield f"{part} accuracy", name, kind, seed, round(100 * value, 2)


def plant(source: Path, target: Path) -> None:
    """A folder with train/ of some pictures and two copies of each, and test/ of others."""
    random = np.random.default_rng(0)
    ways = [way for kind, way in WAYS.items() if kind != "sepia"]
    parts = source / "train", source / "val"
    for folder in sorted((parts[0] if parts[0].is_dir() else source).iterdir()):
        found = [files(folder)[i] for i in random.permutation(len(files(folder)))]
        learned, asked = found[:20], found[20:70]
        if parts[0].is_dir():
            learned, asked = found, files(parts[1] / folder.name)
        for path in asked:
            link(path, target / "test" / folder.name)
        for path in learned:
            link(path, target / "train" / folder.name)
            for number, way in enumerate(random.permutation(len(ways))[:2]):
                copy = ways[way](Image.fromarray(read_image(path)), random)
                encoded(copy).save(target / "train" / folder.name / f"{path.stem}~{number}.png")


def reached(folder: Path, run: str, seed: int, grouped: str) -> dict[str, float]:
    """The accuracies of a run."""
    places = {"log_path": WORK / "logs", "save_path": WORK / "weights", "data": WORK}
    settings = {"base_dir": folder, "run_name": run, "seed": seed, "group_duplicates": grouped}
    settings |= {"head": "layers", "views": 1, "refit": "false", "report": "false"}
    options = [f"train.{key}={value}" for key, value in (places | settings).items()]
    found = finished("configs/signdigits-20.yaml", [*options, "vit.dim=112"])
    return {
        "val": found["val_accuracy"],
        "left-out": found["out_of_fold_accuracy"],
        "test": found["test_accuracy"],
        "logistic regression, test": found["verdict_numbers"]["logistic_regression"],
    }


# ------------------------------------------------------------------------------------ the cost


def cost(args: argparse.Namespace) -> Iterator[tuple[str, str, str, int, float]]:
    """Seconds of one core for a start over 10,000 pictures, the first and one after it; and of the
    search alone, where all pictures are much alike: blends of signdigits' photos."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "images"
        draw(folder, 10_000)
        time.sleep(FileIndex.TICK_NS / 1e9)
        for start in ("first start", "start after the first"):
            for kind, grouped in (("grouped", True), ("apart", False)):
                index = FileIndex(Path(home) / f"{kind}.json")
                seconds = []
                for _ in range(1 if start == "first start" else 3):
                    began = time.process_time()
                    split = load_split(settings_of(folder, grouped), known=index)
                    seconds.append(time.process_time() - began)
                index.update(split.samples)
                yield f"{start}, s", "10,000 drawn", kind, 0, round(statistics.median(seconds), 2)
    random = np.random.default_rng(0)
    photos = [descriptor(read_image(path)) for path in files(Path(args.data) / "signdigits")]
    one, other = (np.stack(photos)[random.integers(0, len(photos), 10_000)] for _ in range(2))
    share = random.uniform(0.3, 0.7, (10_000, 1, 1))
    blends = (share * one + (1 - share) * other).astype(np.uint8)
    began = time.process_time()
    near_pairs(blends)
    yield "search, s", "10,000 blends of signdigits", "", 0, round(time.process_time() - began, 2)


def settings_of(folder: Path, grouped: bool) -> TrainConfig:
    return TrainConfig(base_dir=str(folder), group_duplicates=grouped)


def draw(folder: Path, images: int) -> None:
    """Pictures of 96 pixels in ten classes, with a spectrum like photos' (1 / frequency)."""
    side = 3 * SIDE
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = 1 / np.maximum(frequency, 1 / side)
    for i in progress_bar(range(images), "drawing"):
        random = np.random.default_rng(i)
        waves = np.fft.fft2(random.normal(size=(side, side))) * spectrum
        grey = np.fft.ifft2(waves).real
        grey = 128 + 50 * (grey - grey.mean()) / grey.std()
        place = folder / str(i % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(place / f"{i}.jpg")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.duplicates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="data", help="holds the sets")
    parser.add_argument("--seeds", type=int, default=3)
    names = ("planted", "leak", "cost")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
