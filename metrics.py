"""How good a network is on a part of the data, how sure that is, and whether it learned at all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy
from tqdm import tqdm

from utils import autocast

Z95 = 1.959964  # the normal distribution's 97.5 % point: intervals hold 95 %
NEIGHBOURS = (1, 5, 20)
MOST_FOR_RIVALS = 5_000  # training images; beyond that logistic regression takes minutes
FOLDS = 5


@torch.inference_mode()
def predict(
    net: nn.Module,
    loader: Iterable[tuple[Any, Tensor]],
    device: torch.device,
    bf16: bool = False,
    desc: str | None = "evaluating",
) -> tuple[Tensor, Tensor]:
    """A network's logits (n, C) and the labels (n,) of a loader, in its order.

    Both are on the CPU, float32. The network is in eval mode meanwhile: no dropout. With a `desc`
    of None there is no bar.
    """
    was_training = net.training
    net.eval()
    logits, labels = [], []
    for inputs, targets in tqdm(loader, desc, leave=False, unit="batch", disable=desc is None):
        with autocast(device, bf16):
            logits.append(net(inputs.to(device, non_blocking=True)).float().cpu())  # B C
        labels.append(targets)
    net.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy (the mean of the classes' recalls) of logits (n, C).

    The loss is the plain cross-entropy, in nats, without label smoothing. Classes without images
    don't count in the balanced accuracy.
    """
    C = logits.shape[1]
    recalls = multiclass_accuracy(logits, labels, C, average="none")
    hits = int((logits.argmax(1) == labels).sum())
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": round(hits / len(labels), 7),
        "balanced_accuracy": round(recalls[labels.unique()].mean().item(), 7),
    }


def evaluate(
    net: nn.Module,
    loader: Iterable[tuple[Any, Tensor]],
    device: torch.device,
    bf16: bool = False,
    desc: str = "evaluating",
) -> dict[str, float]:
    """A network's `scores` over a loader."""
    return scores(*predict(net, loader, device, bf16, desc))


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n images: Wilson's, which holds for few images and near 1.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    shrink = 1 + Z95**2 / n
    centre = (accuracy + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(accuracy * (1 - accuracy) / n + Z95**2 / (4 * n * n))
    return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)


def said(accuracy: float, n: int) -> str:
    """An accuracy with its interval, as every result is said: 0.9533 (95 %: 0.931 to 0.969)."""
    low, high = wilson(accuracy, n)
    return f"{accuracy:.4f} (95 %: {low:.3f} to {high:.3f}, {n} images)"


def score_lines(summary: dict[str, Any]) -> list[str]:
    """What a summary.json says of the held-out parts, a line each."""
    return [
        f"{part} accuracy {said(summary[f'{part}_accuracy'], summary['images'][part])}, "
        f"balanced {summary[f'{part}_balanced_accuracy']:.4f}"
        for part in ("val", "test")
        if summary[f"{part}_accuracy"] is not None
    ]


# ------------------------------------------------------------------------------ its simplest rivals


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
    with warnings.catch_warnings():  # a weak C that has not converged is not chosen
        warnings.simplefilter("ignore", ConvergenceWarning)
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


# ------------------------------------------------------------------------------------- the verdict

LEARNED, NO_BETTER, NOT_LEARNED = "learned", "no better than its simplest rival", "not learned"
FEW_IMAGES = 10  # to train on in a class, or to judge by: fewer, and a result is a matter of luck
FAR_OFF = 10.0  # times the recipe's learning rate
NAMES = {
    "nearest_neighbours": "nearest neighbours",
    "logistic_regression": "logistic regression on the frozen features",
}


def verdict(numbers: dict[str, Any], lr: float, recipe_lr: float) -> dict[str, str]:
    """Whether a network learned, and one sentence that says it with the numbers and, where it did
    not, the likely reasons.

    `numbers`: part, images, accuracy, interval, chance, largest_class, train_accuracy,
    train_images_of_the_rarest_class; and where they were measured the rivals' accuracies and
    shuffled_labels. `learned`: the whole interval lies above what a guess reaches, and there are
    enough images to say so.
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
    elif rival is not None and (accuracy < numbers[rival] or accuracy == numbers[rival] < 1):
        off = _far_off(lr, recipe_lr)
        says, why = NO_BETTER, f"; {off or 'a head alone (train.finetune_blocks=0) may do'}"
    else:
        says, why = LEARNED, ""
    if (leak := _leak(numbers, guess)) is not None:
        why += f"; {leak}"
    return {"verdict": says, "verdict_sentence": f"{says}: {got}; {against}{why}"}


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
