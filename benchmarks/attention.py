"""Do the attention maps lie on the figure? Their share inside of drawn figures' exact masks.

    python -m benchmarks.attention [--checkpoint weights/quickstart/best.safetensors]

Fifty drawn pilots that no training saw (another seed), as drawn, and cut out and pasted smaller
somewhere on another backdrop: as drawn they fill two thirds of what the network sees. A score is
the map's share inside the figure by the figure's share of what the network sees: 1 is chance, and
no map can reach more than one by the figure's share. Prints a table and writes
benchmarks/results/attention.csv, a row a picture.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator, default_rng
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import RESULTS
from config import Preprocessing
from inspection.attention_maps import as_input, attention_maps, seen_box
from model import VisionTransformer
from pretrained.build import load_model
from tools.draw_pilots import backdrops
from tools.draw_pilots.cast import NAMES
from tools.draw_pilots.paper import pick
from tools.draw_pilots.picture import draw_pilot_with_mask
from transforms import eval_transform
from utils import UserError, command_line, write_csv

MAPS = ("rollout", "relevance", "heads")
SMALLER = {"pasted at half size": 2, "pasted at a third": 3}
Picture = tuple[Image.Image, Image.Image]  # and its mask, "L", 255 where the figure shows


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    net = load_model(args.checkpoint)
    if not net.vit.num_classes:
        raise UserError(f"{args.checkpoint} has no head; name a trained run's best.safetensors")
    rows: list[dict[str, Any]] = []
    drawn = pilots(args.images, args.seed, net.preprocessing)
    for name, number, pictures in tqdm(drawn, "pilots", args.images, unit="image"):
        for way, picture in pictures.items():
            found = measure(net, picture)
            rows.append({"way": way, "pilot": name, "number": number, **found})
    write_csv(RESULTS / "attention.csv", rows)
    print_table(rows)
    return 0


def pilots(
    count: int, seed: int, preprocessing: Preprocessing
) -> Iterator[tuple[str, int, dict[str, Picture]]]:
    """So many pilots, each character in turn: its name, number, and the picture in each way."""
    for i in range(count):
        name, number = NAMES[i % len(NAMES)], i // len(NAMES)
        random = default_rng([seed, i % len(NAMES), number])
        drawn = draw_pilot_with_mask(name, random)
        smaller = {w: pasted(drawn, n, preprocessing, random) for w, n in SMALLER.items()}
        yield name, number, {"as drawn": drawn, **smaller}


def pasted(drawn: Picture, n: int, preprocessing: Preprocessing, random: Generator) -> Picture:
    """The figure at an n-th of its size on a new backdrop, wholly inside of what the network
    sees."""
    image, mask = drawn
    small = (image.width // n, image.height // n)
    figure, cut = (part.resize(small, Image.Resampling.BOX) for part in drawn)
    palette = pick(random, backdrops.PALETTES)
    picture = pick(random, backdrops.BACKDROPS)(image.size, palette, random)
    left, top, right, bottom = seen_box(image.size, preprocessing)
    corner = (
        int(random.uniform(left, right - small[0])),
        int(random.uniform(top, bottom - small[1])),
    )
    picture.paste(figure, corner, cut)
    where = Image.new("L", mask.size)
    where.paste(cut, corner)
    return picture, where


def mask_cells(mask: Image.Image, net: VisionTransformer) -> Tensor:
    """The figure's share of each patch that the network sees, (g, g)."""
    plain = Preprocessing(**{**net.preprocessing.model_dump(), "mean": [0] * 3, "std": [1] * 3})
    pixels = torch.from_numpy(np.array(mask.convert("RGB"))).permute(2, 0, 1)
    seen = eval_transform(plain)(pixels)[:1].clamp(0, 1)  # 1 h w
    return F.avg_pool2d(seen, net.vit.patch_dim)[0]


def measure(net: VisionTransformer, picture: Picture) -> dict[str, Any]:
    """The figure's share of the patches, each map's share of attention in it by that, and the
    class that the network says."""
    image, mask = picture
    maps = attention_maps(net, as_input(net, np.array(image)))
    cells = mask_cells(mask, net)
    area = float(cells.mean())
    found = {name: getattr(maps, name)[0] for name in MAPS}
    found["heads"] = found["heads"].mean(0)  # H g g -> g g
    scores = {name: round(float((m * cells).sum()) / area, 4) for name, m in found.items()}
    index = int(maps.logits[0].argmax())
    says = net.classes[index] if net.classes else str(index)
    return {"predicted": says, "area": round(area, 4), "possible": round(1 / area, 4), **scores}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Mean ± standard deviation over the pictures, for each way."""
    columns = ("area", *MAPS, "possible")
    titles = ("figure's share", "rollout", "relevance", "heads' mean", "possible")
    print(f"{'':<21}{'right':>7}" + "".join(f"{title:>16}" for title in titles))
    for way in ("as drawn", *SMALLER):
        mine = [row for row in rows if row["way"] == way]
        right = statistics.fmean(row["pilot"] == row["predicted"] for row in mine)
        cells = []
        for column in columns:
            values = [row[column] for row in mine]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{f'{statistics.fmean(values):.2f} ± {spread:.2f}':>16}")
        print(f"{way:<21}{right:>7.2f}" + "".join(cells))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", default="weights/quickstart/best.safetensors")
    parser.add_argument("--images", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="the training set's is 0 (1000)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
