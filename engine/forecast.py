"""How long a run is going to take on this machine, from a batch of each kind that it works on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from config import RECIPES
from engine.answers import OUT_OF_FOLD
from engine.cores import one_core
from engine.heads import fitted_size
from engine.job import Job
from engine.look import STEPS
from engine.ridge import fit_ridge
from engine.search import FINALISTS, search_budget
from engine.side import branch
from engine.start import Work
from engine.trials import SEARCH_FOLDS, allowance
from model import Tail, Tokens
from tokens.builder import find_donors
from tokens.plan import damage
from tokens.trunk import Trunk
from utils import progress_bar

TIMED = 16  # images of a batch through the trunk
SLOW_SECONDS = 5  # a batch: twice more would be long to wait for in silence
TIMED_SECONDS = 0.5  # of steps, which take some milliseconds
FITTED = 300  # rows of a fit that is timed; one of more takes by their square
AT_ONCE = 0.67  # of a step's time, where two cores each take one (EXPERIMENTS.md, 2026-11-27)


@dataclass(frozen=True)
class Forecast:
    """Seconds by what they are spent on, and how many records of the cache would be copied."""

    seconds: dict[str, float]
    copied: int = 0

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def forecast(work: Work, tries: bool = True, done: int = 0) -> Forecast:
    """What the pass through the frozen blocks, the training, of which so many steps are `done`,
    and the trials (unless it `tries` nothing, as an earlier run did) are going to take; the reading
    of pictures and the report aside."""
    train = work.train
    assert train.max_epochs != "auto"
    images, held_out = (len(work.split.part(part)) for part in ("train", "val"))
    steps = train.max_epochs * math.ceil(images / train.batch_size)
    plan = work.plan
    left = max(0.0, 1 - done / steps)
    if plan is None:
        step, scored = timed_step(work), timed_scores(work)
        checks = train.max_epochs / train.eval_epoch * held_out * scored
        return Forecast({"training": left * steps * step, "validation": left * checks})
    there = not damage(plan.path)
    copied = 0 if there else len(find_donors(plan))
    missing = 0 if there else len(plan.draws) - copied
    seconds = {"the token cache": missing * timed_trunk(work) if missing else 0.0}
    if train.head != "class":
        seconds["the head over layers"] = fits(work, images) * timed_fit(work, images)
    if train.head != "layers":
        step = timed_step(work)
        at_once = several_at_once(work) and train.trained_blocks <= 1  # more takes all cores
        beside = step * (AT_ONCE if at_once else 1)
        again = steps * (1 + held_out / images) if work.refits else 0
        seconds["training"] = left * steps * step + again * beside
        trials = steps_tried(work, images, tries)
        control = min(steps, RECIPES["finetune"].steps) if train.verdict else 0
        seconds["trials and the control"] = trials * beside + control * (beside if again else step)
    return Forecast(seconds, copied)


def steps_tried(work: Work, images: int, tries: bool) -> int:
    """The steps that the first look and the search take; where an earlier run's setting is taken,
    those of its answers out of fold."""
    train, short = work.train, allowance(work.train, images)
    if not work.searches:
        return 0
    budget = search_budget(images * views_of_each(work), work.net)
    answer = budget * 3 // 4 // FINALISTS  # on all folds
    if not tries:
        goes_on = train.from_run and not (work.run.folder / OUT_OF_FOLD).exists()
        answer = SEARCH_FOLDS * short.a_fold(answer // SEARCH_FOLDS) if short else answer
        return answer if goes_on else 0
    if not short:
        looks = SEARCH_FOLDS * STEPS if train.head != "class" else 0
        return looks + (budget if train.lr == "auto" else answer)
    looks = train.head == "auto" or (train.head == "both" and train.views == "auto")
    look = short.a_fold(STEPS) if looks else 0
    return SEARCH_FOLDS * (look + short.a_fold(answer // SEARCH_FOLDS))


def fits(work: Work, images: int) -> float:
    """How many fits of the head over layers a run makes, in those to all pictures: the one that is
    measured and the control's, on folds of two thirds for the first look, of what is kept, and of
    each block alone (a plain view's two tokens, a fifth of such a fit)."""
    held_out = len(work.split.part("val"))
    looks = SEARCH_FOLDS * (2 / 3) ** 2 if work.train.head != "layers" else 0
    again = ((images + held_out) / images) ** 2 if work.refits else 0
    return 1 + work.train.verdict + looks + again + work.net.vit.num_layers / 5


def views_of_each(work: Work) -> int:
    """The views of a picture that is learned, as far as they are known: what helps is yet to be
    found of many."""
    return work.train.draws or 1


def timed_fit(work: Work, images: int) -> float:
    """Seconds of a fit of the head over layers to so many pictures, on noise."""
    rows, width = fitted_size(work.net, images, views_of_each(work))
    some, classes = min(rows, FITTED), work.net.num_classes
    x, labels = torch.randn(some, width), torch.arange(some) % classes
    return clocked(lambda: fit_ridge(x, labels, classes)) * (rows / some) ** 2


def several_at_once(work: Work) -> bool:
    """Whether several trainings go at the same time, each on a core of its own."""
    return work.device.type == "cpu" and torch.get_num_threads() > 1


def clocked(what: Callable[[], object]) -> float:
    """The seconds that it takes once warm: the best of several, as other work may come between; of
    what takes SLOW_SECONDS the first time counts, which is not much longer than the next."""
    found: list[float] = []
    with progress_bar(desc="timing a batch", unit="") as bar:
        while len(found) < 3 or sum(found[1:]) < TIMED_SECONDS:
            started = time.perf_counter()
            what()
            found.append(time.perf_counter() - started)
            bar.update()
            if found[0] > SLOW_SECONDS:
                break
    return min(found[1:] or found)


def timed_trunk(work: Work) -> float:
    """Seconds an image of the pass through the frozen blocks."""
    net = work.net.to(work.device).eval()
    trunk = Trunk(net, work.device, work.train.trunk_bf16, layers=True)
    some = pictures(work, min(TIMED, trunk.batch_size))
    return clocked(lambda: trunk(some)) / len(some)


def timed_scores(work: Work) -> float:
    """Seconds an image of the whole network, without gradients."""
    net = work.net.to(work.device).eval()
    some = pictures(work, work.train.eval_batch_size).to(work.device)
    with torch.inference_mode():
        return clocked(lambda: net(some)) / len(some)


def timed_step(work: Work) -> float:
    """Seconds of a training step, on noise, of a copy of the network."""
    own = branch(work.net.to(work.device))
    vit, size = own.vit, work.train.batch_size
    labels = torch.arange(size) % own.num_classes
    inputs: Tokens | torch.Tensor = pictures(work, size)
    learner: torch.nn.Module = own
    if work.plan is not None:
        shape = work.plan.record["tokens"].shape
        last = own.frozen_depth == vit.num_layers - 1
        inputs = Tokens(torch.randn(size, *shape), torch.randn(size, shape[-1]) if last else None)
        learner = Tail(own)
    train = work.train
    if train.lr == "auto" or train.optim == "auto" or train.weight_decay == "auto":
        found = {"optim": train.recipe_optim, "lr": train.recipe_lr, "weight_decay": 0.0}
        train = train.model_copy(update=found)
    job = Job(own, learner, train, labels.tolist(), steps=4)
    own.train()
    with one_core(job.is_small):
        return clocked(lambda: job.step(inputs, labels))


def pictures(work: Work, count: int) -> torch.Tensor:
    """Noise (count, c, h, w) in the place of pictures."""
    vit = work.net.vit
    return torch.randn(count, vit.input_channels, vit.dim, vit.dim)
