"""The head over layers, solved for in closed form on the cached tokens (docs/layers.md)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from engine.job import Setting
from engine.ridge import Ridge, fit_ridge
from metrics import wilson
from model import CELLS, LayersHead, VisionTransformer, entering, readable
from tokens.cache import TokenLoader, layers_of


def add_layers_head(
    net: VisionTransformer, loader: TokenLoader, head: str, setting: Setting | None
) -> Tensor:
    """Give a network the head over layers that a training part's tokens ask for, beside its class
    head (`both`) or instead of it (`layers`).

    Returns the logits (n, C) of the head over layers for each training picture, in the loader's
    order, when it is fitted without it. `setting`: what the search found, with the class head's
    scale.
    """
    ridge, _ = solved(net, loader)
    net.layers = as_head(ridge, read_depths(net), net.vit.hidden_dim).to(net.device)
    if head == "layers":
        net.head = nn.Identity()
        net.vit = net.vit.model_copy(update={"num_classes": 0})
    elif setting is not None:
        nn.init.constant_(net.layers.scale, setting.scale)
    return ridge.left_out


def read_depths(net: VisionTransformer) -> list[int]:
    """The numbers of the blocks whose input is read: the later half of those that stay frozen."""
    assert net.frozen_depth is not None
    blocks = net.vit.num_layers
    return list(range(max(1, blocks // 2), min(net.frozen_depth, blocks - 1) + 1))


def layer_features(net: VisionTransformer, loader: TokenLoader) -> tuple[Tensor, Tensor]:
    """What the head over layers reads of the loader's pictures (n, P), and their labels (n,)."""
    layers, labels = layers_of(loader)  # n R D
    return readable(layers, read_depths(net)), labels


def solved(net: VisionTransformer, loader: TokenLoader) -> tuple[Ridge, Tensor]:
    """Ridge regression of a training part's labels (n,), which it returns too, on what enters the
    blocks that are read."""
    features, labels = layer_features(net, loader)
    return fit_ridge(features, labels, net.num_classes, copies_of(loader.rows)), labels


def by_layer(net: VisionTransformer, loader: TokenLoader) -> list[dict[str, float]]:
    """For each block whose output is known, alone: the share of the training pictures that a ridge
    regression on it gets right without them, and its 95 % interval."""
    (layers, labels), copies = layers_of(loader), copies_of(loader.rows)
    found = []
    blocks = (layers.shape[1] - CELLS**2) // 2
    for block in range(1, blocks + 1):
        ridge = fit_ridge(entering(layers, [block]), labels, net.num_classes, copies)
        accuracy = (ridge.left_out.argmax(1) == labels).double().mean().item()
        low, high = wilson(accuracy, len(labels))
        row = {"block": block, "left_out_accuracy": accuracy, "low": low, "high": high}
        found.append({name: round(value, 6) for name, value in row.items()})
    return found


def told_apart_from(rows: list[dict[str, float]]) -> int:
    """The first block that is as good as the best, but for the uncertainty of that one."""
    best = max(rows, key=lambda row: row["left_out_accuracy"])
    return int(next(r["block"] for r in rows if r["left_out_accuracy"] >= best["low"]))


def each_can_be_left_out(loader: TokenLoader) -> bool:
    """Whether every class has another picture when one, with its copies, is left out."""
    rows, labels = loader.rows[:, 0], loader.dataset.numpy()
    return all(len(set(rows[labels == label])) > 1 for label in set(labels.tolist()))


def as_head(ridge: Ridge, depths: list[int], width: int) -> LayersHead:
    head = LayersHead(depths, width, len(ridge.bias))
    head.fc.weight = nn.Parameter(ridge.weight, requires_grad=False)
    head.fc.bias = nn.Parameter(ridge.bias, requires_grad=False)
    return head


def copies_of(rows: np.ndarray) -> list[Tensor]:
    """The indices of images that are the same, byte for byte: they share a row of records."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows[:, 0].tolist()):
        found[row].append(index)
    return [torch.tensor(same) for same in found.values() if len(same) > 1]
