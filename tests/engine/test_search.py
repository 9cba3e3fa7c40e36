"""lr: auto."""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import training
from config import TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split
from engine.checkpoint import Keeper
from engine.job import Setting
from engine.look import STEPS
from engine.plots import plot_search
from engine.run import Run
from engine.search import (
    FINALISTS,
    as_chosen,
    choose,
    how_chosen,
    recipes_own,
    search_steps,
    settings,
)
from engine.side import train_side_by_side
from engine.start import Work, set_up, still_to_find
from engine.trials import SEARCH_FOLDS, Trial, allowance, stratified_folds, try_settings
from model import VisionTransformer
from pretrained.build import build_for
from pretrained.read import read_arrays
from tests.helpers import CPU, TINY_VIT, prepared, quick, reached, summary
from tokens.builder import open_cache
from tokens.cache import TokenLoader
from tokens.plan import Plan, plan_cache


def test_the_search_looks_at_training_images_only(
    untuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    rows: set[int] = set()
    original = try_settings

    def noting(net: Any, candidates: Any, loader: Any, folds: Any, *rest: Any) -> Any:
        for learned, scored in folds:
            assert not set(loader.rows[learned, 0]) & set(loader.rows[scored, 0])
            rows.update(loader.rows[np.concatenate([learned, scored])].flatten().tolist())
        return original(net, candidates, loader, folds, *rest)

    monkeypatch.setattr("engine.search.try_settings", noting)
    result = reached(untuned, "train.max_epochs=20")
    cache = TokenLoader
    assert cache is not None and len(rows) == result["images"]["train"] == 36
    with open(untuned.parent / "logs/tiny/search.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 16 + 4 and sum(row["chosen"] == "1" for row in table) == 1
    chosen = next(row for row in table if row["chosen"] == "1")
    found = {"part": chosen["part"], "optim": chosen["optim"], "lr": float(chosen["lr"])}
    assert found.items() <= result["chosen"].items() and result["optim"] == chosen["optim"]
    finals = table[16:]
    recipe = next(row for row in finals if float(row["lr"]) == pytest.approx(6e-3 * 0.5**0.5))
    best = min(finals, key=lambda row: float(row["loss"]))
    assert len({(row["part"], row["optim"], row["lr"]) for row in finals}) == 4
    assert chosen in (best, recipe) and all(int(row["images"]) == 36 for row in finals)
    assert Image.open(untuned.parent / "logs/tiny/search.png").width > 300


@pytest.mark.slow
def test_a_resumed_run_keeps_the_setting_that_was_found(
    untuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    options = ["train.max_epochs=4", "train.verdict=false"]
    whole = reached(untuned, *options)
    for folder in ("logs", "weights"):
        (untuned.parent / folder / "tiny").rename(untuned.parent / folder / "whole")
    original = Keeper.keep

    def stop_after_2(self: Any, row: dict[str, Any]) -> None:
        original(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, "keep", stop_after_2)
    with pytest.raises(KeyboardInterrupt):
        reached(untuned, *options)
    monkeypatch.setattr(Keeper, "keep", original)
    monkeypatch.setattr("engine.search.try_settings", None)  # a search would fail
    config = untuned.parent / "logs/tiny/config.yaml"
    training.main(["--config", str(config), "train.from_checkpoint=true"])
    assert summary(untuned)["chosen"] == whole["chosen"]
    both = [
        read_arrays(untuned.parent / f"weights/{run}/best.safetensors")[0]
        for run in ("whole", "tiny")
    ]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


def test_a_stop_while_its_picture_is_drawn_keeps_what_was_found(
    untuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute's search was lost by Ctrl-C just after its result was said."""
    quick(monkeypatch)

    def stopped(rows: Any, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        plot_search(rows, path)

    monkeypatch.setattr("engine.search.plot_search", stopped)
    with pytest.raises(KeyboardInterrupt, match="the settings that were found, stays"):
        reached(untuned, "train.max_epochs=4", "train.verdict=false")
    folder = untuned.parent / "logs/tiny"
    assert all((folder / name).exists() for name in ("search.csv", "out_of_fold.csv", "search.png"))


def test_settings_that_are_tried() -> None:
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    net.freeze_trunk(1)
    plain = TrainConfig()
    auto = plain.settled(600).model_copy(update=still_to_find(plain))
    grid = settings(net, auto)
    assert len(grid) == len(set(grid)) == 16
    sides = {("block", "adamw"), ("block", "sgd"), ("head", "adamw")}
    assert {(s.part, s.optim) for s in grid} == sides
    recipe = recipes_own(grid, auto)
    assert (recipe.part, recipe.optim, recipe.lr) == ("block", "sgd", 6e-3)
    for optim, highest in (("adamw", 3e-2), ("sgd", 0.9)):
        one = settings(net, auto.model_copy(update={"optim": optim}))
        assert len(set(one)) == 16 and {s.optim for s in one} == {optim}
        assert max(s.lr for s in one) == pytest.approx(highest)
    fixed = auto.model_copy(update={"weight_decay": 0.5})
    assert {s.weight_decay for s in settings(net, fixed)} == {0.5}
    wide = settings(net, auto.model_copy(update={"batch_size": 64}))
    assert wide[0].lr == pytest.approx(2 * grid[0].lr)
    net.freeze_trunk(2)
    auto = auto.model_copy(update={"finetune_blocks": 0})
    heads = settings(net, auto)
    assert len(set(heads)) == 16 and {(s.part, s.optim) for s in heads} == {("head", "adamw")}
    assert recipes_own(heads, auto).lr == 3e-3


@pytest.mark.parametrize(
    ("images", "dim", "steps"),
    [
        (600, 224, 600 * 4 * 4),  # 256 patches a record, of which 64 pay for a step
        (600, 112, 600 * 4),  # a smaller input makes the trunk pass cheaper, and so the search
        (50, 224, 2000),  # the fewest
        (5000, 224, 14_400),  # the most
    ],
)
def test_the_search_costs_less_than_the_trunk_pass(images: int, dim: int, steps: int) -> None:
    net = VisionTransformer(ViTConfig(**TINY_VIT | {"patch_dim": 14, "dim": dim}, num_classes=3))
    rows, labels = np.zeros((images, 4), dtype=int), torch.zeros(images)
    loader = TokenLoader(None, rows, labels, 16)  # type: ignore[arg-type]
    first, second = search_steps(net, loader, 16)
    total = 16 * first + FINALISTS * SEARCH_FOLDS * second
    assert 0.98 * steps <= total <= steps and first * 16 == pytest.approx(steps / 4, rel=0.03)


def steps_tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of each job that trains beside the main one."""
    taken: list[int] = []
    original = train_side_by_side

    def counting(sides: Any, bar: Any) -> Any:
        taken.append(sum(side.steps * len(side.jobs) for side in sides))
        return original(sides, bar)

    monkeypatch.setattr("engine.trials.train_side_by_side", counting)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "head", "rate"),
    [(1, "auto", "auto"), (2, "auto", "auto"), (9, "both", "auto"), (9, "class", "auto")]
    + [(2, "both", "1e-3"), (30, "auto", "auto")],
)
def test_a_short_training_tries_on_each_fold_as_many_steps_as_it_takes(
    untuned: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    epochs: int,
    head: str,
    rate: str,
) -> None:
    taken = steps_tried(monkeypatch)
    options = [f"train.max_epochs={epochs}", f"train.head={head}", f"train.lr={rate}"]
    result = reached(untuned, *options, "train.views=auto", "train.verdict=false")
    out = capsys.readouterr().out
    looks = SEARCH_FOLDS * min(STEPS, 5 * epochs) if head == "auto" else 0
    answers = 0 if result["head"] == "layers" else SEARCH_FOLDS * min(125, 5 * epochs)
    assert sum(taken) == looks + answers
    if rate == "auto" and result["head"] != "layers":
        said = f"a short training ({5 * epochs} steps, and the recipe takes 1,500): "
        assert f"{said}the recipe's setting is taken without a search, sgd, lr 0.0042" in out
        assert result["lr"] == pytest.approx(6e-3 * math.sqrt(8 / 16))
    with open(untuned.parent / "logs/tiny/search.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["chosen"] == "1"
    if result["head"] != "layers":
        assert int(row["steps"]) == min(125, 5 * epochs)


@pytest.mark.slow
def test_a_short_training_of_many_steps_searches_within_them(
    untuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are enough to tell all settings apart."""
    taken = steps_tried(monkeypatch)
    monkeypatch.setattr("engine.search.LEAST_STEPS", 300)
    reached(untuned, "train.max_epochs=140", "train.verdict=false")
    with open(untuned.parent / "logs/tiny/search.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 16 + FINALISTS
    assert 250 < sum(taken) <= 350


def test_a_training_as_the_recipe_has_it_is_not_short() -> None:
    """Nor one of half as many steps: what it tries stays as it was."""
    train = TrainConfig()
    assert train.steps(600) == (912, 912) and allowance(train, 600) is None
    epochs = [allowance(train.model_copy(update={"max_epochs": n}), 600) for n in (11, 12, 100)]
    assert epochs[0] is not None and (epochs[0].steps, epochs[0].each) == (418, 209)
    assert epochs[1:] == [None, None]


def test_the_epochs_go_with_the_optimiser_that_was_found(untuned: Path) -> None:
    """Of few pictures with views SGD takes four times as many, and AdamW none more."""
    options = ["train.max_epochs=auto", "train.head=both", "train.views=auto"]

    def work(*more: str) -> Work:
        config, _ = load_config(untuned, [*options, *more])
        return set_up(config, Run("x", config.train.log_path, config.train.save_path), CPU)

    sgd = Setting("block", "sgd", 6e-3, 1e-4, head="both")
    adamw, head = replace(sgd, optim="adamw", lr=6e-4), Setting("head", "adamw", 3e-3, 0.01)
    found = [as_chosen(work(), setting) for setting in (sgd, adamw, head)]
    assert [train.max_epochs for train in found] == [1200, 300, 300]
    assert [train.warmup_epochs for train in found] == [60, 15, 15]
    assert [train.views for train in found] == [16, 16, 16]
    own = [as_chosen(work("train.max_epochs=7"), setting) for setting in (sgd, adamw)]
    assert [train.max_epochs for train in own] == [7, 7]
    own = [as_chosen(work("train.warmup_epochs=2"), setting) for setting in (sgd, adamw)]
    assert [(train.max_epochs, train.warmup_epochs) for train in own] == [(1200, 2), (300, 2)]


def test_one_training_image_a_class_is_too_few_to_search(
    untuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (untuned.parent / "images").glob("*/*.png"):
        if int(path.stem) > 1:
            path.unlink()
    result = reached(untuned, "train.max_epochs=2")
    assert "too few to try settings" in capsys.readouterr().out
    assert result["lr"] == pytest.approx(6e-3 * math.sqrt(8 / 16))
    reached(untuned, "train.max_epochs=2", "train.head=auto", "train.run_name=auto")
    result, said = summary(untuned, "auto"), capsys.readouterr().out
    assert result["head"] == "both" and "no first look is taken, and both heads answer" in said


@pytest.mark.parametrize(("spread", "chosen"), [(0.01, 1), (1.0, 0)])
def test_the_recipe_stays_unless_another_is_surely_better(spread: float, chosen: int) -> None:
    recipe = Setting("block", "adamw", 2e-4, 0.01)
    other = Setting("head", "adamw", 1e-2, 0.01)
    noise = spread * torch.randn(200, generator=torch.Generator().manual_seed(0))
    losses = torch.full((200,), 0.5)
    trials = [
        Trial(recipe, 100, [losses + 0.02 + noise - noise.mean()]),
        Trial(other, 100, [losses]),
    ]
    assert choose(trials, recipe) is trials[chosen]
    said = (
        "; the recipe's, as the lowest loss of {}, 0.500, is not clearly below its 0.520",
        "; of {} the lowest loss, 0.500",
    )
    # A lower loss of one that was tried for less, on fewer pictures, makes it no false sentence.
    for tried, some in ((2, "2 settings"), (16, "2 finalists of 16")):
        assert how_chosen(trials[chosen], trials, tried) == said[chosen].format(some)


def test_two_cores_try_settings_as_one_does(untuned: Path, cores: Callable[[int], None]) -> None:
    config, _ = load_config(untuned, ["train.max_epochs=4", "train.lr=2e-4"])
    split = load_split(config.train)
    net, train_ = build_for(config, split.classes), config.train.settled(36)
    plan = plan_cache(net, split, train_)
    assert plan is not None
    loader = open_cache(plan, net, train_, CPU).loaders(plan, split, train_, CPU)["train"]
    assert isinstance(loader, TokenLoader)
    grid = [Setting("block", "adamw", 10.0**-i, 0.01) for i in range(1, 5)]
    grid.append(Setting("block", "adamw", 1e30, 0.01))  # diverges, or learns nothing
    folds = stratified_folds(loader)[:1]
    found = []
    for threads in (1, 2):
        cores(threads)
        trials = try_settings(net, grid, loader, folds, train_, 10, tqdm(disable=True))
        found.append([trial.mean_loss for trial in trials])
    assert found[0][:4] == pytest.approx(found[1][:4], rel=1e-4)
    assert len(set(found[0])) == 5


def test_a_longer_training_is_no_reason_for_higher_rates(untuned: Path) -> None:
    """A few steps at the rate of many times as many learn nothing, and all looks alike."""
    config, _ = load_config(untuned, ["train.max_epochs=auto", "train.lr=2e-4"])
    split = load_split(config.train)
    net, usual = build_for(config, split.classes), config.train.settled(30)
    plan = plan_cache(net, split, usual)
    assert plan is not None and usual.max_epochs != "auto"
    loader = open_cache(plan, net, usual, CPU).loaders(plan, split, usual, CPU)["train"]
    assert isinstance(loader, TokenLoader)
    folds, setting = stratified_folds(loader)[:1], Setting("block", "adamw", 1e-3, 0.01)

    def loss(epochs: int) -> float:
        train = config.train.model_copy(update={"max_epochs": epochs}).settled(30)
        [trial] = try_settings(net, [setting], loader, folds, train, 20, tqdm(disable=True))
        return trial.mean_loss

    assert loss(4 * usual.max_epochs) == loss(usual.max_epochs) != loss(usual.max_epochs // 4)


def test_a_grid_of_nothing_but_zeros_is_drawn(tmp_path: Path) -> None:
    """Where all is right and sure; and beside a setting that went wrong."""
    for losses in ((0.0, 0.0), (0.0, 1e-6), (0.0, math.inf), (math.inf, math.inf)):
        rows = [
            {"part": "block", "optim": "sgd", "lr": lr, "weight_decay": 0.0, "steps": 9}
            | {"accuracy": 1.0, "loss": loss, "chosen": lr == 1.0}
            for lr, loss in zip((1.0, 2.0), losses, strict=True)
        ]
        plot_search(rows, tmp_path / "search.png")
        assert Image.open(tmp_path / "search.png").width > 300


def test_folds_do_not_depend_on_the_order_in_the_cache(untuned: Path) -> None:
    """Which differs where an older cache gave some of its records."""
    config, split, net = prepared(untuned)
    wanted = Plan(net, split, config.train)
    cache = open_cache(wanted, net, config.train, CPU)
    loader: Any = cache.loaders(wanted, split, config.train, CPU)["train"]
    folds = stratified_folds(loader)
    shuffled = np.random.default_rng(0).permutation(len(cache.records))
    other = TokenLoader(cache, shuffled[loader.rows], loader.dataset, loader.batch_size)
    for mine, others in zip(folds, stratified_folds(other), strict=True):
        assert (mine[0] == others[0]).all() and (mine[1] == others[1]).all()


def test_folds_part_no_group(untuned: Path) -> None:
    """Nor do those of what is taken from a loader: some of its images, fewer views, more images."""
    config, split, net = prepared(untuned)
    wanted = Plan(net, split, config.train)
    loader: Any = open_cache(wanted, net, config.train, CPU).loaders(
        wanted, split, config.train, CPU
    )["train"]
    loader.groups = np.array([f"pair {i // 2}" for i in range(len(loader.dataset))])
    everyone = np.random.default_rng(0).permutation(len(loader.dataset))
    twice = loader.joined(loader, config.train)
    others = [loader.plain(everyone), loader.with_views(1), loader.training(config.train, everyone)]
    for some in (loader, *others, twice):
        folds = stratified_folds(some)
        assert len(folds) == SEARCH_FOLDS
        assert sorted(np.concatenate([held for _, held in folds])) == [*range(len(some.dataset))]
        for learned, held in folds:
            assert not {*some.groups[learned]} & {*some.groups[held]}
    loader.groups = loader.dataset.numpy()  # a group a class
    assert stratified_folds(loader) == []
