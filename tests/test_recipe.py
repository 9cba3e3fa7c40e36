"""lr: auto, the verdict of real runs, averages, layer decay, mixup, weights of classes."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_VIT, picture
from PIL import Image
from tqdm import tqdm

import pretrained
import training
from config import TrainConfig, ViTConfig
from config_file import load_config
from dataset import EpochSampler, load_split
from engine.checkpoint import Keeper
from engine.job import Job, Setting, branch, build_criterion, build_mix
from engine.run import Run
from engine.search import (
    FINALISTS,
    SEARCH_FOLDS,
    Trial,
    choose,
    recipes_own,
    search_steps,
    settings,
    still_to_find,
    stratified_folds,
    try_settings,
)
from engine.verdict import LEARNED, NOT_LEARNED, dealt
from model import VisionTransformer
from pretrained.build import build_for
from pretrained.read import read_arrays
from tokens.builder import open_cache
from tokens.cache import TokenLoader
from tokens.plan import plan_cache
from utils import UserError

CPU = torch.device("cpu")
COLOURS = ("blue", "green", "red")


@pytest.fixture
def finetune(config_file: Path) -> Path:
    """A config that fine-tunes a small network with the defaults, on 3 x 24 pictures."""
    folder = config_file.parent
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=7))
    for name, parameter in net.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.15)
    pretrained.save_model(folder / "random.safetensors", net)
    raw = yaml.safe_load(config_file.read_text())["train"]
    for key in ("lr", "max_epochs"):
        del raw[key]
    raw |= {"mode": "finetune", "checkpoint": str(folder / "random.safetensors")}
    raw |= {"data": str(folder / "data"), "val_fraction": 0.5, "views": 1}
    config_file.write_text(yaml.safe_dump({"train": raw}))
    for name in COLOURS:
        for i in range(12, 24):
            picture(name, i).save(folder / "images" / name / f"{i:02}.png")
    return config_file


def train(config_file: Path, *overrides: str) -> dict[str, Any]:
    training.main(["--config", str(config_file), *overrides])
    return summary(config_file)


def summary(config_file: Path) -> dict[str, Any]:
    return json.loads((config_file.parent / "logs" / "tiny" / "summary.json").read_text())


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of a search than for real pictures."""
    monkeypatch.setattr("engine.search.LEAST_STEPS", 700)


# --------------------------------------------------------------------------------------- lr: auto


def test_the_search_looks_at_training_images_only(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
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
    result = train(finetune, "train.max_epochs=20")
    cache = TokenLoader
    assert cache is not None and len(rows) == result["images"]["train"] == 36
    with open(finetune.parent / "logs/tiny/search.csv", newline="") as file:
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
    assert Image.open(finetune.parent / "logs/tiny/search.png").width > 300


def test_a_resumed_run_keeps_the_setting_that_was_found(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    options = ["train.max_epochs=4", "train.verdict=false"]
    whole = train(finetune, *options)
    for folder in ("logs", "weights"):
        (finetune.parent / folder / "tiny").rename(finetune.parent / folder / "whole")
    original = Keeper.keep

    def stop_after_2(self: Any, row: dict[str, Any]) -> None:
        original(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Keeper, "keep", stop_after_2)
    with pytest.raises(KeyboardInterrupt):
        train(finetune, *options)
    monkeypatch.setattr(Keeper, "keep", original)
    monkeypatch.setattr("engine.search.try_settings", None)  # a search would fail
    config = finetune.parent / "logs/tiny/config.yaml"
    training.main(["--config", str(config), "train.from_checkpoint=true"])
    assert summary(finetune)["chosen"] == whole["chosen"]
    both = [
        read_arrays(finetune.parent / f"weights/{run}/best.safetensors")[0]
        for run in ("whole", "tiny")
    ]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


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


def test_one_training_image_a_class_is_too_few_to_search(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (finetune.parent / "images").glob("*/*.png"):
        if int(path.stem) > 1:
            path.unlink()
    result = train(finetune, "train.max_epochs=2")
    assert "too few to try settings" in capsys.readouterr().out
    assert result["lr"] == pytest.approx(6e-3 * math.sqrt(8 / 16))


def test_side_jobs_leave_the_network_alone(finetune: Path) -> None:
    config, _ = load_config(finetune)
    net = build_for(config, load_split(config.train).classes)
    twin = branch(net)
    shared = {n for n, p in net.named_parameters() if p is twin.get_parameter(n)}
    assert shared == {n for n, p in net.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        twin.head.bias += 1  # type: ignore[operator]
    assert not net.head.bias.any()  # type: ignore[union-attr,operator]


# ------------------------------------------------------------------------------------ the verdict


def test_a_healthy_run_says_learned(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    result = train(finetune, "train.max_epochs=40")
    assert result["verdict"] == LEARNED, result["verdict_sentence"]
    numbers = result["verdict_numbers"]
    assert numbers["accuracy"] == result["val_accuracy"] and numbers["images"] == 36
    assert numbers["shuffled_labels"] < 0.67 < numbers["logistic_regression"]
    assert numbers["interval"] == result["val_interval"]
    assert result["verdict_sentence"] in capsys.readouterr().out


def test_shuffled_labels_are_not_learned(finetune: Path) -> None:
    folder = finetune.parent / "images"
    rng = np.random.default_rng(0)
    paths = sorted(folder.glob("*/*.png"))
    homes = rng.permutation([path.parent.name for path in paths])
    for i, path in enumerate(paths):
        path.rename(folder / f"{i}.png")
    for i, home in enumerate(homes):
        (folder / f"{i}.png").rename(folder / home / f"{i}.png")
    result = train(finetune, "train.lr=3e-4", "train.max_epochs=40")
    assert result["verdict"] == NOT_LEARNED
    assert "labels" in result["verdict_sentence"].partition("likely")[2]


def test_two_classes_with_the_same_pictures_are_not_learned(finetune: Path) -> None:
    folder = finetune.parent / "images"
    for name in ("green", "red"):
        shutil.rmtree(folder / name)
    shutil.copytree(folder / "blue", folder / "azure")
    result = train(finetune, "train.lr=3e-4", "train.max_epochs=40")
    assert result["images"] == {"train": 24, "val": 24, "test": 0}
    assert result["verdict"] == NOT_LEARNED and result["val_accuracy"] == 0.5
    assert "classes look alike" in result["verdict_sentence"]


def test_three_images_a_class_are_too_few(finetune: Path) -> None:
    for path in (finetune.parent / "images").glob("*/*.png"):
        if int(path.stem) > 2:
            path.unlink()
    result = train(finetune, "train.val_fraction=0.3", "train.lr=3e-4", "train.max_epochs=40")
    assert result["verdict"] == NOT_LEARNED
    assert "too few images (2 to train on in the smallest class" in result["verdict_sentence"]


def test_a_learning_rate_of_10(finetune: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for shade, name in enumerate(COLOURS):  # near enough that what a network knows is needed
        for path in (finetune.parent / "images" / name).glob("*.png"):
            grey = rng.normal(100 + 25 * shade, 60, (40, 50, 3))
            Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)
    result = train(finetune, "train.lr=10", "train.max_epochs=20")
    assert "train.lr: 10 is far from 0.00014" in capsys.readouterr().out
    assert result["verdict"] == NOT_LEARNED, result["verdict_sentence"]
    assert "the learning rate 10 is too high" in result["verdict_sentence"]


def test_a_run_that_diverges_leaves_a_verdict(finetune: Path) -> None:
    with pytest.raises(UserError, match="not learned: the loss is not finite"):
        train(finetune, "train.lr=1e30", "train.optim=sgd", "train.clip_grad=null")
    assert summary(finetune)["verdict"] == NOT_LEARNED


def test_held_out_images_are_kept_apart(finetune: Path) -> None:
    config, _ = load_config(finetune, ["train.test_fraction=0.25", "train.val_fraction=0.25"])
    parts = [{s.sha256 for s in load_split(config.train).part(p)} for p in ("train", "val", "test")]
    assert [len(part) for part in parts] == [36, 18, 18]
    assert len(set.union(*parts)) == 72
    result = train(finetune, "train.test_fraction=0.25", "train.lr=3e-4", "train.max_epochs=30")
    assert result["verdict_numbers"]["part"] == "test"
    low, high = result["test_interval"]
    assert low <= result["test_accuracy"] <= high and high - low > 0.1


# ------------------------------------------------------------- averages, layers, mixtures, classes


def net_and_job(**options: Any) -> Job:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    settled = TrainConfig(**{"mode": "pretrained", **options}).settled(images=6)
    return Job(net, net, settled, [0, 1, 2] * 2, 3, CPU)


def test_the_average_is_that_of_the_steps() -> None:
    job = net_and_job(ema=0.9, lr=1e-2)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
    seen = []
    for _ in range(12):
        job.step(images, labels)
        seen.append(job.net.norm.weight.detach().clone())
    expected = torch.zeros_like(seen[0])
    for step, weight in enumerate(seen, 1):
        expected = torch.lerp(expected, weight, max(0.1, 1 / step))
    with job.average.in_place():
        torch.testing.assert_close(job.net.norm.weight.detach(), expected)
    assert torch.equal(job.net.norm.weight, seen[-1]), "training goes on from the weights"


def test_an_averaged_run_resumes_exactly(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["train.ema=0.9", "train.max_epochs=4"]
    training.main(["--config", str(config_file), *options, "train.run_name=whole"])
    training.main(["--config", str(config_file), *options[:1], "train.max_epochs=2"])
    config = config_file.parent / "logs/tiny/config.yaml"
    last = torch.load(config_file.parent / "weights/tiny/last.pt", weights_only=True)
    assert last["average"]["steps"] == 8 and last["average"]["values"]
    best, _ = read_arrays(config_file.parent / "weights/tiny/best.safetensors")
    assert not torch.equal(best["norm.weight"], last["model"]["norm.weight"])
    # The schedule of 4 epochs is not that of 2, so only what was restored is compared.
    job = net_and_job(mode="scratch", ema=0.9)
    job.load_state_dict(last, Run("tiny", "logs", "weights"))
    for value, saved in zip(job.average.values, last["average"]["values"], strict=True):
        assert torch.equal(value, saved)
    assert config.exists()


def test_layers_decay_towards_the_patches() -> None:
    job = net_and_job(layer_decay=0.5, lr=1.0)
    names = {id(p): n for n, p in job.net.named_parameters()}
    rates = {
        names[id(p)]: group["initial_lr"]
        for group in job.optimizer.param_groups
        for p in group["params"]
    }
    assert rates["head.weight"] == rates["norm.bias"] == 1
    assert rates["blocks.1.attn.qkv.weight"] == 0.5 and rates["blocks.0.norm1.bias"] == 0.25
    assert {rates[n] for n in ("pos_embed", "cls_token", "patch_embed.proj.weight")} == {0.125}
    assert job.optimizer.param_groups[0]["initial_lr"] == 1, "the one that is logged"


def test_mixtures_have_the_shares_of_their_images() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
    mix = build_mix(TrainConfig(mode="scratch", mixup=0.2, cutmix=0.5), 3)
    assert mix is not None
    mixed, shares = mix(images, labels)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    assert torch.allclose(shares.sum(1), torch.ones(6)) and shares.max() < 1
    assert build_mix(TrainConfig(mode="scratch", mixup=0.0, cutmix=0.0), 3) is None
    loss, right, _ = net_and_job(mode="scratch").gradients(images, labels)
    assert math.isfinite(loss) and 0 <= right <= 6


def test_balanced_classes_count_the_same_in_the_loss() -> None:
    settled = TrainConfig(class_weights="balanced", label_smoothing=0.0).settled(6)
    criterion = build_criterion(settled, [0, 0, 0, 0, 0, 1], 2)
    logits = torch.zeros(6, 2, requires_grad=True)
    criterion(logits, torch.tensor([0, 0, 0, 0, 0, 1])).backward()
    by_class = logits.grad[:, 0]  # type: ignore[index]
    assert by_class[:5].sum().item() == pytest.approx(-by_class[5].item())


def test_a_balanced_sampler_shows_each_class_equally_often() -> None:
    labels = [0] * 20 + [1] * 3 + [2]
    sampler = EpochSampler(24, seed=0, balance=labels)
    indices = [index for index, _ in sampler]
    assert np.bincount(np.array(labels)[indices]).tolist() == [8, 8, 8]
    rare = [i for i in indices if labels[i] == 1]
    assert {rare.count(i) for i in (20, 21, 22)} == {2, 3}, "all, before any comes again"
    sampler.epoch = 2
    assert [index for index, _ in sampler] != indices


@pytest.mark.parametrize("option", ["train.balanced_sampler=true", "train.class_weights=balanced"])
def test_balance_trains_from_cached_tokens_too(finetune: Path, option: str) -> None:
    for path in (finetune.parent / "images" / "red").glob("1?.png"):
        path.unlink()
    result = train(finetune, option, "train.lr=1e-3", "train.max_epochs=10")
    assert result["val_balanced_accuracy"] > 0.5


def test_shuffled_labels_are_dealt_evenly() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 20)[torch.randperm(80)]
    given = dealt(labels)
    assert torch.equal(given.bincount(), labels.bincount())
    shares = torch.stack([given[labels == c].bincount(minlength=3) for c in range(3)])
    even = torch.tensor([[20, 10, 10], [10, 5, 5], [10, 5, 5]])
    assert (shares - even).abs().max() <= 1
    assert not torch.equal(dealt(labels), given), "another one each time"


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


def test_two_cores_try_settings_as_one_does(finetune: Path) -> None:
    config, _ = load_config(finetune, ["train.max_epochs=4", "train.lr=2e-4"])
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
        torch.set_num_threads(threads)
        try:
            bar = tqdm(disable=True)
            trials = try_settings(net, grid, loader, folds, train_, 10, CPU, bar)
        finally:
            torch.set_num_threads(1)
        found.append([trial.mean_loss for trial in trials])
    assert found[0][:4] == pytest.approx(found[1][:4], rel=1e-4)
    assert len(set(found[0])) == 5
