"""The head over layers, solved for in closed form on the cached tokens (docs/layers.md)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.job import Setting
from engine.ridge import Ridge, fit_ridge
from metrics import balanced_interval, wilson
from model import CELLS, LayersHead, VisionTransformer, entering, readable
from tokens.cache import TokenLoader, layers_of, layers_of_views

# Pictures: a decomposition of so many takes half a minute, and their features of a B/16 0.3 GB.
MOST_FITTED = 5_000
MOST_ROWS = 2_000  # views in all: a fit takes 3 s of a core, of a B/16's 5
CHUNK = 1_000
WIDE = 0.25  # an interval: within a wider one any block may be as good as another


def add_layers_head(
    net: VisionTransformer, loader: TokenLoader, head: str, setting: Setting | None
) -> Tensor:
    """Give a network the head over layers that a training part's tokens ask for, beside its class
    head (`both`) or instead of it (`layers`).

    Returns the logits (n, C) of the head over layers for each training picture, in the loader's
    order, when it is fitted without it. `setting`: what the search found, with the class head's
    scale.
    """
    ridge = solved(net, loader)
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


def layer_features(
    net: VisionTransformer, loader: TokenLoader, views: int = 1
) -> tuple[Tensor, Tensor]:
    """What the head over layers reads of the loader's pictures (n, P), or of their first `views`
    (n, V, P), and their labels (n,)."""
    layers, labels = layers_of_views(loader, views)  # n V R D
    x = readable(layers.flatten(0, 1), read_depths(net))
    return x if views == 1 else x.unflatten(0, layers.shape[:2]), labels


def views_fitted(loader: TokenLoader) -> int:
    """How many views of each of the loader's pictures are fitted to."""
    return views_of(len(loader.dataset), loader.rows.shape[1])


def views_of(pictures: int, views: int) -> int:
    """How many of their views are fitted to: those that there are, as far as MOST_ROWS goes: of
    many pictures they add little, and their fits take minutes."""
    return max(1, min(views, MOST_ROWS // max(1, pictures)))


def fitted_size(net: VisionTransformer, pictures: int, views: int) -> tuple[int, int]:
    """The rows, and the features of each, that the head over layers is fitted to."""
    some = min(pictures, MOST_FITTED)
    width = (2 * len(read_depths(net)) + CELLS**2) * net.vit.hidden_dim
    return some * views_of(some, views), width


def solved(net: VisionTransformer, loader: TokenLoader) -> Ridge:
    """Ridge regression of a training part's labels on what enters the blocks that are read.

    Of more than MOST_FITTED pictures some are fitted to; `left_out` has them all, the others as
    they are answered: by a fit to other groups, where some of their group are fitted to.
    """
    labels, groups = loader.dataset.numpy(), loader.groups
    chosen = some_of_each(labels, MOST_FITTED)
    ridge = _solved(net, loader, chosen)
    if len(chosen) == len(labels):
        return ridge
    left_out = torch.empty(len(labels), net.num_classes)
    left_out[chosen] = ridge.left_out
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    fitted = np.isin(groups[others], groups[chosen])
    left_out[others[~fitted]] = answers(net, loader.plain(others[~fitted]), ridge)
    half = np.unique(groups, return_inverse=True)[1] % 2
    for side in (0, 1):
        asked, learned = others[fitted & (half[others] == side)], np.flatnonzero(half != side)
        if not len(asked):
            continue
        some = learned[some_of_each(labels[learned], MOST_FITTED)]
        other = _solved(net, loader, some) if len(some) else ridge
        left_out[asked] = answers(net, loader.plain(asked), other)
    return replace(ridge, left_out=left_out)


def _solved(net: VisionTransformer, loader: TokenLoader, chosen: np.ndarray) -> Ridge:
    some = loader.plain(chosen)
    features, labels = layer_features(net, some, views_fitted(some))
    return fit_ridge(features, labels, net.num_classes, together(some.groups))


@torch.no_grad()
def answers(net: VisionTransformer, loader: TokenLoader, head: Ridge | LayersHead) -> Tensor:
    """The logits (n, C) by a head over layers of the loader's pictures, some at a time: of all of
    20,000 what is read takes 2.4 GB."""
    fit = head if isinstance(head, Ridge) else head.fc
    weight, bias = fit.weight.cpu(), fit.bias.cpu()
    count = len(loader.dataset)
    found = torch.empty(count, net.num_classes)
    for start in range(0, count, CHUNK):
        part = np.arange(start, min(start + CHUNK, count))
        found[part] = F.linear(layer_features(net, loader.plain(part))[0], weight, bias)
    return found


def some_of_each(labels: np.ndarray, most: int) -> np.ndarray:
    """The indices of so many pictures, of each class its share, but three where it has them."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = (np.arange(len(own)) + 0.5) / len(own)
        turn[own[:3]] = 0
    return np.sort(np.argsort(turn, kind="stable")[: max(most, int((turn == 0).sum()))])


def by_layer(net: VisionTransformer, loader: TokenLoader) -> list[dict[str, float]]:
    """For each block whose output is known, alone: the share of the training pictures that a ridge
    regression on it gets right without them, each class as much, and its 95 % interval."""
    some = loader.plain(some_of_each(loader.dataset.numpy(), MOST_FITTED))
    (layers, labels), groups = layers_of(some), together(some.groups)
    found, classes = [], labels.unique().tolist()
    blocks = (layers.shape[1] - CELLS**2) // 2
    for block in range(1, blocks + 1):
        ridge = fit_ridge(entering(layers, [block]), labels, net.num_classes, groups)
        right = (ridge.left_out.argmax(1) == labels).double()
        recalls = [(right[labels == c].mean().item(), int((labels == c).sum())) for c in classes]
        accuracy = sum(recall for recall, _ in recalls) / len(recalls)
        equal = len({n for _, n in recalls}) == 1
        low, high = wilson(accuracy, len(labels)) if equal else balanced_interval(recalls)
        row = {"block": block, "left_out_accuracy": accuracy, "low": low, "high": high}
        found.append({name: round(value, 6) for name, value in row.items()})
    return found


def told_apart_from(rows: list[dict[str, float]]) -> int | None:
    """The first block that is as good as the best, but for the uncertainty of that one (later ones
    may be worse again); None where that is so wide that it says nothing, as of four pictures."""
    best = _best(rows)
    if best["high"] - best["low"] > WIDE:
        return None
    return int(next(r["block"] for r in rows if r["left_out_accuracy"] >= best["low"]))


def said_by_layer(rows: list[dict[str, float]], guess: float) -> str:
    """What `by_layer` has found, beside the share that a guess gets right."""
    best = _best(rows)
    alone = f"best: block {best['block']:.0f}, {best['left_out_accuracy']:.3f}"
    if best["low"] <= guess:
        return f"no block alone is better than a guess, {guess:.3f} ({alone})"
    first = told_apart_from(rows)
    if first is None:
        alone += f", {best['low']:.3f} to {best['high']:.3f}"
        return f"too few pictures to say which block first tells the classes apart ({alone})"
    if first == best["block"]:
        right = f"{best['left_out_accuracy']:.3f}"
        return f"block {first} tells the classes apart, {right}, and none before"
    return (
        f"block {first} is the first that tells the classes apart as well as any ({alone}, within "
        "its uncertainty)"
    )


def _best(rows: list[dict[str, float]]) -> dict[str, float]:
    return max(rows, key=lambda row: row["left_out_accuracy"])


def each_can_be_left_out(loader: TokenLoader) -> bool:
    """Whether every class has another picture when one, with its group, is left out."""
    return fewest_groups(loader.dataset.numpy(), loader.groups) > 1


def fewest_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    """Of how many groups (n,) the class with the fewest is."""
    return min(len(np.unique(groups[labels == label])) for label in np.unique(labels))


def numbered(groups: np.ndarray) -> np.ndarray:
    """Groups (n,) by the index of the first picture of each: whatever they are called, it is one
    number."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return first[group]


def as_head(ridge: Ridge, depths: list[int], width: int) -> LayersHead:
    head = LayersHead(depths, width, len(ridge.bias))
    head.fc.weight = nn.Parameter(ridge.weight, requires_grad=False)
    head.fc.bias = nn.Parameter(ridge.bias, requires_grad=False)
    return head


def together(groups: np.ndarray) -> list[Tensor]:
    """The indices of the pictures of each group (n,) that has several."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        found[group].append(index)
    return [torch.tensor(same) for same in found.values() if len(same) > 1]
