"""Where a trained network looks: attention maps over pictures, a panel each.

    python -m tools.attention pictures/cat/1.jpg --checkpoint last
    python -m tools.attention pictures --checkpoint quickstart --most 20 --class cat

A panel shows the picture, attention rollout, what speaks for the predicted class (or for --class),
and the heads of the last block. The evaluation cuts pictures to their middle: what the network does
not see is pale.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from classifier import class_names, find_checkpoint, load_classifier
from config import ConfigError
from decoding.formats import why
from drawing import legible, style
from engine.run import BEST
from images import read_image
from inspection.attention_maps import (
    Maps,
    as_input,
    attention_maps,
    clipped,
    overlay,
    seen,
    seen_box,
)
from layout.paths import STDIN, full, spread
from layout.tree import read_tree
from model import VisionTransformer
from system.filenames import a_path, fitting, nearest, text_of
from utils import UserError, command_line, pick_device, progress_bar, replacing, some

LONGER, HEAD, GAP, TITLE = 3.4, 1.6, 0.12, 0.5  # inches: a picture's longer side, a head's, between
TITLE_PAD = 6 / 72  # matplotlib's own, above axes
DPI = 120
MOST_HEADS = 16  # in a panel
MOST_SAID = 12  # of pictures that can't be read


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    checkpoint = find_checkpoint(args.checkpoint)
    net = load_classifier(checkpoint).to(pick_device(args.device)[0])
    target = None if args.class_name is None else class_index(args.class_name, class_names(net))
    out = args.out or output_folder(checkpoint)
    names = panel_names(find_images(args.images, args.most))
    drawn, skipped = 0, 0
    for source, name in progress_bar(
        names.items(), "attention", unit="image", disable=len(names) < 2 or None
    ):
        try:
            pixels = read_image(source, net.preprocessing.greys)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            skipped += 1
            if skipped <= MOST_SAID:
                tqdm.write(f"{text_of(str(source))}: skipped, it can't be read ({why(error)})")
            continue
        tqdm.write(f"{text_of(str(source))}: {show(net, pixels, target, source.name, out / name)}")
        drawn += 1
    if skipped > MOST_SAID:
        print(f"and {skipped - MOST_SAID:,} more that can't be read")
    if not drawn:
        raise UserError(f"nothing drawn: none of {len(names)} images can be read; name others")
    where = out / next(iter(names.values())) if len(names) == 1 else out
    print(f"{drawn} panel{'' if drawn == 1 else 's'}: {where}")
    return 0


def show(
    net: VisionTransformer, pixels: np.ndarray, target: int | None, title: str, path: Path
) -> str:
    """Draw the panel of a picture (h, w, 3), and say what the network takes it for."""
    maps = attention_maps(net, as_input(net, pixels).to(net.device), target)
    sure = maps.probabilities[0]
    names, predicted = class_names(net), int(sure.argmax())
    asked = predicted if target is None else target
    titles = (title, "rollout", f"relevance for {names[asked]} ({sure[asked]:.3f})")
    draw_panel(net, Image.fromarray(pixels), maps, titles, path)
    return f"{names[predicted]} {sure[predicted]:.3f}"


# ------------------------------------------------------------------------------ what was asked for


def class_index(name: str, names: tuple[str, ...]) -> int:
    if name in names:
        return names.index(name)
    near = nearest(name, names)
    hint = f"did you mean {near}? It has" if near else "it has"
    raise UserError(f"--class {name}: the checkpoint has no such class; {hint} {some(names)}")


def find_images(given: list[str], most: int | None) -> list[tuple[Path, Path]]:
    """The images that files, folders, patterns and lists stand for, each once, with its place below
    its folder; with `most`, so many, evenly spread."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in spread(given):
        folder, inner = Path(path), [Path(path)]
        if folder.is_dir():
            inner = [p for p in read_tree(folder).every_picture() if p.is_file()]
            if not inner:
                raise UserError(f"{folder} holds no images")
        below = folder if folder.is_dir() else folder.parent
        for image in inner:
            found.setdefault(full(image), (image, image.relative_to(below)))
    pairs = list(found.values())
    if most is None or most >= len(pairs):
        return pairs
    return [pairs[(2 * i + 1) * len(pairs) // (2 * most)] for i in range(most)]


def panel_names(images: list[tuple[Path, Path]]) -> dict[Path, Path]:
    """The panel's name below the output folder for each image: its own place, no two the same."""
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for source, place in images:
        name = place.with_name(fitting(place.stem, ".png"))
        if name in taken:  # 1.jpg and 1.png
            name = place.with_name(fitting(place.name, ".png"))
        number = 2
        while name in taken:
            name = place.with_name(fitting(place.name, f"-{number}.png"))
            number += 1
        taken.add(name)
        names[source] = name
    return names


def output_folder(checkpoint: Path) -> Path:
    """A run's maps lie beside its logs; any other checkpoint's in logs/attention."""
    run = Path("logs") / checkpoint.absolute().parent.name
    return (run if run.is_dir() else Path("logs")) / "attention"


# --------------------------------------------------------------------------------------- the panel


def draw_panel(
    net: VisionTransformer,
    picture: Image.Image,
    maps: Maps,
    titles: tuple[str, str, str],
    path: Path,
) -> None:
    """A picture, its two maps and its heads, side by side; everything keeps its aspect ratio."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure

    picture = reduced(picture)
    size = picture.size
    w, h = (LONGER * side / max(size) for side in size)
    shown = maps.heads[0, :MOST_HEADS]
    columns = math.ceil(len(shown) ** 0.5) if h > LONGER / 2 else math.ceil(len(shown) / 2)
    rows = math.ceil(len(shown) / columns)
    head = min(HEAD, (max(h, LONGER / 2) - GAP * (rows - 1)) / rows)
    tall = max(h, rows * (head + GAP) - GAP)
    wide = 3 * (w + 2 * GAP) + columns * (head + GAP) + GAP
    figure = Figure(figsize=(wide, tall + TITLE + GAP))
    FigureCanvasAgg(figure)

    def place(image: Image.Image, left: float, top: float, w: float, h: float) -> Any:
        full = tall + TITLE + GAP
        axes = figure.add_axes((left / wide, 1 - (top + h) / full, w / wide, h / full))
        axes.imshow(image)
        axes.set_axis_off()
        return axes

    preprocessing = net.preprocessing
    over = [overlay(picture, m[0], preprocessing) for m in (maps.rollout, maps.relevance)]
    left = GAP
    for image, title in zip((seen(picture, preprocessing), *over), titles, strict=True):
        axes = place(image, left, TITLE, w, h)
        title = legible(title, None)
        fitting = textwrap.fill(title, max(12, int(w * 12)), max_lines=2, placeholder="...")
        axes.set_title(fitting, fontsize=9, **style([title]))
        left += w + 2 * GAP
    box = clipped(seen_box(size, preprocessing), size)
    for i, cells in enumerate(shown):
        image = overlay(picture, cells, preprocessing).crop(box)
        row, column = divmod(i, columns)
        place(image, left + column * (head + GAP), TITLE + row * (head + GAP), head, head)
    middle = (left + (columns * (head + GAP) - GAP) / 2) / wide
    some = "" if len(shown) == maps.heads.shape[1] else f", {len(shown)} of {maps.heads.shape[1]}"
    height = 1 - (TITLE - TITLE_PAD) / (tall + TITLE + GAP)
    figure.text(middle, height, f"heads of the last block{some}", ha="center", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def reduced(picture: Image.Image) -> Image.Image:
    """The picture with as many pixels as a panel shows of it."""
    picture = picture.copy()
    longest = round(LONGER * DPI)
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return picture


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="PATH", help=f"a picture, folder or pattern; {STDIN}: a list")
    add("--checkpoint", required=True, help=f"a run's {BEST}, its name or folder, or last")
    add("--out", type=a_path, help="where the panels go (the run's folder under logs)")
    add("--class", dest="class_name", metavar="NAME", help="what to look for (the predicted class)")
    add("--most", type=int, metavar="N", help="so many of the images, evenly spread (all)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    args = parser.parse_args(argv)
    if args.most is not None and args.most < 1:
        parser.error(f"--most {args.most} must be at least 1")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
