"""What a run reports is of the network that it keeps, whatever is new in the settings of a run that
goes on, and wherever it was killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pretrained
import training
from config_file import load_config
from dataset import load_split, make_loaders
from engine import run
from engine.checkpoint import Keeper
from engine.job import Job
from engine.last import metadata_in
from filing.csv_files import read_csv
from metrics import evaluate
from pretrained.checksums import seal
from tests.helpers import TINY_VIT, pictures_of, random_weights, summary

FINETUNE = {"mode": "finetune", "head": "class", "lr": 0.01, "optim": "adamw", "max_epochs": 6}
SCRATCH = {"mode": "scratch", "keep": "best", "lr": 0.05, "max_epochs": 6}


class Killed(BaseException):
    """As a kill does, it leaves all files as they are."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pictures_of(tmp_path / "pictures", 12)
    random_weights(tmp_path / "from.safetensors", num_classes=0)
    return tmp_path


def begin(home: Path, keys: Mapping[str, Any]) -> None:
    own = {"base_dir": str(home / "pictures"), "data": str(home), "device": "cpu"}
    own |= {"log_path": str(home / "logs"), "save_path": str(home / "weights"), "run_name": "run"}
    own |= {"batch_size": 8, "report": False, "verdict": False, "save_steps": 1}
    scratch = keys["mode"] == "scratch"
    own |= {} if scratch else {"checkpoint": str(home / "from.safetensors")}
    page = {"vit": TINY_VIT if scratch else {}, "train": own | keys}
    (home / "page.yaml").write_text(yaml.safe_dump(page))
    training.main(["--config", str(home / "page.yaml")])


def resume(home: Path, *words: str) -> None:
    assert not training.main(["--resume", str(home / "logs/run"), *words])


def measured(home: Path) -> dict[str, float]:
    """The validation part's scores of the file that is kept."""
    config, _ = load_config(home / "logs/run/config.yaml")
    net = pretrained.load_model(home / "weights/run/best.safetensors")
    split = load_split(config.train)
    loaders = make_loaders(split, config.train, net.preprocessing, 3, torch.device("cpu"))
    return evaluate(net, loaders["val"], torch.device("cpu"))


def is_of_the_file(home: Path) -> None:
    found, file = summary(home / "page.yaml", "run"), measured(home)
    assert found["val_loss"] == pytest.approx(file["loss"], rel=1e-3)
    assert found["val_accuracy"] == pytest.approx(file["accuracy"])
    rows = read_csv(home / "logs/run/predictions.csv")
    right = [row["label"] == row["predicted"] for row in rows if row["part"] == "val"]
    assert sum(right) / len(right) == pytest.approx(file["accuracy"])
    assert metadata_in(home / "weights/run/best.safetensors").get("epoch") in (
        None,  # what is learned once more
        str(found["best_epoch"]),
    )


def kill(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, after: bool = True
) -> None:
    """At the call of such a number, before what is called or after it."""
    original, calls = getattr(owner, name), [0]

    def call(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if not after and calls[0] == number:
            raise Killed
        found = original(*given, **named)
        if calls[0] == number:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, call)


def begin_killed(home: Path, keys: Mapping[str, Any], what: Callable[[Any], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        what(patch)
        patch.setattr(Keeper, "__exit__", lambda *_: None)
        with pytest.raises(Killed):
            begin(home, keys)


def test_what_learned_val_is_not_measured_on_it(home: Path) -> None:
    """A finished run's file is of all pictures; with another epoch to keep it is not that."""
    begin(home, FINETUNE)
    assert "seen" in metadata_in(home / "weights/run/best.safetensors")
    before = summary(home / "page.yaml", "run")
    resume(home, "train.keep=best")
    assert "seen" not in metadata_in(home / "weights/run/best.safetensors")
    is_of_the_file(home)
    after = summary(home / "page.yaml", "run")
    assert after["refit"] is None
    for name in ("val_accuracy", "val_loss", "best_epoch", "certainty"):
        assert after[name] == before[name], name


@pytest.mark.slow
def test_what_learned_val_stays_none_of_the_epochs(home: Path) -> None:
    """None that follows is better, so the one before them is kept: its own file must be made."""
    begin(home, FINETUNE)
    resume(home, "train.keep=best", "train.max_epochs=8", "train.lr=1")
    assert "seen" not in metadata_in(home / "weights/run/best.safetensors")
    is_of_the_file(home)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("keys", [SCRATCH, pytest.param({**SCRATCH, "ema": 0.5}, marks=SLOW)])
def test_the_last_epoch_instead_of_the_best_has_its_own_scores(
    home: Path, keys: Mapping[str, Any]
) -> None:
    begin(home, keys)
    before = summary(home / "page.yaml", "run")
    resume(home, "train.keep=last")
    assert summary(home / "page.yaml", "run")["best_epoch"] == 6 >= before["best_epoch"]
    is_of_the_file(home)


def test_an_epoch_that_is_begun_counts(home: Path) -> None:
    begin_killed(home, SCRATCH, lambda patch: kill(patch, Job, "step", 10))
    with pytest.raises(Exception, match="train.max_epochs: 2 is less than the 3 epochs that are b"):
        resume(home, "train.max_epochs=2")
    resume(home, "train.max_epochs=3")
    is_of_the_file(home)


@pytest.mark.parametrize("keep", ["last", pytest.param("best", marks=SLOW)])
@pytest.mark.parametrize(("stopped", "more"), [(4, []), (2, ["train.eval_epoch=1"])])
def test_an_end_that_was_not_validated_is(
    home: Path, keep: str, stopped: int, more: list[str]
) -> None:
    keys = {**SCRATCH, "eval_epoch": 3, "keep": keep}
    begin_killed(home, keys, lambda patch: kill(patch, Keeper, "keep", stopped))
    resume(home, f"train.max_epochs={stopped}", *more)
    is_of_the_file(home)


@pytest.mark.parametrize(
    "words",
    [
        ["train.lr=0.5", "train.clip_grad=null"],
        pytest.param(["train.max_epochs=2"], marks=SLOW),
        pytest.param([], marks=SLOW),
    ],
)
def test_a_file_that_was_written_before_a_kill_is_not_kept(home: Path, words: list[str]) -> None:
    """best.safetensors of epoch 3, last.pt of epoch 2."""
    keys = {**SCRATCH, "lr": 0.0005, "save_epoch": 1, "save_steps": None}
    begin_killed(home, keys, lambda patch: kill(patch, run, "write_last", 3, False))
    assert metadata_in(home / "weights/run/best.safetensors")["epoch"] == "3"
    resume(home, *words)
    is_of_the_file(home)


@pytest.mark.slow
def test_a_file_of_an_epoch_to_come_needs_its_settings(home: Path) -> None:
    """Nothing is left of the best of epochs 1 and 2: epoch 3 must come as it was."""
    keys = {**SCRATCH, "lr": 0.0005, "save_epoch": 1, "save_steps": None}
    begin_killed(home, keys, lambda patch: kill(patch, run, "write_last", 3, False))
    last = home / "weights/run/last.pt"
    state = torch.load(last, weights_only=True)
    state["progress"]["best_epoch"] = 1
    torch.save(state, last)
    seal(last)
    with pytest.raises(Exception, match="an epoch that is still to come.*first go on with"):
        resume(home, "train.lr=0.5")
    resume(home)
    is_of_the_file(home)


def test_a_finished_run_that_is_trained_on_is_found_again(home: Path) -> None:
    begin(home, FINETUNE)
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, Job, "step", 8)
        with pytest.raises(Killed):
            resume(home, "train.max_epochs=12")
    assert not (home / "logs/run/summary.json").exists()
    assert not training.main(["--resume", f"train.log_path={home / 'logs'}"])
    assert summary(home / "page.yaml", "run")["epochs"] == 12


def test_a_search_that_trains_other_parameters_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_killed(home, FINETUNE, lambda patch: kill(patch, Job, "step", 10))
    state = torch.load(home / "weights/run/last.pt", weights_only=True)
    assert len(state["optimizer"]["state"]) > 2
    before = Job.__init__

    def head_alone(job: Job, net: Any, *given: Any, **named: Any) -> None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith("head"))
        before(job, net, *given, **named)

    monkeypatch.setattr(Job, "__init__", head_alone)
    with pytest.raises(Exception, match="does not fit this config|other frozen weights"):
        resume(home, "train.lr=0.02")
    assert os.path.exists(home / "weights/run/last.pt")
