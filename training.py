"""Fine-tune a Vision Transformer on a folder of images, one sub-folder a class.

python training.py                                what config.yaml says
python training.py --config F train.lr=1e-4 ...   another file, and overrides of its keys
python training.py --check                        say what would be done, and exit
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2
from tqdm import tqdm

from config import BATCH, RECIPES, SGD_FACTOR, Config, ConfigError, TrainConfig
from config_file import dump_config, load_config
from dataset import PARTS, Split, eval_transform, load_split, make_loaders, write_split
from engine.plots import plot_search
from engine.run import COLUMNS, MetricsLog, Run, log_outcome
from images import FileIndex
from metrics import (
    MOST_FOR_RIVALS,
    NOT_LEARNED,
    evaluate,
    predict,
    rivals,
    score_lines,
    scores,
    verdict,
    wilson,
)
from model import Tail, Tokens, VisionTransformer, parameter_groups
from pretrained.build import build_for
from pretrained.read import read_arrays
from pretrained.write import metadata_of, save_model
from tokens.builder import open_cache
from tokens.cache import Loaders, TokenLoader, class_tokens
from tokens.plan import Plan, cache_folder, damage, may_cache, plan_cache
from tokens.trunk import Trunk
from utils import (
    UserError,
    autocast,
    check_disk,
    command_line,
    git_commit,
    keep_freed_memory,
    log,
    minutes,
    pick_device,
    seed_everything,
    setup_log,
    unbroken,
    versions,
    write_csv,
    write_json,
    write_text,
)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_log()
    keep_freed_memory()
    config, notes = load_config(args.config, args.overrides)
    device, fallback = pick_device(config.train.device)
    run = open_run(config, only_checks=args.check)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update={"run_name": run.name, "from_checkpoint": None})
        }
    )
    for note in [*notes, *([fallback] if fallback else [])]:
        log.info(note)

    # Pictures whose tokens are cached need not be read again.
    overfits = config.overfit_one_batch.overfit
    caches = may_cache(config.train) and not overfits
    known = FileIndex(cache_folder(config.train) / "files.json") if caches else None
    split = load_split(config.train, run.split if run.resumes else None, known)
    report_data(split)
    seed_everything(config.train.seed)
    net = build_for(config, split.classes)
    train = config.train.settled(len(split.part("train")))
    checkpoints = checkpoint_bytes(train, net)
    plan = plan_cache(net, split, train, checkpoints) if caches else None
    if plan is not None and config.train.finetune_blocks <= 1:
        train = train.model_copy(update=still_to_find(config.train))
    config = config.model_copy(update={"vit": net.vit, "train": train})
    if args.check:
        print_check(config, net, split, plan)
        return 0

    if plan is not None and known is not None:
        plan.check_disk()
        known.update(split.samples)
    elif caches:  # every epoch needs the pictures, decoded as far as the memory goes
        split = load_split(config.train, run.split if run.resumes else None)
    if not overfits:
        check_disk(run.weights, checkpoints, f"the checkpoints in {run.weights}")
    run.open()
    if not run.resumes:
        write_text(run.folder / "config.yaml", dump_config(config))
        write_split(run.split, split)
    net.to(device)
    if overfits:
        batches = repeated_batch(net, split, config, device)
        return 0 if overfit(net, batches, config, run) else 1
    fit(net, split, plan, config, run, device)
    if config.train.report:
        write_report(run.folder)
    return 0


def fit(
    net: VisionTransformer,
    split: Split,
    plan: Plan | None,
    config: Config,
    run: Run,
    device: torch.device,
) -> dict[str, Any]:
    """Train, keeping the chosen and the last checkpoint; returns what summary.json holds."""
    state = saved_state(run, net)
    progress = Progress(**state["progress"]) if state else Progress()
    with resumable(run, progress):
        clock = Clock()
        learner, loaders = prepare(net, split, plan, config.train, device)
        clock.lap("cache" if plan else "prepare")
        before, setting = branch(net), None
        if config.train.lr == "auto":
            setting = search(net, loaders["train"], config.train, run, device)  # type: ignore[arg-type]
            clock.lap("search")
        train = setting.applied(net, config.train) if setting else config.train
        labels = [sample.label for sample in split.part("train")]
        job = Job(net, learner, train, labels, len(split.classes), device)
        if state:
            job.load_state_dict(state, run)
        if run.resumes:  # not before its checkpoint is known to fit
            write_text(run.folder / "config.yaml", dump_config(config))
        with Keeper(run, job, progress, config) as keeper:
            train_epochs(job, loaders, progress, keeper)
        clock.lap("train")
        return conclude(job, loaders, split, config, before, setting, run, progress, clock)


def train_epochs(job: Job, loaders: Loaders, progress: Progress, keeper: Keeper) -> None:
    """The loop."""
    train = job.train
    for epoch in range(progress.epoch + 1, job.epochs + 1):
        if progress.patience_is_over(train):
            log.info("early stopping: no better epoch since %d", progress.best_epoch)
            break
        seed_everything(train.seed, epoch)
        row = train_epoch(job, loaders["train"], epoch)
        if epoch % train.eval_epoch == 0 or epoch == job.epochs:
            row |= validate(job, loaders["val"])
        keeper.keep(row)
        report_epoch(row, job)


def prepare(
    net: VisionTransformer,
    split: Split,
    plan: Plan | None,
    train: TrainConfig,
    device: torch.device,
) -> tuple[nn.Module, Loaders]:
    """What trains, and what it is fed: with a plan the end of the network and the cached tokens of
    the rest, else the whole network and images. The loop does not know which."""
    learner: nn.Module
    loaders: Loaders
    if plan is not None:
        learner = Tail(net)
        loaders = open_cache(plan, net, train, device).loaders(plan, split, train, device)
        split.decoded.clear()
    else:
        learner, channels = net, net.vit.input_channels
        loaders = make_loaders(split, train, net.preprocessing, channels, device)
    if train.compile:
        learner.compile()
    return learner, loaders


# ------------------------------------------------------------------------------------ the steps


class Job:
    """What trains and how: a network, the part of it that learns, its loss, and what changes its
    weights.

    `labels` are those of the training images. `steps`: instead of the config's epochs, the schedule
    squeezed accordingly.
    """

    def __init__(
        self,
        net: VisionTransformer,
        learner: nn.Module,
        train: TrainConfig,
        labels: list[int],
        num_classes: int,
        device: torch.device,
        steps: int | None = None,
    ) -> None:
        assert train.max_epochs != "auto"
        self.net, self.learner, self.train, self.device = net, learner, train, device
        self.epochs, self.images = train.max_epochs, len(labels)
        self.steps = steps or self.epochs * math.ceil(len(labels) / train.batch_size)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(net, train)
        self.scheduler = build_scheduler(self.optimizer, train, self.steps)
        self.criterion = build_criterion(train, labels, num_classes).to(device)
        self.mix = build_mix(train, num_classes)
        self.average = Average(self.parameters, train.ema)

    def step(self, inputs: Tensor | Tokens, labels: Tensor) -> tuple[float, int, float]:
        """Learn from a batch: its loss, the number of right answers, the gradient's norm.

        Raises Diverged, with the weights as they were, where the loss or the norm is not finite.
        """
        loss, right, norm = self.gradients(inputs, labels)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged("loss" if not math.isfinite(loss) else "gradient")
        self.optimizer.step()
        self.scheduler.step()
        self.average.update()
        return loss, right, norm

    def gradients(self, inputs: Tensor | Tokens, labels: Tensor) -> tuple[float, int, float]:
        """Gradients of a batch, clipped; the weights are not changed yet."""
        inputs = inputs.to(self.device, non_blocking=True)
        labels = targets = labels.to(self.device, non_blocking=True)
        if self.mix is not None:
            inputs, targets = self.mix(inputs, labels)  # B C: the shares of the two images
            labels = targets.argmax(1)
        with autocast(self.device, self.train.bf16):
            logits = self.learner(inputs)  # B C
        loss = self.criterion(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.train.clip or math.inf)
        return loss.item(), int((logits.argmax(1) == labels).sum()), norm.item()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on; the random numbers need nothing, each epoch seeds its own."""
        return {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.state_dict(),
            "classes": list(self.net.classes or ()),
            "metadata": metadata_of(self.net),
        }

    def load_state_dict(self, state: dict[str, Any], run: Run) -> None:
        try:
            self.net.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state.get("average"))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{run.last} does not fit this config ({reason}); go on with "
                f"{run.folder}/config.yaml"
            ) from None
        self.scheduler.load_state_dict(state["scheduler"])


def train_epoch(job: Job, loader: Any, epoch: int) -> dict[str, Any]:
    """One pass over the training part; the epoch's row of metrics.csv, its validation aside."""
    job.net.train()
    loader.sampler.epoch = epoch
    started = time.perf_counter()
    losses, hits, norms = [], 0, []
    bar = tqdm(loader, f"epoch {epoch}/{job.epochs}", leave=False, unit="batch")
    for number, (inputs, labels) in enumerate(bar, 1):
        try:
            loss, right, norm = job.step(inputs, labels)
        except Diverged as what:
            lr = job.scheduler.get_last_lr()[0]
            where = f"step {number} of epoch {epoch} (lr {lr:.3g})"
            raise Diverged(f"the {what} is not finite at {where}") from None
        losses.append(loss * len(labels))
        hits += right
        norms.append(norm)
        bar.set_postfix(loss=f"{loss:.3f}")
    seconds = time.perf_counter() - started
    seen = len(loader.dataset)
    return {
        "epoch": epoch,
        "train_loss": sum(losses) / seen,
        "train_accuracy": hits / seen,
        "lr": job.scheduler.get_last_lr()[0],
        "grad_norm_mean": sum(norms) / len(norms),
        "grad_norm_max": max(norms),
        "seconds": seconds,
        "images_per_second": seen / seconds,
    }


def validate(job: Job, loader: Any) -> dict[str, Any]:
    """The averaged network's scores, named as metrics.csv and summary.json name them."""
    with job.average.in_place():
        found = evaluate(job.learner, loader, job.device, job.train.bf16)
    return {f"val_{name}": value for name, value in found.items()}


class Diverged(UserError):
    """The loss or a gradient is NaN or infinite; the weights of the step before are intact."""


class Average:
    """A running average of weights by step; without a decay, the weights themselves.

    It begins as the plain mean of the steps so far: the first weights would weigh too much.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float | Any) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.values = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        if self.values:
            share = max(1 - self.decay, 1 / self.steps)
            torch._foreach_lerp_(self.values, tuple(self.parameters), share)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the place of the weights."""
        weights = [p.data for p in self.parameters]
        try:
            for parameter, value in zip(self.parameters, self.values or weights, strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(self.parameters, weights, strict=True):
                parameter.data = value

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is None:  # of a run before there were averages
            return
        self.steps = state["steps"]
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)


def build_criterion(train: TrainConfig, labels: list[int], num_classes: int) -> nn.Module:
    """Cross-entropy with label smoothing and, where the config asks for it, classes weighted by
    1 / their images, so that each counts the same (scikit-learn's `balanced`)."""
    weight = None
    if train.class_weights == "balanced":
        counts = torch.bincount(torch.tensor(labels), minlength=num_classes).clamp(min=1)
        weight = len(labels) / (num_classes * counts)
    assert train.label_smoothing != "auto"
    return nn.CrossEntropyLoss(weight, label_smoothing=train.label_smoothing)


def build_mix(train: TrainConfig, num_classes: int) -> Callable | None:
    """Mixup and CutMix of a batch, one of them drawn each time; None where both are off."""
    kinds = ((v2.MixUp, train.mixup), (v2.CutMix, train.cutmix))
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(chosen) if chosen else None


def build_optimizer(net: VisionTransformer, train: TrainConfig) -> torch.optim.Optimizer:
    """The config's AdamW or SGD over what trains."""
    assert train.lr != "auto" and train.layer_decay != "auto" and train.weight_decay != "auto"
    groups = parameter_groups(net, train.lr, train.weight_decay, train.layer_decay)
    options: dict[str, Any] = {"lr": train.lr}
    on = next(net.parameters()).device.type
    if train.optim == "sgd":
        options["momentum"] = train.momentum
    name = "AdamW" if train.optim == "adamw" else "SGD"
    library: Any = torch.optim
    if train.use_bitsandbytes and (eight_bit := import_bitsandbytes()) is not None:
        library, name = eight_bit, f"{name}8bit"
    elif on in ("cpu", "cuda"):
        # One kernel for all: on 2 cores a step of AdamW over a B/16's last block takes 2.6 ms
        # instead of 7.9, of 18 in all.
        options["fused"] = True
    return getattr(library, name)(groups, **options)


def import_bitsandbytes() -> Any:
    """bitsandbytes' optimisers, or None, with a line that says so, where it can't be imported."""
    try:
        from bitsandbytes import optim
    except Exception as error:  # its native library fails in many ways, by platform
        log.info("bitsandbytes can't be imported (%s): using the 32-bit optimiser", error)
        return None
    return optim


def build_scheduler(optimizer: torch.optim.Optimizer, train: TrainConfig, steps: int) -> LambdaLR:
    """The learning rate by step: warm-up, then cosine, or stable and a linear decay (wsd).

    Without `decay_epochs`, wsd decays over the last fifth (arXiv:2405.18392 finds 10-20 % enough).
    """
    assert train.max_epochs != "auto" and train.warmup_epochs != "auto"
    total, an_epoch = steps, steps / train.max_epochs
    warmup = round(train.warmup_epochs * an_epoch)
    decay_epochs = 0.2 * train.max_epochs if train.decay_epochs is None else train.decay_epochs
    decay = max(1, round(decay_epochs * an_epoch))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if train.scheduler_type == "wsd":
            return min(1.0, (total - step) / decay)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)


# -------------------------------------------------------------------------------------- lr: auto


@dataclass(frozen=True)
class Setting:
    """A point of the grid: what trains (`block`: the last block too; `head`: norm and head alone),
    its optimiser, its learning rate, its weight decay."""

    part: str
    optim: str
    lr: float
    weight_decay: float

    def applied(self, net: VisionTransformer, train: TrainConfig) -> TrainConfig:
        """The config with this setting; with `head`, the network's last block stops training."""
        if self.part == "head":
            net.blocks.requires_grad_(False)
        found = {"optim": self.optim, "lr": self.lr, "weight_decay": self.weight_decay}
        return train.model_copy(update=found)

    def __str__(self) -> str:
        part = "norm and head alone" if self.part == "head" else "last block, norm and head"
        return f"{self.optim}, lr {self.lr:.2g}, weight decay {self.weight_decay:g}, {part}"


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


def search(
    net: VisionTransformer, loader: TokenLoader, train: TrainConfig, run: Run, device: torch.device
) -> Setting:
    """The best setting by cross-validation inside the training part; no other image is looked at.

    All are tried for a few steps on one fold, the best three, of different learning rates, and the
    recipe's for more on each of three folds (successive halving, arXiv:1502.07943). Leaves
    search.csv and search.png in the run's folder; a run that goes on reads its choice there.
    """
    if chosen := read_choice(run.folder / "search.csv"):
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
        trials = try_settings(net, candidates, loader, folds[:1], train, first, device, bar)
        best = {rate(recipe): recipe}
        for trial in sorted(trials, key=lambda trial: trial.mean_loss):
            best.setdefault(rate(trial.setting), trial.setting)
        finalists = list(best.values())[:FINALISTS]
        finals = try_settings(net, finalists, loader, folds, train, second, device, bar)
    winner = choose(finals, recipe)
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


def rate(setting: Setting) -> tuple[str, str, float]:
    """What finalists differ by: the weight decay alone makes no other setting."""
    return setting.part, setting.optim, setting.lr


def search_steps(net: VisionTransformer, loader: TokenLoader, candidates: int) -> tuple[int, int]:
    """The steps of the first and of the second round: a quarter of the time for the first."""
    patches = loader.rows.size * (net.vit.dim // net.vit.patch_dim) ** 2
    budget = max(LEAST_STEPS, min(MOST_STEPS, patches // PATCHES_A_STEP))
    return budget // 4 // candidates, budget * 3 // 4 // (FINALISTS * SEARCH_FOLDS)


def stratified_folds(loader: TokenLoader) -> list[tuple[np.ndarray, np.ndarray]]:
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
    folds: list[tuple[np.ndarray, np.ndarray]],
    train: TrainConfig,
    steps: int,
    device: torch.device,
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
        jobs = [side_job(net, setting, train, batches, steps, device) for setting in candidates]
        train_side_by_side(jobs, batches, steps, bar)
        for job, trial in zip(jobs, trials, strict=True):
            logits, labels = predict(job.learner, loader.plain(scored), device, train.bf16, None)
            trial.losses.append(F.cross_entropy(logits, labels, reduction="none"))
            trial.right.append(logits.argmax(1) == labels)
    return trials


def side_job(
    net: VisionTransformer,
    setting: Setting | None,
    train: TrainConfig,
    batches: TokenLoader,
    steps: int,
    device: torch.device,
) -> Job:
    """A job beside the main one: a branch of the network, some batches, so many steps."""
    own = branch(net)
    train = setting.applied(own, train) if setting else train
    assert isinstance(own.vit.num_classes, int)
    labels = batches.dataset.tolist()
    return Job(own, Tail(own), train, labels, own.vit.num_classes, device, steps)


def train_side_by_side(jobs: list[Job], batches: TokenLoader, steps: int, bar: tqdm) -> None:
    """A batch is read once and serves all jobs; one that diverges stays as it was before.

    On a CPU each core takes jobs of its own: a step's small products gain little from several
    cores at once. With dropout they share one stream of random numbers, and take turns.
    """
    for job in jobs:
        job.net.train()
    vit = jobs[0].net.vit
    alone = len(jobs) == 1 or jobs[0].device.type != "cpu"
    cores = 1 if alone or vit.dropout or vit.attention_dropout else torch.get_num_threads()
    alive = dict.fromkeys(range(len(jobs)), True)

    def step(number: int, inputs: Tokens, labels: Tensor) -> None:
        try:
            if alive[number]:
                jobs[number].step(inputs, labels)
        except Diverged:
            alive[number] = False

    one_core = partial(torch.set_num_threads, 1) if cores > 1 else None
    with ThreadPoolExecutor(cores, initializer=one_core) as pool:
        for inputs, labels in islice(endless(batches), steps):
            list(pool.map(partial(step, inputs=inputs, labels=labels), range(len(jobs))))
            bar.update(len(jobs))


def endless(batches: TokenLoader) -> Iterator[tuple[Tokens, Tensor]]:
    """Epoch after epoch."""
    assert batches.sampler is not None
    for epoch in count(1):
        batches.sampler.epoch = epoch
        yield from batches


def branch(net: VisionTransformer) -> VisionTransformer:
    """A copy of the network that trains by itself; what is frozen is shared."""
    return copy.deepcopy(net, {id(p): p for p in net.parameters() if not p.requires_grad})


SETTING = ("part", "optim", "lr", "weight_decay")
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
    write_csv(folder / "search.csv", rows, SEARCH_COLUMNS)


def read_choice(path: Path) -> Setting | None:
    """The setting that an earlier start of the run chose."""
    if not path.exists():
        return None
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["chosen"] == "1":
                rate, decay = float(row["lr"]), float(row["weight_decay"])
                return Setting(row["part"], row["optim"], rate, decay)
    return None


# ------------------------------------------------------------------------------- did it learn?


def judge(
    before: VisionTransformer,
    job: Job,
    loaders: Loaders,
    setting: Setting | None,
    scored: dict[str, Any],
) -> dict[str, Any]:
    """The verdict, and the numbers behind it: the network's accuracy on the part that is reported,
    against chance, the largest class, simple rivals and a control with shuffled labels.

    `before` is the network as it began. Rivals and control need cached tokens, else they are None.
    """
    part, train = scored["part"], job.train
    loader, training = loaders[part], loaders["train"]
    numbers = dict(scored)
    judges = train.verdict
    if judges and isinstance(training, TokenLoader) and isinstance(loader, TokenLoader):
        some = np.random.default_rng(0).permutation(len(training.dataset))[:MOST_FOR_RIVALS]
        known, labels = class_tokens(before, training.plain(some), job.device)
        queries, targets = class_tokens(before, loader, job.device)
        numbers |= rivals(known.numpy(), labels.numpy(), queries.numpy(), targets.numpy())
        numbers["shuffled_labels"] = shuffled_control(before, setting, job, training, loader)
    assert train.lr != "auto"
    return verdict(numbers, train.lr, train.recipe_lr) | {"verdict_numbers": numbers}


def dealt(labels: Tensor) -> Tensor:
    """The labels (n,) shuffled so that the images of each class get all labels in their shares.

    A plain shuffle gives a class more of one label by chance, which a network that knows the
    classes apart then answers for the whole class: accuracies anywhere between 0 and 1.
    """
    order = torch.randperm(len(labels))
    order = order[labels[order].argsort(stable=True)]  # class by class
    counts = torch.bincount(labels)
    turns = torch.cat([(torch.arange(c) + torch.rand(c)) / c for c in counts.tolist()])
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)[turns.argsort()]
    return torch.empty_like(labels).scatter_(0, order, sequence)


def shuffled_control(
    before: VisionTransformer,
    setting: Setting | None,
    job: Job,
    training: TokenLoader,
    loader: TokenLoader,
) -> float:
    """The accuracy of the same training on shuffled labels: chance, or something leaks."""
    train = job.train
    seed_everything(train.seed)
    everyone = np.arange(len(training.dataset))
    batches = training.training(train, everyone, dealt(training.dataset))
    steps = min(job.steps, RECIPES["finetune"].steps)
    control = side_job(before, setting, train, batches, steps, job.device)
    with tqdm(total=steps, desc="control: shuffled labels", leave=False, unit="step") as bar:
        train_side_by_side([control], batches, steps, bar)
    return evaluate(control.learner, loader, job.device, train.bf16)["accuracy"]


# ------------------------------------------------------------------------ stopping and going on


@dataclass
class Progress:
    """Where a run stands: what a resumed run must know beside the weights."""

    epoch: int = 0
    best_epoch: int = 0  # the one that is kept
    best_accuracy: float = -1.0
    best_balanced_accuracy: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    images: int = 0
    train_loss: float = math.inf
    train_accuracy: float = 0.0

    def take(self, row: dict[str, Any], images: int, keep: str) -> bool:
        """Count an epoch; True where its network is to be kept: with `best`, where its validation
        is the best so far (ties: the lower loss)."""
        self.epoch = row["epoch"]
        self.seconds += row["seconds"]
        self.images += images
        self.train_loss, self.train_accuracy = row["train_loss"], row["train_accuracy"]
        if "val_accuracy" not in row:
            return False
        better = (row["val_accuracy"], -row["val_loss"]) > (self.best_accuracy, -self.best_loss)
        if better or keep == "last" or not self.best_epoch:
            self.best_epoch = row["epoch"]
            self.best_accuracy = row["val_accuracy"]
            self.best_balanced_accuracy = row["val_balanced_accuracy"]
            self.best_loss = row["val_loss"]
            return True
        return False

    def patience_is_over(self, train: TrainConfig) -> bool:
        return (
            train.early_stopping is not None
            and self.best_epoch > 0
            and self.epoch - self.best_epoch >= train.early_stopping
        )


class Keeper:
    """Writes best.safetensors and last.pt when they are due, and whatever is still unwritten when
    the loop is left, by Ctrl-C as well.

    An epoch of the cached mode can take less time than writing the whole network, so with
    `save_epoch: auto` it is written every half minute at most; until then it is kept, beside the
    device, in the CPU's memory.
    """

    SECONDS = 30

    def __init__(self, run: Run, job: Job, progress: Progress, config: Config) -> None:
        self.run, self.job, self.progress, self.config = run, job, progress, config
        self.metrics = MetricsLog(run.folder, COLUMNS, progress.epoch, progress.best_epoch)
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Any] | None = None
        self.written = time.monotonic()

    def keep(self, row: dict[str, Any]) -> None:
        """Keep an epoch: its row of metrics.csv, its state, and its network where it is to be kept.

        A row and its checkpoint belong together, so Ctrl-C waits.
        """
        with unbroken():
            kept = self.progress.take(row, self.job.images, self.job.train.keep)
            self.metrics.write(self.progress.best_epoch, **row)
            self._keep(kept)

    def _keep(self, kept: bool) -> None:
        if kept:
            with self.job.average.in_place():
                self.best = self._trained()
        every = self.config.train.save_epoch
        if every == "auto":
            due = time.monotonic() > self.written + self.SECONDS
        else:
            due = self.progress.epoch % every == 0
        self.last = self.job.state_dict() | {"progress": asdict(self.progress)}
        if due:
            self.write()
        else:
            self.last["model"] |= self._trained()
            self.last |= {name: copied(self.last[name]) for name in ("optimizer", "average")}

    def _trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that train; the others stay as they are."""
        named = self.job.net.named_parameters()
        return {name: copied(p.detach()) for name, p in named if p.requires_grad}

    def write(self) -> None:
        """The best first: what goes on from last.pt must find it."""
        if self.best is not None:
            epoch, config = str(self.progress.best_epoch), dump_config(self.config)
            save_model(self.run.best, self.job.net, self.best, config=config, epoch=epoch)
        if self.last is not None:
            self.run.save_last(self.last)
        self.best = self.last = None
        self.written = time.monotonic()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.metrics.close()
        finally:
            self.write()


def copied(state: Any) -> Any:
    """A state dict's tensors, copied to the CPU; its other values as they are."""
    if isinstance(state, Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return state


def saved_state(run: Run, net: VisionTransformer) -> dict[str, Any] | None:
    """The last checkpoint of the run that is to go on, if there is one: known to be of these
    classes and of these frozen weights."""
    state = run.load_last() if run.resumes else None
    if state is None:
        if run.resumes:
            log.info("%s has no checkpoint yet: starting at epoch 1", run.folder)
        return None
    if state["classes"] != list(net.classes or ()):
        raise UserError(f"{run.last} was trained on other classes: {', '.join(state['classes'])}")
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    changed = [n for n in frozen if not same(state["model"].get(n), net.get_parameter(n))]
    if changed:
        raise UserError(
            f"{run.last} has other frozen weights than train.checkpoint ({changed[0]}); go on with "
            f"{run.folder}/config.yaml and the weights that it names"
        )
    log.info("going on after epoch %d of %s", state["progress"]["epoch"], run.folder)
    return state


def same(saved: Tensor | None, now: Tensor) -> bool:
    """Whether a checkpoint's array is the network's; other shapes are load_state_dict's to name."""
    return saved is None or saved.shape != now.shape or torch.equal(saved, now.detach().cpu())


@contextlib.contextmanager
def resumable(run: Run, progress: Progress) -> Iterator[None]:
    """Around the loop: a stop, or a loss that isn't finite, says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        command = f"python training.py --config {run.folder}/config.yaml train.from_checkpoint=true"
        raise KeyboardInterrupt(
            f"stopped with {progress.epoch} epochs done; go on with: {command}"
        ) from None
    except Diverged as error:
        there = [str(path) for path in (run.best, run.last) if path.exists()]
        kept = (
            f"the last good checkpoint is {there[-1]}" if there else "no checkpoint was saved yet"
        )
        sentence = f"{NOT_LEARNED}: {error}; lower train.lr or warm up longer"
        outcome = {"verdict": NOT_LEARNED, "verdict_sentence": sentence, "epochs": progress.epoch}
        write_json(run.folder / "summary.json", outcome)
        raise Diverged(f"{sentence}; {kept}") from None


def open_run(config: Config, only_checks: bool) -> Run:
    """A new run, or the one to go on with; nothing is written yet."""
    train = config.train
    if only_checks:
        return Run(train.run_name or "(time and mode)", train.log_path, train.save_path)
    if train.from_checkpoint:
        return Run.reopen(train.from_checkpoint, train.run_name, train.log_path, train.save_path)
    kind = "overfit" if config.overfit_one_batch.overfit else train.mode
    return Run.create(train.run_name, train.log_path, train.save_path, kind)


class Clock:
    """The seconds of a run's phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase], self.started = now - self.started, now

    def said(self, phase: str) -> float | None:
        return round(self.seconds[phase], 2) if phase in self.seconds else None


def conclude(
    job: Job,
    loaders: Loaders,
    split: Split,
    config: Config,
    before: VisionTransformer,
    setting: Setting | None,
    run: Run,
    progress: Progress,
    clock: Clock,
) -> dict[str, Any]:
    """Score the kept network on the test part, judge it, write summary.json and say all that."""
    net, train = job.net, job.train
    net.load_state_dict(read_arrays(run.best)[0])
    job.average = Average(job.parameters, None)  # what was read is the average
    found: dict[str, Any] = {
        "val_accuracy": progress.best_accuracy,
        "val_balanced_accuracy": progress.best_balanced_accuracy,
        "val_loss": progress.best_loss,
    }
    part = "test" if "test" in loaders else "val"
    given = answers(job, loaders)
    scored = scores(*given["test"]) if part == "test" else {}
    names = ("accuracy", "balanced_accuracy", "loss")
    found |= {f"test_{name}": scored.get(name) for name in names}
    counts = {name: len(split.part(name)) for name in PARTS}
    for name in ("val", "test"):
        accuracy = found[f"{name}_accuracy"]
        found[f"{name}_interval"] = None if accuracy is None else wilson(accuracy, counts[name])
    clock.lap("test")
    learned = judge(before, job, loaders, setting, facts(split, part, found, progress))
    clock.lap("verdict")
    total, trainable = net.parameter_counts()
    summary = {
        "mode": train.mode,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        **found,
        "train_loss": progress.train_loss,
        "train_accuracy": progress.train_accuracy,
        **learned,
        "chosen": asdict(setting) if setting else None,
        "optim": train.optim,
        "lr": train.lr,
        "weight_decay": train.weight_decay,
        "images": counts,
        "seconds": round(progress.seconds, 1),
        "cache_seconds": clock.said("cache"),
        "search_seconds": clock.said("search"),
        "verdict_seconds": clock.said("verdict"),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 2),
        "parameters": {"total": total, "trainable": trainable},
        "weights": train.checkpoint if train.mode != "scratch" else None,
        "device": str(job.device),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_json(run.folder / "summary.json", summary)
    rows = predictions(split, given)
    write_csv(run.folder / "predictions.csv", rows, PREDICTED)
    to_tensorboard(run, split, config, summary, [row for row in rows if row["part"] == part])
    report_end(summary, run)
    return summary


PREDICTED = ("part", "path", "label", "predicted", "probability", "label_probability")
SHOWN = 16  # images with their predictions in TensorBoard


def answers(job: Job, loaders: Loaders) -> dict[str, tuple[Tensor, Tensor]]:
    """The network's logits (n, C) and the labels (n,) of each part that is held out."""
    held_out = [part for part in ("val", "test") if part in loaders]
    bf16 = job.train.bf16
    return {part: predict(job.learner, loaders[part], job.device, bf16) for part in held_out}


def predictions(split: Split, given: dict[str, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """What predictions.csv holds: each held-out image, its class, the predicted one, and the
    probabilities of the two."""
    rows = []
    for part, (logits, labels) in given.items():
        every = logits.softmax(1)  # n C
        highest, predicted = every.max(1)
        own = every.gather(1, labels[:, None])[:, 0]
        for i, sample in enumerate(split.part(part)):
            assert sample.label == labels[i], "loaders keep the split's order"
            path = sample.path.relative_to(split.root).as_posix()
            names = split.classes[sample.label], split.classes[int(predicted[i])]
            sure = round(highest[i].item(), 6), round(own[i].item(), 6)
            rows.append(dict(zip(PREDICTED, (part, path, *names, *sure), strict=True)))
    return rows


def to_tensorboard(
    run: Run, split: Split, config: Config, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """The reported part's confusion matrix, some of its images (the surest mistakes, then the least
    sure answers) and the run's settings with what it reached, beside the curves."""
    index = {name: i for i, name in enumerate(split.classes)}
    confusion = np.zeros((len(index), len(index)), dtype=int)  # true, predicted
    for row in rows:
        confusion[index[row["label"]], index[row["predicted"]]] += 1
    wrong = sorted(
        (row for row in rows if row["label"] != row["predicted"]), key=lambda r: -r["probability"]
    )
    unsure = sorted(
        (row for row in rows if row["label"] == row["predicted"]), key=lambda r: r["probability"]
    )
    shown = [(split.root / row["path"], caption(row)) for row in [*wrong, *unsure][:SHOWN]]
    vit, train = config.vit.model_dump(), config.train.model_dump()
    chosen = {name: summary[name] for name in ("optim", "lr", "weight_decay")}
    settings = {f"vit.{k}": v for k, v in vit.items()} | {f"train.{k}": v for k, v in train.items()}
    settings |= {f"train.{name}": value for name, value in chosen.items()}
    reached = {
        f"reached/{name}": summary[name]
        for name in ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "train_loss")
        if summary[name] is not None
    }
    log_outcome(run.folder, summary["epochs"], settings, reached, confusion, split.classes, shown)


def caption(row: dict[str, Any]) -> str:
    """What the network says of an image, and what it is where that is something else."""
    says = f"{row['predicted']} {row['probability']:.2f}"
    return says if row["predicted"] == row["label"] else f"{says}, is {row['label']}"


def write_report(folder: Path) -> None:
    """report.html by its tool, in a process of its own: the tools build on this core, not the other
    way round, and a report that fails must not fail a run."""
    here = str(Path(__file__).resolve().parent)
    there = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tools.report", str(folder)]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": there}, capture_output=True, text=True
        )
    except KeyboardInterrupt:
        again = f"python -m tools.report {folder}"
        raise KeyboardInterrupt(f"stopped; the run is complete, its report: {again}") from None
    if done.returncode == 0:
        log.info("report: %s", folder / "report.html")
    else:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        log.info("no report.html: %s", reason.removeprefix("error: "))


def facts(split: Split, part: str, found: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """What the verdict is about: the accuracy of the reported part, and what chance would reach."""
    labels = [sample.label for sample in split.part(part)]
    classes = Counter(labels)
    return {
        "part": part,
        "images": len(labels),
        "accuracy": found[f"{part}_accuracy"],
        "interval": found[f"{part}_interval"],
        "chance": round(1 / len(split.classes), 7),
        "largest_class": round(max(classes.values()) / len(labels), 7),
        "train_accuracy": round(progress.train_accuracy, 7),
        "train_images_of_the_rarest_class": min(
            Counter(sample.label for sample in split.part("train")).values()
        ),
    }


def report_end(summary: dict[str, Any], run: Run) -> None:
    """The last lines of a run: what it reached, whether it learned, where to look."""
    phases = {"cache_seconds": "the token cache", "search_seconds": "finding the learning rate"}
    phases["verdict_seconds"] = "the verdict"
    took = [f"{minutes(summary['seconds'])} of training"]
    took += [f"{minutes(summary[key])} for {what}" for key, what in phases.items() if summary[key]]
    kept = f"epoch {summary['best_epoch']} of {summary['epochs']}"
    log.info("%s (mode %s, %s)", ", ".join(took), summary["mode"], kept)
    for line in score_lines(summary):
        log.info("%s", line)
    log.info("%s", summary["verdict_sentence"])
    files = "curves.png, metrics.csv, summary.json" + (", search.csv" if summary["chosen"] else "")
    log.info("results: %s (%s); weights: %s", run.folder, files, run.best)


# ------------------------------------------------------------------------------ overfit one batch


def repeated_batch(
    net: VisionTransformer, split: Split, config: Config, device: torch.device
) -> Iterator[tuple[Tensor | Tokens, Tensor]]:
    """The same batch of training images, without augmentation, for ever; in finetune mode what the
    frozen trunk makes of it."""
    loaders = make_loaders(split, config.train, net.preprocessing, net.vit.input_channels, device)
    loaders["train"].dataset.transform = eval_transform(  # type: ignore[attr-defined]
        net.preprocessing, net.vit.input_channels
    )
    images, labels = (tensor.to(device) for tensor in next(iter(loaders["train"])))
    frozen = net.frozen_depth is not None
    inputs = Trunk(net, device, config.train.bf16)(images) if frozen else images
    while True:
        yield inputs, labels


def overfit(
    net: VisionTransformer,
    batches: Iterable[tuple[Tensor | Tokens, Tensor]],
    config: Config,
    run: Run,
) -> bool:
    """Train on one batch until the network knows it by heart; says PASS, or FAIL and likely why.

    Dropout, weight decay and label smoothing are off; the learning rate is the config's, warmed
    up over 10 steps.
    """
    options = config.overfit_one_batch
    off: dict[str, Any] = dict.fromkeys(("weight_decay", "label_smoothing", "mixup", "cutmix"), 0.0)
    train = config.train.model_copy(update={**off, "ema": None, "class_weights": "none"})
    learner = net if net.frozen_depth is None else Tail(net)
    assert isinstance(net.vit.num_classes, int)
    device = net.cls_token.device
    job = Job(net, learner, train, [0], net.vit.num_classes, device, options.max_steps)
    job.scheduler = LambdaLR(job.optimizer, lambda step: min(1.0, (step + 1) / 10))
    metrics = MetricsLog(run.folder, COLUMNS)
    net.eval()  # dropout is a model's only difference in training
    losses: list[float] = []
    accuracy, started = 0.0, time.perf_counter()
    bar = tqdm(batches, "overfitting one batch", total=options.max_steps, leave=False)
    for step, (inputs, labels) in enumerate(bar, 1):
        loss, right, norm = job.gradients(inputs, labels)
        losses.append(loss)
        accuracy = right / len(labels)
        passed = loss < options.tolerance and accuracy == 1.0
        done = passed or step == options.max_steps or not math.isfinite(loss + norm)
        if done or step % options.logging_steps == 0:
            row: dict[str, Any] = {"epoch": step, "train_loss": loss, "train_accuracy": accuracy}
            row |= {
                "lr": job.scheduler.get_last_lr()[0],
                "grad_norm_mean": norm,
                "grad_norm_max": norm,
            }
            metrics.write(None, **row, seconds=time.perf_counter() - started)
            log.info("step %d: loss %.4f, accuracy %.2f", step, loss, accuracy)
        if done:
            break
        job.optimizer.step()
        job.scheduler.step()
    metrics.close()
    verdict = "PASS" if passed else "FAIL"
    assert train.lr != "auto"
    reason = "" if passed else why_not(losses, accuracy, net.vit.num_classes, train.lr)
    log.info("%s after %d steps: loss %.4g, accuracy %.2f%s", verdict, step, loss, accuracy, reason)
    seconds = round(time.perf_counter() - started, 1)
    outcome = {"mode": train.mode, "overfit": verdict, "steps": step, "loss": loss}
    write_json(run.folder / "summary.json", {**outcome, "accuracy": accuracy, "seconds": seconds})
    return passed


def why_not(losses: list[float], accuracy: float, num_classes: Any, lr: float) -> str:
    """The likely reasons why one batch was not learned, from how the loss went."""
    recent = losses[-max(1, len(losses) // 5) :]
    lowest, now = min(losses), sum(recent) / len(recent)
    if not math.isfinite(losses[-1]):
        return f"; the loss is not finite: lr {lr:g} is too high"
    if now > 0.8 * math.log(num_classes):
        return (
            f"; the loss stays near chance (ln {num_classes} = {math.log(num_classes):.2f}): the "
            f"labels may change from step to step, no gradient may reach the weights, or lr {lr:g} "
            "may be far off"
        )
    if now > 2 * lowest and now > 0.1:
        return f"; the loss fell to {lowest:.3f} and rose again: lr {lr:g} may be too high"
    if accuracy < 1:
        return (
            "; some images stay wrong: the same picture may bear two labels, or it needs more steps"
        )
    return "; the loss was still falling: raise overfit_one_batch.max_steps"


# ------------------------------------------------------------------------------------- reporting


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    parser.add_argument("--check", action="store_true", help="say what would be done, and exit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args(argv)


def report_data(split: Split) -> None:
    counts = ", ".join(f"{len(split.part(part))} {part}" for part in PARTS if split.part(part))
    log.info("%s: %d classes, images: %s", split.root, len(split.classes), counts)
    for note in split.notes:
        log.info("  %s", note)
    if split.unused:
        log.info("  not used: %d file(s), named by --check and in the run's log", len(split.unused))
    for path, reason in split.unused:
        log.debug("not used: %s: %s", path, reason)


def report_epoch(row: dict[str, Any], job: Job) -> None:
    if row["epoch"] % job.train.log_epoch and row["epoch"] != job.epochs:
        return
    val = ""
    if "val_accuracy" in row:
        val = f", val loss {row['val_loss']:.4f}, val accuracy {row['val_accuracy']:.4f}"
    log.info(
        "epoch %d: train loss %.4f, train accuracy %.4f%s, %.1f images/s",
        row["epoch"],
        row["train_loss"],
        row["train_accuracy"],
        val,
        row["images_per_second"],
    )


def print_check(config: Config, net: VisionTransformer, split: Split, plan: Plan | None) -> None:
    """What a run would do: the resolved config, the parameters, the data, the steps, the memory."""
    total, trainable = net.parameter_counts()
    print(dump_config(config))
    print(f"parameters: {total:,} in all, {trainable:,} train (mode {config.train.mode})")
    print(f"\n{'class':<32}" + "".join(f"{part:>8}" for part in PARTS))
    for name, counts in split.counts().items():
        print(f"{name:<32}" + "".join(f"{counts[part]:>8}" for part in PARTS))
    print(f"{'all':<32}" + "".join(f"{len(split.part(part)):>8}" for part in PARTS))
    if split.unused:
        print(f"\nnot used: {len(split.unused)}")
        for path, reason in split.unused[:20]:
            print(f"  {path}: {reason}")
        if len(split.unused) > 20:
            print(f"  and {len(split.unused) - 20} more, named in the log of a run")
    steps = math.ceil(len(split.part("train")) / config.train.batch_size)
    epochs = config.train.max_epochs
    assert epochs != "auto"
    print(f"\nsteps: {steps} an epoch, {steps * epochs:,} in {epochs} epochs")
    if config.train.lr == "auto":
        found = len(settings(net, config.train))
        print(f"learning rate: to be found, by trying {found} settings on the training part")
    if plan is not None:
        there = "to be made" if damage(plan.path) else "there already"
        print(f"token cache: {plan.said()}, {there}")
    print(f"memory: about {expected_memory(config, net, split, plan is not None) / 1e9:.1f} GB")
    print(f"disk: about {checkpoint_bytes(config.train, net) / 1e6:,.0f} MB of checkpoints")


def expected_memory(config: Config, net: VisionTransformer, split: Split, cached: bool) -> float:
    """Bytes, roughly: weights, gradients, optimiser, what the backward pass keeps, images."""
    vit, train = net.vit, config.train
    total, trainable = net.parameter_counts()
    N = (vit.dim // vit.patch_dim) ** 2 + 1
    # Per token a block keeps both norms' outputs, q, k, v, the attention's and projections'
    # outputs (9 D) and the MLP's hidden layer before and after GELU.
    block = 4 * N * (9 * vit.hidden_dim + 2 * vit.ff_dim)
    blocks = vit.num_layers - (net.frozen_depth or 0)
    activations = max(train.batch_size * blocks, train.eval_batch_size) * block
    if cached:
        # Of the last block only the class token's row is kept. The trunk's weights exist twice in
        # its pass, and once more while a checkpoint is written.
        tokens = 4 * N * vit.hidden_dim * max(train.batch_size, train.eval_batch_size)
        activations = activations - train.batch_size * block if blocks > 1 else 2 * tokens
        activations += 2 * 4 * total
    kept = 2 * 4 * trainable + moment_bytes(train, trainable)  # Keeper's best and last
    decoded = sum(pixels.numel() for pixels in split.decoded.values())
    # PyTorch, its libraries and the allocator's slack: what two runs on Linux took beyond the rest.
    runtime = 0.9e9
    gradients = 4 * trainable
    state = 4 * total + gradients + moment_bytes(train, trainable)
    if train.lr == "auto":  # each setting that is tried has its own
        each = 2 * 4 * trainable + moment_bytes(train, trainable)
        kept = max(kept, each * len(settings(net, train)))
    return runtime + state + kept + activations + decoded


def moment_bytes(train: TrainConfig, trainable: int) -> int:
    """What the optimiser remembers: two numbers a parameter for AdamW, one for SGD."""
    numbers = 1 if train.optim == "sgd" else 2  # auto: it may be AdamW
    return numbers * (1 if train.use_bitsandbytes else 4) * trainable


def checkpoint_bytes(train: TrainConfig, net: VisionTransformer) -> int:
    """The size of best.safetensors and last.pt together."""
    total, trainable = net.parameter_counts()
    return 2 * 4 * total + moment_bytes(train, trainable) + (4 * trainable if train.ema else 0)


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
