"""lr: auto. Settings are tried on the cached tokens, inside the training part."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from config import BATCH, SGD_FACTOR, TrainConfig
from engine.heads import solved
from engine.job import SEARCH, Setting, side_job, train_side_by_side
from engine.plots import plot_search
from engine.ridge import best_scale
from engine.run import Run
from metrics import predict
from model import VisionTransformer
from tokens.cache import TokenLoader
from utils import log, seed_everything, write_csv

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
FINALISTS, SEARCH_FOLDS = 4, 3
Folds = list[tuple[np.ndarray, np.ndarray]]  # the images to train on, and those held out
# What the trunk pass made for one step of a setting, so that all take less than that pass: a step
# of a ViT-S/14 takes 5.5 ms and 64 patches 8; of a B/16 15 and 25 (2 cores, one at a time).
PATCHES_A_STEP = 64
LEAST_STEPS, MOST_STEPS = 2_000, 14_400  # of all settings together


def still_to_find(train: TrainConfig) -> dict[str, Any]:
    """What a search is to find: the learning rate and, where they are free as well, the optimiser
    and the weight decay."""
    names = ("lr", "optim", "weight_decay")
    return {name: getattr(train, name) for name in names} if train.lr == "auto" else {}


def settings(net: VisionTransformer, train: TrainConfig) -> list[Setting]:
    """What is tried: sixteen settings, the recipe's among them; fewer where the config names the
    weight decay."""
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

    @property
    def accuracy(self) -> float:
        return torch.cat(self.right).float().mean().item()


def choose(finals: list[Trial], recipe: Setting) -> Trial:
    """The trial of the lowest loss; the recipe's, unless that is behind by more than the standard
    error of the difference (Hastie et al., The Elements of Statistical Learning, section 7.10)."""
    best = min(finals, key=lambda trial: trial.mean_loss)
    for trial in finals:
        if trial.setting == recipe:
            behind = torch.cat(trial.losses) - torch.cat(best.losses)
            if behind.mean() <= behind.std() / math.sqrt(len(behind)):
                return trial
    return best


def search(net: VisionTransformer, loader: TokenLoader, train: TrainConfig, run: Run) -> Setting:
    """The best setting by cross-validation inside the training part; no other image is looked at.

    All are tried for a few steps on one fold, the best three, of different learning rates, and the
    recipe's for more on each of three folds (successive halving, arXiv:1502.07943). Leaves
    search.csv and search.png in the run's folder; a run that goes on reads its choice there.
    """
    if chosen := Setting.read(run.folder / SEARCH):
        return chosen
    candidates = settings(net, train)
    recipe = recipes_own(candidates, train)
    folds = stratified_folds(loader)
    if not folds:
        log.info("lr auto: a class has one training image, too few to try settings; %s", recipe)
        return recipe
    first, second = search_steps(net, loader, len(candidates))
    total = len(candidates) * first + FINALISTS * len(folds) * second
    with tqdm(total=total, desc="trying settings", leave=False, unit="step") as bar:
        trials = try_settings(net, candidates, loader, folds[:1], train, first, bar)
        best = {rate(recipe): recipe}
        for trial in sorted(trials, key=lambda trial: trial.mean_loss):
            best.setdefault(rate(trial.setting), trial.setting)
        finalists = list(best.values())[:FINALISTS]
        finals = try_settings(net, finalists, loader, folds, train, second, bar)
    winner = choose(finals, recipe)
    head = chosen_head(net, loader, folds, winner) if train.head == "auto" else None
    winner.setting = replace(winner.setting, scale=sure_scale(winner), head=head)
    write_search(run.folder, trials, finals, winner)
    log.info(
        "lr auto: %s (%.4f right in %d-fold cross-validation on the training part; the best of %d "
        "settings)",
        winner.setting,
        winner.accuracy,
        len(folds),
        len(candidates),
    )
    return winner.setting


def chosen_head(net: VisionTransformer, loader: TokenLoader, folds: Folds, winner: Trial) -> str:
    """What `head: auto` comes to: `layers` where that head, each image left out of its fit, leads
    the trained block by more than two standard errors of the difference on the same images; else
    `both`."""
    ridge, labels = solved(net, loader)
    right = (ridge.left_out.argmax(1) == labels)[np.concatenate([held for _, held in folds])]
    lead = right.double() - torch.cat(winner.right).double()
    error = lead.std(correction=0).item() / math.sqrt(len(lead))
    log.info(
        "head auto: over layers %.4f of the training images are right, by the block %.4f",
        right.double().mean(),
        winner.accuracy,
    )
    return "layers" if lead.mean().item() > 2 * error else "both"


def sure_scale(trial: Trial) -> float:
    """What the logits of a trial's held-out images are to be multiplied by (the temperature's
    inverse; Guo et al. 2017, arXiv:1706.04599)."""
    logits, labels = (torch.cat(part) for part in zip(*trial.answers, strict=True))
    classes = logits.shape[1]
    scale, _ = best_scale(logits.double(), labels, torch.full((classes,), 1 / classes))
    return scale


def rate(setting: Setting) -> tuple[str, str, float]:
    """What finalists differ by: the weight decay alone makes no other setting."""
    return setting.part, setting.optim, setting.lr


def search_steps(net: VisionTransformer, loader: TokenLoader, candidates: int) -> tuple[int, int]:
    """The steps of the first and of the second round: a quarter of the time for the first."""
    patches = loader.rows.size * (net.vit.dim // net.vit.patch_dim) ** 2
    budget = max(LEAST_STEPS, min(MOST_STEPS, patches // PATCHES_A_STEP))
    return budget // 4 // candidates, budget * 3 // 4 // (FINALISTS * SEARCH_FOLDS)


def stratified_folds(loader: TokenLoader) -> Folds:
    """Indices to train on and to score, three times, copies of an image together; none where a
    class has a single image."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = loader.dataset.numpy(), loader.rows[:, 0]  # copies share their record
    fewest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if fewest < 2:
        return []
    splitter = StratifiedGroupKFold(min(SEARCH_FOLDS, fewest), shuffle=True, random_state=0)
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
    steps: it is raised by the root of what is missing (measured: EXPERIMENTS.md, 2026-11-24).
    """
    trials = [Trial(setting, steps) for setting in candidates]
    assert train.max_epochs != "auto"
    full = train.max_epochs * len(loader)
    stretch = math.sqrt(max(1.0, full / steps))
    candidates = [replace(setting, lr=setting.lr * stretch) for setting in candidates]
    for learned, scored in folds:
        seed_everything(train.seed)
        batches = loader.training(train, learned)
        jobs = [side_job(net, setting, train, batches, steps) for setting in candidates]
        train_side_by_side(jobs, batches, steps, bar)
        for job, trial in zip(jobs, trials, strict=True):
            logits, labels = predict(
                job.learner, loader.plain(scored), net.device, train.bf16, None
            )
            trial.losses.append(F.cross_entropy(logits, labels, reduction="none"))
            trial.right.append(logits.argmax(1) == labels)
            trial.answers.append((logits, labels))
    return trials


SETTING = ("part", "optim", "lr", "weight_decay", "scale", "head")
SEARCH_COLUMNS = (*SETTING, "steps", "images", "accuracy", "loss", "chosen")


def write_search(folder: Path, trials: list[Trial], finals: list[Trial], winner: Trial) -> None:
    """search.csv, a row for each setting and round, and search.png."""
    rows = [
        {
            **asdict(t.setting),
            "steps": t.steps,
            "images": sum(map(len, t.losses)),
            "accuracy": round(t.accuracy, 6),
            "loss": round(t.mean_loss, 6),
            "chosen": int(t is winner),
        }
        for t in [*trials, *finals]
    ]
    plot_search(rows, folder / "search.png")
    write_csv(folder / SEARCH, rows, SEARCH_COLUMNS)
