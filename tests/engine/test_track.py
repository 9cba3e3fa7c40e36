"""Where numbers go beside metrics.csv: real wandb and MLflow, offline, and trackers that fail."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import Config
from engine import track
from engine.job import Job
from engine.metrics_log import read_metrics
from engine.track import Tracker, check_tracker, scalars, settings_of, tracking
from tests.helpers import fail, summary, train
from utils import UserError


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with MLflow's tables, which take it two seconds to make."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_store(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """MLflow's client on a store of its own."""
    import mlflow

    before = mlflow.get_tracking_uri()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def the_run(client: Any) -> Any:
    (experiment,) = [e for e in client.search_experiments() if e.name == track.PROJECT]
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_mlflow_holds_settings_epochs_and_what_was_reached(
    config_file: Path, mlflow_store: Any
) -> None:
    assert train(config_file, "train.track=mlflow") == 0
    run, reached = the_run(mlflow_store), summary(config_file)
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params["train.lr"] == "0.001" and run.data.params["vit.num_layers"] == "2"
    assert run.data.tags["verdict"] == reached["verdict_sentence"]
    assert run.data.metrics["reached/val_accuracy"] == reached["val_accuracy"]
    assert list((config_file.parent / "logs/tiny").glob("events.out.tfevents.*")), "beside it"
    rows = read_metrics(config_file.parent / "logs/tiny/metrics.csv")
    for name in ("train/loss", "val/accuracy", "lr", "grad/norm_mean"):
        column = name.replace("/", "_", 1)
        history = mlflow_store.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(r["epoch"], r[column]) for r in rows]


def test_a_stopped_run_goes_on_as_the_same_one(
    config_file: Path, mlflow_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Job.step, iter(range(1000))

    def stop_in_epoch_2(*args: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Job, "step", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt, match="go on with"):
        train(config_file, "train.track=mlflow")
    assert the_run(mlflow_store).info.status == "KILLED"
    monkeypatch.setattr(Job, "step", original)
    train(config_file, "train.track=mlflow", "train.from_checkpoint=true")
    run = the_run(mlflow_store)
    history = mlflow_store.get_metric_history(run.info.run_id, "train/loss")
    assert run.info.status == "FINISHED" and [m.step for m in history] == [1, 2, 3]


@pytest.mark.parametrize("after_sending", [False, True])
def test_whenever_it_is_stopped_nothing_is_missing_there_or_twice(
    tmp_path: Path, mlflow_store: Any, monkeypatch: pytest.MonkeyPatch, after_sending: bool
) -> None:
    original, calls = track.MLflow.epoch, iter(range(1000))

    def stop(self: Any, row: Any) -> None:
        second = next(calls) == 1
        if second and not after_sending:
            raise KeyboardInterrupt
        original(self, row)
        if second:
            raise KeyboardInterrupt

    rows = [{"epoch": epoch, "train_loss": 1.0} for epoch in (1, 2, 3)]
    monkeypatch.setattr(track.MLflow, "epoch", stop)
    with pytest.raises(KeyboardInterrupt), tracking("mlflow", tmp_path) as tracker:
        for row in rows:
            tracker.epoch(row)
    with tracking("mlflow", tmp_path, goes_on=True) as tracker:
        for row in rows:
            tracker.epoch(row)
    run = the_run(mlflow_store)
    steps = [m.step for m in mlflow_store.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [1, 2, 3] and run.info.status == "FINISHED"


def test_one_stopped_before_its_settings_were_sent_has_them_then(
    tmp_path: Path, mlflow_store: Any
) -> None:
    with pytest.raises(KeyboardInterrupt), tracking("mlflow", tmp_path) as tracker:
        raise KeyboardInterrupt
    with tracking("mlflow", tmp_path, goes_on=True) as tracker:
        tracker.settings({"train.lr": 0.5})
    run = the_run(mlflow_store)
    assert run.data.params == {"train.lr": "0.5"} and run.info.status == "FINISHED"


def test_a_run_that_starts_over_is_a_new_one_there(config_file: Path, mlflow_store: Any) -> None:
    """Its first rows are not those that were sent."""
    train(config_file, "train.track=mlflow", "train.max_epochs=2")
    shutil.rmtree(config_file.parent / "weights/tiny")
    train(config_file, "train.track=mlflow", "train.from_checkpoint=true", "train.lr=2e-3")
    (experiment,) = [e for e in mlflow_store.search_experiments() if e.name == track.PROJECT]
    found = mlflow_store.search_runs([experiment.experiment_id])
    assert {run.data.params["train.lr"] for run in found} == {"0.001", "0.002"}


def test_what_wandb_surely_has_is_noted_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends in the background: what was handed over is not there where a run was killed."""
    sent: list[int] = []
    monkeypatch.setattr(Broken, "epoch", lambda self, row: sent.append(row["epoch"]))
    monkeypatch.setitem(track.TRACKERS, "wandb", Broken)
    rows = [{"epoch": epoch} for epoch in (1, 2, 3)]
    noted = []
    for upto in (1, 2, 3):
        with tracking("wandb", tmp_path, goes_on=True) as tracker:
            for row in rows[:upto]:
                tracker.epoch(row)
            noted.append(track.read_identity(tmp_path, "wandb"))
            if upto == 2:  # killed: it is never closed
                monkeypatch.setattr(Broken, "close", lambda self, status: 1 / 0)
        monkeypatch.setattr(Broken, "close", lambda self, status: None)
    assert sent == [1, 2, 1, 2, 3], "after the first, nothing twice; after the second, all again"
    assert noted == [("x", 0)] * 3 and track.read_identity(tmp_path, "wandb") == ("x", 3)


@pytest.mark.slow
def test_a_tracker_that_is_added_to_a_run_is_told_what_was_before(
    config_file: Path, mlflow_store: Any
) -> None:
    train(config_file, "train.max_epochs=2")
    train(config_file, "train.from_checkpoint=true", "train.track=mlflow")
    run = the_run(mlflow_store)
    steps = [m.step for m in mlflow_store.get_metric_history(run.info.run_id, "val/accuracy")]
    assert steps == [1, 2, 3]


def test_a_run_that_is_gone_from_the_server(tmp_path: Path, mlflow_store: Any) -> None:
    file = tmp_path / track.IDENTITY
    file.write_text(json.dumps({"mlflow": {"run": "f" * 32, "epochs": 1}}))
    said = re.escape(f"{file} names its run there: without that file it is a new one")
    with pytest.raises(UserError, match=said), tracking("mlflow", tmp_path, goes_on=True):
        pass
    file.unlink()
    with tracking("mlflow", tmp_path, goes_on=True):
        assert file.exists()


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"mlflow": "x"}', '{"mlflow": {}}'])
def test_what_is_not_an_identity_begins_a_new_run(tmp_path: Path, content: str) -> None:
    (tmp_path / track.IDENTITY).write_text(content)
    assert track.read_identity(tmp_path, "mlflow") == (None, 0)


def test_two_trackers_know_their_runs_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(track.TRACKERS, name, Broken)
        with tracking(name, tmp_path):
            pass
    assert set(json.loads((tmp_path / track.IDENTITY).read_text())) == {"wandb", "mlflow"}


def test_a_server_that_is_gone_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: Any
) -> None:
    """Not after the 4 minutes of its own 7 tries; the user's own number stays."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with tracking("mlflow", tmp_path):
        assert RETRIES.get() <= 2
    assert RETRIES.get() > 2, "what else the process asks for waits as ever"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with tracking("mlflow", tmp_path):
        assert RETRIES.get() == 5


def test_a_run_that_diverges_failed_there_too(config_file: Path, mlflow_store: Any) -> None:
    with pytest.raises(UserError, match="not finite"):
        train(config_file, "train.track=mlflow", "train.lr=1e18", "train.clip_grad=null")
    assert the_run(mlflow_store).info.status == "FAILED"


@pytest.mark.slow
def test_wandb_offline(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own file format is its own affair: the values are taken where they are handed over."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    logged: list[dict[str, Any]] = []
    original = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run,
        "log",
        lambda self, row, step: logged.append(row) or original(self, row, step=step),
    )
    assert train(config_file, "train.track=wandb") == 0
    logs = config_file.parent / "logs/tiny"
    (file,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 60  # its own process writes, and may end a little later
    while file.stat().st_size < 1000 and time.monotonic() < until:
        time.sleep(0.1)
    assert file.stat().st_size > 1000
    known = json.loads((logs / "track.json").read_text())["wandb"]
    assert known["run"] in file.name and known["epochs"] == 3
    assert logged == [
        {"epoch": r["epoch"], **scalars(r)} for r in read_metrics(logs / "metrics.csv")
    ]
    assert f"tracked by wandb: {logs}" in (logs / "run.log").read_text()


def test_the_settings_are_those_that_were_used() -> None:
    config = Config()
    used = config.train.model_copy(update={"lr": 0.25, "max_epochs": 7})
    found = settings_of(config, used)
    assert (found["train.lr"], found["train.max_epochs"], found["vit.patch_dim"]) == (0.25, 7, 16)
    assert not any(key.startswith("overfit") for key in found)


class Broken(Tracker):
    """Opens, and fails from then on."""

    identity, where, sent = "x", "nowhere", None
    calls: list[str] = []

    def __init__(self, *args: Any) -> None:
        Broken.calls = []

    def epoch(self, row: dict[str, Any]) -> None:
        Broken.calls.append("epoch")
        raise ConnectionError("the server is gone\nand more")

    def close(self, status: str) -> None:
        Broken.calls.append("close")


def test_a_tracker_that_fails_does_not_fail_the_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(track.TRACKERS, "wandb", Broken)
    assert train(config_file, "train.track=wandb") == 0
    said = "train.track: wandb failed (the server is gone); the run goes on without it"
    assert capsys.readouterr().out.count(said) == 1 and Broken.calls == ["epoch", "close"]
    assert summary(config_file)["epochs"] == 3


def test_one_that_can_not_be_opened_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("api_key not configured\n  long explanation")

    monkeypatch.setitem(track.TRACKERS, "wandb", refuse)
    with (
        pytest.raises(
            UserError,
            match=r"wandb can't be used \(api_key not configured\); set it up, or add .*=null, and "
            "go on with: python training.py --resume .*",
        ),
        tracking("wandb", tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_without_the_library_the_remedy_is_said_before_anything_is_read(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda x, *rest: None if x == name else original(x, *rest)
    )
    said = fail(config_file, f"train.track={name}")
    assert said == f"train.track: {name} is not installed: pip install {name}"
    assert not (config_file.parent / "logs").exists()
    check_tracker(None)


def test_tensorboard_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"logs\xe9")
    folder.mkdir()
    events = track.TensorBoard(folder, [])
    events.epoch({"epoch": 1, "train_loss": 0.5})
    events.close()
    (file,) = folder.glob("events.out.tfevents.*")
    assert file.stat().st_size > 100
