"""Going on from the middle of an epoch, and the loaders that do."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dataset import make_loaders
from engine.checkpoint import Keeper
from engine.job import Job
from engine.metrics_log import read_metrics
from engine.position import Position
from pretrained.read import read_arrays
from tests.helpers import CPU, picture, prepared, random_weights, train, without_clocks
from tokens.builder import open_cache
from tokens.plan import Plan
from transforms import EpochSampler


def test_a_position_is_read_back_as_it_was() -> None:
    position = Position(3, seconds=1.5)
    for step in range(4):
        position.take(0.1 * step, 5, 1 / 3, 8)
    position.leave_out()
    again = Position.read(position.state_dict())
    assert again == position and again.steps == 5 and again.row(0.1) == position.row(0.1)
    assert position.row(0.1)["train_loss"] == pytest.approx(0.15)
    assert position.row(0.1)["train_accuracy"] == 5 / 8


def test_each_step_draws_its_own_numbers_whatever_was_before() -> None:
    def drawn(steps: int) -> tuple[float, ...]:
        Position(2, steps).seed(7)
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    first, second = drawn(0), drawn(1)
    torch.rand(5)
    assert drawn(0) == first and not set(first) & set(second)


@pytest.mark.parametrize("balance", [None, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]])
def test_an_order_goes_on_where_it_was(balance: list[int] | None) -> None:
    sampler = EpochSampler(10, 3, None, balance)
    sampler.begin(5)
    whole = list(sampler)
    sampler.begin(5, 4)
    assert list(sampler) == whole[4:] and len(sampler) == 10
    sampler.begin(5, 12)
    assert list(sampler) == []
    sampler.begin(5)
    assert list(sampler) == whole


def test_both_loaders_begin_at_a_batch(finetune: Path) -> None:
    config, split, net = prepared(finetune)
    plan = Plan(net, split, config.train)
    tokens = open_cache(plan, net, config.train, CPU).loaders(plan, split, config.train, CPU)
    images = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    for loader in (tokens["train"], images["train"]):
        sampler: Any = loader.sampler
        sampler.begin(2)
        whole = [(getattr(x, "tokens", x), y) for x, y in loader]
        for batches in (2, len(whole)):
            sampler.begin(2, batches * config.train.batch_size)
            rest = [(getattr(x, "tokens", x), y) for x, y in loader]
            assert len(rest) == len(whole) - batches
            pairs = zip(whole[batches:], rest, strict=True)
            assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


class Stop(Exception):
    """Stands for a process that is killed: nothing is saved any more."""


MODES: dict[str, dict[str, Any]] = {
    "scratch": {"mode": "scratch", "mixup": 0.5, "cutmix": 0.5, "ema": 0.9, "optim": "adamw"},
    "eight bits": {"mode": "scratch", "use_bitsandbytes": True, "optim": "adamw"},
    "sgd": {"mode": "scratch", "optim": "sgd", "balanced_sampler": True},
    "pretrained": {"mode": "pretrained"},
    "class": {"mode": "finetune", "head": "class", "views": 2, "ema": 0.5},
    "both": {"mode": "finetune", "head": "both", "views": 1, "refit": True},
    "images": {"mode": "finetune", "cache": "off", "head": "class"},
}


QUICK = [("scratch", "stopped"), ("class", "killed")]
CASES = [
    pytest.param(mode, how, marks=[] if (mode, how) in QUICK else [pytest.mark.slow])
    for mode in MODES
    for how in ("stopped", "killed")
]


@pytest.mark.usefixtures("new_files_are_remembered")
@pytest.mark.parametrize(("mode", "how"), CASES)
def test_a_run_from_the_middle_of_an_epoch_ends_like_a_whole_one(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, mode: str, how: str
) -> None:
    ends_alike(config_file, monkeypatch, MODES[mode], how)


def ends_alike(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], how: str
) -> None:
    """Train whole, and with a stop in the second epoch: all numbers are the same."""
    home = config_file.parent
    raw = yaml.safe_load(config_file.read_text())
    quick = {"data": str(home / "data"), "verdict": False, "save_steps": 1, "max_epochs": 2}
    raw["train"] |= quick | keys
    if keys["mode"] != "scratch":
        raw["train"]["checkpoint"] = str(random_weights(home / "w.safetensors"))
        raw["vit"] = {"dropout": 0.1}
    config_file.write_text(yaml.safe_dump(raw))
    train(config_file, "train.run_name=whole")
    original = Job.step

    def stop_in_epoch_2(*args: Any) -> Any:
        position = args[3] if len(args) > 3 else None
        if position is not None and (position.epoch, position.steps) == (2, 3):
            raise KeyboardInterrupt if how == "stopped" else Stop
        return original(*args)

    monkeypatch.setattr(Job, "step", stop_in_epoch_2)
    if how == "killed":
        monkeypatch.setattr(Keeper, "__exit__", lambda *args: None)
    with pytest.raises((KeyboardInterrupt, Stop)):
        train(config_file, "train.run_name=parts")
    monkeypatch.undo()
    last = torch.load(home / "weights/parts/last.pt", weights_only=True)
    assert last["progress"]["epoch"] == 1 and last["progress"]["position"]["steps"] == 3
    train(config_file, "--resume", str(home / "logs/parts"))
    runs = ("whole", "parts")
    rows = [without_clocks(read_metrics(home / "logs" / r / "metrics.csv")) for r in runs]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    for file in ("best.safetensors", "last.pt"):
        if file == "last.pt":
            files = [torch.load(home / "weights" / r / file)["model"] for r in runs]
        else:
            files = [read_arrays(home / "weights" / r / file)[0] for r in runs]
        assert files[0].keys() == files[1].keys()
        assert all(torch.equal(files[0][n], files[1][n]) for n in files[0])
    answers = [(home / "logs" / r / "predictions.csv").read_bytes() for r in runs]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_save_steps_says_when(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    original = Keeper.write

    def noting(self: Keeper) -> None:
        position = self.progress.position
        saved.append(position.steps if position else 0)
        original(self)

    monkeypatch.setattr(Keeper, "write", noting)
    options = ["train.max_epochs=2", "train.save_epoch=9"]
    train(config_file, *options, "train.save_steps=3")
    assert saved == [3, 2, 0], "each third step of all, and the end"
    for every, expected in (("auto", [1, 2, 3, 4, 0]), ("null", [0])):
        saved.clear()
        monkeypatch.setattr(Keeper, "SECONDS", 0)
        monkeypatch.setattr(Keeper, "SHARE", float("inf"))
        more = ["train.max_epochs=1", f"train.save_steps={every}", f"train.run_name={every}"]
        train(config_file, *options[1:], *more)
        assert saved == expected, every


def test_two_runs_of_one_seed_are_bit_identical(config_file: Path) -> None:
    """Also with loader processes: none of them draws anything of its own."""
    found = []
    picture("red", 99).save(config_file.parent / "images/red/99.png")  # an uneven last batch
    options = ["train.mixup=0.5", "train.max_epochs=2"]
    for run, workers in (("one", 0), ("two", 0), ("three", 2)):
        more = [f"train.run_name={run}", f"train.num_workers={workers}"]
        train(config_file, *options, *more)
        arrays = read_arrays(config_file.parent / "weights" / run / "best.safetensors")[0]
        rows = read_metrics(config_file.parent / "logs" / run / "metrics.csv")
        found.append((arrays, without_clocks(rows)))
    for arrays, rows in found[1:]:
        assert rows == found[0][1]
        assert all(torch.equal(arrays[n], found[0][0][n]) for n in arrays)


def test_writing_takes_a_fiftieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper.__new__(Keeper)
    keeper.written, keeper.took = 100.0, 2.0
    for now, due in ((131.0, False), (199.0, False), (201.0, True)):
        monkeypatch.setattr("engine.checkpoint.time.monotonic", lambda now=now: now)
        assert keeper._is_due("auto", 1) is due
    keeper.took = 0.1
    monkeypatch.setattr("engine.checkpoint.time.monotonic", lambda: 131.0)
    assert keeper._is_due("auto", 1)
