"""Look into the network: one forward and backward pass over a real batch, layer by layer.

    python test.py                                    the weights that config.yaml starts from
    python test.py --checkpoint weights/RUN/best.safetensors --split val
    python test.py --config F section.key=value ...   another file, and overrides of its keys

Prints a table of activations and gradients and saves it, with their histograms, as table.csv,
activations.png and gradients.png.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config, ConfigError, load_config
from dataset import PARTS, Split, eval_transform, load_split, make_loaders
from model import VisionTransformer
from pretrained import build_for
from utils import (
    UserError,
    command_line,
    log,
    pick_device,
    replacing,
    seed_everything,
    setup_log,
)

BINS = 101


@dataclass(frozen=True)
class Summary:
    """The numbers of one tensor: mean, standard deviation, Euclidean norm, and a histogram."""

    mean: float
    std: float
    norm: float
    counts: list[float]
    edges: list[float]


@dataclass(frozen=True)
class Layer:
    """What one pass showed of a layer; a frozen layer has no gradient."""

    name: str
    activation: Summary
    gradient: Summary | None


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_log()
    overrides = list(args.overrides)
    path = args.config or "config.yaml"
    if args.checkpoint:
        overrides.append(f"train.checkpoint={args.checkpoint}")
        own = Path("logs") / Path(args.checkpoint).parent.name / "config.yaml"
        path = args.config or (own if own.exists() else path)
    config, notes = load_config(path, overrides)
    if args.checkpoint and config.train.mode == "scratch":
        config, notes = load_config(path, [*overrides, "train.mode=pretrained"])
    device, fallback = pick_device(config.train.device)
    for note in [*notes, *([fallback] if fallback else [])]:
        log.info(note)
    split = load_split(config.train)
    seed_everything(config.train.seed)
    net = build_for(config, split.classes).to(device)
    images, labels = real_batch(split, config, net, args.split)

    layers, loss = inspect(net, images.to(device), labels.to(device))
    print_table(layers)
    chance = f"chance is ln {len(split.classes)}"
    print(f"\nloss {loss:.4f} over {len(labels)} {args.split} images; {chance}")
    if head_is_zero(net):
        print("the head is fresh, all zero: nothing before it gets a gradient in the first step")
    folder = output_folder(config, args.checkpoint)
    save(layers, folder)
    print(f"saved: {folder} (table.csv, activations.png, gradients.png)")
    return 0


# ----------------------------------------------------------------------------------- the numbers


def layer_names(net: VisionTransformer) -> list[str]:
    """The modules to look at, by their names: patches, each block's two halves, norm, head."""
    halves = [f"blocks.{i}.{half}" for i in range(net.vit.num_layers) for half in ("attn", "mlp")]
    return ["patch_embed", *halves, "norm", "head"]


@contextlib.contextmanager
def recorded(net: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """While it lasts, each forward pass leaves the named modules' outputs in the dict."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> nn.modules.module.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = output.detach()

        return net.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def inspect(net: VisionTransformer, images: Tensor, labels: Tensor) -> tuple[list[Layer], float]:
    """One forward and backward pass, without dropout: every layer's activations and the gradients
    of its parameters, and the loss in nats."""
    names = layer_names(net)
    net.eval()
    net.zero_grad(set_to_none=True)
    net.full_last_block = True  # the numbers are those of all tokens
    with recorded(net, names) as outputs:
        loss = F.cross_entropy(net(images), labels)
    net.full_last_block = False
    loss.backward()
    layers = []
    for name in names:
        parameters = net.get_submodule(name).parameters()
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        gradient = summarise(torch.cat(gradients)) if gradients else None
        layers.append(Layer(name, summarise(outputs[name]), gradient))
    net.zero_grad(set_to_none=True)
    return layers, loss.item()


def summarise(tensor: Tensor) -> Summary:
    """Mean, std, norm and histogram of all of a tensor's numbers."""
    values = tensor.detach().float().flatten().cpu()
    finite = values[values.isfinite()]
    # A few outliers would squeeze everything else into one bin.
    reach = max(float(finite.abs().quantile(0.999)) if len(finite) < 1 << 24 else 0.0, 1e-12)
    if len(finite) >= 1 << 24:  # more than quantile takes
        reach = float(finite[:: len(finite) // (1 << 22)].abs().quantile(0.999)) or 1e-12
    counts, edges = torch.histogram(finite, BINS, range=(-reach, reach))
    return Summary(
        mean=values.mean().item(),
        std=values.std(correction=0).item(),
        norm=values.norm().item(),
        counts=counts.tolist(),
        edges=edges.tolist(),
    )


def head_is_zero(net: VisionTransformer) -> bool:
    return isinstance(net.head, nn.Linear) and not net.head.weight.any()


def real_batch(
    split: Split, config: Config, net: VisionTransformer, part: str
) -> tuple[Tensor, Tensor]:
    """The first batch of a part, as evaluation sees it: images (B, c, h, w) and labels (B,)."""
    device = torch.device("cpu")
    channels = net.vit.input_channels
    loaders = make_loaders(split, config.train, net.preprocessing, channels, device)
    if part not in loaders:
        raise UserError(f"{split.root} has no {part} images; --split takes {', '.join(loaders)}")
    loaders[part].dataset.transform = eval_transform(  # type: ignore[attr-defined]
        net.preprocessing, channels
    )
    images, labels = next(iter(loaders[part]))
    return images, labels


# ----------------------------------------------------------------------------------- the output


def print_table(layers: list[Layer]) -> None:
    """One line a layer: the activations' numbers, then the gradients'."""
    head = "".join(f"{name:>11}" for name in ("mean", "std", "norm") * 2)
    print(f"{'':<18}{'activation':>33}{'gradient':>33}\n{'layer':<18}{head}")
    for layer in layers:
        print(f"{layer.name:<18}{_cells(layer.activation)}{_cells(layer.gradient)}")


def _cells(summary: Summary | None) -> str:
    if summary is None:
        return f"{'frozen':>33}"
    return "".join(f"{x:>11.3g}" for x in (summary.mean, summary.std, summary.norm))


def save(layers: list[Layer], folder: Path) -> None:
    """The table as CSV and the histograms as two PNG files."""
    numbers = ("mean", "std", "norm")
    with replacing(folder / "table.csv") as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        kinds = ("activation", "gradient")
        writer.writerow(["layer", *(f"{kind}_{n}" for kind in kinds for n in numbers)])
        for layer in layers:
            both = (layer.activation, layer.gradient)
            cells = [getattr(s, n) if s else None for s in both for n in numbers]
            writer.writerow([layer.name, *cells])
    activations = {layer.name: layer.activation for layer in layers}
    gradients = {layer.name: layer.gradient for layer in layers}
    draw_histograms(activations, "Activations", folder / "activations.png")
    draw_histograms(gradients, "Gradients of the parameters", folder / "gradients.png")


def draw_histograms(rows: Mapping[str, Summary | None], title: str, path: Path) -> None:
    """A small histogram for each layer, counts on a log scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure

    columns = 4
    height = -(-len(rows) // columns)
    figure = Figure(figsize=(3.4 * columns, 1.7 * height + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}, the middle 99.9 %, counts on a log scale")
    grid = figure.subplots(height, columns, squeeze=False).flatten()
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    for axes, (name, summary) in zip(grid, rows.items(), strict=False):
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        if summary is None or summary.norm == 0:
            label = "frozen" if summary is None else "all zero"
            axes.text(0.5, 0.5, label, ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
            continue
        axes.stairs([count + 1e-9 for count in summary.counts], summary.edges, fill=True)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def output_folder(config: Config, checkpoint: str | None) -> Path:
    """A run's checkpoint is shown in that run's folder; any other weights under logs/inspect."""
    logs = Path(config.train.log_path)
    run = logs / Path(checkpoint).parent.name if checkpoint else logs
    return (run if checkpoint and run.is_dir() else logs) / "inspect"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="the settings (the checkpoint's run's, or config.yaml)")
    parser.add_argument("--checkpoint", help="weights to look at instead of train.checkpoint")
    parser.add_argument("--split", choices=PARTS, default="train", help="whose images (train)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
