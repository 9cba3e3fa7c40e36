"""The numbers of a page, against the libraries that count the same."""

from __future__ import annotations

import numpy as np
import pytest

from inspection import numbers
from metrics import confusion
from tests.tools.helpers import answer


def test_scores_of_classes_are_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng, classes = np.random.default_rng(0), list("abcd")
    true, predicted = rng.choice(classes, 200), rng.choice(classes[:3], 200)
    counts = confusion(true, predicted, classes)
    assert (counts == confusion_matrix(true, predicted, labels=classes)).all()
    rows = {row["name"]: row for row in numbers.per_class(counts, classes)}
    theirs = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
    for i, name in enumerate(classes):
        found = [rows[name][key] or 0 for key in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx([values[i] for values in theirs])
    assert rows["d"]["precision"] is None, "never predicted: not 0"
    most = numbers.frequent_confusions(counts, classes, 1)[0]
    assert most["count"] == (counts * (1 - np.eye(4))).max()


def test_the_calibration_error_is_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = np.random.default_rng(0)
    sure = torch.tensor(rng.uniform(0.5, 1, 400), dtype=torch.float32)
    right = rng.random(400) < 0.5 + 0.5 * np.sin(
        60 * sure.numpy()
    )  # too sure and too little, by turns
    given = [answer("a", "a" if r else "b", float(s)) for r, s in zip(right, sure, strict=True)]
    spread = torch.stack([sure, 1 - sure], 1)
    target = torch.tensor([0 if p.right else 1 for p in given])
    theirs = multiclass_calibration_error(spread, target, 2, n_bins=15)
    assert numbers.calibration(given)["error"] == pytest.approx(float(theirs), abs=1e-6)


def test_answering_only_the_surest_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    sure = rng.integers(40, 60, 200) / 60  # many are equally sure
    right = rng.random(200) < sure
    given = [answer("a", "a" if r else "b", float(s)) for r, s in zip(right, sure, strict=True)]
    rows = numbers.surest_first(given)
    assert [row["probability"] for row in rows] == sorted({p.probability for p in given})[::-1]
    for row in rows:
        kept = [p for p in given if p.probability >= row["probability"]]
        wrong = sum(not p.right for p in kept)
        assert (row["answered"], row["wrong"]) == (len(kept), wrong)
        assert row["share"] == pytest.approx(len(kept) / 200)
        assert row["wrong_share"] == pytest.approx(wrong / len(kept))
    assert rows[-1]["answered"] == 200 and rows[-1]["next"] < 0


@pytest.mark.parametrize(
    ("below", "above", "said"),
    [
        (0.61, 0.6149, "0.614"),
        (0.6149, 0.6151, "0.615"),
        (0.5, 0.9, "0.90"),
        (0.58, 0.58, None),
        (0.999_999_1, 0.999_999_2, None),
        (-1.0, 0.0, "0.00"),
    ],
)
def test_a_threshold_parts_two_probabilities(below: float, above: float, said: str | None) -> None:
    assert numbers.threshold_between(below, above) == said


def test_mcnemar_counts_where_two_networks_differ() -> None:
    right, wrong = answer("a", "a"), answer("a", "b")
    first = {str(i): right if i < 9 else wrong for i in range(20)}
    second = {str(i): wrong if i < 8 else right for i in range(19)}
    # 8 coins of 18 (9 to 18 are the second's alone, 8 both have): 2 * P(X <= 8).
    n, only_first, only_second, p = numbers.mcnemar(first, second)
    assert (n, only_first, only_second) == (19, 8, 10)
    assert p == pytest.approx(2 * 106_762 / 2**18)
    assert numbers.mcnemar(first, first)[3] == 1


@pytest.mark.parametrize(("smoothing", "classes"), [(0.1, 5), (0.1, 2), (0.3, 1000), (0.0, 3)])
def test_the_lowest_loss_with_smoothed_labels_is_torchs(smoothing: float, classes: int) -> None:
    import torch

    target = torch.full((classes,), smoothing / classes, dtype=torch.double)
    target[0] += 1 - smoothing
    logits, label = target.clamp(min=1e-300).log()[None], torch.tensor([0])
    theirs = torch.nn.functional.cross_entropy(logits, label, label_smoothing=smoothing).item()
    assert numbers.smoothed_floor(smoothing, classes) == pytest.approx(theirs, abs=1e-9)
    if (smoothing, classes) == (0.1, 5):
        assert f"{theirs:.2f}" == "0.39"


def test_settings_tried_leave_no_cell_empty() -> None:
    """Optimisers have other learning rates, so they stand below each other."""
    tried = [
        {"part": "block", "optim": optim, "lr": lr, "weight_decay": 0.01, "steps": steps}
        | {"accuracy": accuracy, "loss": 1 - accuracy, "chosen": steps == 9 and lr == 3e-3}
        for optim, lr, steps, accuracy in [
            *[("adamw", 1e-4, 3, 0.5), ("adamw", 2e-4, 3, 0.6), ("sgd", 6e-3, 3, 0.7)],
            *[("sgd", 3e-3, 3, 0.8), ("sgd", 3e-3, 9, 0.9)],
        ]
    ]
    found = numbers.settings_tried(tried)
    assert found is not None and "4 for 3 steps, 1 for 9 steps" in found["sentence"]
    assert "last round, and those of the longest are compared." in found["sentence"]
    names = {g["name"]: [(r["rate"], r["accuracy"]) for r in g["rows"]] for g in found["groups"]}
    assert names == {
        "last block and head, adamw, decay 0.01": [("0.0001", 0.5), ("0.0002", 0.6)],
        "last block and head, sgd, decay 0.01": [("0.003", 0.9), ("0.006", 0.7)],
    }
    assert numbers.settings_tried([]) is None


@pytest.mark.parametrize(
    ("blocks", "head", "said"),
    [
        (1, "class", "the last block, norm and head"),
        (3, "both", "the last 3 blocks, norm and head, beside a head over layers"),
        (0, "class", "norm and head"),
        (1, "layers", "a head over layers, solved for; no block trains"),
        (None, None, "the last blocks, norm and head"),
    ],
)
def test_what_trains_is_said_as_it_is(blocks: int | None, head: str | None, said: str) -> None:
    assert numbers.what_trains(blocks, head) == said
