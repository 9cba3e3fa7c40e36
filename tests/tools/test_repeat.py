"""A run with several seeds."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import training
from filing.csv_files import read_csv
from tests.helpers import REPO
from tests.shards.helpers import sample_files, tar_of
from tests.tools.test_baseline import summary
from tools import repeat
from tools.baseline import __main__ as baseline
from tools.baseline import networks
from utils import UserError, command_line

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What repeat runs; it is run in this process, which saves the imports."""
    found: list[list[str]] = []

    def here(command: list[str]) -> tuple[int, list[str]]:
        found.append(command)
        main, first = (baseline.main, 3) if command[1] == "-m" else (training.main, 2)
        return command_line(lambda: main(command[first:])), ["the last line"]

    monkeypatch.setattr(repeat, "run", here)
    return found


def test_repeat_draws_resumes_and_averages(
    held_out: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(held_out), "--seeds", "2", "train.max_epochs=2"]
    assert repeat.main(arguments) == 0
    out = capsys.readouterr().out
    logs = held_out.parent / "logs"
    found = [summary(held_out, f"tiny-seed{seed}") for seed in range(2)]
    splits = [(logs / f"tiny-seed{seed}" / "split.csv").read_text() for seed in range(2)]
    assert splits[0] != splits[1]
    result = json.loads((logs / "tiny-repeat.json").read_text())
    values = [one["test_accuracy"] for one in found]
    assert (result["part"], result["images"]) == ("test", found[0]["images"]["test"])
    assert result["accuracy"]["values"] == values
    assert result["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert result["accuracy"]["std"] == pytest.approx(statistics.stdev(values))
    assert f"accuracy {sum(values) / 2:.3f} ± {statistics.stdev(values):.3f}" in out
    assert all(f"{value:.3f}" in out for value in values)

    written = [path.stat().st_mtime_ns for path in sorted(logs.glob("*/summary.json"))]
    assert repeat.main(["--config", *arguments]) == 0
    assert capsys.readouterr().out.count("there already") == 2 and len(commands) == 2
    assert [p.stat().st_mtime_ns for p in sorted(logs.glob("*/summary.json"))] == written


def test_repeat_goes_on_with_a_stopped_training(held_out: Path, commands: list[list[str]]) -> None:
    arguments = [str(held_out), "--seeds", "1", "train.max_epochs=2"]
    repeat.main(arguments)
    (held_out.parent / "logs" / "tiny-seed0" / "summary.json").unlink()
    repeat.main(arguments)
    assert commands[1] == [*commands[0], "train.from_checkpoint=true"]
    assert summary(held_out, "tiny-seed0")["epochs"] == 2


def test_a_run_of_other_settings_or_pictures_is_not_taken(
    held_out: Path, commands: list[list[str]]
) -> None:
    """Nor one that another program left under this name."""
    arguments = [str(held_out), "--seeds", "1"]
    repeat.main([*arguments, "train.max_epochs=1"])
    repeat.main([*arguments, "train.max_epochs=1", "train.num_workers=0"])
    with pytest.raises(UserError, match="other settings .*max_epochs: 1 -> 2.*another name"):
        repeat.main([*arguments, "train.max_epochs=2"])
    with pytest.raises(UserError, match="is a run of mode .*, not baseline knn"):
        repeat.main([*arguments, "train.run_name=tiny", "--baseline", "knn"])
    assert len(commands) == 1
    images = held_out.parent / "images"
    taken = next(images.rglob("*.png"))
    taken.rename(taken.with_name("other.png"))
    with pytest.raises(UserError, match="other pictures: 1 are gone or changed, and 1 are new"):
        repeat.main([*arguments, "train.max_epochs=1"])


@pytest.mark.parametrize(
    "options",
    [
        ["train.mode=pretrained"],
        ["train.mode=scratch", "train.checkpoint=null"],
        ["train.cache=off"],
        ["train.finetune_blocks=2"],
        ["train.classes=[red,blue]"],
        ["train.head=auto", "train.views=auto", "train.lr=auto"],
        ["train.head=layers"],
    ],
)
def test_what_auto_came_to_is_no_other_setting(
    held_out: Path, commands: list[list[str]], options: list[str]
) -> None:
    arguments = [str(held_out), "--seeds", "1", "train.head=auto", "train.max_epochs=1", *options]
    repeat.main(arguments)
    turned = [option.replace("[red,blue]", "[blue,red]") for option in arguments]
    repeat.main([*turned, "train.verdict=false"])
    assert len(commands) == 1


def test_a_baseline_of_other_settings_is_not_taken(
    held_out: Path, commands: list[list[str]]
) -> None:
    arguments = [str(held_out), "--seeds", "1", "--baseline", "knn"]
    for _ in range(2):
        repeat.main(arguments)
    with pytest.raises(UserError, match="other settings .*batch_size: 8 -> 4"):
        repeat.main([*arguments, "train.batch_size=4"])
    with pytest.raises(UserError, match="other settings .*train.fit"):
        repeat.main([*arguments, "train.fit=squash"])
    with pytest.raises(UserError, match="other settings .*train.checkpoint"):
        repeat.main([*arguments, "train.checkpoint=other.safetensors"])
    with pytest.raises(UserError, match="a run of mode baseline knn, not baseline logistic"):
        repeat.main([*arguments[:-1], "logistic", "train.run_name=tiny-knn"])
    assert len(commands) == 1


@pytest.mark.parametrize("option", ["balanced_sampler=true", "finetune_blocks=2", "bf16=true"])
def test_what_a_baseline_reads_is_its_setting(
    held_out: Path, commands: list[list[str]], option: str
) -> None:
    arguments = [str(held_out), "--seeds", "1", "--baseline", "knn"]
    for _ in range(2):
        repeat.main([*arguments, "train.max_epochs=1"])
    name = option.partition("=")[0]
    with pytest.raises(UserError, match=f"other settings .*train.{name}"):
        repeat.main([*arguments, "train.max_epochs=1", f"train.{option}"])
    assert len(commands) == 1


def test_weights_of_a_baselines_own_are_asked_for(
    held_out: Path, commands: list[list[str]]
) -> None:
    path = held_out.parent / "mobile.pth"
    torch.save(networks.mobilenet_v3(10, None).state_dict(), path)
    short = ["train.max_epochs=1", "vit.dim=32", "train.run_name=mob"]
    arguments = [str(held_out), "--seeds", "1", "--baseline", "mobilenet_v3_large", *short]
    for _ in range(2):
        repeat.main([*arguments, "--weights", str(path)])
    with pytest.raises(UserError, match=r"began with .*mobile.pth, not with random ones"):
        repeat.main(arguments)
    assert len(commands) == 1


def test_a_seed_that_diverged_is_named(held_out: Path, commands: list[list[str]]) -> None:
    arguments = [str(held_out), "--seeds", "1", "train.max_epochs=1"]
    repeat.main(arguments)
    page = held_out.parent / "logs" / "tiny-seed0" / "summary.json"
    page.write_text(json.dumps({"verdict": "not learned", "verdict_sentence": "not learned: NaN"}))
    with pytest.raises(UserError, match="tiny-seed0: not learned: NaN; remove"):
        repeat.main(arguments)


def test_runs_that_go_on_with_one_are_there_already(
    held_out: Path, commands: list[list[str]]
) -> None:
    training.main(["--config", str(held_out), "train.run_name=first", "train.max_epochs=1"])
    text = held_out.read_text().replace(
        "train:", f"train:\n  from_run: {held_out.parent}/logs/first"
    )
    config = held_out.parent / "more.yaml"
    config.write_text(text)
    for _ in range(2):
        repeat.main([str(config), "--seeds", "1", "train.max_epochs=1"])
    assert len(commands) == 1
    with pytest.raises(UserError, match="other settings .*max_epochs: 1 -> 2"):
        repeat.main([str(config), "--seeds", "1", "train.max_epochs=2"])


def test_shards_with_a_picture_in_two_classes_are_the_same(
    held_out: Path, commands: list[list[str]]
) -> None:
    """The seed draws the parts, and with them which of its copies is used."""
    files = sample_files(12)
    twice = [name for name in files if name.endswith(".png")][:4]
    for number, name in enumerate(twice):
        files[f"twice{number}.png"], files[f"twice{number}.cls"] = files[name], b"1"
    (held_out.parent / "tars").mkdir()
    tar = tar_of(held_out.parent / "tars" / "a.tar", files)
    arguments = [
        str(held_out),
        "--seeds",
        "3",
        "train.max_epochs=1",
        f"train.base_dir={tar.parent}",
    ]
    for _ in range(2):
        repeat.main([*arguments, "train.test_fraction=null"])
    assert len(commands) == 3
    rows = [
        {
            (r["path"], r["label"])
            for r in read_csv(held_out.parent / f"logs/tiny-seed{i}/split.csv")
        }
        for i in range(3)
    ]
    assert any(some != rows[0] for some in rows), "or this tests nothing"


def test_repeat_stops_at_a_failure(
    held_out: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="tiny-seed0 failed with status 2"):
        repeat.main([str(held_out), "--seeds", "2", "train.base_dir=nowhere"])
    assert "nowhere: no such folder" in capsys.readouterr().err and len(commands) == 1
    for wrong in (["train.seed=1"], ["--seeds", "0"], ["--weights", "x.pth"]):
        with pytest.raises(SystemExit):
            repeat.main([str(held_out), *wrong])


def test_a_baseline_goes_on_from_a_run_with_its_split(
    held_out: Path, commands: list[list[str]]
) -> None:
    """It drew a split of its own, and the second time its runs were refused."""
    training.main(["--config", str(held_out), "train.run_name=one", "train.max_epochs=1"])
    logs = held_out.parent / "logs"
    words = [str(held_out), "--seeds", "2", "--baseline", "knn", "train.run_name=b"]
    for _ in range(2):
        assert repeat.main([*words, f"train.from_run={logs / 'one'}"]) == 0
    assert len(commands) == 2, "the second time they are there"
    for seed in range(2):
        assert (logs / f"b-seed{seed}/split.csv").read_text() == (
            logs / "one/split.csv"
        ).read_text()


@pytest.mark.slow
def test_repeat_runs_a_baseline_in_a_process_of_its_own(
    held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(held_out), "--seeds", "1", "--baseline", "knn", "train.run_name=b"]
    assert repeat.main(arguments) == 0
    assert summary(held_out, "b-seed0")["mode"] == "baseline knn"
    assert json.loads((held_out.parent / "logs/b-repeat.json").read_text())["baseline"] == "knn"
    out = capsys.readouterr().out
    assert "b-seed0:\n" in out and "(baseline knn: neighbours" in out and "±" not in out


def test_a_baselines_runs_are_not_taken_for_trainings(
    held_out: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the config names its run, as the quick start's does."""
    asked: list[str] = []

    def done(config: str, overrides: list[str], baseline: str | None, weights: str | None) -> Any:
        asked.append(overrides[-1].removeprefix("train.run_name="))
        return {"val_accuracy": 0.5, "val_balanced_accuracy": 0.5, "test_accuracy": None} | {
            "images": {"val": 9},
            "seconds": 1.0,
        }

    monkeypatch.setattr(repeat, "finished", done)
    for more in ([], ["--baseline", "knn"], ["--baseline", "logistic"]):
        repeat.main([str(held_out), "--seeds", "1", *more])
    repeat.main([str(held_out), "--seeds", "1", "--baseline", "knn", "train.run_name=mine"])
    assert asked == ["tiny-seed0", "tiny-knn-seed0", "tiny-logistic-seed0", "mine-seed0"]


@pytest.mark.slow
def test_ctrl_c_reaches_the_run_once_and_is_waited_for(tmp_path: Path) -> None:
    """The run saves on Ctrl-C, which takes a while; repeat ends after it, with one line."""
    saved = tmp_path / "saved"
    child = (
        "import sys, time\n"
        "print('up', flush=True)\n"
        f"try:\n    open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    time.sleep(0.3); open({str(saved)!r}, 'w').close()\n"
    )
    code = (
        "from tools import repeat; from utils import command_line; import sys\n"
        f"sys.exit(command_line(lambda: repeat.run([sys.executable, '-c', {child!r}])[0]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "up").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and saved.exists()
    assert err.strip() == "stopped"
