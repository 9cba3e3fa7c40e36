"""The loop: what a run leaves behind, options that train, and errors in one sentence."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import images
import pretrained
import training
import utils
from config import ConfigError, ViTConfig
from config_file import load_config
from dataset import load_split
from engine.job import Job
from engine.metrics_log import COLUMNS, read_metrics
from model import VisionTransformer
from pretrained.read import read_arrays
from tests.helpers import FIXTURES, REPO, fail, picture, reached, summary, train, without_vit
from tests.test_config_file import OLD_FILE
from tokens.plan import known_files


def test_what_a_run_leaves_behind(config_file: Path) -> None:
    assert train(config_file) == 0
    logs, weights = config_file.parent / "logs" / "tiny", config_file.parent / "weights" / "tiny"
    names = {path.name for path in logs.iterdir() if "tfevents" not in path.name}
    assert names == {
        *("config.yaml", "curves.png", "metrics.csv", "predictions.csv", "run.log", "split.csv"),
        *("summary.json", "checksums.json", "began.json"),
    }
    assert {path.name for path in weights.iterdir()} == {"best.safetensors", "last.pt"}

    rows = read_metrics(logs / "metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3] and tuple(rows[0]) == COLUMNS
    assert all(value is not None for row in rows for value in row.values())
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] < 1.3

    result = summary(config_file)
    best = rows[result["best_epoch"] - 1]
    assert result["mode"] == "scratch" and result["test_accuracy"] is None
    assert result["val_accuracy"] == best["val_accuracy"] == max(r["val_accuracy"] for r in rows)
    assert result["images"] == {"train": 30, "val": 6, "test": 0}
    assert {"seconds", "images_per_second", "parameters", "weights", "versions"} <= set(result)

    events = EventAccumulator(str(logs)).Reload()
    logged = [scalar.value for scalar in events.Scalars("val/accuracy")]
    assert logged == pytest.approx([row["val_accuracy"] for row in rows])


def test_a_run_is_repeatable(config_file: Path) -> None:
    train(config_file, "train.run_name=a")
    train(config_file, "train.run_name=b")
    a, b = (read_arrays(config_file.parent / f"weights/{x}/best.safetensors")[0] for x in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("head", ["class", "both"])
def test_finetune_changes_the_last_block_and_head_only(config_file: Path, head: str) -> None:
    weights = FIXTURES / "google_tiny.npz"
    without_vit(config_file)
    train(config_file, "train.mode=finetune", f"train.checkpoint={weights}", f"train.head={head}")
    before = pretrained.read(weights).state
    after, _ = read_arrays(config_file.parent / "weights/tiny/best.safetensors")
    changed = {n for n in after if n not in before or not torch.equal(after[n], before[n])}
    own = ("blocks.1.", "norm.", "head.", "certainty.", *(["layers."] if head == "both" else []))
    assert changed == {n for n in after if n.startswith(own)}


@pytest.mark.slow
def test_early_stopping_waits_for_its_patience(config_file: Path) -> None:
    train(config_file, "train.lr=1e-9", "train.max_epochs=50", "train.early_stopping=3")
    result = summary(config_file)
    assert result["epochs"] - result["best_epoch"] == 3 and result["epochs"] < 50


def test_eval_epoch_leaves_cells_empty(config_file: Path) -> None:
    train(config_file, "train.eval_epoch=2")
    rows = read_metrics(config_file.parent / "logs/tiny/metrics.csv")
    assert [row["val_loss"] is None for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    "option", ["train.bf16=true", "train.scheduler_type=wsd", "vit.input_channels=1"]
)
def test_options_train(config_file: Path, option: str) -> None:
    assert train(config_file, option) == 0
    assert summary(config_file)["val_accuracy"] > 0.3


@pytest.mark.slow
def test_compile_trains_the_same(config_file: Path) -> None:
    # Inductor draws its own dropout masks, so there is none here.
    same = ["train.max_epochs=1", "vit.dropout=0"]
    train(config_file, "train.run_name=plain", *same)
    # In a process of its own: inductor refuses to start once anything has imported distutils.
    command = [sys.executable, str(REPO / "training.py"), "--config", str(config_file)]
    options = ["train.run_name=compiled", "train.compile=true"]
    done = subprocess.run([*command, *same, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, compiled = (summary(config_file, name)["val_loss"] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Job.gradients, iter(range(1000))

    def nan_in_epoch_2(*args: Any) -> Any:
        loss, right, norm = original(*args)
        return (math.nan if next(calls) == 5 else loss), right, norm

    monkeypatch.setattr(Job, "gradients", nan_in_epoch_2)
    message = fail(config_file)
    for part in ("loss is not finite at step 2 of epoch 2 (lr 0.00", "last good checkpoint is"):
        assert part in message
    arrays, _ = read_arrays(config_file.parent / "weights/tiny/last.pt")
    assert all(bool(array.isfinite().all()) for array in arrays.values())


def test_a_learning_rate_that_explodes(config_file: Path) -> None:
    message = fail(config_file, "train.lr=1e30", "train.optim=sgd", "train.clip_grad=null")
    assert "not finite at step" in message and "lower train.lr" in message


def test_no_disk_space(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils.shutil, "disk_usage", lambda p: type("U", (), {"free": 1000}))
    assert "no disk space for" in fail(config_file)
    assert not list((config_file.parent / "weights").glob("*/*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.base_dir=/no/where"], "/no/where: no such folder"),
        (["vit.num_classes=4"], "vit.num_classes is 4, but"),
        (["train.mode=finetune", "train.checkpoint=none.npz"], "none.npz: no such weights"),
        (["train.lrr=1"], "train.lrr: no such key; did you mean lr?"),
        (["train.lr"], "an override is written section.key=value"),
    ],
)
def test_the_program_answers_in_one_sentence(
    config_file: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(config_file), *overrides]
    assert utils.command_line(lambda: training.main(argv), ConfigError) == 2
    assert message in capsys.readouterr().err


def b16_npz(path: Path) -> None:
    """A file of Google's layout and of B/16's size, with random values."""
    import numpy as np

    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(num_classes=3, gelu="tanh"))
    np.savez(path, **{k: v.numpy() for k, v in pretrained.export(net, "google").items()})


@pytest.mark.slow
def test_the_first_versions_file_still_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged but for its two paths, and for one epoch instead of fifty."""
    for name in "abcde":
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            picture("red", ord(name) * 10 + i).save(tmp_path / "images" / name / f"{i}.png")
    b16_npz(tmp_path / "w.npz")
    text = OLD_FILE.replace("Data-Dir", str(tmp_path / "images"))
    (tmp_path / "old.yaml").write_text(text.replace("Pretrained-Weights", str(tmp_path / "w.npz")))
    monkeypatch.chdir(tmp_path)
    options = ["train.max_epochs=1", "train.warmup_epochs=0", "train.report=false"]
    assert train(Path("old.yaml"), *options) == 0
    out = capsys.readouterr().out
    assert "is the old way to write train.mode: pretrained" in out
    assert torch.cuda.is_available() or "cuda is not on this machine; using" in out
    assert "vit.eps: 1e-05 is not what the weights were trained with; using 1e-06" in out
    result = json.loads(next((tmp_path / "logs").glob("*/summary.json")).read_text())
    assert result["mode"] == "pretrained"
    assert result["parameters"] == {"total": 85_802_501, "trainable": 85_802_501}


@pytest.mark.parametrize("option", ["train.balanced_sampler=true", "train.class_weights=balanced"])
def test_balance_trains_from_cached_tokens_too(untuned: Path, option: str) -> None:
    for path in (untuned.parent / "images" / "red").glob("1?.png"):
        path.unlink()
    result = reached(untuned, option, "train.lr=1e-3", "train.max_epochs=10")
    assert result["val_balanced_accuracy"] > 0.5


@pytest.mark.usefixtures("new_files_are_remembered")
def test_without_room_the_pictures_are_decoded_once(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = load_config(finetune)
    index = known_files(config.train)
    index.update(load_split(config.train, known=index).samples)
    reads: list[Any] = []
    original = images._decoded
    monkeypatch.setattr(images, "_decoded", lambda *read: reads.append(read) or original(*read))
    monkeypatch.setattr("tokens.plan.MOST_OF_FREE", 0)
    train(finetune)
    assert len(reads) == 36


def test_a_run_of_some_classes_goes_on_with_them(config_file: Path) -> None:
    assert train(config_file, "train.classes=[red,blue]", "train.max_epochs=1") == 0
    logs = config_file.parent / "logs" / "tiny"
    rows = csv.DictReader((logs / "split.csv").read_text().splitlines())
    assert {row["label"] for row in rows} == {"red", "blue"}
    assert train(logs / "config.yaml", "train.from_checkpoint=true", "train.max_epochs=2") == 0
    assert summary(config_file)["epochs"] == 2


@pytest.mark.slow
def test_any_name_under_an_ascii_locale(config_file: Path) -> None:
    images = config_file.parent / "images"
    (images / "red").rename(images / "café")
    os.rename(os.fsencode(images / "blue"), os.fsencode(images) + b"/blu\xe9")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, str(REPO / "training.py"), "--config", str(config_file), "--check"]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, cwd=REPO)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert {b"caf\\xe9", b"blu\\xe9", b"green"} <= set(done.stdout.split())
