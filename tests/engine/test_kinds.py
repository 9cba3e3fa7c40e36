"""Which kind of head: by answers to training pictures that a fit had not seen."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from config import ViTConfig
from engine.heads import answers, as_head, by_layer, layer_features, solved, some_of_each
from engine.kinds import KINDS, Unseen, fold_by_fold, leads, unseen_answers
from engine.ridge import fit_ridge
from engine.trials import stratified_folds
from model import CELLS, VisionTransformer, readable
from tests.helpers import (
    CPU,
    TINY_VIT,
    fail,
    prepared,
    quick,
    random_weights,
    summary,
    train,
    without_vit,
)
from tokens.builder import open_cache
from tokens.cache import TokenLoader, layers_of, layers_of_views
from tokens.plan import Plan


def loaded(config_file: Path, *overrides: str) -> tuple[Any, TokenLoader]:
    config, split, net = prepared(config_file, *overrides)
    wanted = Plan(net, split, config.train)
    cache = open_cache(wanted, net, config.train, CPU)
    return net, cache.loaders(wanted, split, config.train, CPU)["train"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("by_layers", "by_block", "kind"),
    [(35, 20, "layers"), (35, 34, "both"), (20, 35, "both"), (30, 30, "both"), (34, 20, "both")],
)
def test_auto_takes_layers_alone_where_they_lead_clearly(
    by_layers: int, by_block: int, kind: str
) -> None:
    """By more than two standard errors of the difference, on the same images, and where both
    together are no better."""
    labels = torch.zeros(36, dtype=torch.long)

    def right(count: int) -> torch.Tensor:
        return torch.eye(2)[(torch.arange(36) >= count).long()].log_softmax(1)

    answers = dict(zip(KINDS, (right(by_layers), right(by_block), right(35)), strict=True))
    assert leads(Unseen(answers, labels, 1.0)) == (kind == "layers")


def test_a_larger_class_does_not_count_more() -> None:
    """The block that nearly always answers the larger of two classes is right more often; the head
    over layers tells them apart."""
    labels = torch.tensor([0] * 190 + [1] * 10)
    by_layers = torch.eye(2)[torch.tensor([0] * 170 + [1] * 30)].log_softmax(1)
    block = torch.eye(2)[torch.tensor([0] * 199 + [1])].log_softmax(1)
    unseen = Unseen(dict(zip(KINDS, (by_layers, block, block), strict=True)), labels, 1.0)
    assert unseen.accuracy("class") == pytest.approx((1 + 0.1) / 2)
    assert unseen.accuracy("layers") == pytest.approx((170 / 190 + 1) / 2)
    assert unseen.unequal and leads(unseen)


def test_the_mean_of_two_that_err_apart_gets_a_temperature() -> None:
    """Each as sure as it is right, .8 of the time: where both agree that is too modest."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=draw)

    def answers() -> torch.Tensor:
        wrong = torch.rand(400, generator=draw) < 0.2
        return (0.2 + 0.6 * torch.eye(2)[torch.where(wrong, 1 - labels, labels)]).log()

    one, other = answers(), answers()
    both = torch.logaddexp(one, other) - math.log(2)
    unseen = Unseen(dict(zip(KINDS, (one, other, both), strict=True)), labels, 1.0)
    T = unseen.temperature("both")
    assert T < 0.7 and unseen.temperature("layers") == unseen.temperature("class") == 1.0
    loss = [F.nll_loss((both / t).log_softmax(1), labels).item() for t in (1.0, T)]
    assert loss[1] < loss[0]


def test_each_answer_is_of_a_fit_that_had_not_seen_the_picture(finetune: Path) -> None:
    """Fold by fold, in the loader's order, whatever the order of the folds."""
    net, loader = loaded(finetune)
    folds = stratified_folds(loader)[::-1]
    found = fold_by_fold(net, loader, folds)
    layers, labels = layers_of(loader)
    features = readable(layers, [2, 3])
    for learned, held in folds:
        assert not set(learned) & set(held)
        ridge = fit_ridge(features[learned], labels[learned], 3)
        torch.testing.assert_close(found[held], ridge(features[held]))
    block = torch.cat([torch.eye(3)[labels[held]] * 4 for _, held in folds])  # all right
    unseen = unseen_answers(net, loader, folds, block)
    assert unseen.accuracy("class") == 1.0 and unseen.accuracy("layers") < 1.01
    torch.testing.assert_close(unseen.answers["layers"], found.log_softmax(1))
    mean = (unseen.answers["layers"].exp() + unseen.answers["class"].exp()) / 2
    torch.testing.assert_close(unseen.answers["both"].exp(), mean)


def test_views_are_learned_as_far_as_they_can_be(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of each picture are fitted to, and it is left out with all of them."""
    net, loader = loaded(finetune, "train.views=3")
    n = len(loader.dataset)
    layers, labels = layers_of_views(loader, 3)
    assert layers.shape[:2] == (n, 3)
    torch.testing.assert_close(layers[:, 0], layers_of(loader)[0])
    assert not torch.equal(layers[:, 1], layers[:, 0])
    features = readable(layers.flatten(0, 1), [2, 3]).unflatten(0, (n, 3))
    wanted = fit_ridge(features, labels, 3)
    torch.testing.assert_close(solved(net, loader).weight, wanted.weight)
    torch.testing.assert_close(solved(net, loader).left_out, wanted.left_out)
    folds = stratified_folds(loader)
    held = torch.from_numpy(folds[0][1])
    ridge = fit_ridge(features[folds[0][0]], labels[folds[0][0]], 3)
    torch.testing.assert_close(fold_by_fold(net, loader, folds)[held], ridge(features[held, 0]))
    monkeypatch.setattr("engine.heads.MOST_ROWS", 2 * n + 1)
    wanted = fit_ridge(features[:, :2], labels, 3)
    torch.testing.assert_close(solved(net, loader).weight, wanted.weight)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["class", "layers", "both", "auto"])
def test_the_training_pictures_are_answered_out_of_fold(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """All of them once, none by a network that has learned it: out_of_fold.csv."""
    quick(monkeypatch)
    train(finetune, f"train.head={head}", "train.lr=auto")
    folder = finetune.parent / "logs/tiny"
    with open(folder / "out_of_fold.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "split.csv", newline="") as file:
        wanted = [row["path"] for row in csv.DictReader(file) if row["part"] == "train"]
    assert [row["path"] for row in rows] == wanted and {row["part"] for row in rows} == {"train"}
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    found = summary(finetune)
    assert found["out_of_fold_accuracy"] == pytest.approx(right) and right > 0.5
    if found["head"] == "layers":
        assert right == pytest.approx(found["left_out_accuracy"])


def test_without_a_search_nothing_is_out_of_fold(finetune: Path) -> None:
    train(finetune, "train.head=class", "train.lr=1e-3")
    assert summary(finetune)["out_of_fold_accuracy"] is None


@pytest.mark.slow
def test_without_frozen_blocks_or_a_cache_auto_is_a_class_head(finetune: Path) -> None:
    train(finetune, "train.head=auto", "train.cache=off")
    assert summary(finetune)["head"] == "class"
    train(finetune, "train.head=auto", "train.finetune_blocks=4", "train.run_name=all")
    assert summary(finetune, "all")["head"] == "class"
    train(finetune, "train.head=auto", "train.finetune_blocks=2", "train.run_name=two")
    assert summary(finetune, "two")["head"] == "both"
    train(finetune, "train.head=auto", "train.mode=pretrained", "train.run_name=whole")
    assert summary(finetune, "whole")["head"] == "class"


def test_a_network_of_one_block(config_file: Path, tmp_path: Path) -> None:
    """Nothing is frozen that could be read: a class head, which is searched for all the same."""
    weights = random_weights(tmp_path / "one.safetensors", num_layers=1)
    without_vit(config_file)
    options = (f"train.checkpoint={weights}", "train.mode=finetune", "train.verdict=false")
    for blocks in (0, 1):
        run = f"train.run_name=blocks-{blocks}"
        train(config_file, *options, "train.lr=auto", f"train.finetune_blocks={blocks}", run)
        assert summary(config_file, f"blocks-{blocks}")["head"] == "class"


def test_without_room_two_blocks_train_from_images(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokens.plan.Plan.lacks_room", lambda plan: "9 GB of 1 free")
    train(finetune, "train.head=auto", "train.finetune_blocks=2")
    assert summary(finetune)["head"] == "class" and summary(finetune)["cache_seconds"] is None


def test_of_many_pictures_some_are_fitted_to(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are answered as new ones are, in their order."""
    net, loader = loaded(finetune)
    whole = solved(net, loader)
    monkeypatch.setattr("engine.heads.MOST_FITTED", 12)
    monkeypatch.setattr("engine.heads.CHUNK", 5)
    some = solved(net, loader)
    chosen = some_of_each(loader.dataset.numpy(), 12)
    rest = [i for i in range(len(loader.dataset)) if i not in chosen]
    features, _ = layer_features(net, loader)
    torch.testing.assert_close(some.left_out[rest], some(features[rest]))
    torch.testing.assert_close(answers(net, loader, whole), whole(features))
    torch.testing.assert_close(answers(net, loader, as_head(whole, [2, 3], 48)), whole(features))
    assert not torch.equal(some.weight, whole.weight)
    assert len(by_layer(net, loader)) == 3


def test_of_many_pictures_no_group_is_answered_by_a_fit_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two frames of each scene, whose labels are noise: a fit to one of them knows the other."""
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(100), 2)
    labels = torch.tensor(rng.integers(0, 2, 100))[scene]
    tokens = rng.normal(size=(100, 2 * 1 + CELLS**2, 48))[scene]
    layers = (tokens + 0.1 * rng.normal(size=tokens.shape)).astype(np.float16)
    cache: Any = SimpleNamespace(layers=layers)
    net = VisionTransformer(ViTConfig(**{**TINY_VIT, "hidden_dim": 48, "num_classes": 2}))
    net.freeze_trunk(1)
    loader = TokenLoader(cache, np.arange(200)[:, None], labels, 16, None, False, scene)
    monkeypatch.setattr("engine.heads.MOST_FITTED", 140)
    right = (solved(net, loader).left_out.argmax(1) == labels).double()
    others = np.setdiff1d(np.arange(200), some_of_each(labels.numpy(), 140))
    assert right.mean() < 0.65 and right[others].mean() < 0.65  # 0.9 of the others


def test_a_run_whose_tokens_are_gone_does_not_become_another(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(finetune, "train.head=auto")
    shutil.rmtree(finetune.parent / "data")
    monkeypatch.setattr("tokens.plan.Plan.lacks_room", lambda plan: "9 GB of 1 free")
    said = fail(finetune, "train.head=auto", "train.from_checkpoint=true")
    assert "goes on from cached tokens, which are gone" in said
