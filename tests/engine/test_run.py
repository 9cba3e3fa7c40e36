"""A run's folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tqdm import tqdm

import training
from engine.metrics_log import MetricsLog
from engine.plots import plot_curves
from engine.run import Run, plain
from tests.helpers import fail, train


def test_an_existing_run_is_never_overwritten(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    before = (config_file.parent / "logs/tiny/metrics.csv").read_bytes()
    assert "exists: a finished run: choose another train.run_name, or remove it" in fail(
        config_file
    )
    (config_file.parent / "logs/tiny/summary.json").unlink()
    assert "exists: choose another train.run_name, remove it, or go on with it: python" in fail(
        config_file
    )
    assert (config_file.parent / "logs/tiny/metrics.csv").read_bytes() == before


@pytest.mark.parametrize("again", ["null", "true"])
def test_a_run_that_was_killed_before_its_split_begins_again(
    config_file: Path, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patched:
        patched.setattr("engine.start.write_split", killed)
        with pytest.raises(SystemExit):
            train(config_file, "train.max_epochs=1")
        with pytest.raises(SystemExit):
            train(config_file, "train.max_epochs=1", "train.from_checkpoint=true")
    assert train(config_file, "train.max_epochs=1", f"train.from_checkpoint={again}") == 0
    assert "exists: a finished run" in fail(config_file), "it is a run by now"


@pytest.mark.slow
def test_a_run_to_go_on_with_is_found_by_its_name(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config_file, "train.max_epochs=1")
    for source in ("tiny", "logs/tiny", "weights/tiny", "weights/tiny/last.pt"):
        monkeypatch.chdir(config_file.parent)
        assert train(config_file, f"train.from_checkpoint={source}") == 0
    said = fail(config_file, "train.from_checkpoint=tinny", "train.run_name=null")
    assert "no run to go on with by that name; did you mean tiny?" in said
    (tmp_path / "my other").mkdir()
    (config_file.parent / "logs/tiny").rename(tmp_path / "my other/tiny")
    said = fail(config_file, f"train.from_checkpoint={tmp_path}/my other/tiny")
    assert f"--resume '{tmp_path}/my other/tiny'" in said


# ---------------------------------------------------------------------------------- what is printed


def printed(out: str) -> list[int]:
    return [int(line.split(":")[0].removeprefix("epoch ")) for line in epoch_lines(out)]


def epoch_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch ")]


def test_a_line_where_validation_improves_and_at_the_end(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter((0.2, 0.4, 0.4, 0.3, 0.5, 0.1))
    known = {"balanced_accuracy": 0.0, "loss": 1.0}
    monkeypatch.setattr(
        training, "evaluate_together", lambda *args: known | {"accuracy": next(left)}
    )
    monkeypatch.setattr(training, "progress_bar", tqdm)  # as on a terminal
    train(config_file, "train.max_epochs=6")
    said = capsys.readouterr()
    assert printed(said.out) == [1, 2, 5, 6]
    first, second = said.err.partition("epoch 2/6")[::2]
    assert "val=" not in first and "val=0.2000" in second, "the bar shows the last validation"
    log = (config_file.parent / "logs/tiny/run.log").read_text()
    there = [line.split(" ", 3)[3] for line in log.splitlines()]
    assert printed("\n".join(there)) == [1, 2, 3, 4, 5, 6], "run.log has them all"


@pytest.mark.parametrize(
    ("every", "validations", "lines"),
    [
        ("auto", [(0.9, 1), (0.4, 1), (0.4, 1), (0.3, 1)], [1, 4]),
        ("auto", [(0.5, 1.0), (0.5, 0.8), (0.5, 0.9), (0.5, 0.7), (0.1, 0.1)], [1, 2, 4, 5]),
        ("auto", [None, (0.1, 1), None, (0.2, 1), None], [2, 4, 5]),
        ("auto", [None, None, None], [3]),
        (1, [(0.9, 1), (0.4, 1), (0.4, 1)], [1, 2, 3]),
        (3, [(0.9, 1), (0.4, 1), None, (0.4, 1), (0.5, 1)], [3, 5]),
    ],
)
def test_which_lines_are_printed(every: Any, validations: list[Any], lines: list[int]) -> None:
    """At the same accuracy the lower loss is better; an epoch without a validation is no news."""
    metrics = MetricsLog.__new__(MetricsLog)
    metrics.rows = []
    found = []
    for epoch, scores in enumerate(validations, 1):
        known = {"val_accuracy": scores[0], "val_loss": scores[1]} if scores else {}
        row = {"epoch": epoch, "train_loss": 1.0, "train_accuracy": 0.5}
        row |= {"seconds": 1.0, "images_per_second": 9.0}
        metrics.rows.append(row | known)
        with patch("training.log.log") as said:
            training.report_epoch(metrics, every, epoch == len(validations))
        found += [epoch] if said.call_args[0][0] == logging.INFO else []
    assert found == lines


def test_images_per_second_are_those_of_all_epochs() -> None:
    metrics = MetricsLog.__new__(MetricsLog)
    metrics.rows = [
        {"seconds": 2.0, "images_per_second": 50.0},  # 100 images
        {"seconds": 0.5, "images_per_second": 200.0},  # 100 images
        {"seconds": None, "images_per_second": None},  # as a file of an older version has it
    ]
    assert metrics.images_per_second == 200 / 2.5
    metrics.rows = []
    assert metrics.images_per_second == 0.0


def test_two_runs_without_a_name_in_one_second_are_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.run.time.strftime", lambda *_: "20261126-101010")
    names = []
    for _ in range(3):
        run = Run.create(None, str(tmp_path / "logs"), str(tmp_path / "weights"), "my pics")
        assert run.folder.is_dir() and run.weights.is_dir(), "claimed"
        names.append(run.name)
    assert names == [f"my-pics-20261126-101010{end}" for end in ("", "-2", "-3")]


def test_the_end_by_early_stopping_is_printed_too(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"balanced_accuracy": 0.0, "loss": 1.0}
    left = iter((0.5, 0.4, 0.3, 0.2, 0.2))
    monkeypatch.setattr(
        training, "evaluate_together", lambda *args: known | {"accuracy": next(left)}
    )
    train(config_file, "train.max_epochs=9", "train.early_stopping=2")
    said = capsys.readouterr().out
    assert printed(said) == [1, 3] and "early stopping: no better epoch since 1" in said


def test_a_resumed_run_knows_what_was_reached_before(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"balanced_accuracy": 0.0, "loss": 1.0}
    left = iter((0.5, 0.9, 0.6, 0.95, 0.1))
    monkeypatch.setattr(
        training, "evaluate_together", lambda *args: known | {"accuracy": next(left)}
    )
    train(config_file, "train.max_epochs=2")
    capsys.readouterr()
    train(config_file, "train.max_epochs=5", "train.from_checkpoint=true")
    assert printed(capsys.readouterr().out) == [4, 5]


# --------------------------------------------------------------------------------------- its name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("pictures", "pictures"),
        ("My Pictures (2)", "My-Pictures-2"),
        ("$HOME; rm -rf *", "HOME-rm-rf"),
        ("Blüten à la carte", "Bluten-a-la-carte"),
        ("图片", "pictures"),
        ("v1.2_new", "v1-2_new"),
        ("-x", "x"),
        (".hidden", "hidden"),
        ("a" * 200, "a" * 40),
        ("b" * 39 + " c", "b" * 39),
        ("line\nbreak\t\udcff", "line-break"),
    ],
)
def test_a_run_is_called_after_its_pictures_and_the_time(
    tmp_path: Path, folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain(folder) == name
    monkeypatch.setattr("engine.run.time.strftime", lambda form: "20261126-081500")
    run = Run.create(None, str(tmp_path / "logs"), str(tmp_path / "w"), str(tmp_path / folder))
    assert run.name == f"{name}-20261126-081500"
    assert run.folder == tmp_path / "logs" / run.name, "one folder, below the logs"
    given = Run.create("mine", str(tmp_path / "logs"), str(tmp_path / "w"), str(tmp_path))
    assert given.name == "mine"


def test_the_folder_may_be_named_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowers" / "red").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "flowers" / "red")
    for pictures in ("..", "../", "../../flowers", "../red/.."):
        assert Run.create(None, "logs", "w", pictures).name.startswith("flowers-20")
    assert Run.create(None, "logs", "w", "/").name.startswith("pictures-20")
    assert Run.create(None, "logs", "w", "..", "overfit").name.endswith("-overfit")


@pytest.mark.parametrize(
    ("option", "label"),
    [("train.keep=last", "kept: the last"), ("train.keep=best", "kept: the best")],
)
def test_the_curves_say_which_epoch_is_kept(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, option: str, label: str
) -> None:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr("engine.metrics_log.plot_curves", lambda *given: drawn.append(given))
    train(config_file, "train.max_epochs=2", option)
    rows, kept, path, said = drawn[-1]
    assert said == label and len(rows) == 2 and (kept == 2 or "best" in label)
    with patch("matplotlib.axes.Axes.axvline") as line:
        plot_curves(rows, kept, path, said)
    assert line.call_args[1]["label"] == f"{label} ({kept})"


@pytest.mark.parametrize("name", ["unsure", "unlike"])
def test_a_class_is_not_called_as_no_answer_is(
    config_file: Path, image_folder: Path, name: str
) -> None:
    (image_folder / "red").rename(image_folder / name)
    said = fail(config_file)
    assert f"a class is called {name}, which tools.predict says of pictures that it has no" in said
