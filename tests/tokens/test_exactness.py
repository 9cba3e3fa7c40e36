"""Training on cached tokens is training: the same weights, the same losses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrained
from config import ViTConfig
from dataset import make_loaders
from engine.metrics_log import read_metrics
from metrics import evaluate
from model import VisionTransformer
from pretrained.build import FOUND
from pretrained.read import read_arrays
from tests.helpers import CPU, REPO, logits, picture, prepared, train

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["train.views=2"],
        ["train.finetune_blocks=0"],
        ["train.finetune_blocks=2", "train.views=3"],
        ["train.finetune_blocks=4"],
        ["vit.dropout=0.2", "vit.attention_dropout=0.2"],
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_cached_and_uncached_training_are_the_same(
    finetune: Path, losses: list[float], options: list[str]
) -> None:
    for cache in ("on", "off"):
        train(finetune, f"train.cache={cache}", f"train.run_name=cache-{cache}", *options)
    cached, plain = losses[: len(losses) // 2], losses[len(losses) // 2 :]
    assert len(cached) == 3 * 4
    assert cached == pytest.approx(plain, rel=1e-5)
    assert max(plain) - min(plain) > 0.01, "it did train"
    torch.testing.assert_close(
        logits(finetune, "cache-on"), logits(finetune, "cache-off"), rtol=1e-4, atol=1e-4
    )
    both = [
        read_metrics(finetune.parent / f"logs/{x}/metrics.csv") for x in ("cache-on", "cache-off")
    ]
    for name in ("val_loss", "train_loss", "grad_norm_mean"):
        expected = pytest.approx([row[name] for row in both[1]], rel=1e-4)
        assert [row[name] for row in both[0]] == expected


@pytest.mark.slow
def test_cached_and_uncached_b16_give_the_same_logits(
    finetune: Path, image_folder: Path, losses: list[float]
) -> None:
    for path in [p for p in image_folder.glob("*/*.png") if int(p.stem) > 3]:
        path.unlink()
    torch.manual_seed(0)
    weights = finetune.parent / "b16.safetensors"
    pretrained.save_model(weights, VisionTransformer(ViTConfig(num_classes=7, gelu="tanh")))
    options = [f"train.checkpoint={weights}", "train.max_epochs=2", "train.val_fraction=0.5"]
    for cache in ("on", "off"):
        train(finetune, *options, f"train.cache={cache}", f"train.run_name=cache-{cache}")
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-5)
    cached, plain = (logits(finetune, f"cache-{x}", *options[2:]) for x in ("on", "off"))
    assert cached.shape == (6, 3) and plain.abs().max() > 0.01
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-4)


def test_half_precision_changes_little(finetune: Path, losses: list[float]) -> None:
    for dtype in ("float16", "float32"):
        train(finetune, f"train.cache_dtype={dtype}", f"train.run_name={dtype}")
    half, single = losses[:12], losses[12:]
    assert half == pytest.approx(single, rel=5e-3) and half != single


def test_the_cached_run_is_an_ordinary_one(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune)
    logs, weights = finetune.parent / "logs" / "tiny", finetune.parent / "weights" / "tiny"
    assert {"metrics.csv", "curves.png", "summary.json", "split.csv", "config.yaml"} <= {
        path.name for path in logs.iterdir()
    }
    result = json.loads((logs / "summary.json").read_text())
    assert result["cache_seconds"] > 0 and result["best_epoch"] > 0
    before = pretrained.read(finetune.parent / "random.safetensors").state
    after, _ = read_arrays(weights / "best.safetensors")
    changed = {n for n in after if n not in before or not torch.equal(after[n], before[n])}
    assert changed == {n for n in after if n.startswith(("blocks.3.", "norm.", "head.", *FOUND))}
    config, split, _ = prepared(finetune)
    net = pretrained.load_model(weights / "best.safetensors")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    scores = evaluate(net, loaders["val"], CPU)
    assert scores["accuracy"] == result["val_accuracy"]
    assert scores["loss"] == pytest.approx(result["val_loss"], rel=1e-4)


def test_dropout_and_a_test_part(finetune: Path, image_folder: Path) -> None:
    for part, numbers in (("train", range(12)), ("test", range(20, 24))):
        for name in ("blue", "green", "red"):
            (image_folder / part / name).mkdir(parents=True)
            for i in numbers:
                picture(name, i).save(image_folder / part / name / f"{i}.png")
    for name in ("blue", "green", "red"):
        shutil.rmtree(image_folder / name)
    train(finetune, "vit.dropout=0.1", "vit.attention_dropout=0.1")
    result = json.loads((finetune.parent / "logs/tiny/summary.json").read_text())
    assert result["images"]["test"] == 12 and 0 <= result["test_accuracy"] <= 1


@pytest.mark.slow
def test_a_compiled_tail_trains_the_same(finetune: Path) -> None:
    train(finetune, "train.run_name=plain", "train.max_epochs=1")
    # In a process of its own: inductor refuses to start once anything has imported distutils.
    command = [sys.executable, str(REPO / "training.py"), "--config", str(finetune)]
    options = ["train.run_name=compiled", "train.max_epochs=1", "train.compile=true"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = finetune.parent / "logs"
    plain, compiled = (
        json.loads((logs / run / "summary.json").read_text()) for run in ("plain", "compiled")
    )
    assert compiled["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-3)
