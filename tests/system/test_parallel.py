"""Several processes learn what one learns."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import images
import training
from engine import follow
from engine.nonfinite import OVERFLOW, first_of
from engine.parts import Batches, turns_of
from filing.csv_files import read_csv
from model import Tokens
from system import parallel
from tests.helpers import REPO, TINY_VIT, pictures_of, random_weights, train
from tests.processes import HERE, train_together
from transforms import EpochSampler
from utils import UserError, go_on

# What is told apart: odd last batches, blends, weighted classes, an average, turns.
MODES: dict[str, dict[str, Any]] = {
    "scratch": {"class_weights": "balanced", "mixup": 0.3, "cutmix": 0.5},
    "pretrained": {"class_weights": "balanced", "accumulate": 2, "ema": 0.9},
    "finetune": {"head": "class", "lr": 0.01, "optim": "adamw", "views": 2, "refit": False},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, weights and a page of settings a mode."""
    home = tmp_path_factory.mktemp("several")
    pictures_of(home / "pictures", 11)
    random_weights(home / "from.safetensors", num_classes=0)
    for mode, keys in MODES.items():
        own = {"base_dir": str(home / "pictures"), "data": str(home), "device": "cpu"}
        own |= {"log_path": str(home / "logs"), "save_path": str(home / "weights")}
        own |= {"max_epochs": 5, "batch_size": 8, "report": False, "verdict": False, "mode": mode}
        if mode != "scratch":
            own["checkpoint"] = str(home / "from.safetensors")
        vit = TINY_VIT if mode == "scratch" else {}
        (home / f"{mode}.yaml").write_text(yaml.safe_dump({"vit": vit, "train": own | keys}))
    return home


def asked(home: Path, mode: str, run: str, *more: str) -> list[str]:
    return ["--config", str(home / f"{mode}.yaml"), f"train.run_name={run}", *more]


def same(home: Path, one: str, other: str) -> None:
    """Two runs came to the same: each epoch's losses and accuracies, and the weights.

    What holds the keys' biases is left out: softmax does not see them, so their gradient is what is
    left of rounding, which AdamW makes steps of.
    """
    rows = [read_csv(home / "logs" / run / "metrics.csv", kind="table") for run in (one, other)]
    assert len(rows[0]) == len(rows[1]) > 0
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
        told = [[float(row[name]) for row in each] for each in rows]
        assert told[0] == pytest.approx(told[1], rel=1e-5), name
    files = [load_file(home / "weights" / run / "best.safetensors") for run in (one, other)]
    left_out = ("certainty", "layers")
    names = [n for n in files[0] if not n.startswith(left_out) and not n.endswith("qkv.bias")]
    before, after = (torch.cat([file[name].flatten() for name in names]) for file in files)
    assert (before - after).norm() <= 1e-5 * before.norm()


@pytest.fixture(scope="module", params=list(MODES))
def alone(request: pytest.FixtureRequest, home: Path) -> str:
    """A mode that one process has trained by."""
    train(home / f"{request.param}.yaml", f"train.run_name={request.param}-1")
    return request.param


@pytest.mark.slow
def test_two_learn_what_one_learns(home: Path, alone: str) -> None:
    said = train_together(home, asked(home, alone, f"{alone}-2"))
    assert [status for status, _ in said] == [0, 0]
    assert "val accuracy" in said[0][1] and said[1][1] == ""
    same(home, f"{alone}-1", f"{alone}-2")


@pytest.mark.slow
def test_four_learn_what_one_learns(home: Path, alone: str) -> None:
    said = train_together(home, asked(home, alone, f"{alone}-4"), 4)
    assert [status for status, _ in said] == [0] * 4
    same(home, f"{alone}-1", f"{alone}-4")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["scratch", "pretrained"])
def test_those_that_hold_a_part_each_learn_what_one_learns(home: Path, mode: str) -> None:
    if not (home / f"logs/{mode}-1").exists():
        train(home / f"{mode}.yaml", f"train.run_name={mode}-1")
    more = ["train.parallel=fsdp", "train.accumulate=4", "train.recompute=true"]
    said = train_together(home, asked(home, mode, f"{mode}-parts", *more, "train.save_steps=2"))
    assert [status for status, _ in said] == [0, 0], said
    same(home, f"{mode}-1", f"{mode}-parts")


def test_what_ends_all_is_said_by_the_first(home: Path) -> None:
    wide = asked(home, "scratch", "wide", "train.lr=1e30", "train.clip_grad=null")
    (first, said), (second, nothing) = train_together(home, wide)
    assert (first, second) == (2, 2) and nothing == ""
    found = re.search(r"error: not learned: .* is not finite at step .* first in (.*), on ", said)
    assert found and found[1].startswith("the output of")
    assert "Traceback" not in said


def fail_at_second(number: int) -> None:
    """The second process can't read its pictures."""
    if number == 1:

        def broken(*given: Any) -> None:
            raise UserError("a picture is gone")

        images.ImageDataset.__getitem__ = broken  # type: ignore[method-assign,assignment]


def test_what_ends_one_is_said_by_it_and_ends_all(home: Path) -> None:
    said = train_together(home, asked(home, "pretrained", "ended"), first=fail_at_second)
    assert [status for status, _ in said] == [2, 2]
    assert re.fullmatch(r"process 1 on \S+: error: a picture is gone\n", said[1][1])
    assert "another process of this job has ended" in said[0][1] and "--resume" in said[0][1]
    assert "torchrun --nproc-per-node=2" in said[0][1] and "Traceback" not in said[0][1]


# ---------------------------------------------------------------------------- shares of a batch


def many(monkeypatch: pytest.MonkeyPatch, processes: int, number: int) -> None:
    for name, value in {"RANK": number, "WORLD_SIZE": processes, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "nowhere")


def test_how_to_go_on_is_what_each_machine_is_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert go_on(Path("logs/a b")) == "python training.py --resume 'logs/a b'"
    many(monkeypatch, 8, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert go_on(Path("logs/x")).startswith("torchrun --nproc-per-node=8 training.py")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "first")
    several = (
        "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=first:29500"
    )
    assert go_on(Path("logs/x")) == f"{several} training.py --resume logs/x"


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_image_is_one_processs_in_the_order_of_one(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    sampler = EpochSampler(23, 0)
    sampler.begin(2, first=10)  # resumed in the middle
    whole = list(sampler)
    shares = []
    for number in range(processes):
        many(monkeypatch, processes, number)
        shares.append(list(Batches(sampler, 10, neighbour=False)))
        ahead = list(Batches(sampler, 10, neighbour=True))
        sizes = [len(parallel.share(10)), len(parallel.share(3))]
        assert [len(batch) - (processes > 1) for batch in ahead] == sizes
        if processes > 1:
            start = parallel.share(10).start
            assert ahead[0][0] == whole[start - 1 if start else 9]
    for batch in range(2):
        own = [share[batch] for share in shares]
        size = 10 if batch == 0 else 3
        counted = [
            s
            for i, s in enumerate(own)
            if (many(monkeypatch, processes, i), 1)[1] and len(parallel.share(size))
        ]  # a stand-in is in no share
        assert sum(counted, []) == whole[10 * batch : 10 * batch + 10]


def test_turns_hold_each_image_once() -> None:
    labels = torch.arange(7)
    tokens = Tokens(labels[:, None, None].float(), labels[:, None].float())
    found = list(turns_of(tokens, labels, labels, 3))
    assert torch.cat([part.tokens.flatten() for part, *_ in found]).tolist() == list(range(7))  # type: ignore[union-attr]
    assert torch.cat([own for _, own, *_ in found]).tolist() == list(range(7)) and len(found) == 3
    counted = [counts for *_, counts in turns_of(tokens, labels[:2], labels[:2], 3)]
    assert counted == [True, True, False]


def test_an_uneven_share_is_told_the_nearest_sizes(home: Path, capsys: Any) -> None:
    with pytest.raises(
        UserError, match=r"8 images can't be shared evenly by train.accumulate 3; 6 or 9 can"
    ):
        train(home / "scratch.yaml", "train.accumulate=3", "train.run_name=uneven")
    assert not (home / "logs/uneven").exists()


def test_where_it_began_is_what_the_share_with_the_fault_says() -> None:
    assert first_of([OVERFLOW, "the output of norm", OVERFLOW]) == "the output of norm"
    assert first_of([OVERFLOW, OVERFLOW]) == OVERFLOW


# -------------------------------------------------------------------------------------- torchrun


def processes_of(run: str) -> dict[int, int]:
    """The processes that train a run, by their numbers."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            given = (folder / "environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        number = [int(word[5:]) for word in given if word.startswith("RANK=")]
        if f"train.run_name={run}" in words and number:
            found[number[0]] = int(folder.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "parallel"), [(0, "ddp"), (1, "ddp"), (1, "fsdp")])
def test_a_killed_process_brings_the_job_back(home: Path, killed: int, parallel: str) -> None:
    run = f"elastic-{parallel}-{killed}"
    more = ["train.max_epochs=25", "train.save_steps=1", f"train.parallel={parallel}"]
    if not (home / "logs/undisturbed").exists():
        train(home / "scratch.yaml", "train.run_name=undisturbed", *more)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3"]
    command += [
        "--nproc-per-node=2",
        str(REPO / "training.py"),
        *asked(home, "scratch", run, *more),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **HERE}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-2, text=True) as job:
        rows, ends = home / "logs" / run / "metrics.csv", time.monotonic() + 120
        while not rows.exists() or len(rows.read_text().splitlines()) < 4:
            assert time.monotonic() < ends and job.poll() is None
            time.sleep(0.05)
        os.kill(processes_of(run)[killed], signal.SIGKILL)
        said, _ = job.communicate(timeout=180)
    assert job.returncode == 0, said
    assert f"torchrun has started this job once more: {home}/logs/{run} goes on" in said
    assert "going on after" in said
    same(home, "undisturbed", run)


def stopped_while_another_reads(number: int) -> None:
    """The second process has gone, by the time that the first is stopped as it reads pictures."""
    if number == 1:
        training.opened = lambda *_: os._exit(9)  # type: ignore[assignment]
    else:
        follow.set_up = interrupted  # type: ignore[assignment]


def lost_while_another_reads(number: int) -> None:
    """The second process has gone, by the time that the first has read the pictures."""
    if number == 1:
        training.opened = lambda *_: os._exit(9)  # type: ignore[assignment]


def interrupted(*_: object) -> None:
    time.sleep(2)
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "status", "expected"),
    [
        (stopped_while_another_reads, 130, "stopped before the training; the same command begins"),
        (lost_while_another_reads, 2, "error: another process of this job has ended, with a sen"),
    ],
)
def test_a_stop_before_the_training_is_one_sentence_whoever_is_left(
    home: Path, first: Any, status: int, expected: str
) -> None:
    run = f"before-{status}"
    (found, said), (other, _) = train_together(home, asked(home, "scratch", run), 2, first)
    assert (found, other) == (status, 9), said
    assert expected in said and "Traceback" not in said, said


def end_before_validation(_: int) -> None:
    """All end where epoch 2's steps are taken and it is not yet evaluated."""
    before, calls = training.evaluate_together, []

    def evaluate(*given: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            os._exit(9)
        return before(*given)

    training.evaluate_together = evaluate


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_first_thing_after_a_stop_may_be_a_validation(home: Path, parallel: str) -> None:
    run = f"evaluated-{parallel}"
    if not (home / "logs/scratch-1").exists():
        train(home / "scratch.yaml", "train.run_name=scratch-1")
    more = [f"train.parallel={parallel}", "train.save_steps=1"]
    stopped = train_together(home, asked(home, "scratch", run, *more), 2, end_before_validation)
    assert [status for status, _ in stopped] == [9, 9], stopped
    resumed = train_together(home, ["--resume", str(home / "logs" / run)])
    assert [status for status, _ in resumed] == [0, 0], resumed
    assert "going on after step 4 of epoch 2" in resumed[0][1]
    same(home, "scratch-1", run)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_finished_run_is_trained_for_longer(home: Path, parallel: str) -> None:
    run, more = f"longer-{parallel}", ["train.keep=best", "train.max_epochs=2"]
    begun = asked(home, "scratch", run, f"train.parallel={parallel}", *more)
    for words in (begun, ["--resume", str(home / "logs" / run), "train.max_epochs=3"]):
        said = train_together(home, words)
        assert [status for status, _ in said] == [0, 0], said
    assert "epoch 3" in said[0][1]


def spoil(number: int) -> None:
    """A step's pictures are not finite, in the second process's share alone."""
    from engine.job import Job  # noqa: PLC0415

    before = Job.gradients

    def gradients(job: Job, inputs: torch.Tensor, *given: object) -> object:
        if number == 1 and job.scheduler.last_epoch == 1:
            inputs = inputs * float("nan")
        return before(job, inputs, *given)  # type: ignore[arg-type]

    Job.gradients = gradients  # type: ignore[assignment,method-assign]


def test_what_is_not_finite_in_one_share_stops_all_that_hold_parts(home: Path) -> None:
    said = train_together(
        home, asked(home, "pretrained", "spoiled", "train.parallel=fsdp"), 2, spoil
    )
    assert [status for status, _ in said] == [2, 2]
    assert "the loss is not finite at step 2 of epoch 1" in said[0][1]
