"""The life of a run: trained, killed anywhere, gone on with, as often as may be; and damaged.

However it is stopped, at a step or in the middle of writing a file, it ends bit by bit as a run
that was not. A byte of one of its files is flipped now and then: the run then ends
alike, or says in one sentence what is wrong; never otherwise in silence, never with a traceback.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from config import ConfigError
from engine.job import Job
from engine.metrics_log import read_metrics
from pretrained.read import read_arrays
from tests.helpers import flip, pictures_of, random_weights, train, without_clocks
from utils import UserError

FILES = (
    "weights/a/last.pt",
    "weights/a/best.safetensors",
    "logs/a/metrics.csv",
    "logs/a/split.csv",
)
MOMENTS = 40  # a training has some 30 steps and writes


class Killed(BaseException):
    """What nothing in a run catches."""


@contextmanager
def killed_after(moments: int) -> Iterator[None]:
    """End a training before the step, or the renaming of a whole file, that is so many later."""
    left = iter(range(moments))

    def guarded(function: Callable) -> Callable:
        def call(*args: Any, **keys: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return function(*args, **keys)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "step", guarded(Job.step))
        patch.setattr(os, "replace", guarded(os.replace))
        yield


class Life(RuleBasedStateMachine):
    """A run in a folder of its own, beside the same one that was let go on."""

    pictures: Path
    whole: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.damaged = self.refused = self.ended = False

    @initialize()
    def settled(self) -> None:
        self.config = config_below(self.home, self.pictures)

    @precondition(lambda self: not self.ended and not self.refused)
    @rule(moments=st.integers(0, MOMENTS))
    def goes_on(self, moments: int) -> None:
        """Go on, or begin, for a while."""
        logs = self.home / "logs/a"
        begun = (logs / "split.csv").exists()
        if not begun:  # nothing was learned yet
            shutil.rmtree(logs, ignore_errors=True)
        more = ["train.from_checkpoint=true"] if begun else []
        try:
            with killed_after(moments):
                train(self.config, *more)
            self.ended = True
        except Killed:
            pass
        except (UserError, ConfigError) as error:
            assert self.damaged, f"refused without a reason: {error}"
            self.refused = True

    @precondition(lambda self: not self.ended)
    @rule(file=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True))
    def is_damaged(self, file: str, share: float) -> None:
        path = self.home / file
        if path.exists() and path.stat().st_size:
            flip(path, int(share * path.stat().st_size))
            self.damaged = True

    @precondition(lambda self: self.ended or self.refused)
    @rule()
    def rests(self) -> None:
        """There must always be something that can be done."""

    def teardown(self) -> None:
        try:
            while not self.ended and not self.refused:
                self.goes_on(10_000)
            if self.ended:
                same(result_of(self.home), self.whole)
        finally:
            shutil.rmtree(self.home, ignore_errors=True)


def config_below(home: Path, pictures: Path) -> Path:
    """The settings of a training of a second: 2 classes, 3 epochs, a tiny network from scratch."""
    weights = random_weights(home / "from.safetensors", num_classes=0)
    settings_ = {
        "vit": {"dropout": 0.1},
        "train": {
            **{"mode": "finetune", "base_dir": str(pictures), "run_name": "a", "cache": "off"},
            **{"checkpoint": str(weights), "data": str(home), "log_path": str(home / "logs")},
            **{"save_path": str(home / "weights"), "max_epochs": 3, "batch_size": 6, "lr": 1e-3},
            **{"views": 2, "device": "cpu", "head": "class", "save_epoch": 1},
            **{"refit": False, "report": False, "verdict": False, "group_duplicates": False},
        },
    }
    path = home / "a.yaml"
    path.write_text(yaml.safe_dump(settings_), encoding="utf-8")
    return path


def result_of(home: Path) -> dict[str, Any]:
    arrays = read_arrays(home / "weights/a/best.safetensors")[0]
    return {
        "arrays": arrays,
        "metrics": without_clocks(read_metrics(home / "logs/a/metrics.csv")),
        "predictions": (home / "logs/a/predictions.csv").read_bytes(),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["metrics"] == other["metrics"]
    assert one["predictions"] == other["predictions"]
    assert one["arrays"].keys() == other["arrays"].keys()
    for name, array in one["arrays"].items():
        assert torch.equal(array, other["arrays"][name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("new_files_are_remembered")
def test_a_run_ends_alike_however_it_was_stopped(tmp_path: Path) -> None:
    Life.pictures = pictures_of(tmp_path / "images", each=6)
    train(config_below(tmp_path, Life.pictures))
    Life.whole = result_of(tmp_path)
    run_machine(
        Life,
        settings=settings(
            max_examples=6,
            stateful_step_count=6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
