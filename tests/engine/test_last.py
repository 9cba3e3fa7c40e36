"""Checkpoints that are damaged, and the ones before them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import training
from engine.last import earlier_ones, read_last, write_last
from engine.metrics_log import read_metrics
from metrics import evaluate
from pretrained.read import read_arrays
from tests.helpers import fail, flip, train, without_clocks
from utils import UserError


def state(epoch: int, best: int = 0) -> dict[str, Any]:
    progress = {"epoch": epoch, "best_epoch": best}
    parts = dict.fromkeys(("model", "optimizer", "scheduler", "classes"), torch.zeros(3))
    return {**parts, "progress": progress}


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_so_many_are_kept(tmp_path: Path, keep: int) -> None:
    last = tmp_path / "last.pt"
    for epoch in range(1, 7):
        write_last(last, state(epoch), keep)
    there = [last, *earlier_ones(last)]
    assert sorted(tmp_path.iterdir()) == sorted(there)
    epochs = [torch.load(path, weights_only=True)["progress"]["epoch"] for path in there]
    assert epochs == list(range(6, 6 - keep, -1))


def test_every_flipped_byte_of_a_checkpoint_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "vit")
    last = tmp_path / "last.pt"
    for epoch in (1, 2):
        write_last(last, state(epoch), 2)
    whole = last.read_bytes()
    seal = len(whole) - 16
    for position in range(0, seal, 7):
        flip(last, position)
        found, spoiled = read_last(last, None)
        assert found and found["progress"]["epoch"] == 1 and spoiled, position
        last.write_bytes(whole)
    for length in range(0, seal, 101):
        last.write_bytes(whole[:length])
        found, spoiled = read_last(last, None)
        assert found and found["progress"]["epoch"] == 1 and spoiled, length


def test_a_spoiled_one_does_not_take_the_good_one_s_place(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    for epoch in (1, 2):
        write_last(last, state(epoch), 2)
    flip(last, 50)
    write_last(last, state(2), 2, spoiled=True)
    before = torch.load(tmp_path / "last-1.pt", weights_only=True)
    assert before["progress"]["epoch"] == 1


def test_where_none_is_whole_a_sentence_says_so(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    assert read_last(last, None) == (None, False)
    for epoch in (1, 2):
        write_last(last, state(epoch), 2)
    for path in (last, tmp_path / "last-1.pt"):
        flip(path, 60)
    with pytest.raises(UserError, match=r"last.pt is damaged; no checkpoint before it is whole"):
        read_last(last, None)
    torch.save([1, 2], last)
    with pytest.raises(UserError, match="is no checkpoint of a run"):
        read_last(last, None)


def ends_alike(folder: Path, one: str, other: str) -> None:
    weights = folder / "weights"
    kept = [read_arrays(weights / run / "best.safetensors")[0] for run in (one, other)]
    last = [torch.load(weights / run / "last.pt", weights_only=True) for run in (one, other)]
    for whole, again in (kept, [checkpoint["model"] for checkpoint in last]):
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    rows = [read_metrics(folder / "logs" / run / "metrics.csv") for run in (one, other)]
    assert without_clocks(rows[0]) == without_clocks(rows[1])


class Killed(BaseException):
    """Stands for a kill."""


def stopped_after_3(config_file: Path, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    def killed(metrics: Any, *args: Any) -> None:
        if metrics.rows[-1]["epoch"] == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(training, "report_epoch", killed)
        with pytest.raises(Killed):
            train(config_file, *OPTIONS, f"train.run_name={run}")


OPTIONS = ("train.max_epochs=5", "train.save_epoch=1")


@pytest.mark.parametrize("file", ["last.pt", "best.safetensors"])
def test_a_run_goes_on_though_a_file_is_damaged(
    config_file: Path,
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(config_file, *OPTIONS, "train.run_name=whole", "train.keep=best")
    stopped_after_3(config_file, monkeypatch, "tiny")
    damaged = config_file.parent / "weights/tiny" / file
    flip(damaged, damaged.stat().st_size // 2)
    (config_file.parent / "logs/tiny/metrics.csv").write_bytes(b"\xff;\r\n,,,")
    capsys.readouterr()
    train(config_file.parent / "logs/tiny/config.yaml", "train.from_checkpoint=true")
    said = capsys.readouterr().out
    if file == "last.pt":
        assert "last.pt is damaged" in said and "last-1.pt, after epoch 2" in said
    else:  # the best is the last, which last.pt holds as well
        assert "damaged" not in said and "going on after epoch 3" in said
    ends_alike(config_file.parent, "whole", "tiny")


def test_a_kept_network_that_can_not_come_again(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter((0.9, 0.2, 0.3, 0.4, 0.5))
    first = next(accuracies)

    def scored(*args: Any) -> dict[str, float]:
        nonlocal first
        found = evaluate(*args) | {"accuracy": first}
        first = next(accuracies, 0.1)
        return found

    monkeypatch.setattr(training, "evaluate_together", scored)
    stopped_after_3(config_file, monkeypatch, "tiny")
    best = config_file.parent / "weights/tiny/best.safetensors"
    flip(best, best.stat().st_size - 9)
    own = config_file.parent / "logs/tiny/config.yaml"
    said = fail(own, "train.from_checkpoint=true")
    assert "best.safetensors is damaged" in said and "from before epoch 1, whose network" in said
    assert train(own, "train.from_checkpoint=true", "train.keep=last") == 0
    assert os.path.getsize(best) > 1000 and read_arrays(best)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [b"", b"epoch\n", b"\xef\xbb\xbfepoch;train_loss\r\n1;0,5\r\n", b'"' * 200_001, b"\xff" * 99],
)
def test_metrics_csv_is_made_again(
    config_file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after_3(config_file, monkeypatch, "tiny")
    path = config_file.parent / "logs/tiny/metrics.csv"
    before = path.read_bytes()
    path.write_bytes(content)
    train(config_file.parent / "logs/tiny/config.yaml", "train.from_checkpoint=true")
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize("progress", [None, [], {}, {"epoch": 1}, {"epoch": "1", "best_epoch": 0}])
def test_one_that_does_not_say_how_far_it_is(tmp_path: Path, progress: object) -> None:
    """As an older version wrote it, without a checksum."""
    torch.save(state(1) | {"progress": progress}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="doesn't say how far it is; no checkpoint before it"):
        read_last(tmp_path / "last.pt", None)


@pytest.mark.parametrize("rows", [None, {}, [3], [{"epoch": 1, "other": 2}], [{3: 4}]])
def test_one_whose_rows_are_none(tmp_path: Path, rows: object) -> None:
    torch.save(state(1) | {"rows": rows}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="its rows are none of metrics.csv"):
        read_last(tmp_path / "last.pt", None)
