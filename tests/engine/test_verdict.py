"""Did it learn? The rivals, the control and the sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.verdict import (
    BETTER,
    LEARNED,
    LEVEL,
    NOT_LEARNED,
    TOO_FEW,
    WORSE,
    dealt,
    paired,
    stands,
    verdict,
)
from metrics import chance_of_sum, paired_chance, wilson
from tests.helpers import COLOURS, quick, reached, summary
from utils import UserError


def test_a_healthy_run_says_learned(
    untuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    result = reached(untuned, "train.max_epochs=40")
    assert result["verdict"] == LEARNED, result["verdict_sentence"]
    numbers = result["verdict_numbers"]
    assert numbers["accuracy"] == result["val_accuracy"] and numbers["images"] == 36
    assert numbers["shuffled_labels"] < 0.67 < numbers["logistic_regression"]
    assert numbers["interval"] == result["val_interval"]
    assert result["verdict_sentence"] in capsys.readouterr().out


def test_shuffled_labels_are_not_learned(untuned: Path) -> None:
    folder = untuned.parent / "images"
    rng = np.random.default_rng(0)
    paths = sorted(folder.glob("*/*.png"))
    homes = rng.permutation([path.parent.name for path in paths])
    for i, path in enumerate(paths):
        path.rename(folder / f"{i}.png")
    for i, home in enumerate(homes):
        (folder / f"{i}.png").rename(folder / home / f"{i}.png")
    result = reached(untuned, "train.lr=3e-4", "train.max_epochs=40")
    assert result["verdict"] == NOT_LEARNED
    assert "labels" in result["verdict_sentence"].partition("likely")[2]


def test_two_classes_with_the_same_pictures_are_not_learned(untuned: Path) -> None:
    folder = untuned.parent / "images"
    for name in ("green", "red"):
        shutil.rmtree(folder / name)
    shutil.copytree(folder / "blue", folder / "azure")
    result = reached(untuned, "train.lr=3e-4", "train.max_epochs=40")
    assert result["images"] == {"train": 24, "val": 24, "test": 0}
    assert result["verdict"] == NOT_LEARNED and result["val_accuracy"] == 0.5
    assert "classes look alike" in result["verdict_sentence"]


def test_three_images_a_class_are_too_few(untuned: Path) -> None:
    for path in (untuned.parent / "images").glob("*/*.png"):
        if int(path.stem) > 2:
            path.unlink()
    result = reached(untuned, "train.val_fraction=0.3", "train.lr=3e-4", "train.max_epochs=40")
    assert result["verdict"] == TOO_FEW
    assert result["verdict_sentence"].endswith("; too few images (3 to judge by): add pictures"), (
        "a rival knows them by the two that there are to train on"
    )


def test_a_learning_rate_of_10(untuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for shade, name in enumerate(COLOURS):  # near enough that what a network knows is needed
        for path in (untuned.parent / "images" / name).glob("*.png"):
            grey = rng.normal(100 + 25 * shade, 60, (40, 50, 3))
            Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)
    result = reached(untuned, "train.lr=10", "train.max_epochs=20")
    assert "train.lr: 10 is far from 0.00014" in capsys.readouterr().out
    assert result["verdict"] == NOT_LEARNED, result["verdict_sentence"]
    assert "the learning rate 10 is too high" in result["verdict_sentence"]


def test_a_run_that_diverges_leaves_a_verdict(untuned: Path) -> None:
    with pytest.raises(UserError, match="not learned: the loss is not finite"):
        reached(untuned, "train.lr=1e30", "train.optim=sgd", "train.clip_grad=null")
    assert summary(untuned)["verdict"] == NOT_LEARNED


def test_shuffled_labels_are_dealt_evenly() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 20)[torch.randperm(80)]
    given = dealt(labels)
    assert torch.equal(given.bincount(), labels.bincount())
    shares = torch.stack([given[labels == c].bincount(minlength=3) for c in range(3)])
    even = torch.tensor([[20, 10, 10], [10, 5, 5], [10, 5, 5]])
    assert (shares - even).abs().max() <= 1
    assert not torch.equal(dealt(labels), given), "another one each time"


HEALTHY = {
    "part": "test",
    "images": 500,
    "accuracy": 0.96,
    "interval": wilson(0.96, 500),
    "chance": 0.2,
    "largest_class": 0.2,
    "train_accuracy": 0.99,
    "train_images_of_the_rarest_class": 120,
    "steps": 900,
    "recipe_steps": 900,
    "nearest_neighbours": 0.8,
    "logistic_regression": 0.9,
    "shuffled_labels": 0.21,
}
UNEQUAL = {
    "largest_class": 0.95,
    "chance": 0.5,
    "balanced_chance": 0.5,
    "images": 200,
    "logistic_regression": 0.95,
}


def said(lr: float = 3e-4, head_alone: bool = False, **changes: Any) -> dict[str, str]:
    """What is said of these numbers, each rival wrong where the network is, as far as it can be."""
    numbers = HEALTHY | changes
    images = numbers["images"]
    numbers["interval"] = wilson(numbers["accuracy"], images)

    def first(share: float) -> np.ndarray:
        return np.arange(images) < round(share * images)

    names = ("nearest_neighbours", "logistic_regression", "layers_head")
    rare = np.arange(images) >= round(numbers["largest_class"] * images)
    labels = rare if "balanced_accuracy" in numbers else np.arange(images) % 5
    numbers["against"] = {
        name: paired(first(numbers["accuracy"]), first(numbers[name]), labels)
        for name in names
        if name in numbers
    }
    numbers["against"] |= changes.get("against", {})
    return verdict(numbers, lr, 3e-4, head_alone)


def test_a_head_alone_is_not_advised_to_be_one() -> None:
    sentence = said(accuracy=0.85, head_alone=True)["verdict_sentence"]
    assert sentence.startswith(WORSE) and "head alone" not in sentence
    assert sentence == said(accuracy=0.85)["verdict_sentence"].rpartition("; ")[0]


def test_a_healthy_run_learned() -> None:
    found = said()
    assert found["verdict"] == LEARNED
    assert found["verdict_sentence"] == (
        "learned: test accuracy 0.960 (0.939 to 0.974); a guess reaches 0.200, logistic regression "
        "on the frozen features 0.900, the same training on shuffled labels 0.210; better than its "
        "strongest rival (of 500 pictures 30 are right by the network alone, 0 by the rival alone; "
        "McNemar's exact test, p < 0.001)"
    )


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({"accuracy": 0.85}, WORSE, "logistic regression on the frozen features 0.900"),
        ({"accuracy": 1.0, "logistic_regression": 1.0}, LEARNED, "both get the same of the 500"),
        ({"accuracy": 0.5, "lr": 10.0}, WORSE, "the learning rate 10 is too high"),
        ({"accuracy": 0.5, "steps": 9}, WORSE, "was short (9 steps, and the recipe takes 900)"),
        ({"accuracy": 0.9, "logistic_regression": 0.9}, LEARNED, "head alone"),
        ({"accuracy": 0.22}, NOT_LEARNED, "labels don't follow from the pictures"),
        ({"accuracy": 0.22, "train_accuracy": 0.3}, NOT_LEARNED, "too little trains"),
        ({"accuracy": 0.6, "largest_class": 0.58}, NOT_LEARNED, "a guess reaches 0.580"),
        ({"accuracy": 1.0, "images": 5}, TOO_FEW, "; too few images (5 to judge by): add pictures"),
        (
            {"accuracy": 0.3, "images": 40, "train_images_of_the_rarest_class": 3}
            | {"nearest_neighbours": 0.3, "logistic_regression": 0.3},
            NOT_LEARNED,
            "too few images (3 to train on in the smallest class): add pictures",
        ),
        ({"accuracy": 0.2, "lr": 10.0}, NOT_LEARNED, "the learning rate 10 is too high"),
        ({"accuracy": 0.2, "lr": 1e-9}, NOT_LEARNED, "the learning rate 1e-09 is too low"),
        ({"shuffled_labels": 0.7}, LEARNED, "beware: shuffled labels should teach nothing"),
    ],
)
def test_what_a_verdict_says(changes: dict[str, Any], expected: str, reason: str) -> None:
    found = said(**changes)
    assert found["verdict"] == expected and reason in found["verdict_sentence"]


def test_few_pictures_are_not_blamed_where_a_rival_needs_no_more() -> None:
    """A training of 9 steps, on the 5 pictures a class of which a rival makes 0.889."""
    short = {"steps": 9, "recipe_steps": 900, "train_accuracy": 0.4}
    few = {"images": 27, "train_images_of_the_rarest_class": 5, "logistic_regression": 24 / 27}
    found = said(accuracy=8 / 27, **short, **few)
    assert found["verdict"] == NOT_LEARNED
    assert found["verdict_sentence"].endswith(
        "; likely: the training was short (9 steps, and the recipe takes 900)"
    )
    long = said(accuracy=8 / 27, **short | few | {"steps": 900})["verdict_sentence"]
    assert "short" not in long and "too few" not in long and "too little trains" in long


@pytest.mark.parametrize(("ours", "theirs"), [(48, 48), (48, 47), (47, 48), (46, 49), (49, 46)])
def test_a_picture_more_or_less_changes_no_verdict(ours: int, theirs: int) -> None:
    found = said(accuracy=ours / 50, images=50, logistic_regression=theirs / 50)
    assert found["verdict"] == LEARNED and found["against_strongest_rival"] == LEVEL
    assert f"; {LEVEL} (" in found["verdict_sentence"]


def test_of_unequal_classes_the_mean_of_the_recalls_is_compared() -> None:
    """95 ants and 12 bees: what says ants more often is right more often, and knows less."""
    labels = np.repeat([0, 1], [95, 12])
    ours = np.concatenate([np.arange(95) < 73, np.arange(12) < 10])
    theirs = np.concatenate([np.arange(95) < 93, np.arange(12) < 5])
    pair = paired(ours, theirs, labels)
    assert pair["p"] < 0.01 and pair["only_rival"] > pair["only_network"]
    assert pair["balanced_lead"] == pytest.approx(
        (73 / 95 + 10 / 12) / 2 - (93 / 95 + 5 / 12) / 2, abs=1e-6
    )
    assert stands(pair) == WORSE and stands(pair, unequal=True) == LEVEL
    unequal = UNEQUAL | {"images": 107, "largest_class": 95 / 107, "balanced_accuracy": 0.801}
    against = {"logistic_regression": pair, "nearest_neighbours": paired(ours, labels == 0, labels)}
    unequal |= {"balanced_interval": (0.68, 0.88), "logistic_regression": 98 / 107}
    sentence = said(accuracy=83 / 107, **unequal, against=against)
    assert sentence["verdict"] == LEARNED and sentence["against_strongest_rival"] == LEVEL
    assert (
        "logistic regression on the frozen features 0.916, balanced 0.698"
        in (sentence["verdict_sentence"])
    )
    assert "McNemar's test, each class counting the same, p = 0." in sentence["verdict_sentence"]
    again = paired(np.tile(ours, 4), np.tile(theirs, 4), np.tile(labels, 4))
    assert stands(again, unequal=True) == BETTER


def test_a_few_pictures_are_counted_not_approximated() -> None:
    """Four of one class, all right by the network alone: four coins that fall alike."""
    labels = np.repeat([0, 1], [30, 10])
    ours, theirs = np.ones(40, bool), np.ones(40, bool)
    theirs[:4] = False
    pair = paired(ours, theirs, labels)
    assert pair["p"] == pair["balanced_p"] == 0.125
    theirs[30:32] = False  # of the other class a picture counts three times as much
    pair = paired(ours, theirs, labels)
    assert pair["p"] == pair["balanced_p"] == pytest.approx(2 / 2**6, abs=1e-6)
    ours[30] = False
    ours[4] = False
    assert paired(ours, theirs, labels)["balanced_p"] == pytest.approx(12 / 64, abs=1e-5)
    for alone, against in ((17, 7), (14, 5), (22, 10), (900, 1100)):  # McNemar's coins
        signs = np.repeat([1.0, -1.0], [alone, against])
        assert chance_of_sum(signs) == pytest.approx(paired_chance(alone, against), abs=1e-9)


def test_four_large_values_beside_many_small_ones() -> None:
    """Four pictures of a rare class: the normal distribution called that better, at p = .047."""
    labels = np.repeat([0, 1], [300, 8])
    ours, theirs = np.zeros(308, bool), np.zeros(308, bool)
    ours[:280] = theirs[:280] = True
    ours[:7] = theirs[7:14] = False
    ours[300:304] = True
    pair = paired(ours, theirs, labels)
    assert pair["balanced_p"] == pytest.approx(0.0759, abs=0.002)
    assert stands(pair, unequal=True) == LEVEL
    values = np.random.default_rng(0).normal(0.3, 1, 16)  # all of them are tried: 65,536
    drawn = np.concatenate([values, np.full(20, 1e-9) * np.arange(1, 21)])  # too many to try
    assert chance_of_sum(values) == pytest.approx(chance_of_sum(drawn), abs=0.004)
    assert chance_of_sum(np.zeros(0)) == 1


def test_a_shorter_control_says_its_steps() -> None:
    sentence = said(shuffled_steps=900)["verdict_sentence"]
    assert "the same training on shuffled labels (900 steps) 0.210" in sentence


def test_how_it_stands_to_its_strongest_rival_is_a_paired_test() -> None:
    """On the same pictures: as many more that are right say more where both agree on the others."""
    for alone, rivals_alone, expected in (
        (6, 0, BETTER),
        (5, 0, LEVEL),
        (0, 6, WORSE),
        (9, 3, LEVEL),
    ):
        right, other = np.ones(100, dtype=bool), np.ones(100, dtype=bool)
        other[:alone] = right[alone : alone + rivals_alone] = False
        pair = paired(right, other, np.arange(100) % 5)
        assert (pair["only_network"], pair["only_rival"]) == (alone, rivals_alone)
        found = said(
            accuracy=right.mean(),
            images=100,
            logistic_regression=other.mean(),
            nearest_neighbours=0.5,
            against={"logistic_regression": pair},
        )
        assert found["against_strongest_rival"] == expected
        assert found["verdict"] == (WORSE if expected == WORSE else LEARNED)
        assert (
            f"{alone} are right by the network alone, {rivals_alone} by"
            in (found["verdict_sentence"])
        )


def test_always_the_largest_class_is_not_learned() -> None:
    same = {"accuracy": 0.95, "balanced_accuracy": 0.5, "balanced_interval": [0.4, 0.63]}
    found = said(**UNEQUAL | same | {"one_answer": 1.0, "train_accuracy": 0.95})
    assert found["verdict"] == NOT_LEARNED
    assert "balanced 0.500 (0.400 to 0.630); a guess reaches 0.950" in found["verdict_sentence"]
    assert "gives 1.000 of the pictures one and the same answer" in found["verdict_sentence"]
    few = {"one_answer": 1.0, "train_accuracy": 0.95, "images_of_the_rarest_class": 1}
    assert said(**UNEQUAL | same | few)["verdict_sentence"].endswith(
        "; likely: too few images (1 of the smallest class to judge by): add pictures"
    )


def test_what_knows_the_rare_class_learned() -> None:
    """Accuracy can hardly show it beside a class of 0.95, the mean of the recalls does."""
    knows = {"accuracy": 0.965, "balanced_accuracy": 0.89, "balanced_interval": [0.74, 0.94]}
    found = said(**UNEQUAL | knows | {"one_answer": 0.93, "train_accuracy": 0.98})
    assert found["verdict"] == LEARNED
    assert (
        "balanced 0.890 (0.740 to 0.940); a guess reaches 0.950 (always the largest class), "
        in (found["verdict_sentence"])
    )


@pytest.mark.parametrize(("rare", "expected"), [(1, TOO_FEW), (4, TOO_FEW), (5, LEARNED)])
def test_one_picture_of_the_rare_class_is_luck(rare: int, expected: str) -> None:
    knows = {"accuracy": 1.0, "balanced_accuracy": 1.0, "balanced_interval": [0.601, 1.0]}
    many = {"images": 41, "interval": list(wilson(1.0, 41)), "images_of_the_rarest_class": rare}
    share = {"largest_class": 40 / 41, "train_accuracy": 1.0}
    found = said(**UNEQUAL | knows | many | share)
    assert found["verdict"] == expected
    few = f"too few images ({rare} of the smallest class to judge by)"
    assert (few in found["verdict_sentence"]) is (expected == TOO_FEW)


def test_classes_that_look_alike() -> None:
    nothing = {"nearest_neighbours": 0.2, "logistic_regression": 0.21, "shuffled_labels": 0.2}
    found = said(accuracy=0.2, train_accuracy=0.25, **nothing)
    assert found["verdict"] == NOT_LEARNED and "look alike" in found["verdict_sentence"]
