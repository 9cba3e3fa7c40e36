"""What is wrong with a network, or can't be: marks on its layers, and the list of PASS and FAIL."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from config import TrainConfig
from inspection.layers import (
    EDGE,
    Layer,
    Pass,
    Trace,
    first_pass,
    head_is_zero,
    layer_names,
    recorded,
    take_steps,
)
from model import Block, Tail, Tokens, VisionTransformer
from utils import some

FASTEST, SLOWEST = -1.0, -8.0  # log10 of update : weight; about -3 is healthy
NAMED = 4  # tensors in one sentence, the others counted
KNOWN = 0.05  # nats: a batch of a lower loss is learned, and passes next to no gradient on
TINY = 1e-2  # a gradient's norm that moves nothing far
MOST_FAR, LARGEST = 1e-4, 3e4  # of the median layer's gradient; float16 ends at 65,504
MARKS = {
    "not finite": "NaN or infinity comes out of it, or into its gradient",
    "constant": "it gives one and the same number everywhere, as with weights that are zero",
    "exploding": f"values beyond {LARGEST:g}, or gradients 10,000 times the median layer's, by its "
    "weights and by themselves",
    "vanishing": "its gradient is zero, or less than a ten-thousandth of the median layer's, and "
    "the batch is not learned yet",
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
    mark(first.layers, work, train, head_is_zero(net), learned(trace))
    learning = [
        every_gradient(work, trace),
        frozen_stays(net, work),
        loss_falls(trace, train),
        updates_sane(first.layers, train, head_is_zero(net), learned(trace)),
    ]
    checks += [*learning, *probed]
    return Report(first.layers, trace.losses, trace.gradient_step, checks)


def learned(trace: Trace) -> bool:
    """Whether the batch was known when the gradients were looked at: little was left to pass on."""
    return trace.losses[trace.gradient_step - 1] < KNOWN


def mark(
    layers: list[Layer], net: VisionTransformer, train: TrainConfig, fresh: bool, known: bool
) -> None:
    """Put on each layer the MARKS that apply. A fresh head is small by nature and grows fast; a
    trained one is small still, so its gradient is large by its weights. Behind a batch that is
    `known` small gradients and steps are no fault."""
    meant = meant_to_train(net, train)
    median = middle([x.gradient_ratio for x in layers if x.name != "head"])
    usual = middle([x.gradient.norm for x in layers if x.gradient and x.name != "head"])
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
            "exploding": a.largest > LARGEST
            or (ratio > median / MOST_FAR and g and g.norm > max(usual / MOST_FAR, TINY)),
            "vanishing": not known and g and (g.norm == 0 or ratio < median * MOST_FAR),
            "dead": (layer.dead or 0) > 0.5,
            "linear": (layer.linear or 0) > 0.5,
            "collapsed": layer.entropy is not None and layer.entropy.mean() < 0.02,
            "never used": stepped and trains and g is None,
            "frozen by mistake": should and not trains,
            "trains by mistake": trains and not should,
            "too fast": last > FASTEST,
            "hardly moves": not known and last < SLOWEST,
        }
        layer.marks = [name for name, applies in found.items() if applies and parameters]


def middle(values: list[float | None]) -> float:
    """The median of what is there and finite; 0 of nothing. Zero counts as nothing."""
    there = [value for value in values if value and math.isfinite(value)]
    return float(np.median(there)) if there else 0.0


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
        return Check(name, False, f"in {some(bad, NAMED)}")
    return Check(name, True, "in no weight and no activation")


def starts_at_chance(net: VisionTransformer, first: Pass, train: TrainConfig) -> Check:
    name, loss = "the loss starts at chance", first.loss.item()
    if not head_is_zero(net) and train.mode != "scratch":
        return Check(name, None, f"not a fresh head; the loss is {loss:.4f}")
    chance = math.log(net.num_classes)
    said = f"{loss:.4f}, ln {net.num_classes} is {chance:.4f}"
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
        wrong.append(f"frozen by mistake: {some(missing, NAMED)}")
    if extra := [n for n, _ in net.named_parameters() if n in trains - meant]:
        wrong.append(f"not meant to train: {some(extra, NAMED)}")
    total, trainable = net.parameter_counts()
    return Check(name, not wrong, "; ".join(wrong) or f"{trainable:,} of {total:,} parameters")


def every_gradient(net: VisionTransformer, trace: Trace) -> Check:
    name = "every parameter that trains gets a gradient"
    trains = [n for n, p in net.named_parameters() if p.requires_grad]
    none = [n for n in trains if n not in trace.reached]
    if none and trains and learned(trace):
        return Check(
            name, None, f"the batch is known, its loss {trace.losses[0]:.2g}: none is left"
        )
    if none or not trains:
        return Check(
            name, False, f"none came to {some(none, NAMED)}" if trains else "nothing trains"
        )
    return Check(name, True, f"{len(trains)} of {len(trains)} tensors")


def frozen_stays(before: VisionTransformer, after: VisionTransformer) -> Check:
    name = "what is frozen stays"
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    frozen = [(n, p, q) for (n, p), q in pairs if not q.requires_grad]
    bad = [n for n, p, q in frozen if q.grad is not None or not p.equal(q)]
    if bad:
        return Check(name, False, f"a gradient or a change came to {some(bad, NAMED)}")
    return Check(name, True, f"{len(frozen)} frozen tensors, none changed, none with a gradient")


def loss_falls(trace: Trace, train: TrainConfig) -> Check:
    losses, steps = trace.losses, len(trace.losses) - 1
    name, start = "the loss falls", losses[0]
    if not steps:
        why = "nothing trains" if math.isfinite(start) else f"it is {start} from the start"
        return Check(name, False, f"no step could be taken: {why}")
    said = f"{start:.4f} to {losses[-1]:.4f} in {steps} steps"
    jumps = not all(x < 1.5 * start + 0.5 for x in losses)  # NaN too
    if not jumps and (losses[-1] < start or losses[-1] < KNOWN):
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
    if math.isclose(train.lr, train.recipe_lr, rel_tol=0.05):  # type: ignore[arg-type]
        other = train.lr * (0.1 if size == "high" else 10)  # type: ignore[operator]
        return (
            f"the learning rate {train.lr:g} ({train.optim}), mode {train.mode}'s own, is too "
            f"{size} for this network; try train.lr={other:.1g}"
        )
    return (
        f"the learning rate {train.lr:g} ({train.optim}) is too {size}; mode {train.mode} trains "
        f"well with {train.recipe_lr:.2g}"
    )


def updates_sane(layers: list[Layer], train: TrainConfig, fresh: bool, known: bool) -> Check:
    name = "a step's changes are of a sane size"
    last = {x.name: x.updates[-1] for x in layers if x.updates and not math.isnan(x.updates[-1])}
    if fresh:
        last.pop("head", None)  # it grows from nothing
    if not last:
        return Check(name, None, "nothing but a fresh head moved")
    usual = float(np.median(list(last.values())))
    fast = [n for n, x in last.items() if x > FASTEST]
    said = f"update : weight is 10^{usual:.1f} in the middle, 10^{max(last.values()):.1f} at most"
    if fast:
        return Check(name, False, f"{said}, too fast in {some(fast, NAMED)}: {said_of_lr(train)}")
    if usual < SLOWEST and known:
        return Check(name, None, f"{said}: the batch is known, and little is left to change")
    if usual < SLOWEST:
        return Check(name, False, f"{said}: {said_of_lr(train, 'low')}")
    return Check(name, True, f"{said}; about 10^-3 is healthy")


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
