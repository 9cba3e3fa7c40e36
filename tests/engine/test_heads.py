"""The head over layers: solved for, scored, judged, kept, gone on with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import test as look
from config import ConfigError, ViTConfig
from config_file import load_config
from dataset import load_split, make_loaders
from engine.heads import read_depths, said_by_layer, together, told_apart_from
from engine.job import Job, Setting
from engine.metrics_log import read_metrics
from engine.verdict import verdict
from model import VisionTransformer
from pretrained import load_model
from tests.helpers import CPU, TINY_VIT, fail, picture, prepared, quick, summary, train
from tokens.builder import open_cache
from tokens.plan import Plan


def images_of(config_file: Path, part: str) -> tuple[Tensor, Tensor]:
    config, _ = load_config(config_file)
    split = load_split(config.train)
    net = load_model(config_file.parent / "weights/tiny/best.safetensors")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    images, labels = zip(*loaders[part], strict=True)
    return torch.cat(images), torch.cat(labels)


def kept(config_file: Path, run: str = "tiny") -> VisionTransformer:
    return load_model(config_file.parent / f"weights/{run}/best.safetensors").eval()


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained."""
    monkeypatch.setattr(Job, "step", lambda *args: pytest.fail("a step was taken"))


def test_layers_alone_are_solved_for(finetune: Path, no_step: None) -> None:
    """From images to the saved file: it answers for images what the run scored on tokens."""
    assert train(finetune, "train.head=layers", "train.verdict=true") == 0
    found, net = summary(finetune), kept(finetune)
    assert net.layers is not None and net.layers.blocks == (2, 3) and not net.vit.num_classes
    images, labels = images_of(finetune, "val")
    with torch.no_grad():
        right = (net(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(found["val_accuracy"]) and right > 0.9
    assert found["verdict_numbers"]["shuffled_labels"] < 0.8
    assert (found["epochs"], found["head"], found["lr"]) == (0, "layers", None)
    assert found["left_out_accuracy"] > 0.9
    assert found["parameters"]["trainable"] == 3 * ((2 * 2 + 9) * 48 + 1)
    assert not read_metrics(finetune.parent / "logs/tiny/metrics.csv")


def test_no_rate_is_blamed_where_none_was_used(finetune: Path) -> None:
    """The labels are noise: it is not for the learning rate, which the config names."""
    for i, file in enumerate(sorted((finetune.parent / "images").glob("*/*.png"))):
        other = file.parents[1] / ("red", "green", "blue")[i % 3] / f"x{i}.png"
        file.rename(other)
    train(finetune, "train.head=layers", "train.verdict=true", "train.lr=1")
    found = summary(finetune)
    assert found["verdict"] != "learned" and "rate" not in found["verdict_sentence"]


def test_of_many_pictures_one_view_is_enough(
    finetune: Path, seen: list[int], no_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.FEW", 0)
    train(finetune, "train.head=layers", "train.views=auto")
    assert sum(seen) == 36


def test_both_answer_with_the_mean(finetune: Path) -> None:
    """Of the layers' and the block's, the latter as sure as it was right of held-out pictures."""
    options = ("train.views=2", "train.lr=1e-3")
    assert train(finetune, "train.head=both", *options) == 0
    train(finetune, "train.head=class", "train.run_name=class", *options)
    train(finetune, "train.head=layers", "train.run_name=layers", *options)
    both, block, layers = (kept(finetune, run) for run in ("tiny", "class", "layers"))
    images, _ = images_of(finetune, "val")
    with torch.no_grad():
        assert both.layers is not None
        sure = (both.layers.scale * block(images)).softmax(1)
        mean = (sure + layers(images).softmax(1)) / 2
        torch.testing.assert_close(both(images).softmax(1), mean, rtol=1e-3, atol=1e-4)
    assert summary(finetune)["epochs"] == 3


def test_the_head_over_layers_is_a_rival_of_both(finetune: Path) -> None:
    """As it would answer alone; where it does as well, the sentence says so."""
    options = ("train.views=1", "train.lr=1e-3", "train.verdict=true")
    train(finetune, "train.head=both", *options)
    train(finetune, "train.head=layers", "train.run_name=layers", *options)
    numbers = summary(finetune)["verdict_numbers"]
    assert numbers["layers_head"] == pytest.approx(summary(finetune, "layers")["val_accuracy"])
    assert "layers_head" not in summary(finetune, "layers")["verdict_numbers"]
    worse = numbers | {"accuracy": 0.8, "interval": [0.7, 0.9], "images": 90, "layers_head": 0.95}
    worse |= {"nearest_neighbours": 0.6, "logistic_regression": 0.7}
    worse["against"] = {"layers_head": {"only_network": 2, "only_rival": 16, "p": 0.001}}
    said = verdict(worse, 1e-3, 1e-3)["verdict_sentence"]
    assert (
        "the head over layers alone 0.950" in said
        and "that head may do (train.head=layers)" in said
    )


def test_the_search_says_how_sure_the_block_is(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    train(finetune, "train.head=both", "train.lr=auto")
    net, setting = kept(finetune), Setting.read(finetune.parent / "logs/tiny/search.csv")
    assert net.layers is not None and setting is not None
    assert net.layers.scale.item() == pytest.approx(setting.scale) and setting.scale != 1
    assert summary(finetune)["chosen"]["scale"] == setting.scale


def test_what_each_block_tells_is_kept(finetune: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a table, a picture and a sentence."""
    train(finetune, "train.head=layers")
    with open(finetune.parent / "logs/tiny/layers.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert [row["block"] for row in rows] == [1, 2, 3]
    assert all(row["low"] <= row["left_out_accuracy"] <= row["high"] for row in rows)
    assert max(row["left_out_accuracy"] for row in rows) > 0.8
    assert Image.open(finetune.parent / "logs/tiny/layers.png").width > 500
    first = told_apart_from(rows)
    said = capsys.readouterr().out
    assert f"by layer: block {first} " in said and "tells the classes apart" in said
    assert "layers.png" in said


def test_where_nothing_can_be_left_out_nothing_is_said_of_it(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class with one training picture, or one and its copy: a fit without can't know it."""
    for file in sorted((finetune.parent / "images/red").iterdir())[3:]:
        file.unlink()
    picture("red", 0).save(finetune.parent / "images/red/01.png")
    train(finetune, "train.head=layers")
    said = capsys.readouterr().out
    assert "by layer" not in said and "left out" not in said
    assert summary(finetune)["left_out_accuracy"] is None
    assert not (finetune.parent / "logs/tiny/layers.png").exists()


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "words"),
    [
        (0.4, 0.25, 0.5, "no block alone is better than a guess, 0.333 (best: block 1, 0.400)"),
        (
            *(0.8, 0.5, 0.95),
            "too few pictures to say which block first tells the classes apart (best: block 1, "
            "0.800, 0.500 to 0.950)",
        ),
    ],
)
def test_what_no_block_tells_is_said(
    accuracy: float,
    low: float,
    high: float,
    words: str,
    finetune: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"block": 1, "left_out_accuracy": accuracy, "low": low, "high": high}
    monkeypatch.setattr("engine.outcome.by_layer", lambda *args: [row])
    train(finetune, "train.head=layers")
    assert f"by layer: {words}" in capsys.readouterr().out


def test_from_which_block_on_the_classes_are_told_apart() -> None:
    """The first that is within the interval of the best."""
    accuracies = (0.3, 0.7, 0.88, 0.95, 0.9)
    rows = [
        {"block": block, "left_out_accuracy": a, "low": a - 0.08, "high": a + 0.03}
        for block, a in enumerate(accuracies, 1)
    ]
    assert told_apart_from(rows) == 3 and told_apart_from(rows[:1]) == 1
    assert said_by_layer(rows, 0.2) == (
        "block 3 is the first that tells the classes apart as well as any (best: block 4, 0.950, "
        "within its uncertainty)"
    )
    assert said_by_layer(rows[:1], 0.2) == "block 1 tells the classes apart, 0.300, and none before"
    few = {"block": 1, "left_out_accuracy": 0.75, "low": 0.3, "high": 0.95}
    assert told_apart_from([few]) is None


@pytest.mark.slow
@pytest.mark.parametrize("head", ["layers", "both"])
def test_what_auto_came_to_is_kept(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """In search.csv: a run that goes on does not choose anew."""
    quick(monkeypatch)
    monkeypatch.setattr("engine.look.leads", lambda *args: head == "layers")
    train(finetune, "train.head=auto", "train.lr=auto", "train.views=1")
    best = finetune.parent / "weights/tiny/best.safetensors"
    whole = best.read_bytes()
    assert summary(finetune)["head"] == head and (kept(finetune).vit.num_classes > 0) == (
        head == "both"
    )
    monkeypatch.setattr("engine.look.leads", lambda *args: pytest.fail("again"))
    best.unlink()
    (best.parent / "last.pt").unlink(missing_ok=True)
    train(
        finetune, "train.head=auto", "train.lr=auto", "train.views=1", "train.from_checkpoint=true"
    )
    assert best.read_bytes() == whole


def test_a_named_rate_is_tried_too_where_the_kind_of_head_is_free(finetune: Path) -> None:
    train(finetune, "train.head=auto", "train.lr=1e-3")
    found = summary(finetune)
    assert found["head"] in ("layers", "both") and kept(finetune).layers is not None
    with open(finetune.parent / "logs/tiny/search.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["lr"]) == 1e-3 and row["head"] == found["head"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["layers", "both"])
def test_a_run_that_goes_on_ends_the_same(
    finetune: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop as after its end: the same file, byte for byte."""
    options = (f"train.head={head}", "train.lr=1e-3")
    train(finetune, *options)
    best = finetune.parent / "weights/tiny/best.safetensors"
    whole = best.read_bytes()
    train(finetune, *options, "train.from_checkpoint=true")
    assert best.read_bytes() == whole
    best.unlink()
    if head == "both":
        (best.parent / "last.pt").unlink()
        original, calls = Job.step, iter(range(1000))

        def stop_in_epoch_2(*args: Any) -> Any:
            if next(calls) == 5:
                raise KeyboardInterrupt
            return original(*args)

        with monkeypatch.context() as patched:
            patched.setattr(Job, "step", stop_in_epoch_2)
            with pytest.raises(KeyboardInterrupt):
                train(finetune, *options, "train.from_checkpoint=true")
    train(finetune, *options, "train.from_checkpoint=true")
    assert best.read_bytes() == whole


def test_copies_are_left_out_together(finetune: Path) -> None:
    """They share their part, too: all three train."""
    red = finetune.parent / "images/red"
    for name in ("x.png", "y.png"):
        picture("red", 3).save(red / name)
    config, split, net = prepared(finetune, "train.views=1")
    wanted = Plan(net, split, config.train)
    loaders: Any = open_cache(wanted, net, config.train, CPU).loaders(
        wanted, split, config.train, CPU
    )
    samples = split.part("train")
    (group,) = together(loaders["train"].groups)
    assert {samples[i].path.name for i in group.tolist()} == {"03.png", "x.png", "y.png"}


def test_which_blocks_are_read() -> None:
    """The later half of those that stay frozen; what enters the last is the last."""
    for layers, frozen, wanted in (
        (12, 12, [6, 7, 8, 9, 10, 11]),
        (12, 11, [6, 7, 8, 9, 10, 11]),
        (12, 10, [6, 7, 8, 9, 10]),
        (2, 1, [1]),
        (1, 1, []),
    ):
        net = VisionTransformer(ViTConfig(**{**TINY_VIT, "num_layers": layers, "num_classes": 3}))
        net.freeze_trunk(frozen)
        assert read_depths(net) == wanted


def test_training_begins_without_the_head_of_the_weights(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "train.head=layers")
    best = finetune.parent / "weights/tiny/best.safetensors"
    capsys.readouterr()
    train(finetune, f"train.checkpoint={best}", "train.run_name=next", "train.views=1")
    assert "the head over layers is left out" in capsys.readouterr().out
    assert kept(finetune, "next").layers is None


@pytest.mark.slow
@pytest.mark.parametrize("head", ["layers", "both"])
def test_test_py_looks_at_such_a_run(
    finetune: Path, head: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, f"train.head={head}", "train.lr=1e-3")
    own = ["--config", str(finetune.parent / "logs/tiny/config.yaml")]
    capsys.readouterr()
    assert look.main([*own, "--checkpoint", str(finetune.parent / "weights/tiny")]) in (0, 1)
    said = capsys.readouterr().out
    assert ("no class head: a fresh one takes its place" in said) is (head == "layers")
    assert ("the head is kept" in said) is (head == "both")


def test_what_it_does_not_go_with(finetune: Path) -> None:
    for option in ("train.mode=pretrained", "train.cache=off"):
        with pytest.raises(ConfigError, match="train.head: layers is fitted to cached tokens"):
            load_config(finetune, ["train.head=layers", option])
    assert "'first' is not class or layers or both or auto" in fail(finetune, "train.head=first")
    said = fail(finetune, "train.head=both", "train.finetune_blocks=3")
    assert said == (
        "train.head: both reads the later half of the blocks, 3 to 4 of 4, as far as they are "
        "frozen; train.finetune_blocks=1 leaves some"
    )
