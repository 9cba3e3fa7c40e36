"""head: auto and views: auto. A first look at the training part, before settings are searched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from config import RECIPES, TrainConfig
from engine.heads import some_of_each
from engine.job import SEARCH, Setting
from engine.kinds import KINDS, Folds, Unseen, leads, unseen_answers
from engine.start import Work
from engine.trials import allowance, recipes_own, settings, stratified_folds, try_settings
from metrics import standard_error
from tokens.builder import open_cache
from tokens.cache import TokenLoader
from tokens.plan import Plan
from utils import log, progress_bar

STEPS = 300  # of the recipe's setting on each fold: enough to tell kinds apart
REPEATS = 2  # of the folds there: half of the noise is the training's
PROBED = 200  # training pictures, at most, whose second view is made to see whether views pay
# The share of wrong answers, below which nothing is tried: few pictures gain more by views than
# many do, and what is left to gain is less than a test part could show.
LEAST_WRONG = 0.02


@dataclass(frozen=True)
class Kind:
    """What answers (a value of `train.head`), and how many views of a picture its block gets: None,
    as the config says. `by_layers`: what heads over layers answered to the pictures that each fold
    held out (n, C), where that is known."""

    head: str
    views: int | None = None
    by_layers: Tensor | None = None


def first_look(work: Work, loader: TokenLoader) -> Kind:
    """Which kind of head, and whether views pay, by the recipe's setting in cross-validation inside
    the training part; what the config names stays, and what a stopped run has found.

    `layers` where that head leads the block by more than two standard errors, and both together are
    no better; else `both`, with the recipe's views unless a probe says that they do harm.
    """
    train = work.train
    if setting := Setting.read(work.run.folder / SEARCH):
        setting = setting.named(train)
        return Kind(setting.head or train.head, setting.views)
    if train.head == "class":
        return Kind("class")
    folds = stratified_folds(loader)
    named = train.views != "auto" or train.transform is not None
    if not folds:
        log.info(
            "a class has one training image, or group: no first look is taken, and both heads "
            "answer; the epochs' numbers are the class head's alone"
        )
        return Kind("both", None if named else 1)
    if train.head == "both" and named:
        return Kind("both")
    short = allowance(train, len(loader.dataset))
    steps = short.a_fold(STEPS) if short else STEPS
    if short and steps < STEPS:
        log.info("%s: the first look takes %d on each of %d folds", short, steps, len(folds))
    unseen = tried(work, loader, folds, train, steps)
    log.info(
        "a first look: held out of the training part, %.4f are right over layers, %.4f by the "
        "block, %.4f by both%s",
        *(unseen.accuracy(kind) for kind in KINDS),
        ", each class counting the same" if unseen.unequal else "",
    )
    if train.head == "auto" and leads(unseen):
        log.info("head auto: the one over layers alone; no block trains, and there are no epochs")
        return Kind("layers")
    if train.head == "auto":
        log.info("head auto: both, the mean; the epochs' numbers are the class head's alone")
    by_layers = unseen.answers["layers"]
    if named:
        return Kind("both", None, by_layers)
    if short:
        log.info("views auto: one, as the training is short")
        return Kind("both", 1, by_layers)
    many = views_that_pay(work) if 1 - unseen.accuracy("both") > LEAST_WRONG else 1
    return Kind("both", many, by_layers if many == 1 else None)


def tried(work: Work, loader: TokenLoader, folds: Folds, train: TrainConfig, steps: int) -> Unseen:
    """The answers of each kind, with the block trained by the recipe's setting."""
    setting = recipes_own(settings(work.net, train), train)
    with progress_bar(total=len(folds) * steps, desc="a first look", unit="step") as bar:
        [trial] = try_settings(work.net, [setting], loader, folds, train, steps, bar)
    return unseen_answers(work.net, loader, folds, trial.logits)


def views_that_pay(work: Work) -> int:
    """1, or the recipe's number: unless a second view of some training pictures raises the loss of
    others that were held out by more than its standard error. They helped on each set that was
    measured, and no probe of few pictures is sure of it (EXPERIMENTS.md, 2026-11-26)."""
    many = RECIPES[work.train.mode].views
    wanted = work.with_views(many or 1).plan
    if many is None or wanted is None or (lacks := wanted.lacks_room()):
        log.info("views auto: one, as the tokens of %s would take %s", many, lacks)
        return 1
    labels = np.array([sample.label for sample in work.split.part("train")])
    chosen = some_of_each(labels, PROBED)
    log.info(
        "views auto: %d training pictures get a second view, to see whether it pays", len(chosen)
    )
    found = probe(work, chosen)
    if not stratified_folds(found):
        return 1
    gains = []
    for repeat in range(REPEATS):
        folds, losses = stratified_folds(found, repeat), []
        for views in (1, 2):
            train = work.train.model_copy(update={"views": views})
            unseen = tried(work, found.with_views(views), folds, train, STEPS)
            losses.append(unseen.losses("both").double())
        gains.append(losses[0] - losses[1])
    gain = torch.stack(gains).mean(0)
    error = standard_error(gain)
    pays = gain.mean().item() > -error
    log.info(
        "views auto: a second view of %d training pictures changes the loss of those held out by "
        "%+.4f ± %.4f: %s",
        *(len(gain), -gain.mean().item(), error),
        f"no harm beyond its uncertainty: all get {many}" if pays else "it does harm: one does",
    )
    return many if pays else 1


def probe(work: Work, chosen: np.ndarray) -> TokenLoader:
    """A loader of some training pictures with a second view."""
    train = work.train.model_copy(update={"views": 2, "refit": False})
    samples = work.split.part("train")
    some = replace(work.split, samples=tuple(samples[i] for i in chosen))
    plan = Plan(work.net, some, train)
    loaders = open_cache(plan, work.net, train, work.device).loaders(plan, some, train, work.device)
    return cast(TokenLoader, loaders["train"])
