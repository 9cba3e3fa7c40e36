"""The numbers of each layer: activations, attention, GELU units, gradients, updates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import TrainConfig
from engine.job import build_optimizer
from model import VisionTransformer, attention_kept

BINS = 101
EDGE = 3.0  # beyond it GELU is 0 or the identity, within 0.004, and so is its slope, within 0.012
OUTLIER = 6.0  # standard deviations


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


def layer_names(net: VisionTransformer) -> list[str]:
    """The modules to look at, by their names, in the order in which an image passes them."""
    parts = ("norm1", "attn", "norm2", "mlp")
    inner = [f"blocks.{i}.{part}" for i in range(len(net.blocks)) for part in parts]
    return ["patch_embed", *inner, "norm", "head"]


def minor(name: str) -> bool:
    """Whether a layer is shown only where something is wrong with it: the blocks' norms."""
    return name.startswith("blocks.") and ".norm" in name


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


def head_is_zero(net: VisionTransformer) -> bool:
    return isinstance(net.head, nn.Linear) and not net.head.weight.any()
