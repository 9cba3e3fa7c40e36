"""Did it learn? Simple rivals, a control with shuffled labels, and the sentence."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from config import RECIPES
from engine.heads import add_layers_head, layer_features, read_depths, solved
from engine.job import Job, Setting, Side, side_job, train_side_by_side
from metrics import evaluate, wilson
from model import VisionTransformer
from tokens.cache import Loaders, TokenLoader, class_tokens
from utils import seed_everything

NEIGHBOURS = (1, 5, 20)
MOST_FOR_RIVALS = 5_000  # training images; beyond that logistic regression takes minutes
FOLDS = 5


def nearest_neighbours(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, int]:
    """The classes (m,) of `queries` (m, D) by cosine nearest neighbours among `features` (n, D),
    and their number, chosen among NEIGHBOURS by cross-validation on the features alone."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    folds = _folds(labels)
    known = len(labels) if folds is None else min(len(learned) for learned, _ in folds)
    choices = [k for k in NEIGHBOURS if k <= known]
    model: Any = KNeighborsClassifier(n_neighbors=1, metric="cosine")
    if folds is not None and len(choices) > 1:
        model = GridSearchCV(model, {"n_neighbors": choices}, cv=folds)
    with threadpool_limits(1, "blas"):
        model.fit(features, labels)
    model = getattr(model, "best_estimator_", model)
    return model.predict(queries), model.n_neighbors


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, float]:
    """The classes (m,) of `queries` (m, D) by scikit-learn's logistic regression on standardised
    `features` (n, D), and its C, chosen by cross-validation on the features alone."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = _folds(labels)
    if folds is not None:
        grid = {"logisticregression__C": np.logspace(-4, 1, 6)}
        model = GridSearchCV(model, grid, cv=folds)
    # Several threads of OpenBLAS lose thirty times on products this small (10 s instead of 0.34).
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # such a weak C is not chosen
        model.fit(features, labels)
    model = getattr(model, "best_estimator_", model)
    return model.predict(queries), float(model[-1].C)


def _folds(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Stratified folds of the training part; None where a class has a single image."""
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < 2:
        return None
    splitter = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    return list(splitter.split(labels, labels))


def rivals(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, targets: np.ndarray
) -> dict[str, float]:
    """The accuracies on `queries` of what needs no network to be trained: nearest neighbours and
    logistic regression on the frozen network's class tokens."""
    if len(labels) > MOST_FOR_RIVALS:
        keep = np.random.default_rng(0).permutation(len(labels))[:MOST_FOR_RIVALS]
        features, labels = features[keep], labels[keep]
    neighbours, _ = nearest_neighbours(features, labels, queries)
    logistic, _ = logistic_regression(features, labels, queries)
    return {
        "nearest_neighbours": float((neighbours == targets).mean()),
        "logistic_regression": float((logistic == targets).mean()),
    }


LEARNED, NO_BETTER, NOT_LEARNED = "learned", "no better than its simplest rival", "not learned"
FEW_IMAGES = 10  # to train on in a class, or to judge by: fewer, and a result is a matter of luck
FAR_OFF = 10.0  # times the recipe's learning rate
NAMES = {
    "nearest_neighbours": "nearest neighbours",
    "logistic_regression": "logistic regression on the frozen features",
    "layers_head": "the head over layers alone",
}


def verdict(
    numbers: dict[str, Any], lr: float, recipe_lr: float, head_alone: bool = False
) -> dict[str, str]:
    """Whether a network learned, and one sentence that says it with the numbers and, where it did
    not, the likely reasons.

    `numbers`: part, images, accuracy, interval, chance, largest_class, train_accuracy,
    train_images_of_the_rarest_class; and where they were measured the rivals' accuracies and
    shuffled_labels; with `head` both, the head over layers is a part of the network, and a rival
    only where it is ahead by more than a standard error. `head_alone`: no block trained. `learned`:
    the whole interval lies above what a guess reaches, and there are enough images to say so.
    """
    accuracy, (low, high) = numbers["accuracy"], numbers["interval"]
    guess = max(numbers["chance"], numbers["largest_class"])
    rival = max((name for name in NAMES if name in numbers), key=lambda n: numbers[n], default=None)
    got = f"{numbers['part']} accuracy {accuracy:.3f} ({low:.3f} to {high:.3f})"
    against = f"a guess reaches {guess:.3f}"
    if rival is not None:
        against += f", {NAMES[rival]} {numbers[rival]:.3f}"
    if "shuffled_labels" in numbers:
        against += f", the same training on shuffled labels {numbers['shuffled_labels']:.3f}"
    if low <= guess or numbers["images"] < FEW_IMAGES:
        reasons = ", or ".join(_reasons(numbers, guess, lr, recipe_lr))
        says, why = NOT_LEARNED, f"; likely: {reasons}"
    elif rival is not None and _no_better(numbers, rival):
        simpler = None if head_alone else "a head alone (train.finetune_blocks=0) may do"
        simpler = "it may do (train.head=layers)" if rival == "layers_head" else simpler
        advice = _far_off(lr, recipe_lr) or simpler
        says, why = NO_BETTER, f"; {advice}" if advice else ""
    else:
        says, why = LEARNED, ""
    if (leak := _leak(numbers, guess)) is not None:
        why += f"; {leak}"
    return {"verdict": says, "verdict_sentence": f"{says}: {got}; {against}{why}"}


def _no_better(numbers: dict[str, Any], rival: str) -> bool:
    accuracy, other = numbers["accuracy"], numbers[rival]
    if rival == "layers_head" and numbers.get("head") == "both":
        return accuracy < other - math.sqrt(other * (1 - other) / numbers["images"])
    return accuracy < other or accuracy == other < 1


def _leak(numbers: dict[str, Any], guess: float) -> str | None:
    """What is wrong where shuffled labels teach something: more than half of what the true ones do.

    Less of it is luck: a control errs by whole groups of like images.
    """
    shuffled = numbers.get("shuffled_labels", 0.0)
    halfway = (guess + numbers["accuracy"]) / 2
    if shuffled < halfway or wilson(shuffled, numbers["images"])[0] <= guess:
        return None
    return (
        "beware: shuffled labels should teach nothing, so the labels are known from elsewhere "
        "(images of the reported part among the training images?)"
    )


def _far_off(lr: float, recipe_lr: float) -> str | None:
    if recipe_lr / FAR_OFF <= lr <= recipe_lr * FAR_OFF:
        return None
    size = "high" if lr > recipe_lr else "low"
    return f"the learning rate {lr:g} is too {size} ({recipe_lr:.2g} is usual)"


def _reasons(numbers: dict[str, Any], guess: float, lr: float, recipe_lr: float) -> list[str]:
    """Why nothing was learned, the likeliest first."""
    fewest, trained = numbers["train_images_of_the_rarest_class"], numbers["train_accuracy"]
    # Halfway to knowing all by heart: below, the training images themselves were not learned.
    fits = trained > (1 + guess) / 2
    rivals_know = any(
        wilson(numbers[n], numbers["images"])[0] > guess for n in NAMES if n in numbers
    )
    reasons = [off] if (off := _far_off(lr, recipe_lr)) else []
    if fewest < FEW_IMAGES or numbers["images"] < FEW_IMAGES:
        reasons.append(
            f"too few images ({fewest} to train on in the smallest class, {numbers['images']} to "
            "judge by)"
        )
    if reasons:
        return reasons
    if not fits and rivals_know:
        return ["too little trains (raise train.finetune_blocks or max_epochs)"]
    if not fits:
        return [
            f"the classes look alike to it or their labels are noise (it gets {trained:.3f} of its "
            "own training images right)"
        ]
    return [
        f"the labels don't follow from the pictures (it knows {trained:.3f} of its training images "
        "by heart, which does not help with others)"
    ]


def layers_accuracy(
    net: VisionTransformer, training: TokenLoader, loader: TokenLoader
) -> dict[str, float]:
    """The accuracy of the head over layers that a training part asks for; none without frozen
    blocks to read."""
    if not read_depths(net):
        return {}
    ridge = solved(net, training)
    features, labels = layer_features(net, loader)
    return {"layers_head": (ridge(features).argmax(1) == labels).double().mean().item()}


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


@dataclass(frozen=True)
class Judge:
    """Says whether a network learned. Keeps what it began as: the network before its first step,
    and the setting that a search found, None where the config named its own."""

    before: VisionTransformer
    setting: Setting | None

    def verdict(self, job: Job, loaders: Loaders, scored: dict[str, Any]) -> dict[str, Any]:
        """The verdict, and the numbers behind it: the network's accuracy on the part that is
        reported, against chance, the largest class, simple rivals and a control with shuffled
        labels. Rivals and control need cached tokens, else they are left out.
        """
        train, before = job.train, self.before
        loader, training = loaders[scored["part"]], loaders["train"]
        numbers = dict(scored)
        judges = train.verdict
        if judges and isinstance(training, TokenLoader) and isinstance(loader, TokenLoader):
            some = np.random.default_rng(0).permutation(len(training.dataset))[:MOST_FOR_RIVALS]
            known, labels = class_tokens(before, training.plain(some), job.device)
            queries, targets = class_tokens(before, loader, job.device)
            numbers |= rivals(known.numpy(), labels.numpy(), queries.numpy(), targets.numpy())
            if train.head != "layers":
                numbers |= layers_accuracy(job.net, training.plain(some), loader)
                numbers["head"] = train.head
            numbers["shuffled_labels"] = self.shuffled_control(job, training, loader)
        assert train.lr != "auto"
        head_alone, rates = train.finetune_blocks == 0, (train.lr, train.recipe_lr)
        if train.head == "layers":  # nothing was trained, so no rate is wrong
            head_alone, rates = True, (1.0, 1.0)
        said = verdict(numbers, *rates, head_alone)
        return said | {"verdict_numbers": numbers}

    def shuffled_control(self, job: Job, training: TokenLoader, loader: TokenLoader) -> float:
        """The accuracy of the same training on shuffled labels: chance, or something leaks."""
        train = job.train
        seed_everything(train.seed)
        everyone = np.arange(len(training.dataset))
        batches = training.training(train, everyone, dealt(training.dataset))
        if train.head == "layers":
            control = side_job(self.before, self.setting, train, batches, 1)
            add_layers_head(control.net, batches, train.head, None)
            return evaluate(control.learner, loader, job.device, train.bf16)["accuracy"]
        steps = min(job.steps, RECIPES["finetune"].steps)
        control = side_job(self.before, self.setting, train, batches, steps)
        with tqdm(total=steps, desc="control: shuffled labels", leave=False, unit="step") as bar:
            train_side_by_side([Side([control], batches)], steps, bar)
        if train.head == "both":
            add_layers_head(control.net, batches, train.head, self.setting)
        return evaluate(control.learner, loader, job.device, train.bf16)["accuracy"]
