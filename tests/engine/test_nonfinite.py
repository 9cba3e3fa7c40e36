"""NaN and infinity: the step, the pictures and the layer are named; or the step is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.job import Diverged, Job
from engine.metrics_log import read_metrics
from engine.nonfinite import began_in
from tests.engine.test_job import net_and_job
from tests.helpers import fail, summary, train


def batch(job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    size = job.net.vit.dim
    return torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 0])


def test_the_layer_is_the_first_one() -> None:
    job = net_and_job(mode="scratch")
    images, labels = batch(job)
    with torch.no_grad():
        job.net.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    assert began_in(job, images, labels) == (
        "the output of blocks.1.mlp.fc1, whose weights are not"
    )
    images[0, 0, 0, 0] = float("inf")
    assert began_in(job, images, labels) == "the pictures themselves"


def test_of_gradients_it_is_the_one_nearest_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    job = net_and_job(mode="scratch")
    images, labels = batch(job)
    block = job.net.blocks[0]
    block.register_full_backward_hook(lambda module, into, out: (into[0] * float("inf"),))
    last = [name for name, _ in job.net.named_parameters() if not name.startswith("blocks")]
    said = began_in(job, images, labels)
    assert said.removeprefix("the gradient of ") in last[:4], said


def explode(monkeypatch: pytest.MonkeyPatch, steps: set[tuple[int, int]]) -> None:
    """Make the loss of some (epoch, step) infinite."""
    original = Job.loss
    seen: list[Any] = []

    def step(self: Job, inputs: Any, labels: Any, position: Any = None) -> Any:
        seen[:] = [(position.epoch, position.steps + 1)]
        return stepped(self, inputs, labels, position)

    def loss(self: Job, inputs: Any, labels: Any) -> Any:
        if seen[0] in steps:
            bias = self.net.blocks[0].norm2.bias.data
            kept = bias[0].item()
            bias[0] = float("inf")
            try:
                return original(self, inputs, labels)
            finally:
                bias[0] = kept
        return original(self, inputs, labels)

    stepped = Job.step
    monkeypatch.setattr(Job, "step", step)
    monkeypatch.setattr(Job, "loss", loss)


def test_a_run_that_stops_says_where(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explode(monkeypatch, {(2, 3)})
    said = fail(config_file, "train.batch_size=6")
    start, _, rest = said.partition(", first in the output of blocks.0.norm2, on ")
    assert start.startswith("not learned: the loss is not finite at step 3 of epoch 2 (lr ")
    files, _, end = rest.partition("; lower train.lr")
    assert files.endswith(" and 2 more") and files.count(".png") == 4 and "red/" in said
    assert "the last good checkpoint is" in end
    last = torch.load(config_file.parent / "weights/tiny/last.pt", weights_only=True)
    assert last["progress"]["epoch"] == 1 and last["progress"]["position"] is None


def test_a_step_that_is_left_out_changes_nothing_else(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        explode(patch, {(2, step) for step in (1, 2, 3)} | {(3, 1)})
        assert train(config_file, "train.on_nonfinite=skip", "train.batch_size=7") == 0
    out = capsys.readouterr().out
    assert out.count("is not finite at step") == 4 and out.count("; left out") == 4
    rows = read_metrics(config_file.parent / "logs/tiny/metrics.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(value is not None and abs(value) < 1e6 for row in rows for value in row.values())
    assert summary(config_file)["steps_left_out"] == 4


def test_an_epoch_of_nothing_else_ends_the_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explode(monkeypatch, {(2, step) for step in range(1, 9)})
    said = fail(config_file, "train.on_nonfinite=skip")
    assert "not learned: no loss or gradient of epoch 2 is finite" in said
    assert issubclass(Diverged, Exception)
