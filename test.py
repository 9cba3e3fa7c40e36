"""Look into the network: what one batch of real images does in it, and whether it can learn.

    python test.py                                    the weights that config.yaml starts from
    python test.py --checkpoint last --split val      the newest run's; or a run's name, or a path
    python test.py --config F section.key=value ...   another file, and overrides of its keys

Prints a table of activations, attention, gradients and updates by layer, and the checks of
"A Recipe for Training Neural Networks" (https://karpathy.github.io/2019/04/25/recipe/) that a
program can do, PASS or FAIL; the exit status is 1 where one fails. Saves table.csv and the plots.
"""

from __future__ import annotations

if __name__ == "__main__":  # PyTorch takes seconds to import: Ctrl-C is no traceback by then, too
    from system import stopping

    stopping.while_importing()

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config import Config, ConfigError, TrainConfig
from config_file import load_config
from dataset import PARTS, Split, load_split
from engine.job import SEARCH, Setting
from engine.run import config_of, trained
from engine.start import begin
from images import ImageDataset
from inspection.checks import MARKS, Report, examine
from inspection.layers import Layer, minor
from inspection.plots import save
from model import VisionTransformer
from overrides import arguments
from pretrained.build import build_for
from tokens.plan import known_files
from transforms import eval_transform
from utils import UserError, command_line, seed_everything

# Images and steps by what trains: a B/16's forward and backward pass takes a second an image on
# 2 CPU cores, and behind a frozen trunk next to nothing.
FROZEN_TRUNK, ALL_WEIGHTS = (16, 10), (6, 3)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    config, run, notes = settings(args)
    device = begin(config.train, notes)
    split = load_split(config.train, None, known_files(config.train))
    seed_everything(config.train.seed)
    net = build_for(config, split.classes).to(device)
    if net.preprocessing.greys and config.train.greys == "auto":  # as in the training
        split = load_split(config.train.model_copy(update={"greys": net.preprocessing.greys}))
    train = with_choice(config.train.settled(len(split.part("train"))), config, run, net)
    most, steps = ALL_WEIGHTS if net.frozen_depth is None else FROZEN_TRUNK
    images, labels = real_batch(split, config, net, args.split, args.batch or most)

    report = examine(net, images.to(device), labels.to(device), train, steps)
    print_table(report)
    print(f"\nloss by step: {', '.join(f'{x:.4f}' for x in report.losses)}", end="")
    print(f" ({len(labels)} {args.split} images; {train.optim}, lr {train.lr:.3g}, no warm-up)")
    print(*report.checks, sep="\n")
    folder = output_folder(config, run)
    print(f"saved: {folder} ({', '.join(save(report, net, folder))})")
    return int(any(check.passed is False for check in report.checks))


# --------------------------------------------------------------------------------- what to look at


def settings(args: argparse.Namespace) -> tuple[Config, str | None, list[str]]:
    """The config, the name of the run whose checkpoint it is, and the notes to show.

    A checkpoint comes with its own run's config, unless another is named.
    """
    overrides, path = list(args.overrides), "config.yaml" if args.config is None else args.config
    config, notes = load_config(path, overrides)
    if args.checkpoint is None:
        return config, None, notes
    logs = config.train.log_path
    there = trained(args.checkpoint, logs, config.train.save_path)
    if args.checkpoint == "last" and there is None:
        raise UserError(f"{logs} holds no run with weights; train first, or set train.log_path")
    checkpoint = str(there or args.checkpoint)  # or a name, or an address
    if checkpoint != args.checkpoint:
        notes = [f"the run's checkpoint: {checkpoint}"]
    run = Path(checkpoint).parent.name
    own = config_of(Path(checkpoint), args.checkpoint, logs)
    if args.config is None and own is not None:
        path = str(own)
    overrides.append(f"train.checkpoint={checkpoint}")
    config, more = load_config(path, overrides)
    if config.train.mode == "scratch":
        config, more = load_config(path, [*overrides, "train.mode=pretrained"])
    is_run = (Path(config.train.log_path) / run).is_dir()
    return config, run if is_run else None, [*notes, *(m for m in more if m not in notes)]


def with_choice(
    train: TrainConfig, config: Config, run: str | None, net: VisionTransformer
) -> TrainConfig:
    """The settled settings with what the run's search chose, if it made one."""
    if run is None or config.train.lr != "auto":
        return train
    setting = Setting.read(Path(config.train.log_path) / run / SEARCH)
    if setting is None:
        return train
    found = setting.applied(net, train)
    # A head over layers is solved for: what takes steps here is the block, at the block's rate.
    return found.model_copy(update={"head": train.head}) if found.head == "layers" else found


def real_batch(
    split: Split, config: Config, net: VisionTransformer, part: str, size: int
) -> tuple[Tensor, Tensor]:
    """Images (B, c, h, w) of a part and their labels (B,), as evaluation sees them: taken at even
    steps, so of all classes."""
    samples = split.part(part)
    if not samples:
        there = ", ".join(name for name in PARTS if split.part(name))
        raise UserError(f"{split.root} has no {part} images; --split takes {there}")
    rows = np.unique(np.linspace(0, len(samples) - 1, size).round().astype(int))
    transform = eval_transform(net.preprocessing, net.vit.input_channels)
    dataset = ImageDataset(samples, transform, split.decoded, config.train.seed)
    images, labels = zip(*(dataset[int(row)] for row in rows), strict=True)
    return torch.stack(images), torch.tensor(labels)


# -------------------------------------------------------------------------------------- the output


def print_table(report: Report) -> None:
    """One line a layer, and one for each mark that was given."""
    step = report.gradient_step
    print(f"{'':<16}|{'activation':^37}|{'attention or GELU':^25}|{f'gradient, step {step}':^36}|")
    head = f"{'layer':<16}|{'mean':>9}{'std':>9}{'max|x|':>9}{'>6 std':>9} |{'':25}|"
    print(f"{head}{'mean':>9}{'std':>9}{'norm':>9}{':weight':>9}| update")
    hidden = 0
    for layer in report.layers:
        if minor(layer.name) and not layer.marks:
            hidden += 1
            continue
        a = layer.activation
        cells = "".join(f"{x:>9.2g}" for x in (a.mean, a.std, a.largest)) + f"{a.outliers:>9.2%}"
        print(f"{layer.name:<16}|{cells} | {inner_cells(layer):<24}|{gradient_cells(layer)}")
    print("\nentropy of attention: the lowest, mean and highest head's share of ln N; how far it")
    print("looks, in pixels. GELU: units that are always below -3 (dead) or above 3 (linear).")
    print("update: log10 of a step's change : weights, about -3 is healthy.")
    if hidden:
        print(
            f"{hidden} norms inside the blocks, nothing wrong with them, stand in table.csv alone."
        )
    given = {name for layer in report.layers for name in layer.marks}
    for name in MARKS:
        if name in given:
            print(f"  {name}: {MARKS[name]}")


def inner_cells(layer: Layer) -> str:
    if layer.entropy is not None and layer.distance is not None:
        e = layer.entropy
        low, high = e.min().item(), e.max().item()
        return f"{low:.2f} {e.mean().item():.2f} {high:.2f}  {layer.distance.mean():>4.0f} px"
    if layer.dead is not None:
        return f"dead {layer.dead:.1%}, linear {layer.linear:.1%}"
    return ""


def gradient_cells(layer: Layer) -> str:
    marks = f"  <- {', '.join(layer.marks)}" if layer.marks else ""
    g = layer.gradient
    if g is None:
        return f"{'' if 'never used' in layer.marks else 'frozen':>36}|{'':>7}{marks}".rstrip()
    cells = "".join(f"{x:>9.1e}" for x in (g.mean, g.std, g.norm, layer.gradient_ratio or 0.0))
    last = layer.updates[-1] if layer.updates else math.nan
    return f"{cells}|{'' if math.isnan(last) else f'{last:.1f}':>7}{marks}"


def output_folder(config: Config, run: str | None) -> Path:
    """A run's checkpoint is shown in that run's folder; any other weights under logs/inspect."""
    return Path(config.train.log_path) / (run or "") / "inspect"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="the settings (the checkpoint's run's, or config.yaml)")
    parser.add_argument(
        "--checkpoint",
        help="a run's name, a path, or last (the newest run), instead of train.checkpoint",
    )
    parser.add_argument("--split", choices=PARTS, default="train", help="whose images (train)")
    parser.add_argument(
        "--batch",
        type=int,
        help=f"images ({FROZEN_TRUNK[0]}, or {ALL_WEIGHTS[0]} where all weights train)",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = arguments(parser, argv)
    if args.batch is not None and args.batch < 2:
        parser.error(f"--batch {args.batch}: it takes 2 images or more to tell them apart")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
