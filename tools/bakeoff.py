"""Which weights? The same quick evaluation of several, on your own pictures.

    python -m tools.bakeoff CONFIG WEIGHTS WEIGHTS ... [section.key=value ...]

WEIGHTS are what train.checkpoint takes: names, owner/name, addresses, paths. Each passes once over
the pictures (the token caches stay, for the training), then a head over its layers is solved for
(docs/layers.md). They are ranked by the training pictures alone, each left out of the fit; the
held-out parts are shown beside it. The table is written to <log_path>/bakeoff.csv, too.

WEIGHTS@PIXELS are the same weights at another image size: would 336 pixels help?

    python -m tools.bakeoff config.yaml WEIGHTS@224 WEIGHTS@336 --most 200
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config import Config, ConfigError, ViTConfig
from config_file import load_config
from dataset import Split, load_split
from engine.heads import add_layers_head, each_can_be_left_out, read_depths, some_of_each
from engine.start import begin, report_data
from metrics import predict, standard_error, wilson
from model import Tail
from overrides import arguments
from pretrained.build import build_for, whole
from pretrained.names import resolve
from tokens.builder import open_cache
from tokens.plan import Plan, damage, known_files
from utils import UserError, command_line, log, seed_everything, shell, write_csv

# What the evaluation is, and what a config may say of its training that would not go with it.
OWN = (
    *("train.mode=finetune", "train.head=layers", "train.views=1", "train.cache=auto"),
    *("train.transform=null", "train.parallel=ddp", "train.ema=auto", "train.mixup=auto"),
    *("train.cutmix=auto", "train.layer_decay=auto", "train.from_run=null"),
)
MOST_PIXELS = 4_000  # a side; the attention of more takes hours a picture


@dataclass(frozen=True)
class Entry:
    """What some weights reach: which training pictures are right, each left out of the fit, and the
    accuracies of the held-out parts."""

    weights: str
    parameters: int
    pixels: int
    right: Tensor
    held_out: dict[str, tuple[float, int]]
    seconds: float | None  # of the pass; None where its tokens were there already

    @property
    def accuracy(self) -> float:
        return self.right.double().mean().item()


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    overrides = [word for word in args.weights if is_override(word)]
    names = list(dict.fromkeys(word for word in args.weights if not is_override(word)))
    if len(names) < 2:
        raise UserError(
            "name two weights or more: python -m tools.bakeoff CONFIG WEIGHTS WEIGHTS "
            "[train.base_dir=pictures]"
        )
    more = [*OWN, f"train.checkpoint={names[0]}"]
    config, notes = load_config(args.config, [*overrides, *more])
    device = begin(config.train, notes)
    split = load_split(config.train, known=known_files(config.train))
    report_data(split)
    if args.most:
        split = with_fewer(split, args.most)
    found: list[Entry] = []
    for name in names:
        try:
            found.append(evaluated(name, config, split, device))
        except UserError as error:
            log.info("%s can't be used: %s", name, error)
    if not found:
        raise UserError("none of these weights can be used")
    found.sort(key=lambda entry: -entry.accuracy)
    rows = table(found)
    path = Path(config.train.log_path) / "bakeoff.csv"
    write_csv(path, rows)
    print(laid_out(rows))
    best = fitting(found[0].weights, config)
    size = [f"vit.dim={best.vit.dim}"] if "@" in found[0].weights else []
    choice = shell(f"train.checkpoint={best.train.checkpoint}", *size)
    print(f"saved: {path}; train with the one you choose: {choice}")
    return 0


def with_fewer(split: Split, most: int) -> Split:
    """So many training pictures at most, of each class its share, and no others."""
    samples = split.part("train")
    chosen = some_of_each(np.array([sample.label for sample in samples]), most)
    return replace(split, samples=tuple(samples[i] for i in chosen))


def evaluated(name: str, config: Config, split: Split, device: torch.device) -> Entry:
    """The quick evaluation of some weights."""
    asked = fitting(name, config)
    seed_everything(asked.train.seed)
    net = build_for(asked, split.classes).to(device)
    if not read_depths(net):
        raise UserError("one block alone has no layers to read")
    train = asked.train.settled(len(split.part("train")))
    plan = Plan(net, split, train)
    plan.check_disk()
    there, started = damage(plan.path) is None, time.perf_counter()
    loaders: Any = open_cache(plan, net, train, device).loaders(plan, split, train, device)
    seconds = None if there else time.perf_counter() - started
    if not each_can_be_left_out(loaders["train"]):
        raise UserError("a class has one training image (or group): none can be left out")
    left_out = add_layers_head(net, loaders["train"], "layers", None)
    right = left_out.argmax(1) == loaders["train"].dataset
    held_out = {}
    for part in ("val", "test"):
        if part in loaders:
            logits, labels = predict(Tail(net).eval(), loaders[part], device, train.bf16)
            held_out[part] = (logits.argmax(1) == labels).double().mean().item(), len(labels)
    total, _ = net.parameter_counts()
    return Entry(name, total, net.vit.dim, right, held_out, seconds)


def fitting(name: str, config: Config) -> Config:
    """The config for some weights: their architecture, at the size behind an @ or else the config's
    image size, or the nearest that their patches fill."""
    found = re.fullmatch(r"(.+)@(\d+)", name)
    weights, pixels = (found[1], int(found[2])) if found else (name, config.vit.dim)
    train = config.train.model_copy(update={"checkpoint": weights})
    vit = ViTConfig()
    if found or "dim" in config.vit.model_fields_set:
        patch = whole(resolve(weights)).vit.patch_dim
        dim = max(1, round(pixels / patch)) * patch
        if not 0 < pixels <= MOST_PIXELS:
            raise UserError(f"an image has 1 to {MOST_PIXELS:,} px a side, not {pixels:,}")
        if found and dim != pixels:
            log.info("%s: %d px, which its patches of %d px fill", name, dim, patch)
        vit = ViTConfig(dim=dim)
    return config.model_copy(update={"vit": vit, "train": train})


def table(found: list[Entry]) -> list[dict[str, Any]]:
    """A row for each of the weights, the best first."""
    rows = []
    for entry in found:
        n = len(entry.right)
        low, high = wilson(entry.accuracy, n)
        behind = found[0].right.double() - entry.right.double()  # on the same pictures
        error = standard_error(behind)
        row: dict[str, Any] = {
            "weights": entry.weights,
            "parameters": f"{entry.parameters / 1e6:.1f} M",
            "pixels": entry.pixels,
            "left out": f"{entry.accuracy:.3f} ({low:.3f} to {high:.3f})",
            "behind": "-" if entry is found[0] else f"{behind.mean():.3f} ± {error:.3f}",
        }
        for part, (accuracy, images) in entry.held_out.items():
            low, high = wilson(accuracy, images)
            row[part] = f"{accuracy:.3f} ({low:.3f} to {high:.3f})"
        took = "cached" if entry.seconds is None else f"{entry.seconds:.1f} s"
        rows.append(row | {"pass": took})
    return rows


def laid_out(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    widths = [max(len(str(row[column])) for row in [*rows, {column: column}]) for column in columns]
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    return "\n".join(
        "  ".join(f"{line[c]!s:<{w}}" for c, w in zip(columns, widths, strict=True)).rstrip()
        for line in lines
    )


def is_override(word: str) -> bool:
    """`section.key=value`; a path may hold dots, and an address an equals sign, but not so."""
    section, dot, rest = word.partition(".")
    return bool(dot) and section in Config.model_fields and "=" in rest


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bakeoff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="the settings: the pictures, the size")
    parser.add_argument("weights", nargs="*", metavar="WEIGHTS", help="or section.key=value")
    parser.add_argument(
        "--most", type=int, help="so many training pictures, none that are held out"
    )
    args = arguments(parser, argv)
    if args.most is not None and args.most < 1:
        parser.error("--most takes 1 or more")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
