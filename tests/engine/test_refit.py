"""Once more on all pictures that are not test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from config_file import load_config
from engine.job import Diverged
from engine.side import Lost, Side
from pretrained import load_model
from tests.helpers import fail, summary, train


def best(config_file: Path, run: str = "tiny") -> Path:
    return config_file.parent / f"weights/{run}/best.safetensors"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


HEADS = pytest.mark.parametrize("head", ["class", "layers", "both"])


@HEADS
def test_what_is_reported_is_measured_before(finetune: Path, head: str) -> None:
    """The same numbers as without, but for the network that is kept."""
    options = (f"train.head={head}", "train.lr=1e-3", "train.test_fraction=0.2")
    train(finetune, *options, "train.run_name=once")
    train(finetune, *options, "train.refit=auto")
    found, before = summary(finetune), summary(finetune, "once")
    for key in ("val_accuracy", "test_accuracy", "val_loss", "test_loss", "train_loss"):
        assert found[key] == before[key], key
    trained, val = (found["images"][part] for part in ("train", "val"))
    assert before["refit"] is None and found["refit"]["images"] == trained + val
    said = [(finetune.parent / f"logs/{r}/predictions.csv").read_text() for r in ("tiny", "once")]
    assert said[0] == said[1]
    kept = metadata(best(finetune))
    assert json.loads(kept["seen"]) == {"train": trained, "val": val}
    assert json.loads(kept["measured"])["accuracy"] == found["test_accuracy"]
    one = metadata(best(finetune, "once"))
    assert "seen" not in one
    of = {"part": "test", "accuracy": found["test_accuracy"], "interval": found["test_interval"]}
    assert json.loads(one["measured"]) == of


def test_it_is_the_training_of_all_pictures(finetune: Path) -> None:
    """With all of them to train on from the beginning, layers' closed form is the same."""
    train(finetune, "train.head=layers", "train.refit=true", "train.run_name=again")
    net = load_model(best(finetune, "again"))
    once = load_model(best(finetune, "again")).layers
    assert net.layers is not None and once is not None
    train(finetune, "train.head=layers", "train.run_name=part")
    part = load_model(best(finetune, "part")).layers
    assert part is not None and not torch.equal(part.fc.weight, once.fc.weight)


@HEADS
def test_a_run_that_goes_on_measures_the_same_network_again(finetune: Path, head: str) -> None:
    """Not the one that has learned the validation pictures, though its file is there."""
    options = (f"train.head={head}", "train.lr=1e-3", "train.refit=auto")
    train(finetune, *options)
    whole, before = best(finetune).read_bytes(), summary(finetune)
    train(finetune, *options, "train.from_checkpoint=true")
    found = summary(finetune)
    assert best(finetune).read_bytes() == whole
    assert [found[k] for k in ("val_accuracy", "val_loss")] == [
        before[k] for k in ("val_accuracy", "val_loss")
    ]


def test_stopped_meanwhile_the_measured_network_is_there(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.lr=1e-3", "train.refit=auto")
    train(finetune, "train.lr=1e-3", "train.run_name=once")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("engine.refit.train_side_by_side", stop)
        with pytest.raises(KeyboardInterrupt, match="go on with"):
            train(finetune, *options)
    once, measured = load_model(best(finetune, "once")), load_model(best(finetune))
    assert all(map(torch.equal, once.state_dict().values(), measured.state_dict().values()))
    train(finetune, *options, "train.from_checkpoint=true")
    assert summary(finetune)["refit"]["images"] == 36


def test_one_that_fails_is_not_kept(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(sides: list[Side], bar: Any) -> Lost:
        return {job: Diverged("loss") for job in sides[0].jobs}

    monkeypatch.setattr("engine.refit.train_side_by_side", diverge)
    train(finetune, "train.lr=1e-3", "train.refit=auto")
    said = capsys.readouterr().out
    assert "once more on all pictures: the loss is not finite; the measured one stays" in said
    assert summary(finetune)["refit"] is None and "seen" not in metadata(best(finetune))

    def forget(sides: list[Side], bar: Any) -> Lost:
        for parameter in sides[0].jobs[0].parameters:
            torch.nn.init.zeros_(parameter)
        return {}

    monkeypatch.setattr("engine.refit.train_side_by_side", forget)
    train(finetune, "train.lr=1e-3", "train.refit=auto", "train.run_name=next")
    assert "of val, which it learned; dropped" in capsys.readouterr().out
    assert summary(finetune, "next")["refit"] is None


def test_where_val_chooses_it_is_not_learned(finetune: Path) -> None:
    options = ("train.keep=best", "train.early_stopping=2", "train.mode=pretrained")
    for option in (*options, "train.cache=off"):
        assert "train.refit: true learns val" in fail(finetune, "train.refit=true", option)
        assert not load_config(finetune, ["train.refit=auto", option])[0].train.refits


@pytest.mark.slow
def test_weights_that_learned_val_are_named(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training from them would be measured on what they know."""
    train(finetune, "train.lr=1e-3", "train.refit=auto")
    train(finetune, "train.lr=1e-3", "train.run_name=once")
    capsys.readouterr()
    train(finetune, f"train.checkpoint={best(finetune)}", "train.run_name=next")
    said = capsys.readouterr().out
    assert "has learned its run's validation pictures, too" in said
    train(finetune, f"train.checkpoint={best(finetune, 'once')}", "train.run_name=last")
    assert "has learned" not in capsys.readouterr().out
