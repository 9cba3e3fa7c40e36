"""What is kept, stopping, and going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pretrained
import training
from dataset import make_loaders
from engine import metrics_log
from engine.checkpoint import Progress
from engine.job import SEARCH, Job
from engine.metrics_log import MetricsLog, read_metrics
from engine.run import Run
from engine.stop import resumable
from metrics import evaluate
from pretrained.read import read_arrays
from tests.engine.test_job import net_and_job
from tests.helpers import (
    CPU,
    REPO,
    fail,
    picture,
    prepared,
    random_weights,
    summary,
    train,
    without_clocks,
)
from utils import UserError


def test_a_stop_before_the_first_epoch_says_what_is_kept(tmp_path: Path) -> None:
    run = Run.create("stopped", str(tmp_path / "logs"), str(tmp_path / "weights"), "images")
    with run:
        run.open()
        for kept in ("what is in the token cache", "the settings that were found,"):
            with (
                pytest.raises(KeyboardInterrupt, match=rf"no epoch done \(.*{kept}.* stays\)"),
                resumable(run, Progress(), 5),
            ):
                raise KeyboardInterrupt
            (run.folder / SEARCH).touch()


@pytest.mark.usefixtures("new_files_are_remembered")
def test_stopped_and_resumed(finetune: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["train.max_epochs=5", "train.views=2", "vit.dropout=0.1"]
    train(finetune, "train.run_name=whole", *options)
    original, calls = Job.step, iter(range(1000))

    def stop_in_epoch_4(*args: Any) -> Any:
        if next(calls) == 3 * 4 + 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Job, "step", stop_in_epoch_4)
    with pytest.raises(KeyboardInterrupt, match="stopped with 3 epochs and 2 steps done; go on"):
        train(finetune, "train.run_name=stopped", *options)
    # Less than half a minute has gone by, so this was written because of the stop alone.
    last = torch.load(finetune.parent / "weights/stopped/last.pt", weights_only=True)
    assert last["progress"]["epoch"] == 3 and last["progress"]["position"]["steps"] == 2
    monkeypatch.setattr(Job, "step", original)
    train(finetune.parent / "logs/stopped/config.yaml", "train.from_checkpoint=true")
    weights = finetune.parent / "weights"
    kept = (read_arrays(weights / r / "best.safetensors")[0] for r in ("whole", "stopped"))
    last = (torch.load(weights / r / "last.pt")["model"] for r in ("whole", "stopped"))
    for whole, stopped in (kept, last):
        assert whole.keys() == stopped.keys()
        assert all(torch.equal(whole[n], stopped[n]) for n in whole)


@pytest.mark.usefixtures("new_files_are_remembered")
def test_the_best_network_is_that_of_the_best_epoch(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is written later: at the end, or with a later epoch."""
    for save in ("auto", "2", "3"):
        accuracies = iter((0.2, 0.9, 0.5, 0.4, 0.3))
        rows: list[dict[str, float]] = []

        def scored(*args: Any, accuracies: Any = accuracies, rows: Any = rows) -> dict[str, float]:
            rows.append(evaluate(*args) | {"accuracy": next(accuracies)})
            return rows[-1]

        monkeypatch.setattr(training, "evaluate_together", scored)
        run = f"save-{save}"
        train(
            finetune,
            "train.max_epochs=5",
            f"train.save_epoch={save}",
            f"train.run_name={run}",
            "train.keep=best",
        )
        config, split, _ = prepared(finetune)
        net = pretrained.load_model(finetune.parent / f"weights/{run}/best.safetensors")
        loader = make_loaders(split, config.train, net.preprocessing, 3, CPU)["val"]
        loss = evaluate(net, loader, CPU)["loss"]
        assert loss == pytest.approx(rows[1]["loss"], rel=1e-4)
        assert loss != pytest.approx(rows[4]["loss"], rel=1e-2)


@pytest.mark.usefixtures("new_files_are_remembered")
def test_another_trunk_is_not_trained_on(finetune: Path) -> None:
    train(finetune, "train.max_epochs=1")
    other = random_weights(finetune.parent / "other.safetensors", seed=1)
    options = [f"train.checkpoint={other}", "train.from_checkpoint=true", "train.max_epochs=2"]
    with pytest.raises(UserError, match="began with other weights than .*other.safetensors holds"):
        train(finetune, *options)
    (finetune.parent / "logs/tiny/began.json").unlink()  # as an older version leaves it
    with pytest.raises(UserError, match="goes on from other frozen weights than train.checkpoint"):
        train(finetune, *options)


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.slow
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
        KeyboardInterrupt,
        match="stopped with 3 epochs and 2 steps done; go on with: python training",
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


def test_metrics_csv_is_not_written_anew_for_each_short_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,200 epochs of 20 pictures took twice as long as their steps; the rows are all there at the
    end, and those of long epochs at once."""
    clock, written = [0.0], []
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: clock[0])
    original = metrics_log.write_csv

    def counted(path: Path, rows: Any, *rest: Any, **more: Any) -> None:
        written.append(len(rows))
        clock[0] += 0.1  # so that five seconds are a fiftieth
        original(path, rows, *rest, **more)

    monkeypatch.setattr(metrics_log, "write_csv", counted)
    monkeypatch.setattr(metrics_log, "plot_curves", lambda *_: None)
    with MetricsLog(tmp_path, metrics_log.COLUMNS) as log:
        for epoch in range(1, 301):
            clock[0] += 0.02
            log.write(None, epoch=epoch, val_accuracy=0.1)
        assert len(written) == 2 and 250 < written[1] < 260
        clock[0] += 60
        log.write(None, epoch=301, val_accuracy=None)
        assert written[2:] == [301] and log.last_accuracy == 0.1
        log.write(None, epoch=302, val_accuracy=0.2)
    assert written[2:] == [301, 302]
    assert [row["epoch"] for row in read_metrics(tmp_path / "metrics.csv")] == [*range(1, 303)]


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


@pytest.mark.slow
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
    assert "go on with: python training.py --resume" in errors
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
    train(config_file, "train.from_checkpoint=true", "train.max_epochs=2")
    assert (config_file.parent / "logs/tiny/split.csv").read_text() == split


def test_resuming_what_does_not_fit(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    own = config_file.parent / "logs/tiny/config.yaml"
    before = own.read_text()
    options = ["train.from_checkpoint=true", "vit.ff_dim=64"]
    assert "vit.ff_dim: 96 -> 64: that would be another run" in fail(config_file, *options)
    assert own.read_text() == before, "the way to go on is still there"
    assert "is not a run under" in fail(config_file, "train.from_checkpoint=elsewhere/tiny")
    none = config_file.parent / "logs/none"
    assert "no run to go on with" in fail(config_file, f"train.from_checkpoint={none}")


def test_last_pt_holds_what_trains_and_no_more(finetune: Path) -> None:
    train(finetune, "train.lr=1e-3", "train.head=class")
    file = finetune.parent / "weights/tiny/last.pt"
    last = torch.load(file, weights_only=True)
    names = {name.partition(".")[0] for name in last["model"]}
    assert names == {"blocks", "norm", "head"}
    assert {name.split(".")[1] for name in last["model"] if name.startswith("blocks")} == {"3"}
    assert file.stat().st_size < file.with_name("best.safetensors").stat().st_size * 1.5
    with pytest.raises(UserError, match=r"only what trains.* its network is .*best.safetensors"):
        pretrained.load_model(file)


def test_last_pt_is_a_whole_model_where_all_of_it_trains(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1", "vit.gelu=tanh")
    last = pretrained.load_model(config_file.parent / "weights/tiny/last.pt")
    best = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors")
    assert last.vit == best.vit and last.vit.gelu == "tanh" and last.classes == best.classes
    assert last.preprocessing == best.preprocessing


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
