"""What the frozen network makes of every picture of a set: one pass, from the token cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audit.findings import Suspect
from config import Config, TrainConfig
from dataset import PARTS, Split
from engine.heads import MOST_FITTED, read_depths, some_of_each
from engine.ridge import LEAST_SPREAD, Basis
from images import Sample
from model import VisionTransformer, entering, readable
from pretrained.build import build_for
from tokens.builder import open_cache
from tokens.cache import TokenCache, TokenLoader, layers_of
from tokens.plan import Plan, damage
from tokens.records import Damaged
from utils import UserError, log, progress_bar, seed_everything

CHUNK = 1_000  # pictures whose features are in memory at once
DIRECTIONS = 1_024  # that features keep of more than MOST_FITTED pictures: 0.4 GB of 100,000
LOOKED_AT = 3_000  # of them, to find the directions


@dataclass(frozen=True)
class Seen:
    """A set's pictures (n) as the network sees them: their samples, part by part; `labels` (n,);
    `features` (n, P), what a head over layers reads, or its largest directions; `tokens` (n, 2 D),
    the class and the mean token that enter the last block, each of length 1."""

    split: Split
    samples: tuple[Sample, ...]
    labels: Tensor
    features: Tensor
    tokens: Tensor

    def basis(self, chosen: Tensor | None = None) -> Basis:
        """The features of all pictures, or of those chosen, decomposed."""
        features = self.features if chosen is None else self.features[chosen]
        return Basis(features, whole=len(self.samples) <= MOST_FITTED)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        return tuple(self.split.path_of(sample) for sample in self.samples)

    @cached_property
    def parts(self) -> np.ndarray:
        return np.array([sample.part for sample in self.samples])

    @cached_property
    def given(self) -> tuple[str, ...]:
        """The classes' names."""
        return tuple(self.split.classes[label] for label in self.labels.tolist())

    def suspect(
        self,
        i: int,
        kind: str,
        score: float,
        says: str,
        suggested: str | None = None,
        group: int | None = None,
    ) -> Suspect:
        part = self.samples[i].part
        return Suspect(self.paths[i], kind, self.given[i], suggested, score, group, part, says)


def look_at(config: Config, split: Split, device: torch.device) -> Seen:
    """Pass every picture of a split through the frozen network, or read what a cache has of it."""
    seed_everything(config.train.seed)
    net = build_for(config, split.classes).to(device)
    depths = read_depths(net)
    if not depths:
        raise UserError("an audit reads the later half of a network's blocks: one alone has none")
    # As they are: a run's augmented views say nothing of a label.
    train = config.train.model_copy(update={"views": 1}).settled(len(split.part("train")))
    plan = Plan(net, split, train)
    samples = tuple(sample for part in PARTS for sample in split.part(part))
    labels = torch.tensor([sample.label for sample in samples])

    def read(plan: Plan, cache: TokenCache) -> Seen:
        loaders = cache.loaders(plan, split, train, device)
        parts: list[Any] = [loaders[part] for part in PARTS if part in loaders]
        return Seen(split, samples, labels, *features_of(parts, labels, depths))

    if damage(plan.path) and (of_run := _made_for_a_block(net, split, train)):
        try:
            return read(*of_run)
        except Damaged as error:  # the run's to mend
            log.info("%s; the pictures are passed through the network again", error)
    plan.check_disk()
    return read(plan, open_cache(plan, net, train, device))


def _made_for_a_block(
    net: VisionTransformer, split: Split, train: TrainConfig
) -> tuple[Plan, TokenCache] | None:
    """The cache of a run whose last block trained, with its plan, where it has these pictures: the
    layers lie in it beside what enters that block."""
    depth = net.frozen_depth
    assert depth is not None
    net.blocks[depth - 1].requires_grad_(True)
    net.freeze_trunk(depth - 1)
    plan = Plan(net, split, train)
    net.freeze_trunk(depth)
    cache = TokenCache.holding(plan)
    if cache is None:
        return None
    log.info("tokens: those of a run, in %s", cache.records.path.parent)
    return plan, cache


def features_of(
    loaders: Sequence[TokenLoader], labels: Tensor, depths: list[int]
) -> tuple[Tensor, Tensor]:
    """The features and the tokens of all pictures, as Seen has them, some at a time."""
    n, kept = len(labels), loaders[0].cache.layers
    assert kept is not None, "no block is frozen"
    tokens = torch.empty(n, 2 * kept.shape[2])
    reduce = None
    if n > MOST_FITTED:
        reduce = _directions(loaders, labels, depths)
    features: Tensor | None = None
    bar = progress_bar(desc="features", total=n, unit="image")
    with bar:
        for rows, layers in _chunks(loaders, bar):
            x = readable(layers, depths)
            x = x if reduce is None else reduce(x)
            if features is None:
                features = torch.empty(n, x.shape[1])
            features[rows] = x
            last = entering(layers, depths[-1:]).unflatten(1, (2, -1))
            tokens[rows] = F.normalize(last, dim=-1).flatten(1) / 2**0.5
    assert features is not None
    return features, tokens


def _chunks(loaders: Sequence[TokenLoader], bar: Any = None) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the whole set, and what each frozen block made of them (m, R, D)."""
    start = 0
    for loader in loaders:
        for indices in np.split(
            np.arange(len(loader.dataset)), range(CHUNK, len(loader.dataset), CHUNK)
        ):
            layers, _ = layers_of(loader.plain(indices))
            yield slice(start, start + len(indices)), layers
            start += len(indices)
            if bar is not None:
                bar.update(len(indices))


class _Reduced:
    """The largest directions of standardised features, found of some."""

    def __init__(self, some: Tensor) -> None:
        self.mean, spread = some.mean(0), some.std(0, correction=0)
        self.spread = torch.where(spread > LEAST_SPREAD, spread, torch.inf)
        x = (some - self.mean) / self.spread
        S, vectors = torch.linalg.eigh((x @ x.T).double())  # ascending
        kept = (1e-6 * S.max() < S).nonzero()[-DIRECTIONS:, 0]
        self.V = x.T @ (vectors[:, kept] / S[kept].sqrt()).float()  # P, directions

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread @ self.V


def _directions(loaders: Sequence[TokenLoader], labels: Tensor, depths: list[int]) -> _Reduced:
    chosen = some_of_each(labels.numpy(), LOOKED_AT)
    starts = np.cumsum([0, *(len(loader.dataset) for loader in loaders)])
    some = []
    for start, end, loader in zip(starts, starts[1:], loaders, strict=False):
        own = chosen[(start <= chosen) & (chosen < end)] - start
        if len(own):
            some.append(readable(layers_of(loader.plain(own))[0], depths))
    return _Reduced(torch.cat(some))
