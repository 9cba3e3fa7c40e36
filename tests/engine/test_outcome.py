"""The end of a run: scores, predictions, events, the report."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pretrained
from config_file import load_config
from dataset import load_split, make_loaders
from engine.outcome import Clock
from metrics import evaluate, predict
from tests.helpers import CPU, picture, summary, train


def test_every_held_out_image_and_what_the_network_says_of_it(config_file: Path) -> None:
    train(config_file, "train.test_fraction=0.25", "train.max_epochs=2")
    folder = config_file.parent / "logs" / "tiny"
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "split.csv", newline="") as file:
        split = {r["path"]: r for r in csv.DictReader(file) if r["part"] != "train"}
    assert {r["path"] for r in rows} == set(split) and len(rows) == len(split)
    result = summary(config_file)
    net = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors")
    assert net.certainty is not None
    train_config = load_config(config_file, ["train.test_fraction=0.25"])[0].train
    loaders = make_loaders(load_split(train_config), train_config, net.preprocessing, 3, CPU)
    for part in ("val", "test"):
        logits, labels = predict(net, loaders[part], CPU)
        assert F.cross_entropy(logits, labels).item() == pytest.approx(result[f"{part}_loss"])
        mine = [r for r in rows if r["part"] == part]
        assert all(split[r["path"]]["part"] == part for r in mine)
        assert all(split[r["path"]]["label"] == r["label"] for r in mine)
        right = sum(r["label"] == r["predicted"] for r in mine)
        assert right / len(mine) == pytest.approx(result[f"{part}_accuracy"], abs=1e-6)
        loss = sum(-math.log(float(r["label_probability"])) for r in mine) / len(mine)
        calibrated = F.cross_entropy(logits / net.certainty.temperature, labels)
        assert loss == pytest.approx(calibrated.item(), rel=1e-4)
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
    asked: list[list[str]] = []
    threads: list[str] = []

    def no_report(command: list[str], env: dict[str, str]) -> tuple[int, str]:
        asked.append(command)
        threads.append(env["OMP_WAIT_POLICY"])
        return 2, "Traceback\nerror: no room for it\n"

    monkeypatch.setattr("engine.outcome._waited_for", no_report)
    monkeypatch.setattr("engine.outcome.git_commit", lambda: None)
    assert train(config_file, "train.report=true", "train.max_epochs=1") == 0
    assert threads == ["passive"], "beside another program busy ones take five times as long"
    assert "'tools.report'" in asked[0][2]
    assert asked[0][3:] == [str(config_file.parent / "logs" / "tiny")]
    assert "no report.html: no room for it" in capsys.readouterr().out
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    train(config_file, "train.report=true", "train.max_epochs=1", "train.run_name=next")
    assert threads[1] == "active", "what the user says, stays"


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


def test_phases_at_the_same_time_share_it_by_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 12.0, 13.0, 14.0])
    monkeypatch.setattr("engine.outcome.time.perf_counter", lambda: next(now))
    clock = Clock({})
    clock.lap("cache")
    clock.lap_of({"verdict": 300, "refit": 700})
    clock.lap("verdict")
    clock.lap_of({"verdict": 0, "refit": 0})  # a head over layers answers alone
    assert clock.seconds == {"cache": 2.0, "verdict": 4.0, "refit": 7.0}
