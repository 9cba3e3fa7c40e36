"""Nearest neighbours and logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from engine.rivals import logistic_regression, nearest_neighbours, rivals


def clouds(n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of n points around three directions in 8 dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    return np.eye(3, 8)[labels] * 3 + rng.normal(0, spread, (3 * n, 8)), labels


def test_rivals_know_what_is_easy_and_guess_what_is_noise() -> None:
    known, queries = clouds(20, 0.3), clouds(20, 0.3, seed=1)
    assert min(right.mean() for right in rivals(*known, *queries).values()) == 1
    noise = np.random.default_rng(2).normal(size=(2, 60, 8))
    guesses = rivals(noise[0], known[1], noise[1], queries[1])
    assert max(right.mean() for right in guesses.values()) < 0.6


def test_logistic_regression_is_scikit_learns() -> None:
    (known, labels), (queries, _) = clouds(20, 1.5), clouds(20, 1.5, seed=1)
    answers, C = logistic_regression(known, labels, queries)
    scale = StandardScaler().fit(known)
    model = LogisticRegression(C=C, max_iter=500).fit(scale.transform(known), labels)
    assert (answers == model.predict(scale.transform(queries))).all()


def test_rivals_of_one_image_a_class() -> None:
    known, labels = clouds(1, 0.3)
    queries = clouds(20, 0.3, seed=1)
    found = rivals(known, labels, *queries)
    assert found["nearest_neighbours"].all() and found["logistic_regression"].mean() > 0.5


def test_their_folds_part_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pictures, each five times, in noise: one neighbour is right where copies are parted,
    as then each finds its own, and no better than others where they are not."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 8)).repeat(5, 0), np.tile([0, 1], 10).repeat(5)
    groups = np.arange(20).astype(str).repeat(5)
    _, parted = nearest_neighbours(features, labels, features)
    _, kept = nearest_neighbours(features, labels, features, groups)
    assert (parted, kept) == (1, 5) or (parted, kept) == (1, 20)


def test_one_group_a_class_has_no_folds() -> None:
    known, labels = clouds(4, 0.3)
    found = rivals(known, labels, *clouds(20, 0.3, seed=1), labels.astype(str))
    assert found["nearest_neighbours"].all()
