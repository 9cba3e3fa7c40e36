"""Training from Python: a config made there, the summary returned, nothing but that touched."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from config import Config, ConfigError, OverfitConfig, TrainConfig, ViTConfig
from config_file import load_config
from engine import outcome
from engine.outcome import write_report
from pretrained import load_model
from tests.helpers import COLOURS, TINY_VIT, random_weights, summary, train
from training import fit
from utils import UserError, log


@pytest.fixture
def made(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a config in Python; the program's arguments would be an error."""
    monkeypatch.setattr(sys, "argv", ["notebook", "--no-such-option"])
    monkeypatch.chdir(tmp_path)

    def make(vit: dict[str, Any] | None = None, **train: Any) -> Config:
        given = {
            "base_dir": image_folder,
            "log_path": Path("logs"),
            "mode": "scratch",
            "max_epochs": 1,
            "lr": 1e-3,
        }
        given |= {"device": "cpu", "report": False, "run_name": "a", **train}
        return Config(
            vit=ViTConfig(**(TINY_VIT if vit is None else vit)), train=TrainConfig(**given)
        )

    return make


def test_a_config_made_in_python_trains_and_the_summary_comes_back(made: Any) -> None:
    found = fit(made())
    held = json.loads(Path("logs/a/summary.json").read_text())
    assert found == held | {"folder": "logs/a", "weights_file": "weights/a/best.safetensors"}
    net = load_model(found["weights_file"])
    assert net.classes == tuple(sorted(COLOURS))


def test_it_trains_as_the_program_does(made: Any, config_file: Path) -> None:
    train(config_file)
    config, _ = load_config(config_file, ["train.run_name=again"])
    found = fit(config)
    wanted = summary(config_file)
    for name in ("val_accuracy", "val_loss", "train_loss", "best_epoch", "epochs"):
        assert found[name] == wanted[name]


def test_two_runs_in_one_process_keep_their_logs_apart(made: Any) -> None:
    fit(made(run_name="one"))
    log.info("between two runs")
    fit(made(run_name="two"))
    one, two = (Path(f"logs/{name}/run.log").read_text() for name in ("one", "two"))
    assert "logs/one" in one and "logs/two" not in one and "between" not in one
    assert "logs/two" in two and "logs/one" not in two
    assert not [h for h in log.handlers if isinstance(h, logging.FileHandler)]


def test_the_architecture_comes_from_the_weights(made: Any, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "w.safetensors")
    more = {"mode": "finetune", "checkpoint": str(weights), "verdict": False, "views": 1}
    assert fit(made(vit={}, **more))["mode"] == "finetune"
    assert Path("data/cache").is_dir()


def test_a_stopped_run_goes_on(made: Any) -> None:
    fit(made())
    assert fit(made(max_epochs=2, from_checkpoint=True))["epochs"] == 2


def test_overfitting_one_batch(made: Any) -> None:
    config = made().model_copy(update={"overfit_one_batch": OverfitConfig(overfit=True)})
    found = fit(config)
    assert found["overfit"] == "PASS" and found["folder"] == "logs/a"


def test_settings_that_can_not_be_are_all_named(made: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(made(warmup_epochs=5, decay_epochs=1))
    assert str(caught.value).splitlines() == [
        "the config: 2 problems",
        "  train.warmup_epochs: 5 is more than max_epochs (1)",
        "  train.decay_epochs: only wsd has a decay phase; scheduler_type is warmup-cosine",
    ]
    assert not Path("logs").exists()


def test_a_setting_changed_by_copying_is_checked_too(made: Any) -> None:
    """pydantic's model_copy checks nothing."""
    train = made().train.model_copy(update={"lr": "fast", "max_epoch": 3})
    with pytest.raises(ConfigError) as caught:
        fit(made().model_copy(update={"train": train}))
    assert str(caught.value).splitlines() == [
        "the config: 2 problems",
        "  train.lr: 'fast' is not a number or auto",
        "  train.max_epoch: no such key; did you mean max_epochs?",
    ]
    with pytest.raises(ConfigError, match="2 problems"):
        fit(made().model_copy(update={"train": train}), notes=[])
    with pytest.raises(ConfigError, match=r"a TrainConfig is no Config: Config\(train=TrainConfig"):
        fit(train)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_report_is_this_project_s_wherever_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The working folder may hold a `tools` of its own, and any other name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "propagate", True)
    for name in ("tools/__init__.py", "tools/report.py", "json.py", "utils.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("raise SystemExit('not this one')\n")
    write_report(Path("nothing"))
    assert "no report.html: nothing: no such run" in caplog.text


def test_a_report_that_takes_a_while_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(outcome, "progress_bar", functools.partial(tqdm, leave=False))
    slow = [sys.executable, "-c", "import sys, time; time.sleep(1.5); sys.exit('too bad')"]
    assert outcome._waited_for(slow, dict(os.environ)) == (1, "too bad\n")
    assert "writing the report: 00:01" in capsys.readouterr().err


def test_a_stop_ends_the_report_s_program(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def stopped(program: Any) -> None:
        begun.append(program)
        raise KeyboardInterrupt

    monkeypatch.setattr(outcome, "_rest_of", stopped)
    endless = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(KeyboardInterrupt):
        outcome._waited_for(endless, dict(os.environ))
    assert begun[0].returncode not in (None, 0)


def test_what_is_wrong_is_an_exception_with_one_sentence(made: Any) -> None:
    with pytest.raises(UserError, match="^nowhere: no such folder; train.base_dir takes"):
        fit(made(base_dir="nowhere"))


def test_a_learning_rate_far_off_is_said(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(made(lr=0.3, max_epochs=1))
    assert "train.lr: 0.3 is far from" in capsys.readouterr().out
