"""How pictures are shown to the network: the transforms, and the order and draws of an epoch."""

from __future__ import annotations

import contextlib
import math
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from torchvision.transforms import InterpolationMode, v2

from config import Preprocessing, TrainConfig
from own_code import NotUsable, load, reason
from utils import UserError


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
    """The augmentation, random crop, flips, turns and mild colour or a transform of one's own, then
    the weights' own normalisation."""
    size, how = preprocessing.image_size, _interpolation(preprocessing)
    to_input = _to_input(preprocessing, channels)
    if train.transform is not None:
        whole = preprocessing.model_copy(update={"crop": 1.0})
        return v2.Compose([Own(train.transform), *fitted(whole), *to_input])
    jitter = train.color_jitter
    colour = [v2.ColorJitter(jitter, jitter, jitter, jitter / 10)] if jitter else []
    crop: list[Callable] = [
        v2.RandomResizedCrop(size, scale=(train.crop_scale, 1.0), interpolation=how, antialias=True)
    ]
    if train.crop_scale == 1:  # no crop is drawn: what evaluation sees
        crop = fitted(preprocessing)
    elif preprocessing.fit != "crop":  # the square that evaluation sees, a little larger
        larger = preprocessing.model_copy(update={"image_size": round(size * LARGER)})
        crop = [*fitted(larger), *crop]
    turns: list[Callable] = [v2.RandomHorizontalFlip(train.flip)]
    turns += [v2.RandomVerticalFlip(train.vertical_flip)] if train.vertical_flip else []
    if train.rotate:  # what comes in from outside is what the network takes for nothing
        fill = [round(255 * mean) for mean in preprocessing.mean]
        how = InterpolationMode.BILINEAR
        turns += [v2.RandomRotation([-train.rotate, train.rotate], how, fill=fill)]
    return v2.Compose([*crop, *turns, *colour, *to_input])


def eval_transform(preprocessing: Preprocessing, channels: int = 3) -> v2.Compose:
    """The square that the network sees, normalised: the same image each time."""
    return v2.Compose([*fitted(preprocessing), *_to_input(preprocessing, channels)])


LARGER = 8 / 7  # than the network's input: what random crops are taken from


def fitted(preprocessing: Preprocessing) -> list[Callable]:
    """A picture to a square of image_size: its centre (the shorter side resized to image_size /
    crop), all of it on a ground of the weights' mean, or all of it squashed."""
    size, how = preprocessing.image_size, _interpolation(preprocessing)
    if preprocessing.fit == "squash":
        return [v2.Resize([size, size], how, antialias=True)]
    if preprocessing.fit == "pad":
        return [Padded(size, how, [round(255 * mean) for mean in preprocessing.mean])]
    return [Resize(round(size / preprocessing.crop), how, size), v2.CenterCrop(size)]


class Padded(nn.Module):
    """The longer side resized to `size`, the rest filled to a square."""

    def __init__(self, size: int, interpolation: InterpolationMode, fill: list[int]) -> None:
        super().__init__()
        self.size, self.interpolation, self.fill = size, interpolation, fill

    def forward(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        sides = padded_sides(width, height, self.size)
        picture = v2.functional.resize(
            picture, [sides[1], sides[0]], self.interpolation, antialias=True
        )
        left, top = ((self.size - side) // 2 for side in sides)
        edges = [left, top, self.size - sides[0] - left, self.size - sides[1] - top]
        return v2.functional.pad(picture, edges, fill=self.fill)

    def extra_repr(self) -> str:
        return f"size={self.size}, interpolation={self.interpolation}, fill={self.fill}"


def padded_sides(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side became `size`."""
    longer = max(width, height)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


class Resize(v2.Resize):
    """torchvision's, before a centre crop: of a strip only what the crop can see is enlarged.

    A line of 60,000 pixels would become 60,000 x 256 ones wide and take gigabytes. Pictures up to
    `STRIP` times as long as wide are resized whole. The name is torchvision's because a cache's
    key has it.
    """

    def __init__(self, size: int, interpolation: InterpolationMode, crop: int) -> None:
        super().__init__(size, interpolation, antialias=True)
        self._crop = crop

    def forward(self, *inputs: Any) -> Any:
        (picture,) = inputs
        return super().forward(cut_to_crop(picture, self.size[0], self._crop))


STRIP = 16
MARGIN = 4  # pixels beside the crop, by the resize's step: what its filter reaches (bicubic: 2)


def cut_to_crop(picture: Tensor, size: int, crop: int) -> Tensor:
    """The middle of a long strip (c, h, w), as much of it as a centre crop of `crop` pixels shows
    after its shorter side has become `size`; other pictures as they are."""
    sides = picture.shape[-2:]
    short, long = min(sides), max(sides)
    if long <= STRIP * short:
        return picture
    step = max(1.0, short / size)
    kept = min(long, math.ceil(crop * short / size) + 2 * math.ceil(MARGIN * step))
    kept += (long - kept) % 2  # the middle stays the middle
    return picture.narrow(1 + int(sides[1] > sides[0]), (long - kept) // 2, kept)


Key = tuple[int, int]  # an image's number, and the draw of its augmentation
STREAMS = (16, 8, 4, 2, 1)  # of shards side by side: so many of them are read, and kept, at a time


class EpochSampler(Sampler[Key]):
    """Every index once, in an order drawn from the seed and the epoch, as (index, draw).

    The draw is that of the augmentation: with `draws`, they are used in turn, else it is the epoch.
    With `balance`, the labels, it is as many indices, drawn so that each class comes equally often:
    rare classes' images several times, common ones' not all of them. With `lots`, how many lie in
    each shard, shards come one after the other, and an image at most `window` places from where it
    lies: files are read from front to end, in as many streams as `streams_for` says of a batch of
    `size`. Its length is the epoch's, wherever in it a run goes on. `ahead` is told what will be
    asked for.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        draws: int | None = None,
        balance: Sequence[int] | None = None,
        lots: Sequence[int] | None = None,
        window: int = 1,
        size: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.draws = draws
        self.balance = None if balance is None else np.asarray(balance)
        self.lots, self.window, self.size = lots, window, size
        self.epoch, self.first = 1, 0
        self.ahead: Callable[[np.ndarray], Iterator[int]] | None = None

    def begin(self, epoch: int, first: int = 0) -> None:
        """What is iterated next: an epoch, from its image number `first` on, counted from 0."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        order, draw = self.order(), self.draw
        indices = map(int, order) if self.ahead is None else self.ahead(order)
        return ((index, draw) for index in indices)

    @property
    def draw(self) -> int:
        """The epoch's."""
        return self.epoch if self.draws is None else (self.epoch - 1) % self.draws + 1

    def order(self) -> np.ndarray:
        """The images that are left of the epoch."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.lots is None or self.balance is not None:
            order = random.permutation(self.length)
        else:
            order = _lot_by_lot(self.lots, self.window, self.size, random)
        if self.balance is not None:
            order = random.permutation(_equally_often(self.balance, random))
        return order[self.first :]


def streams_for(size: int, lots: int) -> int:
    """How many shards are read side by side: the most of STREAMS that divide a batch.

    Each gives the same places of every batch, so processes whose number divides that of the streams
    have some of their own, and with them shards that no other one reads.
    """
    return next(n for n in STREAMS if n <= max(1, lots) and size % n == 0)


def _lot_by_lot(
    lots: Sequence[int], window: int, size: int, random: np.random.Generator
) -> np.ndarray:
    """All indices, the lots in any order, each index at most `window` places from its own; batches
    of `size` have equal shares of as many streams of lots as there are."""
    ends = np.cumsum(lots)
    order = [np.arange(ends[i] - lots[i], ends[i]) for i in random.permutation(len(lots))]
    count = streams_for(size, sum(lot > 0 for lot in lots))
    streams = np.array_split(np.concatenate(order), count)
    each, share = len(streams[-1]), size // count  # the first ones may have one more
    moved = []
    for stream in streams:
        place = np.arange(len(stream)) + random.uniform(0, max(1, window // count), len(stream))
        moved.append(stream[np.argsort(place, kind="stable")])
    whole = each // share * share
    batches = np.stack([stream[:whole].reshape(-1, share) for stream in moved], 1)
    return np.concatenate([batches.ravel(), *(stream[whole:] for stream in moved)])


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


def train_sampler(
    labels: Sequence[int], train: TrainConfig, lots: Sequence[int] | None = None
) -> EpochSampler:
    """The order and the draws of training images with these labels, as the config has them; `lots`
    are those of shards."""
    balance = labels if train.balanced_sampler else None
    known = (train.draws, balance, lots, train.shuffle_buffer, train.batch_size)
    return EpochSampler(len(labels), train.seed, *known)


# ------------------------------------------------------------------------- a transform of one's own


class Own(nn.Module):
    """A transform of one's own, named `package.module:function`: from a picture (3, h, w), uint8,
    to one of any size, uint8 or float in [0, 1]. A class is called without arguments first.

    Its name and what tells its code are in its `repr`, and so in the key of a token cache. Within a
    draw, Python's and NumPy's global random numbers are seeded from PyTorch's, which the draw has
    seeded. Raises UserError where it can't be had, fails, or gives something else.
    """

    def __init__(self, name: str, digest: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.function, self.digest, self.place = _usable(name)
        if digest not in (None, self.digest):
            raise UserError(f"train.transform: {self.place} was changed meanwhile; start anew")

    def __reduce__(self) -> tuple[type[Own], tuple[str, str]]:
        return Own, (self.name, self.digest)  # worker processes look it up as this one did

    def extra_repr(self) -> str:
        return f"{self.name}, source {self.digest}"

    @torch.no_grad()
    def forward(self, picture: Tensor) -> Tensor:
        with seeded_alike():
            try:  # on a copy: the picture is kept for the next epochs
                given = self.function(picture.clone())
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                raise UserError(
                    f"train.transform: {self.name} failed with {reason(error)} "
                    f"({where.filename}, line {where.lineno})"
                ) from error
        if wrong := what_is_wrong(given):
            raise UserError(f"train.transform: {self.name} gives {wrong}")
        return given.detach()


def _usable(name: str) -> tuple[Callable[[Tensor], Any], str, str]:
    """The function that a name stands for, the digest of its code, and its file."""
    try:
        found = load(name)
    except NotUsable as error:
        raise UserError(f"train.transform: {error}") from error.__cause__
    function = found.value
    if isinstance(function, type):
        try:
            function = function()
        except (Exception, SystemExit) as error:
            raise UserError(
                f"train.transform: {name} can't be made without arguments ({reason(error)}); name "
                "a function of your own that calls it"
            ) from error
    if not callable(function):
        raise UserError(f"train.transform: {name} is a {type(function).__name__}, not a function")
    return function, found.digest, found.place


def what_is_wrong(given: Any) -> str | None:
    """Why a value is no picture that training can use, and what would be; None where it is one."""
    wanted = "a tensor (3, h, w), uint8 or float in [0, 1]"
    if not isinstance(given, Tensor):
        return f"a {type(given).__name__} instead of {wanted}"
    if given.ndim != 3 or given.shape[0] != 3 or not given.numel():
        return f"a tensor {tuple(given.shape)} instead of {wanted}"
    if given.device.type != "cpu":
        return f"a tensor on {given.device} instead of the CPU, where pictures are made ready"
    if given.dtype != torch.uint8 and not given.is_floating_point():
        return f"{given.dtype} instead of {wanted}"
    if given.is_floating_point() and not (given.min() >= -1e-3 and given.max() <= 1 + 1e-3):
        low, high = given.min().item(), given.max().item()
        return (
            f"floats from {low:.3g} to {high:.3g} instead of {wanted}; normalising comes after it"
        )
    return None


@contextlib.contextmanager
def seeded_alike() -> Iterator[None]:
    """Python's and NumPy's global random numbers, drawn from PyTorch's meanwhile."""
    before = random.getstate(), np.random.get_state()
    seed = int(torch.randint(1 << 31, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
