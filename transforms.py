"""How pictures are shown to the network: the transforms, and the order and draws of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from torchvision.transforms import InterpolationMode, v2

from config import Preprocessing, TrainConfig


def _interpolation(preprocessing: Preprocessing) -> InterpolationMode:
    return InterpolationMode(preprocessing.interpolation)


def _to_input(preprocessing: Preprocessing, channels: int) -> list[Callable]:
    """uint8 RGB to the network's normalised float32 input."""
    grey = [v2.Grayscale(channels)] if channels == 1 else []
    mean, std = preprocessing.mean[:channels], preprocessing.std[:channels]
    return [*grey, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def train_transform(
    preprocessing: Preprocessing, train: TrainConfig, channels: int = 3
) -> v2.Compose:
    """Random resized crop, flip and mild colour, then the weights' own normalisation."""
    jitter = train.color_jitter
    colour = [v2.ColorJitter(jitter, jitter, jitter, jitter / 10)] if jitter else []
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                preprocessing.image_size,
                scale=(train.crop_scale, 1.0),
                interpolation=_interpolation(preprocessing),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(train.flip),
            *colour,
            *_to_input(preprocessing, channels),
        ]
    )


def eval_transform(preprocessing: Preprocessing, channels: int = 3) -> v2.Compose:
    """Resize the shorter side, cut out the centre, normalise: the same image each time."""
    size = preprocessing.image_size
    return v2.Compose(
        [
            v2.Resize(
                round(size / preprocessing.crop), _interpolation(preprocessing), antialias=True
            ),
            v2.CenterCrop(size),
            *_to_input(preprocessing, channels),
        ]
    )


class EpochSampler(Sampler[tuple[int, int]]):
    """Every index once, in an order drawn from the seed and the epoch, as (index, draw).

    The draw is that of the augmentation: with `draws`, they are used in turn, else it is the epoch.
    With `balance`, the labels, it is as many indices, drawn so that each class comes equally often:
    rare classes' images several times, common ones' not all of them.
    """

    def __init__(
        self, length: int, seed: int, draws: int | None = None, balance: Sequence[int] | None = None
    ) -> None:
        self.length = length
        self.seed = seed
        self.draws = draws
        self.balance = None if balance is None else np.asarray(balance)
        self.epoch = 1

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.length)
        if self.balance is not None:
            order = random.permutation(_equally_often(self.balance, random))
        draw = self.epoch if self.draws is None else (self.epoch - 1) % self.draws + 1
        return ((int(index), draw) for index in order)


def _equally_often(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many indices as there are labels, an equal share a class, each image of a class before any
    comes again."""
    classes = np.unique(labels)
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[random.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, share in zip(classes, shares, strict=True):
        own = np.flatnonzero(labels == label)
        rounds = [random.permutation(own) for _ in range(-(-int(share) // len(own)))]
        drawn.append(np.concatenate(rounds)[:share])
    return np.concatenate(drawn)


def train_sampler(labels: Sequence[int], train: TrainConfig) -> EpochSampler:
    """The order and the draws of training images with these labels, as the config has them."""
    balance = labels if train.balanced_sampler else None
    return EpochSampler(len(labels), train.seed, train.draws, balance)
