"""What needs no training of a network: neighbours and logistic regression on class tokens."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from engine.heads import fewest_groups, numbered

NEIGHBOURS = (1, 5, 20)
MOST_FOR_RIVALS = 5_000  # training images; beyond that logistic regression takes minutes
FOLDS = 5
MANY_CLASSES = "The number of unique classes is greater"  # scikit-learn's, of 2 pictures each


def nearest_neighbours(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """The classes (m,) of `queries` (m, D) by cosine nearest neighbours among `features` (n, D),
    and their number, chosen among NEIGHBOURS by cross-validation on the features alone, whose
    `groups` (n,) stay together."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier

    folds = _folds(labels, groups)
    known = len(labels) if folds is None else min(len(learned) for learned, _ in folds)
    choices = [k for k in NEIGHBOURS if k <= known]
    model: Any = KNeighborsClassifier(n_neighbors=1, metric="cosine")
    if folds is not None and len(choices) > 1:
        model = GridSearchCV(model, {"n_neighbors": choices}, cv=folds)
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.filterwarnings("ignore", MANY_CLASSES)
        model.fit(features, labels)
    model = getattr(model, "best_estimator_", model)
    return model.predict(queries), model.n_neighbors


def logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The classes (m,) of `queries` (m, D) by scikit-learn's logistic regression on standardised
    `features` (n, D), and its C, chosen by cross-validation on the features alone, whose `groups`
    (n,) stay together."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    folds = _folds(labels, groups)
    if folds is not None:
        grid = {"logisticregression__C": np.logspace(-4, 1, 6)}
        model = GridSearchCV(model, grid, cv=folds)
    # Several threads of OpenBLAS lose thirty times on products this small (10 s instead of 0.34).
    with warnings.catch_warnings(), threadpool_limits(1, "blas"):
        warnings.filterwarnings("ignore", MANY_CLASSES)
        warnings.simplefilter("ignore", ConvergenceWarning)  # such a weak C is not chosen
        model.fit(features, labels)
    model = getattr(model, "best_estimator_", model)
    return model.predict(queries), float(model[-1].C)


def _folds(
    labels: np.ndarray, groups: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Stratified folds of the training part, groups together; None where a class has a single
    image, or group."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups = np.arange(len(labels)) if groups is None else numbered(groups)
    folds = min(FOLDS, fewest_groups(labels, groups))
    if folds < 2:
        return None
    alone = len(np.unique(groups)) == len(groups)
    kind = StratifiedKFold if alone else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=0)
    return list(splitter.split(labels, labels, None if alone else groups))


def some_for_rivals(images: int) -> np.ndarray:
    """Which of so many training images rivals learn from, in their order: their folds hang on it,
    and tools.baseline has the same."""
    return np.sort(np.random.default_rng(0).permutation(images)[:MOST_FOR_RIVALS])


def rivals(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Which of `queries` are answered rightly (m,) by what needs no network to be trained: nearest
    neighbours and logistic regression on the frozen network's class tokens, of pictures whose
    `groups` (n,) stay together."""
    if len(labels) > MOST_FOR_RIVALS:
        keep = some_for_rivals(len(labels))
        features, labels = features[keep], labels[keep]
        groups = None if groups is None else groups[keep]
    neighbours, _ = nearest_neighbours(features, labels, queries, groups)
    logistic, _ = logistic_regression(features, labels, queries, groups)
    return {
        "nearest_neighbours": neighbours == targets,
        "logistic_regression": logistic == targets,
    }
