"""A run's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

import training
from engine.run import read_metrics
from tests.helpers import fail, train


def test_an_existing_run_is_never_overwritten(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    before = (config_file.parent / "logs/tiny/metrics.csv").read_bytes()
    assert "exists: go on with it by --config" in fail(config_file)
    assert (config_file.parent / "logs/tiny/metrics.csv").read_bytes() == before


# ---------------------------------------------------------------------------------- what is printed


def printed(out: str) -> list[int]:
    return [int(line.split(":")[0].removeprefix("epoch ")) for line in epoch_lines(out)]


def epoch_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch ")]


@pytest.mark.parametrize(
    ("every", "accuracies", "lines"),
    [
        ("auto", (0.2, 0.4, 0.4, 0.3, 0.5, 0.1), [1, 2, 5, 6]),
        ("auto", (0.9, 0.4, 0.4, 0.3, 0.5, 0.1), [1, 6]),
        ("1", (0.2, 0.4, 0.4, 0.3, 0.5, 0.1), [1, 2, 3, 4, 5, 6]),
        ("4", (0.2, 0.4, 0.4, 0.3, 0.5, 0.1), [4, 6]),
    ],
)
def test_a_line_where_validation_improves_and_at_the_end(
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    every: str,
    accuracies: tuple[float, ...],
    lines: list[int],
) -> None:
    left = iter(accuracies)
    known = {"balanced_accuracy": 0.0, "loss": 1.0}
    monkeypatch.setattr(training, "evaluate", lambda *args: known | {"accuracy": next(left)})
    train(config_file, "train.max_epochs=6", f"train.log_epoch={every}")
    assert printed(capsys.readouterr().out) == lines
    log = (config_file.parent / "logs/tiny/run.log").read_text()
    there = [line.split(" ", 3)[3] for line in log.splitlines()]
    assert printed("\n".join(there)) == [1, 2, 3, 4, 5, 6], "run.log has them all"


def test_at_the_same_accuracy_the_lower_loss_is_better(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = iter((1.0, 0.8, 0.9, 0.7))
    known = {"balanced_accuracy": 0.5, "accuracy": 0.5}
    monkeypatch.setattr(training, "evaluate", lambda *args: known | {"loss": next(losses)})
    train(config_file, "train.max_epochs=4")
    assert printed(capsys.readouterr().out) == [1, 2, 4]


def test_epochs_without_a_validation_have_no_line_of_their_own(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_file, "train.max_epochs=5", "train.eval_epoch=2")
    found = printed(capsys.readouterr().out)
    assert found[0] == 2 and found[-1] == 5 and set(found) <= {2, 4, 5}


def test_the_bar_shows_the_last_validation(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_file, "train.max_epochs=2")
    bars = capsys.readouterr().err
    first, second = bars.partition("epoch 2/2")[::2]
    (value,) = {line["val_accuracy"] for line in read_metrics_of(config_file)[:1]}
    assert "val=" not in first and f"val={value:.4f}" in second


def read_metrics_of(config_file: Path) -> list[dict[str, float]]:
    return read_metrics(config_file.parent / "logs/tiny/metrics.csv")


def test_a_resumed_run_knows_what_was_reached_before(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"balanced_accuracy": 0.0, "loss": 1.0}
    left = iter((0.5, 0.9, 0.6, 0.95, 0.1))
    monkeypatch.setattr(training, "evaluate", lambda *args: known | {"accuracy": next(left)})
    train(config_file, "train.max_epochs=2")
    capsys.readouterr()
    train(config_file, "train.max_epochs=5", "train.from_checkpoint=true")
    assert printed(capsys.readouterr().out) == [4, 5]
