"""Intervals, the simple rivals, and the verdict's sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from engine.verdict import LEARNED, NO_BETTER, NOT_LEARNED, logistic_regression, rivals, verdict
from metrics import wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 3), (135, 153), (153, 153), (480, 500)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_153_images_cannot_tell_088_from_090() -> None:
    low, high = wilson(0.88, 153)
    assert low < 0.90 < high


def clouds(n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of n points around three directions in 8 dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    return np.eye(3, 8)[labels] * 3 + rng.normal(0, spread, (3 * n, 8)), labels


def test_rivals_know_what_is_easy_and_guess_what_is_noise() -> None:
    known, queries = clouds(20, 0.3), clouds(20, 0.3, seed=1)
    assert min(rivals(*known, *queries).values()) == 1
    noise = np.random.default_rng(2).normal(size=(2, 60, 8))
    guesses = rivals(noise[0], known[1], noise[1], queries[1])
    assert max(guesses.values()) < 0.6


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
    assert found["nearest_neighbours"] == 1 and found["logistic_regression"] > 0.5


HEALTHY = {
    "part": "test",
    "images": 500,
    "accuracy": 0.96,
    "interval": wilson(0.96, 500),
    "chance": 0.2,
    "largest_class": 0.2,
    "train_accuracy": 0.99,
    "train_images_of_the_rarest_class": 120,
    "nearest_neighbours": 0.8,
    "logistic_regression": 0.9,
    "shuffled_labels": 0.21,
}


def said(lr: float = 3e-4, **changes: Any) -> dict[str, str]:
    numbers = HEALTHY | changes
    numbers["interval"] = wilson(numbers["accuracy"], numbers["images"])
    return verdict(numbers, lr, 3e-4)


def test_a_healthy_run_learned() -> None:
    found = said()
    assert found["verdict"] == LEARNED
    assert found["verdict_sentence"] == (
        "learned: test accuracy 0.960 (0.939 to 0.974); a guess reaches 0.200, logistic regression "
        "on the frozen features 0.900, the same training on shuffled labels 0.210"
    )


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({"accuracy": 0.89}, NO_BETTER, "logistic regression on the frozen features 0.900"),
        ({"accuracy": 1.0, "logistic_regression": 1.0}, LEARNED, ""),
        ({"accuracy": 0.5, "lr": 10.0}, NO_BETTER, "the learning rate 10 is too high"),
        ({"accuracy": 0.9, "logistic_regression": 0.9}, NO_BETTER, "head alone"),
        ({"accuracy": 0.22}, NOT_LEARNED, "labels don't follow from the pictures"),
        ({"accuracy": 0.22, "train_accuracy": 0.3}, NOT_LEARNED, "too little trains"),
        ({"accuracy": 0.6, "largest_class": 0.58}, NOT_LEARNED, "a guess reaches 0.580"),
        ({"accuracy": 1.0, "images": 5}, NOT_LEARNED, "too few images"),
        (
            {"accuracy": 0.3, "images": 40, "train_images_of_the_rarest_class": 3},
            NOT_LEARNED,
            "too few images (3 to train on",
        ),
        ({"accuracy": 0.2, "lr": 10.0}, NOT_LEARNED, "the learning rate 10 is too high"),
        ({"accuracy": 0.2, "lr": 1e-9}, NOT_LEARNED, "the learning rate 1e-09 is too low"),
        ({"shuffled_labels": 0.7}, LEARNED, "beware: shuffled labels should teach nothing"),
    ],
)
def test_what_a_verdict_says(changes: dict[str, Any], expected: str, reason: str) -> None:
    found = said(**changes)
    assert found["verdict"] == expected and reason in found["verdict_sentence"]


def test_classes_that_look_alike() -> None:
    nothing = {"nearest_neighbours": 0.2, "logistic_regression": 0.21, "shuffled_labels": 0.2}
    found = said(accuracy=0.2, train_accuracy=0.25, **nothing)
    assert found["verdict"] == NOT_LEARNED and "look alike" in found["verdict_sentence"]
