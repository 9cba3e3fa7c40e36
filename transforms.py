"""How pictures are shown to the network: the transforms, and the order and draws of an epoch."""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import random
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from torchvision.transforms import InterpolationMode, v2

from config import Preprocessing, TrainConfig
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
    """The augmentation, random crop, flip and mild colour or a transform of one's own, then the
    weights' own normalisation."""
    size, how = preprocessing.image_size, _interpolation(preprocessing)
    to_input = _to_input(preprocessing, channels)
    if train.transform is not None:
        fitted = [v2.Resize(size, how, antialias=True), v2.CenterCrop(size)]
        return v2.Compose([Own(train.transform), *fitted, *to_input])
    jitter = train.color_jitter
    colour = [v2.ColorJitter(jitter, jitter, jitter, jitter / 10)] if jitter else []
    crop = v2.RandomResizedCrop(
        size, scale=(train.crop_scale, 1.0), interpolation=how, antialias=True
    )
    return v2.Compose([crop, v2.RandomHorizontalFlip(train.flip), *colour, *to_input])


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


# ------------------------------------------------------------------------- a transform of one's own


class Own(nn.Module):
    """A transform of one's own, named `package.module:function`: from a picture (3, h, w), uint8,
    to one of any size, uint8 or float in [0, 1]. A class is called without arguments first.

    Its name and its source are in its `repr`, and so in the key of a token cache. Within a draw,
    Python's and NumPy's random numbers are seeded from PyTorch's, which the draw has seeded. Raises
    UserError where it can't be had, fails, or gives something else.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function, source = load_own(name)
        self.digest = hashlib.sha256(source.encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[type[Own], tuple[str]]:
        return Own, (self.name,)  # worker processes look it up as this one did

    def extra_repr(self) -> str:
        return f"{self.name}, source {self.digest}"

    def forward(self, picture: Tensor) -> Tensor:
        with seeded_alike():
            try:
                given = self.function(picture)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                raise UserError(
                    f"train.transform: {self.name} failed with {type(error).__name__}: {error} "
                    f"({where.filename}, line {where.lineno})"
                ) from error
        if wrong := what_is_wrong(given):
            raise UserError(f"train.transform: {self.name} gives {wrong}")
        return given


def what_is_wrong(given: Any) -> str | None:
    """Why a value is no picture that training can use, and what would be; None where it is one."""
    wanted = "a tensor (3, h, w), uint8 or float in [0, 1]"
    if not isinstance(given, Tensor):
        return f"a {type(given).__name__} instead of {wanted}"
    if given.ndim != 3 or given.shape[0] != 3 or not given.numel():
        return f"a tensor {tuple(given.shape)} instead of {wanted}"
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


def load_own(name: str) -> tuple[Callable[[Tensor], Any], str]:
    """The function that `package.module:function` names, and the source that it depends on: its
    module's, and that of every other module of one's own which that one uses."""
    where, _, attribute = name.partition(":")
    module = _imported(where, name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"train.transform: {where} has no {attribute}{hint}")
        found = getattr(found, part)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise UserError(
                f"train.transform: {name} can't be made without arguments ({error}); name a "
                "function of your own that calls it"
            ) from error
    if not callable(found):
        raise UserError(f"train.transform: {name} is a {type(found).__name__}, not a function")
    return found, _source(module, found, name)


def _imported(where: str, name: str) -> ModuleType:
    """A module beside training.py or in the working folder; as its file is now, if it is one's own
    and was imported before."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    known, bytecode = where in sys.modules, sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # it knows a change by the second: too coarse for reading anew
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(where)
        again = known and where != "__main__" and _own_file(where) is not None
        return importlib.reload(module) if again else module
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise UserError(f"train.transform: {where} can't be imported: {error}") from error
        raise UserError(
            f"train.transform: {name}: no module {where} in {os.getcwd()} or beside training.py"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"train.transform: {where} can't be imported ({reason})") from error
    finally:
        sys.dont_write_bytecode = bytecode


USED: dict[str, str] = {}  # the source of each module that a transform uses, as it was imported


def _source(module: ModuleType, found: Any, name: str) -> str:
    """What a function depends on. Only its named module is read anew where it was changed; another
    one that was changed since is an error: what is hashed must be what runs."""
    sources = _own_sources(module.__name__)
    for other, source in sources.items():
        if other != module.__name__ and USED.setdefault(other, source) != source:
            raise UserError(
                f"train.transform: {other}, which {name} uses, was changed since it was imported; "
                "start Python anew"
            )
    for readable in () if sources else (found, module):  # a notebook's, or an installed package's
        with contextlib.suppress(OSError, TypeError):
            return inspect.getsource(readable)
    if not sources:
        raise UserError(f"train.transform: the source of {name} can't be read; put it into a file")
    return "\n".join(source for _, source in sorted(sources.items()))


def _own_sources(where: str) -> dict[str, str]:
    """The sources of a module and of those that it imports, directly or by way of others, as far as
    they are somebody's own files."""
    sources: dict[str, str] = {}
    waiting, done = [where], set()
    while waiting:
        name = waiting.pop()
        if name in done or (file := _own_file(name)) is None:
            continue
        done.add(name)
        sources[name] = file.read_text(encoding="utf-8")
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(sources[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                waiting += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return sources


def _own_file(name: str) -> Path | None:
    """A module's file where it is somebody's own: neither Python's nor an installed package's."""
    if name == "__main__":
        file = getattr(sys.modules[name], "__file__", None)
        return Path(file) if file else None
    top = name.partition(".")[0]
    try:  # the top first: to look below it would import it, and most are installed
        for part in dict.fromkeys((top, name)):
            spec = importlib.util.find_spec(part)
            if spec is None:
                return None
            places = [spec.origin] if spec.has_location else []
            if any(map(_is_installed, [*places, *(spec.submodule_search_locations or ())])):
                return None
    except (ImportError, ValueError, AttributeError):  # a name in a module, or no such package
        return None
    origin = spec.origin if spec and spec.has_location else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _is_installed(place: str | None) -> bool:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = {str(sysconfig.get_path(kind)) for kind in kinds}
    return place is None or any(Path(place).is_relative_to(path) for path in installed)
