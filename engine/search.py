"""lr: auto. Settings are tried on the cached tokens, inside the training part."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch

from config import TrainConfig
from engine.answers import OUT_OF_FOLD, write_unseen
from engine.job import SEARCH, Setting
from engine.kinds import Folds, unseen_answers
from engine.look import Kind
from engine.plots import plot_search
from engine.start import EPOCHS, Work, with_epochs
from engine.trials import (
    SEARCH_FOLDS,
    Allowance,
    Trial,
    allowance,
    recipes_own,
    settings,
    stratified_folds,
    try_settings,
)
from engine.written import rewriting
from filing.csv_files import read_csv
from metrics import standard_error
from model import VisionTransformer
from system.stopping import unbroken
from tokens.cache import TokenLoader
from utils import log, progress_bar, write_csv

FINALISTS = 4
# What the trunk pass made for one step of a setting, so that all take less than that pass: a step
# of a ViT-S/14 takes 5.5 ms and 64 patches 8; of a B/16 15 and 25 (2 cores, one at a time).
PATCHES_A_STEP = 64
LEAST_STEPS, MOST_STEPS = 2_000, 14_400  # of all settings together


def choose(finals: list[Trial], recipe: Setting) -> Trial:
    """The trial of the lowest loss; the recipe's, unless that is behind by more than the standard
    error of the difference (Hastie et al., The Elements of Statistical Learning, section 7.10)."""
    best = min(finals, key=lambda trial: trial.mean_loss)
    for trial in finals:
        if trial.setting == recipe:
            behind = torch.cat(trial.losses) - torch.cat(best.losses)
            if behind.mean().item() <= standard_error(behind):
                return trial
    return best


def search(work: Work, loader: TokenLoader, kind: Kind) -> Setting:
    """The best setting for a kind of head by cross-validation inside the training part; no other
    image is looked at.

    Leaves search.csv, search.png and out_of_fold.csv in the run's folder; a run that goes on reads
    its choice there; one with more pictures tries that alone, for its answers to all of them. For a
    head over layers alone there is nothing to find.
    """
    net, train, folder = work.net, work.train, work.run.folder
    if chosen := Setting.read(folder / SEARCH):
        chosen = chosen.named(train)
        if not train.from_run or kind.head == "layers" or (folder / OUT_OF_FOLD).exists():
            return chosen
        return with_own_scale(work, loader, kind, chosen)
    candidates = settings(net, train)
    recipe = replace(recipes_own(candidates, train), head=kind.head, views=kind.views)
    folds = stratified_folds(loader)
    if not folds:
        log.info("a class has one training image, or group, too few to try settings; %s", recipe)
        return recipe
    if kind.head == "layers":
        write_search(folder, [], [Trial(recipe, 0)], recipe)
        return recipe
    short = allowance(train, len(loader.dataset))
    if short and not searches_all(short, len(candidates)):
        log.info("%s: the recipe's setting is taken without a search, %s", short, recipe)
        candidates = [recipes_own(candidates, train)]
    trials, finals = rounds(net, candidates, loader, folds, train, kind.head == "both", short)
    winner = choose(finals, recipes_own(candidates, train))
    said = (
        "lr auto" if train.lr == "auto" else "the setting",
        winner.setting,
        "the class head alone: " if kind.head == "both" else "",
        winner.accuracy,
        len(folds),
        how_chosen(winner, finals, len(candidates)),
    )
    unseen = unseen_answers(net, loader, folds, winner.logits, kind.by_layers)
    T = unseen.temperature(kind.head)
    winner.setting = replace(
        winner.setting, scale=unseen.scale, head=kind.head, views=kind.views, temperature=T
    )
    with unbroken():  # what took long to find is kept
        write_unseen(folder, work.split, unseen.answers[kind.head] / T, unseen.labels)
        write_search(folder, trials, finals, winner.setting)
    log.info("%s: %s (%s%.4f right in %d-fold cross-validation on the training part%s)", *said)
    return winner.setting


def with_own_scale(work: Work, loader: TokenLoader, kind: Kind, chosen: Setting) -> Setting:
    """An earlier run's setting with what makes its logits as sure as they are right on this run's
    training part; leaves out_of_fold.csv, and the scale in search.csv."""
    net, train, folder = work.net, work.train, work.run.folder
    folds, short = stratified_folds(loader), allowance(train, len(loader.dataset))
    if not folds:
        return chosen
    _, steps = search_steps(net, loader, 2)
    steps = short.a_fold(steps) if short else steps
    with progress_bar(total=len(folds) * steps, desc="answers out of fold", unit="step") as bar:
        [trial] = try_settings(net, [chosen], loader, folds, train, steps, bar)
    unseen = unseen_answers(net, loader, folds, trial.logits, kind.by_layers)
    T, rows = unseen.temperature(kind.head), read_csv(folder / SEARCH)
    for row in rows:
        for name, value in (("scale", unseen.scale), ("temperature", T)):
            row[name] = str(value) if row["chosen"] == "1" else row.get(name, "")
    with rewriting(folder, SEARCH):
        write_csv(folder / SEARCH, rows, list(rows[0]))
    write_unseen(folder, work.split, unseen.answers[kind.head] / T, unseen.labels)
    return replace(chosen, scale=unseen.scale, temperature=T)


def how_chosen(winner: Trial, finals: list[Trial], tried: int) -> str:
    """Why this one of so many settings: by its loss, which others may be right more often than."""
    if tried == 1:
        return ""
    lowest = min(trial.mean_loss for trial in finals)
    # Of the others the losses are of fewer steps, on fewer pictures.
    some = f"{tried} settings" if len(finals) == tried else f"{len(finals)} finalists of {tried}"
    if winner.mean_loss == lowest:
        return f"; of {some} the lowest loss, {lowest:.3f}"
    return (
        f"; the recipe's, as the lowest loss of {some}, {lowest:.3f}, is not clearly "
        f"below its {winner.mean_loss:.3f}"
    )


def as_chosen(work: Work, setting: Setting) -> TrainConfig:
    """The run's config with what was found, and the epochs that go with its optimiser."""
    return with_its_epochs(work, setting.applied(work.net, work.train))


def with_its_epochs(work: Work, train: TrainConfig) -> TrainConfig:
    """What has come of the run's config, with the epochs that `auto` gives it."""
    images = len(work.split.part("train"))
    by_auto = work.train.by_images(images)
    return with_epochs(train, [key for key in EPOCHS if key in by_auto], images)


def rounds(
    net: VisionTransformer,
    candidates: list[Setting],
    loader: TokenLoader,
    folds: Folds,
    train: TrainConfig,
    calibrated: bool,
    short: Allowance | None = None,
) -> tuple[list[Trial], list[Trial]]:
    """All are tried for a few steps on one fold, the best three, of different learning rates, and
    the recipe's for more on each of three folds (successive halving, arXiv:1502.07943)."""

    def tried(some: list[Setting], folds: Folds, steps: int) -> list[Trial]:
        found = try_settings(net, some, loader, folds, train, steps, bar)
        return [trial.calibrated() for trial in found] if calibrated else found

    recipe = recipes_own(candidates, train)
    finalists, trials = candidates, []
    halving = len(candidates) > 1
    most = short.each if short and halving else MOST_STEPS
    first, second = search_steps(net, loader, max(2, len(candidates)), most)
    if short and not halving:
        second = short.a_fold(second)
    total = len(candidates) * first if halving else 0
    total += min(FINALISTS, len(candidates)) * len(folds) * second
    with progress_bar(total=total, desc="trying settings", unit="step") as bar:
        if halving:
            trials = tried(candidates, folds[:1], first)
            best = {rate(recipe): recipe}
            for trial in sorted(trials, key=lambda trial: trial.mean_loss):
                best.setdefault(rate(trial.setting), trial.setting)
            finalists = list(best.values())[:FINALISTS]
        finals = tried(finalists, folds, second)
    return trials, finals


def rate(setting: Setting) -> tuple[str, str, float]:
    """What finalists differ by: the weight decay alone makes no other setting."""
    return setting.part, setting.optim, setting.lr


def searches_all(short: Allowance, candidates: int) -> bool:
    """Whether a short training leaves enough steps to tell several settings apart."""
    return candidates == 1 or short.each >= LEAST_STEPS


def search_steps(
    net: VisionTransformer, loader: TokenLoader, candidates: int, most: int = MOST_STEPS
) -> tuple[int, int]:
    """The steps of the first and of the second round, at `most` so many of all settings together: a
    quarter of the time for the first."""
    budget = search_budget(loader.rows.size, net, most)
    return budget // 4 // candidates, budget * 3 // 4 // (FINALISTS * SEARCH_FOLDS)


def search_budget(records: int, net: VisionTransformer, most: int = MOST_STEPS) -> int:
    """The steps of all settings together: by the cost of the pass through the frozen blocks."""
    patches = records * (net.vit.dim // net.vit.patch_dim) ** 2
    return max(LEAST_STEPS, min(MOST_STEPS, most, patches // PATCHES_A_STEP))


SETTING = ("part", "optim", "lr", "weight_decay", "scale", "head", "views", "temperature")
SEARCH_COLUMNS = (*SETTING, "steps", "images", "accuracy", "loss", "chosen")


def write_search(folder: Path, trials: list[Trial], finals: list[Trial], chosen: Setting) -> None:
    """search.csv, a row for each setting and round, and search.png."""
    rows = [
        {
            **asdict(t.setting),
            "steps": t.steps,
            "images": sum(map(len, t.losses)),
            "accuracy": round(t.accuracy, 6) if t.losses else None,
            "loss": round(t.mean_loss, 6) if t.losses else None,
            "chosen": int(t.setting is chosen),
        }
        for t in [*trials, *finals]
    ]
    if len(rows) > 1:
        plot_search(rows, folder / "search.png")
    with rewriting(folder, SEARCH):
        write_csv(folder / SEARCH, rows, SEARCH_COLUMNS)
