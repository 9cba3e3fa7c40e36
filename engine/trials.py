"""What settings there are, and trying some side by side on folds of the cached tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from config import BATCH, SGD_FACTOR, SHORT, TrainConfig
from engine.heads import fewest_groups, numbered
from engine.job import Setting
from engine.kinds import Folds, sure_scale
from engine.side import Side, side_job, train_side_by_side
from model import VisionTransformer
from tokens.cache import TokenLoader
from utils import seed_everything

SEARCH_FOLDS = 3
# What is tried: sixteen settings, their learning rates those of a batch of 16. Neither optimiser is
# the better one everywhere (EXPERIMENTS.md, 2026-11-24).
Grid = tuple[tuple[str, str, tuple[float, ...], tuple[float, ...]], ...]
BOTH_GRID: Grid = (
    ("block", "adamw", (1e-4, 2e-4, 6e-4), (0.01, 1.0)),
    ("block", "sgd", (3e-3, 6e-3, 1.2e-2), (1e-4, 0.01)),
    ("head", "adamw", (1e-3, 3e-3, 1e-2, 3e-2), (0.01,)),
)
# Where the config names the optimiser: AdamW's rates, SGD's are so many times as high.
ONE_GRID: Grid = (
    ("block", "", (5e-5, 1e-4, 2e-4, 3e-4, 6e-4, 1e-3), (0.01, 1.0)),
    ("head", "", (1e-3, 3e-3, 1e-2, 3e-2), (0.01,)),
)
HEAD_ONLY_GRID: Grid = (
    ("head", "", (3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 3e-2, 1e-1), (0.01, 1.0)),
)


@dataclass(frozen=True)
class Allowance:
    """How many steps a short training leaves for trying settings (`each`): half of what it takes
    itself. What is fitted to a fold takes as many as it: fewer know less than it does, and how sure
    their answers may be says nothing of its own. None where it is not short."""

    steps: int
    usual: int

    @property
    def each(self) -> int:
        return self.steps // 2

    def a_fold(self, most: int) -> int:
        """Steps on each fold, where a training that is not short takes `most`."""
        return min(most, self.steps)

    def __str__(self) -> str:
        plural = "" if self.steps == 1 else "s"
        return (
            f"a short training ({self.steps:,} step{plural}, and the recipe takes {self.usual:,})"
        )


def allowance(train: TrainConfig, images: int) -> Allowance | None:
    """What may be tried before a training on so many images; None: as much as pays, as it takes
    at least half of the recipe's steps."""
    steps, usual = train.steps(images)
    return Allowance(steps, usual) if steps < SHORT * usual else None


def settings(net: VisionTransformer, train: TrainConfig) -> list[Setting]:
    """What is tried: sixteen settings, the recipe's among them; fewer where the config names the
    weight decay, and its own alone where it names the learning rate."""
    if train.lr != "auto":
        part = "head" if net.frozen_depth == net.vit.num_layers else "block"
        assert train.optim != "auto" and train.weight_decay != "auto"
        return [Setting(part, train.optim, train.lr, train.weight_decay)]
    named, scale = train.recipe_optim, math.sqrt(train.batch_size / BATCH)
    if net.frozen_depth == net.vit.num_layers:
        grid = HEAD_ONLY_GRID
    else:
        grid = BOTH_GRID if train.optim == "auto" and named == "sgd" else ONE_GRID
    if grid is not BOTH_GRID and named == "sgd":
        scale *= SGD_FACTOR
    return [
        Setting(part, optim or named, lr * scale, decay)
        for part, optim, rates, decays in grid
        for decay in (decays if train.weight_decay == "auto" else (train.weight_decay,))
        for lr in rates
    ]


def recipes_own(candidates: list[Setting], train: TrainConfig) -> Setting:
    """The setting that a run keeps unless another one is clearly better: the learning rate and the
    optimiser of the mode's recipe, with the first weight decay of the grid."""
    kind = candidates[0].part, train.recipe_optim
    near = [s for s in candidates if (s.part, s.optim) == kind]
    return min(near, key=lambda s: abs(math.log(s.lr / train.recipe_lr)))


@dataclass
class Trial:
    """A setting on some folds, so many steps on each: the loss (nats) of every image that was held
    out, and whether the answer was right."""

    setting: Setting
    steps: int
    losses: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    answers: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # logits, labels

    @property
    def mean_loss(self) -> float:
        """What settings are ranked by: it falls where accuracy rises, with less noise
        (EXPERIMENTS.md, 2026-11-24)."""
        return torch.cat(self.losses).mean().item()

    def calibrated(self) -> Trial:
        """The same with the losses of logits that are as sure as they are right, all by one scale:
        what counts where they are averaged with another head's answers."""
        labels = torch.cat([labels for _, labels in self.answers])
        scale = sure_scale(self.logits, labels)
        losses = [F.cross_entropy(scale * z, y, reduction="none") for z, y in self.answers]
        return replace(self, losses=losses)

    @property
    def logits(self) -> Tensor:
        """Of the held-out images, fold by fold."""
        return torch.cat([logits for logits, _ in self.answers])

    @property
    def accuracy(self) -> float:
        return torch.cat(self.right).float().mean().item()


def stratified_folds(loader: TokenLoader, seed: int = 0) -> Folds:
    """Indices to train on and to score, three times, groups together; none where a class has a
    single one."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = loader.dataset.numpy(), numbered(loader.groups)
    folds = min(SEARCH_FOLDS, fewest_groups(labels, groups))
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))


def try_settings(
    net: VisionTransformer,
    candidates: list[Setting],
    loader: TokenLoader,
    folds: Folds,
    train: TrainConfig,
    steps: int,
    bar: tqdm,
) -> list[Trial]:
    """Train settings side by side on the same batches, fold by fold, and score them on the rest.

    A shorter training wants a higher learning rate, or the search would choose one for its own few
    steps: it is raised by the root of what is missing (measured: EXPERIMENTS.md, 2026-11-24), but
    not of what a training takes beyond the recipe's steps: of 4 times as many few steps tell
    nothing (the same, 2026-11-28).
    """
    trials = [Trial(setting, steps) for setting in candidates]
    stretch = math.sqrt(max(1.0, min(train.steps(len(loader.dataset))) / steps))
    candidates = [replace(setting, lr=setting.lr * stretch) for setting in candidates]
    at_once = len(folds) if len(candidates) == 1 else 1  # many settings keep the cores busy
    for some in (folds[i : i + at_once] for i in range(0, len(folds), at_once)):
        sides = [
            side(net, candidates, loader.training(train, fold[0]), train, steps) for fold in some
        ]
        train_side_by_side(sides, bar)
        for fold, (_, scored) in zip(sides, some, strict=True):
            for job, trial in zip(fold.jobs, trials, strict=True):
                logits, labels = job.answers(loader.plain(scored), None)
                trial.losses.append(F.cross_entropy(logits, labels, reduction="none"))
                trial.right.append(logits.argmax(1) == labels)
                trial.answers.append((logits, labels))
    return trials


def side(
    net: VisionTransformer,
    candidates: list[Setting],
    batches: TokenLoader,
    train: TrainConfig,
    steps: int,
) -> Side:
    """A job for each setting on these batches, all from the same random numbers."""
    seed_everything(train.seed)
    return Side([side_job(net, s, train, batches, steps) for s in candidates], batches, steps)
