"""The loop: what a run leaves behind, stopping and going on, the sanity check, and its errors."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import FIXTURES, REPO, TINY_VIT, picture
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_config import OLD_FILE
from torch import Tensor

import pretrained
import training
import utils
from config import ConfigError, TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split, make_loaders
from engine.job import Job, build_optimizer, build_scheduler
from engine.overfit import repeated_batch
from engine.run import COLUMNS, MetricsLog, read_metrics
from metrics import evaluate
from model import VisionTransformer
from pretrained.build import build_for
from pretrained.read import read_arrays
from utils import UserError


def train(config_file: Path, *overrides: str) -> int:
    return training.main(["--config", str(config_file), *overrides])


def fail(config_file: Path, *overrides: str) -> str:
    with pytest.raises((UserError, ConfigError)) as caught:
        train(config_file, *overrides)
    return str(caught.value)


def without_vit(config_file: Path) -> None:
    """Leave the architecture to the weights."""
    raw = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({"train": raw["train"]}))


def summary(config_file: Path, run: str = "tiny") -> dict[str, Any]:
    return json.loads((config_file.parent / "logs" / run / "summary.json").read_text())


# ---------------------------------------------------------------------------------------- a run


def test_what_a_run_leaves_behind(config_file: Path) -> None:
    assert train(config_file) == 0
    logs, weights = config_file.parent / "logs" / "tiny", config_file.parent / "weights" / "tiny"
    names = {path.name for path in logs.iterdir() if "tfevents" not in path.name}
    assert names == {
        *("config.yaml", "curves.png", "metrics.csv", "predictions.csv", "run.log", "split.csv"),
        "summary.json",
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


def test_every_held_out_image_and_what_the_network_says_of_it(config_file: Path) -> None:
    train(config_file, "train.test_fraction=0.25", "train.max_epochs=2")
    folder = config_file.parent / "logs" / "tiny"
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "split.csv", newline="") as file:
        split = {r["path"]: r for r in csv.DictReader(file) if r["part"] != "train"}
    assert {r["path"] for r in rows} == set(split) and len(rows) == len(split)
    result = summary(config_file)
    for part in ("val", "test"):
        mine = [r for r in rows if r["part"] == part]
        assert all(split[r["path"]]["part"] == part for r in mine)
        assert all(split[r["path"]]["label"] == r["label"] for r in mine)
        right = sum(r["label"] == r["predicted"] for r in mine)
        assert right / len(mine) == pytest.approx(result[f"{part}_accuracy"], abs=1e-6)
        loss = sum(-math.log(float(r["label_probability"])) for r in mine) / len(mine)
        assert loss == pytest.approx(result[f"{part}_loss"], rel=1e-4)
    assert all(
        (r["label"] == r["predicted"]) == (r["probability"] == r["label_probability"]) for r in rows
    )


def test_what_tensorboard_shows_beside_the_curves(config_file: Path) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    train(config_file)
    events = EventAccumulator(str(config_file.parent / "logs" / "tiny")).Reload()
    assert {"confusion", "predictions"} <= set(events.Tags()["images"])
    with Image.open(io.BytesIO(events.Images("predictions")[0].encoded_image_string)) as image:
        assert min(image.size) > 200
    assert events.Scalars("reached/val_accuracy")[0].value == pytest.approx(
        summary(config_file)["val_accuracy"]
    )
    metadata = events.SummaryMetadata("_hparams_/session_start_info")
    start = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    told = start.session_start_info.hparams
    assert told["train.lr"].number_value == pytest.approx(1e-3)
    assert told["vit.hidden_dim"].number_value == 48


def test_a_report_that_fails_does_not_fail_the_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = subprocess.CompletedProcess([], 2, "", "Traceback\nerror: no room for it\n")
    asked: list[list[str]] = []

    def no_report(command: list[str], **options: Any) -> Any:
        asked.append(command)
        return failed

    monkeypatch.setattr("engine.outcome.subprocess.run", no_report)
    monkeypatch.setattr("engine.outcome.git_commit", lambda: None)
    assert train(config_file, "train.report=true", "train.max_epochs=1") == 0
    assert asked[0][1:] == ["-m", "tools.report", str(config_file.parent / "logs" / "tiny")]
    assert "no report.html: no room for it" in capsys.readouterr().out


def test_the_best_checkpoint_scores_what_the_summary_says(config_file: Path) -> None:
    train(config_file, "train.max_epochs=4", "train.lr=3e-3")
    result = summary(config_file)
    net = pretrained.load_model(config_file.parent / "weights" / "tiny" / "best.safetensors")
    assert net.classes == ("blue", "green", "red")
    config, _ = load_config(config_file)
    split = load_split(config.train)
    cpu = torch.device("cpu")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, cpu)
    scores = evaluate(net, loaders["val"], cpu)
    assert scores["accuracy"] == result["val_accuracy"]
    assert scores["loss"] == pytest.approx(result["val_loss"], rel=1e-5)


def test_a_run_is_repeatable(config_file: Path) -> None:
    train(config_file, "train.run_name=a")
    train(config_file, "train.run_name=b")
    a, b = (read_arrays(config_file.parent / f"weights/{x}/best.safetensors")[0] for x in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_test_part_is_scored_once_at_the_end(config_file: Path, image_folder: Path) -> None:
    for part, numbers in (("train", range(12)), ("test", range(20, 24))):
        for name in ("blue", "green", "red"):
            (image_folder / part / name).mkdir(parents=True)
            for i in numbers:
                picture(name, i).save(image_folder / part / name / f"{i}.png")
    for name in ("blue", "green", "red"):
        for path in (image_folder / name).iterdir():
            path.unlink()
        (image_folder / name).rmdir()
    train(config_file)
    result = summary(config_file)
    assert result["images"]["test"] == 12 and 0 <= result["test_accuracy"] <= 1


def test_finetune_changes_the_last_block_and_head_only(config_file: Path) -> None:
    weights = FIXTURES / "google_tiny.npz"
    without_vit(config_file)
    train(config_file, "train.mode=finetune", f"train.checkpoint={weights}")
    before = pretrained.read(weights).state
    after, _ = read_arrays(config_file.parent / "weights/tiny/best.safetensors")
    changed = {n for n in after if n not in before or not torch.equal(after[n], before[n])}
    assert changed == {n for n in after if n.startswith(("blocks.1.", "norm.", "head."))}


# -------------------------------------------------------------------------- stopping and going on


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in rows]


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "adamw-8bit"])
def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str
) -> None:
    name, _, eight_bit = optimiser.partition("-")
    options = [f"train.optim={name}", f"train.use_bitsandbytes={bool(eight_bit)}"]
    options += ["train.max_epochs=5", "train.save_epoch=2", "vit.ff_dim=128", "vit.hidden_dim=64"]
    train(config_file, "train.run_name=whole", *options)

    original, calls = Job.step, iter(range(1000))

    def stop_in_epoch_4(*args: Any) -> Any:
        if next(calls) == 3 * 4 + 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Job, "step", stop_in_epoch_4)
    with pytest.raises(
        KeyboardInterrupt, match="stopped with 3 epochs done; go on with: python training"
    ):
        train(config_file, "train.run_name=stopped", *options)
    monkeypatch.setattr(Job, "step", original)
    config = config_file.parent / "logs/stopped/config.yaml"
    train(config, "train.from_checkpoint=true")

    logs, weights = config_file.parent / "logs", config_file.parent / "weights"
    files = [[p.name for p in (logs / r).iterdir()] for r in ("whole", "stopped")]
    kinds = [sorted("events" if "tfevents" in n else n for n in names) for names in files]
    assert kinds[0] == kinds[1]
    rows = [without_clocks(read_metrics(logs / r / "metrics.csv")) for r in ("whole", "stopped")]
    assert rows[0] == rows[1]
    for file in ("best.safetensors", "last.pt"):
        whole, stopped = (read_arrays(weights / r / file)[0] for r in ("whole", "stopped"))
        assert all(torch.equal(whole[n], stopped[n]) for n in whole)
    both = [summary(config_file, r) for r in ("whole", "stopped")]
    for result in both:
        del result["seconds"], result["images_per_second"]
    assert both[0] == both[1]
    events = [
        EventAccumulator(str(logs / r)).Reload().Scalars("train/loss") for r in ("whole", "stopped")
    ]
    assert [(e.step, e.value) for e in events[0]] == [(e.step, e.value) for e in events[1]]


def test_ctrl_c_between_the_row_and_the_checkpoint_keeps_both(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MetricsLog.write

    def stopped(self: MetricsLog, best_epoch: int, **row: Any) -> None:
        original(self, best_epoch, **row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsLog, "write", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped with 2 epochs done"):
        train(config_file)
    last = torch.load(config_file.parent / "weights/tiny/last.pt", weights_only=True)
    rows = read_metrics(config_file.parent / "logs/tiny/metrics.csv")
    assert last["progress"]["epoch"] == 2 == rows[-1]["epoch"]


def test_ctrl_c_in_the_real_program(config_file: Path) -> None:
    command = [sys.executable, str(REPO / "training.py"), "--config", str(config_file)]
    process = subprocess.Popen(
        [*command, "train.max_epochs=5000", "train.save_epoch=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    last_file = config_file.parent / "weights/tiny/last.pt"
    deadline = time.monotonic() + 120
    while not last_file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "go on with: python training.py --config" in errors
    last = torch.load(last_file, weights_only=True)
    assert last["progress"]["epoch"] >= 1


def test_a_finished_run_goes_on_with_more_epochs(config_file: Path) -> None:
    train(config_file, "train.max_epochs=2")
    train(config_file, "train.from_checkpoint=true", "train.max_epochs=3")
    assert summary(config_file)["epochs"] == 3


def test_going_on_uses_the_split_of_the_run(config_file: Path, image_folder: Path) -> None:
    train(config_file, "train.max_epochs=1")
    split = (config_file.parent / "logs/tiny/split.csv").read_text()
    picture("red", 77).save(image_folder / "red" / "new.png")
    train(config_file, "train.from_checkpoint=true", "train.max_epochs=2", "train.seed=5")
    assert (config_file.parent / "logs/tiny/split.csv").read_text() == split


def test_resuming_what_does_not_fit(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    own = config_file.parent / "logs/tiny/config.yaml"
    before = own.read_text()
    options = ["train.from_checkpoint=true", "vit.ff_dim=64"]
    assert "does not fit this config" in fail(config_file, *options)
    assert own.read_text() == before, "the way to go on is still there"
    assert "is not a run under" in fail(config_file, "train.from_checkpoint=elsewhere/tiny")
    none = config_file.parent / "logs/none"
    assert "no run to go on with" in fail(config_file, f"train.from_checkpoint={none}")


def test_last_pt_is_a_whole_model_too(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1", "vit.gelu=tanh")
    last = pretrained.load_model(config_file.parent / "weights/tiny/last.pt")
    best = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors")
    assert last.vit == best.vit and last.vit.gelu == "tanh" and last.classes == best.classes
    assert last.preprocessing == best.preprocessing


def test_early_stopping_waits_for_its_patience(config_file: Path) -> None:
    train(config_file, "train.lr=1e-9", "train.max_epochs=50", "train.early_stopping=3")
    result = summary(config_file)
    assert result["epochs"] - result["best_epoch"] == 3 and result["epochs"] < 50


def test_eval_epoch_leaves_cells_empty(config_file: Path) -> None:
    train(config_file, "train.eval_epoch=2")
    rows = read_metrics(config_file.parent / "logs/tiny/metrics.csv")
    assert [row["val_loss"] is None for row in rows] == [True, False, False]


# --------------------------------------------------------------------------- optimiser, schedule


def net_with_head(**vit: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(**{**TINY_VIT, **vit}, num_classes=3))


def settled(**options: Any) -> TrainConfig:
    return TrainConfig(**{"mode": "scratch", **options}).settled(images=6)


def job(net: VisionTransformer, **options: Any) -> Job:
    return Job(net, net, settled(**options), [0, 1, 2] * 2, 3, torch.device("cpu"))


IMAGES, LABELS = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
NO_MIX = {"mixup": 0.0, "cutmix": 0.0}


def test_weight_decay_is_for_matrices_only() -> None:
    net = net_with_head()
    optimizer = build_optimizer(net, settled(weight_decay=0.1))
    names = {id(p): name for name, p in net.named_parameters()}
    rest, decayed = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert decayed | rest == set(names.values()) and not decayed & rest
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= rest
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.1]


def rates(**options: Any) -> list[float]:
    settings = settled(**{"lr": 1.0, "max_epochs": 10, "warmup_epochs": 2, **options})
    optimizer = build_optimizer(net_with_head(), settings)
    scheduler = build_scheduler(optimizer, settings, steps=50)
    found = []
    for _ in range(50):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_warmup_cosine_is_stepped_per_batch() -> None:
    lr = rates()
    assert lr[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert lr[10] == 1 and lr[30] == pytest.approx(0.5) and lr[50] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in zip(lr[10:], lr[11:], strict=False))


def test_wsd_is_stable_then_decays() -> None:
    lr = rates(scheduler_type="wsd", decay_epochs=4)
    assert set(lr[10:31]) == {1.0} and lr[40] == pytest.approx(0.5) and lr[50] == 0
    assert rates(scheduler_type="wsd")[40] == 1 and rates(scheduler_type="wsd")[45] == 0.5


@pytest.mark.parametrize(("name", "cls"), [("adamw", "AdamW8bit"), ("sgd", "SGD8bit")])
def test_8_bit_optimisers_learn(name: str, cls: str) -> None:
    options = {
        "optim": name,
        "use_bitsandbytes": True,
        "lr": 1e-2,
        "label_smoothing": 0.0,
        "warmup_epochs": 0,
    }
    learning = job(net_with_head(hidden_dim=128), **options, **NO_MIX)
    optimizer = learning.optimizer
    assert type(optimizer).__name__ == cls
    losses = []
    for _ in range(25):
        losses.append(learning.gradients(IMAGES, LABELS)[0])
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    states = {
        s.dtype for v in optimizer.state.values() for s in v.values() if isinstance(s, Tensor)
    }
    assert torch.uint8 in states, "the large matrices' moments are in 8 bits"


def test_without_bitsandbytes_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    utils.setup_log()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    optimizer = build_optimizer(net_with_head(), settled(use_bitsandbytes=True))
    assert type(optimizer) is torch.optim.AdamW
    assert "using the 32-bit optimiser" in capsys.readouterr().out


def test_clipping_bounds_the_step() -> None:
    net = net_with_head()
    _, _, norm = job(net, clip_grad=0.01).gradients(IMAGES, LABELS)
    total = math.sqrt(
        sum(float(p.grad.norm()) ** 2 for p in net.parameters() if p.grad is not None)
    )
    assert norm > 0.01 and total == pytest.approx(0.01, rel=1e-3)


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


def test_evaluation_is_without_dropout_and_restores_the_mode(config_file: Path) -> None:
    config, _ = load_config(config_file, ["vit.dropout=0.5"])
    split = load_split(config.train)
    net = build_for(config, split.classes)
    torch.nn.init.normal_(net.head.weight)  # type: ignore[arg-type]
    cpu = torch.device("cpu")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, cpu)
    net.train()
    first, second = (evaluate(net, loaders["val"], cpu) for _ in range(2))
    assert first == second and net.training


def test_classes_without_images_do_not_count_in_the_balanced_accuracy() -> None:
    logits = torch.eye(3)[[0, 0, 1, 2]]  # the last answer is a class that has no images
    batches: Any = [(logits, torch.tensor([0, 0, 1, 1]))]
    scores = evaluate(torch.nn.Identity(), batches, torch.device("cpu"))
    assert scores["accuracy"] == 0.75 and scores["balanced_accuracy"] == 0.75


# -------------------------------------------------------------------------------- overfit one batch


@pytest.mark.parametrize("mode", ["scratch", "pretrained", "finetune"])
def test_overfit_passes(config_file: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    if mode != "scratch":
        without_vit(config_file)
    options = ["overfit_one_batch.overfit=true", "train.lr=2e-3", f"train.mode={mode}"]
    assert train(config_file, *options, f"train.checkpoint={FIXTURES / 'google_tiny.npz'}") == 0
    assert "PASS after" in capsys.readouterr().out
    assert summary(config_file)["overfit"] == "PASS"
    names = {path.name for path in (config_file.parent / "logs/tiny").iterdir()}
    assert {"metrics.csv", "summary.json", "config.yaml", "curves.png", "run.log"} <= names


def test_overfit_fails_where_the_labels_change(
    config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = repeated_batch

    def shuffled(*args: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in original(*args):
            yield images, labels[torch.randperm(len(labels))]

    monkeypatch.setattr(training, "repeated_batch", shuffled)
    assert train(config_file, "overfit_one_batch.overfit=true", "train.batch_size=20") == 1
    out = capsys.readouterr().out
    assert "FAIL after 200 steps" in out and "the labels may change from step to step" in out


def test_overfit_names_a_learning_rate_that_is_too_low(config_file: Path, capsys: Any) -> None:
    options = ["overfit_one_batch.overfit=true", "overfit_one_batch.max_steps=20"]
    assert train(config_file, *options, "train.lr=1e-8") == 1
    assert "lr 1e-08 may be far off" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ errors


def test_an_existing_run_is_never_overwritten(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    before = (config_file.parent / "logs/tiny/metrics.csv").read_bytes()
    assert "exists: go on with it by --config" in fail(config_file)
    assert (config_file.parent / "logs/tiny/metrics.csv").read_bytes() == before


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


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), utils.replacing(path) as temporary:
        temporary.write_text("half")
        raise Stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


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


# ---------------------------------------------------------------------------------------- --check


def test_check_says_what_would_be_done_and_does_nothing(
    config_file: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "red" / "notes.txt").write_text("x")
    assert train(config_file, "--check", "train.lr=2e-3") == 0
    out = capsys.readouterr().out
    for part in (
        "lr: 0.002",
        "48,291 in all, 48,291 train (mode scratch)",
        "notes.txt: no image by its extension",
        "steps: 4 an epoch, 12 in 3 epochs",
        "memory: about",
    ):
        assert part in out
    assert "".join(out.split()).find("red1020") > 0
    assert not (config_file.parent / "logs").exists()
    train(config_file, "train.max_epochs=1")
    assert train(config_file, "--check") == 0, "also beside a run of that name"


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
