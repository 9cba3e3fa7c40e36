"""Look into the network: what one batch of real images does in it, and whether it can learn.

    python test.py                                    the weights that config.yaml starts from
    python test.py --checkpoint last --split val      the newest run's; or a run's name, or a path
    python test.py --config F section.key=value ...   another file, and overrides of its keys

Prints a table of activations, attention, gradients and updates by layer, and the checks of
"A Recipe for Training Neural Networks" (https://karpathy.github.io/2019/04/25/recipe/) that a
program can do, PASS or FAIL; the exit status is 1 where one fails. Saves table.csv and the plots.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config, ConfigError, TrainConfig
from config_file import load_config
from dataset import PARTS, ImageDataset, Split, eval_transform, load_split
from engine.run import trained
from images import FileIndex
from model import Block, Tail, Tokens, VisionTransformer, attention_kept, parameter_groups
from pretrained.build import build_for
from tokens.plan import cache_folder
from utils import (
    UserError,
    command_line,
    keep_freed_memory,
    log,
    pick_device,
    replacing,
    seed_everything,
    setup_log,
    write_csv,
)

BINS = 101
# Images and steps by what trains: a B/16's forward and backward pass takes a second an image on
# 2 CPU cores, and behind a frozen trunk next to nothing.
FROZEN_TRUNK, ALL_WEIGHTS = (16, 10), (6, 3)
EDGE = 3.0  # beyond it GELU is 0 or the identity, within 0.004, and so is its slope, within 0.012
OUTLIER = 6.0  # standard deviations
FASTEST, SLOWEST = -1.0, -8.0  # log10 of update : weight; about -3 is healthy
MOST_FAR, LARGEST = 1e-4, 3e4  # of the median layer's gradient; float16 ends at 65,504

MARKS = {
    "not finite": "NaN or infinity comes out of it, or into its gradient",
    "constant": "it gives one and the same number everywhere, as with weights that are zero",
    "exploding": f"values beyond {LARGEST:g}, or gradients 10,000 times the median layer's",
    "vanishing": "its gradient is zero, or less than a ten-thousandth of the median layer's",
    "dead": f"most GELU units stay below -{EDGE:g} for every token: they give and learn nothing",
    "linear": f"most GELU units stay above {EDGE:g} for every token: there GELU is the identity",
    "collapsed": "each token attends to a single one (entropy near 0), so softmax passes no "
    "gradient (arXiv:2303.06296)",
    "never used": "it trains, but nothing of the loss depends on it",
    "frozen by mistake": "it is frozen, though train.mode means to train it",
    "trains by mistake": "it trains, though train.mode means to freeze it",
    "too fast": "a step changes more than a tenth of it: the learning rate is too high",
    "hardly moves": "a step changes less than a hundred-millionth of it: too low a learning rate",
}


@dataclass(frozen=True)
class Summary:
    """The numbers of one tensor: moments, Euclidean norm, max |x|, the share beyond 6 standard
    deviations, and a histogram of the middle 99.9 %."""

    mean: float
    std: float
    norm: float
    largest: float
    outliers: float
    counts: list[float]
    edges: list[float]


@dataclass
class Layer:
    """What was seen of a layer. Ratios are of the norms of all its parameters together.

    `entropy` (H,) is relative to ln N, `distance` (H,) in pixels; `updates` holds log10 of
    update : weight for each step. What a layer has not is None: a frozen one has no gradient.
    """

    name: str
    activation: Summary
    gradient: Summary | None = None
    gradient_ratio: float | None = None
    updates: list[float] = field(default_factory=list)
    entropy: Tensor | None = None
    distance: Tensor | None = None
    dead: float | None = None
    linear: float | None = None
    marks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """One question: True passed, False failed, None not asked, with the reason."""

    name: str
    passed: bool | None
    reason: str

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "skip"}[self.passed]
        return f"{verdict}  {self.name}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """The layers, the loss (nats) before each step and after the last, the step whose gradients
    the layers show, and the checks."""

    layers: list[Layer]
    losses: list[float]
    gradient_step: int
    checks: list[Check]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_log()
    keep_freed_memory()
    config, run, notes = settings(args)
    device, fallback = pick_device(config.train.device)
    for note in [*notes, *([fallback] if fallback else [])]:
        log.info(note)
    split = load_split(config.train, None, FileIndex(cache_folder(config.train) / "files.json"))
    seed_everything(config.train.seed)
    net = build_for(config, split.classes).to(device)
    train = with_choice(config.train.settled(len(split.part("train"))), config, run, net)
    most, steps = ALL_WEIGHTS if net.frozen_depth is None else FROZEN_TRUNK
    images, labels = real_batch(split, config, net, args.split, args.batch or most)

    report = examine(net, images.to(device), labels.to(device), train, steps)
    print_table(report)
    print(f"\nloss by step: {', '.join(f'{x:.4f}' for x in report.losses)}", end="")
    print(f" ({len(labels)} {args.split} images; {train.optim}, lr {train.lr:.3g}, no warm-up)")
    print(*report.checks, sep="\n")
    folder = output_folder(config, run)
    save(report, net, folder)
    print(f"saved: {folder} (table.csv and six plots)")
    return int(any(check.passed is False for check in report.checks))


# --------------------------------------------------------------------------------- what to look at


def settings(args: argparse.Namespace) -> tuple[Config, str | None, list[str]]:
    """The config, the name of the run whose checkpoint it is, and the notes to show.

    A checkpoint comes with its own run's config, unless another is named.
    """
    overrides, path = list(args.overrides), args.config or "config.yaml"
    config, notes = load_config(path, overrides)
    if not args.checkpoint:
        return config, None, notes
    logs = config.train.log_path
    there = trained(args.checkpoint, logs, config.train.save_path)
    if args.checkpoint == "last" and there is None:
        raise UserError(f"{logs} holds no run with weights; train first, or set train.log_path")
    checkpoint = str(there or args.checkpoint)  # or a name, or an address
    if checkpoint != args.checkpoint:
        notes = [f"the run's checkpoint: {checkpoint}"]
    run = Path(checkpoint).parent.name
    own = Path(logs) / run / "config.yaml"
    if args.config is None and own.exists():
        path = own
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
    path = Path(config.train.log_path) / (run or "") / "search.csv"
    if run is None or config.train.lr != "auto" or not path.exists():
        return train
    with open(path, newline="") as file:
        chosen = [row for row in csv.DictReader(file) if row["chosen"] == "1"]
    for row in chosen[:1]:
        numbers = {name: float(row[name]) for name in ("lr", "weight_decay")}
        train = train.model_copy(update={"optim": row["optim"], **numbers})
        if row["part"] == "head":
            train = train.model_copy(update={"finetune_blocks": 0})
            net.blocks.requires_grad_(False)
    return train


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


def layer_names(net: VisionTransformer) -> list[str]:
    """The modules to look at, by their names, in the order in which an image passes them."""
    parts = ("norm1", "attn", "norm2", "mlp")
    inner = [f"blocks.{i}.{part}" for i in range(len(net.blocks)) for part in parts]
    return ["patch_embed", *inner, "norm", "head"]


def minor(name: str) -> bool:
    """Whether a layer is shown only where something is wrong with it: the blocks' norms."""
    return name.startswith("blocks.") and ".norm" in name


# ------------------------------------------------------------------------------------- the numbers


def examine(
    net: VisionTransformer, images: Tensor, labels: Tensor, train: TrainConfig, steps: int = 3
) -> Report:
    """Everything about a network and a batch: a pass, some optimiser steps, the checks.

    `train` is settled (no `auto`). Without dropout and warm-up, on the same batch each step. All of
    it happens on a copy; the network stays as it is, its gradients included.
    """
    work = copy.deepcopy(net).eval()
    work.zero_grad(set_to_none=True)
    probed = probes(work, images[:2])
    first = first_pass(work, images, labels)
    checks = [
        finite(work, first),
        starts_at_chance(work, first, train),
        reaches_head(work, first),
        trains_as_meant(work, train),
    ]
    trace = take_steps(work, images, labels, first, train, steps)
    for layer in first.layers:
        layer.gradient, layer.gradient_ratio = trace.gradients.get(layer.name, (None, None))
        layer.updates = trace.updates.get(layer.name, [])
    mark(first.layers, work, train, head_is_zero(net))
    learning = [
        every_gradient(work, trace),
        frozen_stays(net, work),
        loss_falls(trace, train),
        updates_sane(first.layers, train, head_is_zero(net)),
    ]
    checks += [*learning, *probed]
    return Report(first.layers, trace.losses, trace.gradient_step, checks)


@dataclass
class Pass:
    """A forward pass: its layers, what the head read (B, D), the frozen trunk's tokens (B, N, D),
    None where nothing is frozen, and the loss, still part of the graph."""

    layers: list[Layer]
    features: Tensor
    tokens: Tensor | None
    loss: Tensor


def first_pass(net: VisionTransformer, images: Tensor, labels: Tensor) -> Pass:
    """The pass whose activations and attention the table shows, of all tokens."""
    names = layer_names(net)
    hidden = {f"blocks.{i}.mlp.fc1": f"blocks.{i}.mlp" for i in range(len(net.blocks))}
    features: list[Tensor] = []

    def keep(name: str, output: Tensor) -> Any:
        if name == "norm":
            features.append(output)
        return gelu_shares(output) if name in hidden else summarise(output)

    with recorded(net, [*names, *hidden], keep) as seen, attention_kept(net) as attention:
        tokens = None
        if net.frozen_depth is not None:
            tokens = net.forward_trunk(images, net.frozen_depth)
        loss = F.cross_entropy(forward(net, images, tokens), labels)
    layers = {name: Layer(name, seen[name]) for name in names}
    for fc1, name in hidden.items():
        layers[name].dead, layers[name].linear = seen[fc1]
    for i, a in enumerate(attention):
        if a.shape[-1] != net.pos_embed.shape[1]:  # not over the tokens: found by images_apart
            continue
        layers[f"blocks.{i}.attn"].entropy = attention_entropy(a)
        layers[f"blocks.{i}.attn"].distance = attention_distance(a, net.vit.patch_dim)
    known = None if tokens is None else tokens.detach()
    return Pass(list(layers.values()), features[0].detach(), known, loss)


def forward(net: VisionTransformer, images: Tensor, tokens: Tensor | None) -> Tensor:
    """Logits (B, C), from the frozen trunk's tokens where there are some."""
    return net(images) if tokens is None else net.forward_tail(tokens, net.frozen_depth or 0)


@contextlib.contextmanager
def recorded(
    net: nn.Module, names: list[str], keep: Callable[[str, Tensor], Any]
) -> Iterator[dict[str, Any]]:
    """While it lasts, a forward pass leaves in the dict what `keep` makes of the named modules'
    outputs."""
    seen: dict[str, Any] = {}

    def hooked(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[name] = keep(name, output)

        return net.get_submodule(name).register_forward_hook(hook)

    handles = [hooked(name) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def summarise(tensor: Tensor) -> Summary:
    """The Summary of all of a tensor's numbers; of what is not finite, the mean says so."""
    values = tensor.detach().float().flatten().cpu()
    known = values[values.isfinite()] if not values.isfinite().all() else values
    # A few outliers would squeeze everything else into one bin. A sample tells where they begin.
    sample = known[:: max(1, len(known) >> 18)].abs()
    reach = max(sample.quantile(0.999).item() if len(sample) else 0.0, 1e-12)
    counts, edges = torch.histogram(
        known if len(known) else torch.zeros(1), BINS, range=(-reach, reach)
    )
    std, mean = values.std(correction=0).item(), values.mean().item()
    return Summary(
        mean=mean,
        std=std,
        norm=values.norm().item(),
        largest=values.abs().max().item(),
        outliers=((values - mean).abs() > OUTLIER * std).float().mean().item() if std else 0.0,
        counts=counts.tolist(),
        edges=edges.tolist(),
    )


def gelu_shares(inputs: Tensor) -> tuple[float, float]:
    """The shares of dead and of linear units, by GELU's inputs (B, N, ff_dim): those below -3, and
    above 3, for every token of the batch."""
    units = inputs.detach().flatten(0, -2)
    dead, linear = units.amax(0) < -EDGE, units.amin(0) > EDGE
    return dead.float().mean().item(), linear.float().mean().item()


def attention_entropy(attention: Tensor) -> Tensor:
    """The mean entropy of each head's rows (H,), of attention (B, H, N, N), as a share of ln N: 1
    looks at all tokens equally, 0 at a single one."""
    a = attention.detach()
    return (torch.special.entr(a).sum(-1).mean((0, 2)) / math.log(a.shape[-1])).cpu()


def attention_distance(attention: Tensor, patch: int) -> Tensor:
    """How far each head looks (H,), in pixels, of attention (B, H, N, N): the distances from each
    patch to all patches, averaged by their attention; the class token does not count.

    Dosovitskiy et al., arXiv:2010.11929, figure 7 and appendix D.7.
    """
    a = attention.detach()[:, :, 1:, 1:]  # B H N-1 N-1
    grid = math.isqrt(a.shape[-1])
    at = torch.cartesian_prod(*[torch.arange(grid, dtype=a.dtype, device=a.device) * patch] * 2)
    far = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist")  # exact: 0 to itself
    a = a / a.sum(-1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    return (a * far).sum(-1).mean((0, 2)).cpu()


@dataclass
class Trace:
    """What some steps showed: losses before each and after the last, by layer the gradients'
    summary and ratio at `gradient_step` (from 1) and log10 of update : weight by step, and the
    parameters that were reached by a gradient."""

    losses: list[float]
    gradient_step: int = 1
    gradients: dict[str, tuple[Summary, float]] = field(default_factory=dict)
    updates: dict[str, list[float]] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)


def take_steps(
    net: VisionTransformer,
    images: Tensor,
    labels: Tensor,
    first: Pass,
    train: TrainConfig,
    steps: int,
) -> Trace:
    """Some optimiser steps on the batch; they end early where the loss is no longer finite.

    Behind a zero head nothing gets a gradient in the first step, so there the last step's count.
    """
    fresh, loss = head_is_zero(net), first.loss
    trace = Trace([loss.item()])
    optimizer = build_optimizer(net, train) if loss.requires_grad else None
    trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
    by_layer = {name: list(net.get_submodule(name).parameters()) for name in layer_names(net)}
    by_layer = {n: ps for n, ps in by_layer.items() if any(p.requires_grad for p in ps)}
    for step in range(steps):
        if optimizer is None or not loss.isfinite():
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trace.reached |= {n for n, p in trained.items() if p.grad is not None and p.grad.any()}
        if step == 0 or fresh:
            trace.gradient_step = step + 1
            trace.gradients = gradients_of(by_layer)
        nn.utils.clip_grad_norm_(list(trained.values()), train.clip or math.inf)
        before = {n: [p.detach().clone() for p in ps] for n, ps in by_layer.items()}
        optimizer.step()
        for name, old in before.items():
            change = [p.detach() - q for p, q in zip(by_layer[name], old, strict=True)]
            trace.updates.setdefault(name, []).append(log_ratio(norm(change), norm(old)))
        with torch.set_grad_enabled(step < steps - 1):
            loss = F.cross_entropy(forward(net, images, first.tokens), labels)
        trace.losses.append(loss.item())
    return trace


def gradients_of(by_layer: dict[str, list[nn.Parameter]]) -> dict[str, tuple[Summary, float]]:
    """The gradients' summary and their norm by the weights', of the layers that have some."""
    found = {}
    for name, parameters in by_layer.items():
        gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
        if gradients:
            size, weights = norm(gradients), norm([p.detach() for p in parameters])
            ratio = size / weights if weights else math.nan
            found[name] = summarise(torch.cat(gradients)), ratio
    return found


def norm(tensors: list[Tensor]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()


def log_ratio(change: float, size: float) -> float:
    """log10 of a ratio; NaN where nothing moved, or where there was nothing before."""
    return math.log10(change / size) if change and size else math.nan


def build_optimizer(net: VisionTransformer, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of training.py, in 32 bits."""
    assert train.lr != "auto" and train.layer_decay != "auto" and train.weight_decay != "auto"
    groups = parameter_groups(net, train.lr, train.weight_decay, train.layer_decay)
    if train.optim == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)
    return torch.optim.AdamW(groups, lr=train.lr)


def head_is_zero(net: VisionTransformer) -> bool:
    return isinstance(net.head, nn.Linear) and not net.head.weight.any()


# ----------------------------------------------------------------------------------- what is wrong


def mark(layers: list[Layer], net: VisionTransformer, train: TrainConfig, fresh: bool) -> None:
    """Put on each layer the MARKS that apply. A fresh head is small by nature and grows fast."""
    meant = meant_to_train(net, train)
    ratios = [x.gradient_ratio or math.nan for x in layers if x.name != "head"]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    median = float(np.median(known)) if known else 0.0
    stepped = any(layer.gradient for layer in layers)
    for layer in layers:
        a, g = layer.activation, layer.gradient
        at_head = fresh and layer.name == "head"
        parameters = dict(net.get_submodule(layer.name).named_parameters(layer.name))
        trains = any(p.requires_grad for p in parameters.values())
        should = any(name in meant for name in parameters)
        ratio = median if at_head or layer.gradient_ratio is None else layer.gradient_ratio
        last = layer.updates[-1] if layer.updates and not at_head else math.nan
        found = {
            "not finite": not math.isfinite(a.norm) or (g and not math.isfinite(g.norm)),
            "constant": a.std < 1e-9 and not at_head,
            "exploding": a.largest > LARGEST or ratio > median / MOST_FAR,
            "vanishing": g and (g.norm == 0 or ratio < median * MOST_FAR),
            "dead": (layer.dead or 0) > 0.5,
            "linear": (layer.linear or 0) > 0.5,
            "collapsed": layer.entropy is not None and layer.entropy.mean() < 0.02,
            "never used": stepped and trains and g is None,
            "frozen by mistake": should and not trains,
            "trains by mistake": trains and not should,
            "too fast": last > FASTEST,
            "hardly moves": last < SLOWEST,
        }
        layer.marks = [name for name, applies in found.items() if applies and parameters]


def meant_to_train(net: VisionTransformer, train: TrainConfig) -> set[str]:
    """The names of the parameters that the mode trains."""
    names = {name for name, _ in net.named_parameters()}
    if train.mode != "finetune":
        return names
    depth = len(net.blocks) - train.finetune_blocks
    last = tuple(f"blocks.{i}." for i in range(depth, len(net.blocks)))
    return {name for name in names if name.startswith((*last, "norm.", "pre_logits.", "head."))}


def finite(net: VisionTransformer, first: Pass) -> Check:
    name = "no NaN, no infinity"
    bad = [n for n, p in net.named_parameters() if not p.isfinite().all()]
    bad += [x.name for x in first.layers if not math.isfinite(x.activation.norm)]
    if bad:
        return Check(name, False, f"in {some(bad)}")
    return Check(name, True, "in no weight and no activation")


def starts_at_chance(net: VisionTransformer, first: Pass, train: TrainConfig) -> Check:
    name, loss = "the loss starts at chance", first.loss.item()
    if not head_is_zero(net) and train.mode != "scratch":
        return Check(name, None, f"not a fresh head; the loss is {loss:.4f}")
    assert isinstance(net.vit.num_classes, int)
    chance = math.log(net.vit.num_classes)
    said = f"{loss:.4f}, ln {net.vit.num_classes} is {chance:.4f}"
    return Check(name, abs(loss - chance) < 0.1 * chance, said)


def reaches_head(net: VisionTransformer, first: Pass) -> Check:
    """Whether what the head reads, the class token behind the final norm, tells images apart."""
    name, features = "the images reach the head", first.features
    if not net.norm.weight.any():
        why = "the final norm's weight (norm.weight) is all zero: the head sees the same each time"
        return Check(name, False, why)
    if len(features) < 2 or not features.isfinite().all():
        return Check(name, None, "it takes two images, and finite numbers, to tell")
    apart = (features - features.mean(0)).norm() / features.norm().clamp(min=1e-12)
    if not apart > 1e-5:
        return Check(name, False, "the class token behind the final norm is the same for all")
    return Check(name, True, f"its class tokens differ by {apart:.0%} of their size")


def trains_as_meant(net: VisionTransformer, train: TrainConfig) -> Check:
    meant = meant_to_train(net, train)
    name = f"what trains is what mode {train.mode} means"
    trains = {n for n, p in net.named_parameters() if p.requires_grad}
    wrong = []
    if missing := [n for n, _ in net.named_parameters() if n in meant - trains]:
        wrong.append(f"frozen by mistake: {some(missing)}")
    if extra := [n for n, _ in net.named_parameters() if n in trains - meant]:
        wrong.append(f"not meant to train: {some(extra)}")
    total, trainable = net.parameter_counts()
    return Check(name, not wrong, "; ".join(wrong) or f"{trainable:,} of {total:,} parameters")


def every_gradient(net: VisionTransformer, trace: Trace) -> Check:
    name = "every parameter that trains gets a gradient"
    trains = [n for n, p in net.named_parameters() if p.requires_grad]
    none = [n for n in trains if n not in trace.reached]
    if none or not trains:
        return Check(name, False, f"none came to {some(none)}" if trains else "nothing trains")
    return Check(name, True, f"{len(trains)} of {len(trains)} tensors")


def frozen_stays(before: VisionTransformer, after: VisionTransformer) -> Check:
    name = "what is frozen stays"
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    frozen = [(n, p, q) for (n, p), q in pairs if not q.requires_grad]
    bad = [n for n, p, q in frozen if q.grad is not None or not p.equal(q)]
    if bad:
        return Check(name, False, f"a gradient or a change came to {some(bad)}")
    return Check(name, True, f"{len(frozen)} frozen tensors, none changed, none with a gradient")


def loss_falls(trace: Trace, train: TrainConfig) -> Check:
    losses, steps = trace.losses, len(trace.losses) - 1
    name, start = "the loss falls", losses[0]
    if not steps:
        why = "nothing trains" if math.isfinite(start) else f"it is {start} from the start"
        return Check(name, False, f"no step could be taken: {why}")
    said = f"{start:.4f} to {losses[-1]:.4f} in {steps} steps"
    jumps = not all(x < 1.5 * start + 0.5 for x in losses)  # NaN too
    if not jumps and (losses[-1] < start or losses[-1] < 0.05):
        return Check(name, True, said)
    last = [x[-1] for x in trace.updates.values()]
    assert train.lr != "auto"
    why = "too little trains, or the gradients are wrong"
    if jumps or train.lr > 10 * train.recipe_lr or max(last, default=math.nan) > FASTEST:
        why = said_of_lr(train)
    elif train.lr < 1e-3 * train.recipe_lr:
        why = said_of_lr(train, "low")
    return Check(name, False, f"{said}, {max(losses):.4f} at most: {why}")


def said_of_lr(train: TrainConfig, size: str = "high") -> str:
    return (
        f"the learning rate {train.lr:g} ({train.optim}) is too {size}; mode {train.mode} trains "
        f"well with {train.recipe_lr:.2g}"
    )


def updates_sane(layers: list[Layer], train: TrainConfig, fresh: bool) -> Check:
    name = "a step's changes are of a sane size"
    last = {x.name: x.updates[-1] for x in layers if x.updates and not math.isnan(x.updates[-1])}
    if fresh:
        last.pop("head", None)  # it grows from nothing
    if not last:
        return Check(name, None, "nothing but a fresh head moved")
    middle = float(np.median(list(last.values())))
    fast = [n for n, x in last.items() if x > FASTEST]
    said = f"update : weight is 10^{middle:.1f} in the middle, 10^{max(last.values()):.1f} at most"
    if fast:
        return Check(name, False, f"{said}, too fast in {some(fast)}: {said_of_lr(train)}")
    if middle < SLOWEST:
        return Check(name, False, f"{said}: {said_of_lr(train, 'low')}")
    return Check(name, True, f"{said}; about 10^-3 is healthy")


def some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# ---------------------------------------------------------------------------- mixing and chance


def probes(net: VisionTransformer, images: Tensor) -> list[Check]:
    """Whether images influence each other, and whether evaluation gives the same twice.

    A zero head would hide both, so a random one stands in for it meanwhile.
    """
    head = net.head
    kept = head.weight.data if isinstance(head, nn.Linear) else None
    try:
        if isinstance(head, nn.Linear):
            random = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
            head.weight.data = random.to(head.weight)
        return [images_apart(net, images), deterministic(net, images)]
    finally:
        if isinstance(head, nn.Linear) and kept is not None:
            head.weight.data = kept
        net.eval()


def images_apart(net: VisionTransformer, images: Tensor) -> Check:
    """The gradient of one image's output with respect to the others must be zero, in training mode,
    where a BatchNorm would mix them.

    Behind the layer that mixes it is zero, before it not: so the layer is named.
    """
    name = "the images of a batch do not influence each other"
    if len(images) < 2:
        return Check(name, None, "there is one image only")
    net.train()
    blocks = [f"blocks.{i}" for i in range(len(net.blocks))]
    images = images.detach().requires_grad_()
    names = [*layer_names(net)[:-1], *blocks]
    net.full_last_block = True
    with recorded(net, names, lambda _, output: output) as seen:
        logits = net(images)
    net.full_last_block = False
    own, others = gradients_apart(logits, [images, *seen.values()])
    if not own[0] > 0:
        return Check(name, None, "no output depends on its own image")
    mixed = [others[i] > 1e-6 * max(own[0], own[i]) for i in range(len(own))]
    if mixed[0]:
        culprit = [*seen, "head"][len(mixed) - 1 - mixed[::-1].index(True)]
        why = f"{culprit} mixes them: by another image's pixels an output has a gradient of "
        return Check(name, False, f"{why}{others[0] / own[0]:.1%} of that by its own")
    # What is trained on, the class token's short cut through the last block.
    last, depth = net.blocks[-1], net.frozen_depth
    depth = len(net.blocks) - 1 if depth is None else depth
    with torch.no_grad():
        tokens = net.forward_trunk(images, depth)
    tokens.requires_grad_()
    assert isinstance(last, Block)
    if depth == net.frozen_depth == len(net.blocks) - 1:
        logits = Tail(net)(Tokens(last.normalise(tokens), tokens[:, 0]))
    else:
        logits = net.forward_tail(tokens, depth)
    own, others = gradients_apart(logits, [tokens])
    if others[0] > 1e-6 * own[0]:
        return Check(name, False, f"blocks.{len(net.blocks) - 1}.forward_cls mixes them")
    return Check(name, True, "the gradient by another image is zero, on both ways to the logits")


def gradients_apart(logits: Tensor, inputs: list[Tensor]) -> tuple[list[float], list[float]]:
    """The norms of the gradients of the first row of logits by each input's first row, and by its
    other rows."""
    found = torch.autograd.grad(logits[0].square().sum(), inputs, allow_unused=True)
    kept = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
    return [g[0].norm().item() for g in kept], [g[1:].norm().item() for g in kept]


@torch.no_grad()
def deterministic(net: VisionTransformer, images: Tensor) -> Check:
    name = "evaluation gives the same twice"
    net.eval()
    one, two = net(images), net(images)
    off = ((one - two).norm() / one.norm().clamp(min=1e-12)).item()
    if math.isnan(off):
        return Check(name, None, "the logits are no numbers")
    if off > 1e-5:
        return Check(name, False, f"the logits differ by {off:.1%}: is dropout on in eval mode?")
    return Check(name, True, "the logits are equal" if off == 0 else f"to {off:.0e} of their size")


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


def save(report: Report, net: VisionTransformer, folder: Path) -> None:
    """The table as CSV and the plots as PNG files."""
    moments = ("mean", "std", "norm", "largest", "outliers")
    rows = []
    for layer in report.layers:
        row: dict[str, Any] = {"layer": layer.name}
        for kind, summary in (("activation", layer.activation), ("gradient", layer.gradient)):
            row |= {f"{kind}_{m}": getattr(summary, m) if summary else None for m in moments}
        row |= {"gradient_to_weight": layer.gradient_ratio, "dead": layer.dead}
        row |= {
            "linear": layer.linear,
            "log10_update": layer.updates[-1] if layer.updates else None,
        }
        for kind, heads in (("entropy", layer.entropy), ("distance", layer.distance)):
            for which in ("min", "mean", "max"):
                value = None if heads is None else getattr(heads, which)().item()
                row[f"{kind}_{which}"] = value
        rows.append(row | {"marks": "; ".join(layer.marks)})
    write_csv(folder / "table.csv", rows)
    shown = [layer for layer in report.layers if not minor(layer.name)]
    activations = {layer.name: layer.activation for layer in shown}
    gradients = {layer.name: layer.gradient for layer in shown if layer.gradient}
    draw_histograms(activations, "Activations", folder / "activations.png")
    title = f"Gradients of what trains in step {report.gradient_step}"
    draw_histograms(gradients, title, folder / "gradients.png")
    draw_updates(shown, folder / "updates.png")
    draw_distances(report.layers, net.vit.dim, folder / "attention_distance.png")
    draw_positions(net.pos_embed, folder / "positions.png")
    draw_filters(net.patch_embed.proj.weight, folder / "filters.png")


@contextlib.contextmanager
def figure_at(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches that is written to a PNG file at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_histograms(rows: dict[str, Summary], title: str, path: Path) -> None:
    """A small histogram for each layer, counts on a log scale; a frozen one has none."""
    columns, height = 4, max(1, -(-len(rows) // 4))
    with figure_at(path, 3.4 * columns, 1.7 * height + 0.6) as figure:
        figure.suptitle(f"{title}, the middle 99.9 %, counts on a log scale")
        grid = figure.subplots(height, columns, squeeze=False).flatten()
        for axes in grid[len(rows) :]:
            axes.set_axis_off()
        for axes, (name, summary) in zip(grid, rows.items(), strict=False):
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=4)
            axes.ticklabel_format(axis="x", scilimits=(-3, 4))
            axes.xaxis.get_offset_text().set_fontsize(7)
            if not summary.norm > 0:
                text = "all zero" if summary.norm == 0 else "not finite"
                axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
                axes.set(xticks=[], yticks=[])
                continue
            axes.stairs([count + 1e-9 for count in summary.counts], summary.edges, fill=True)
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.5)


def draw_updates(layers: list[Layer], path: Path) -> None:
    """log10 of update : weight by step, a line a layer, coloured by depth."""
    from matplotlib import colormaps

    layers = [layer for layer in layers if layer.updates]
    with figure_at(path, 8, 4.8) as figure:
        axes = figure.subplots()
        for i, layer in enumerate(layers):
            colour = colormaps["viridis"](0.92 * i / max(1, len(layers) - 1))
            style = "--" if layer.name.endswith("mlp") else "-"
            steps = range(1, len(layer.updates) + 1)
            axes.plot(steps, layer.updates, style, marker="o", ms=3, color=colour, label=layer.name)
        axes.axhline(-3, color="#777777", ls=":", label="about healthy")
        axes.set(xlabel="step", ylabel="log10(update : weight)", title="How much a step changes")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)


def draw_distances(layers: list[Layer], size: int, path: Path) -> None:
    """Each head's mean attention distance against depth (arXiv:2010.11929, figure 7, right)."""
    found = [layer.distance for layer in layers if layer.distance is not None]
    with figure_at(path, 7, 4.4) as figure:
        axes = figure.subplots()
        for block, heads in enumerate(found):
            axes.scatter([block] * len(heads), heads, s=22, color="#0072B2", alpha=0.7)
        means = [heads.mean().item() for heads in found]
        axes.plot(range(len(found)), means, color="#D55E00", label="mean of the heads")
        axes.set(xlabel="block", ylabel="mean attention distance (pixels)", ylim=(0, None))
        axes.set_title(f"How far each head looks (images of {size} pixels)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


def draw_positions(pos_embed: Tensor, path: Path) -> None:
    """Cosine similarity of some patches' positions with all (the paper's figure 7, centre)."""
    table = F.normalize(pos_embed.detach()[0, 1:].float().cpu(), dim=-1)  # N-1 D
    g = math.isqrt(len(table))
    rows = sorted({round(x) for x in np.linspace(0, g - 1, min(g, 7))})
    k = len(rows)
    tiles = torch.full((k, g + 1, k, g + 1), math.nan)  # a gap between the maps
    maps = (table @ table.T).view(g, g, g, g)[rows][:, rows]  # k k g g
    tiles[:, :g, :, :g] = maps.permute(0, 2, 1, 3)
    with figure_at(path, 7.2, 6.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(tiles.flatten(2).flatten(0, 1)[:-1, :-1].numpy(), vmin=-1, vmax=1)
        middles = [i * (g + 1) + (g - 1) / 2 for i in range(k)]
        axes.set_xticks(middles, [row + 1 for row in rows])
        axes.set_yticks(middles, [row + 1 for row in rows])
        axes.set(xlabel="column of the patch", ylabel="row of the patch", frame_on=False)
        axes.set_title("Similarity of position embeddings: each map is one patch's with all")
        figure.colorbar(image, label="cosine similarity", shrink=0.8)


def draw_filters(weight: Tensor, path: Path) -> None:
    """The first principal components of the patch embedding's filters (D, c, p, p)
    (arXiv:2010.11929, figure 7, left)."""
    flat = weight.detach().float().cpu().flatten(1)
    _, _, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    c, p = weight.shape[1:3]
    tiles = torch.ones(4, p + 1, 7, p + 1, c)  # a white gap between the filters
    for i, component in enumerate(components[:28]):
        low, high = component.min(), component.max()
        pixels = (component - low) / (high - low).clamp(min=1e-12)
        tiles[i // 7, :p, i % 7, :p] = pixels.view(c, p, p).permute(1, 2, 0)
    with figure_at(path, 7, 4.4) as figure:
        axes = figure.subplots()
        axes.imshow(
            tiles.flatten(2, 3).flatten(0, 1)[:-1, :-1].squeeze(-1).numpy(),
            cmap="gray",
            vmin=0,
            vmax=1,
        )
        axes.set_title("Patch embedding: the first principal components of its filters")
        axes.set_axis_off()


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
    args = parser.parse_intermixed_args(argv)
    if args.batch is not None and args.batch < 2:
        parser.error(f"--batch {args.batch}: it takes 2 images or more to tell them apart")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
