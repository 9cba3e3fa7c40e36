"""--resume: which run, with whose settings; what may be others, and what may not."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import engine.outcome
import training
from config import ConfigError, TrainConfig
from config_file import load_config
from engine.job import Job
from engine.mended import is_beginning
from engine.resume import FIXED, FREE, PLACES, is_same_place, newest, put_back, settings_to_resume
from engine.run import Run
from engine.stop import before_training
from tests.engine.test_lock import HOLDS
from tests.helpers import REPO, fail, picture, summary, train
from utils import UserError, go_on


def resume(*words: str) -> int:
    return training.main(["--resume", *words])


def test_each_setting_is_either_fixed_or_free() -> None:
    tables = (FIXED, FREE, PLACES)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names)) and set(names) == set(TrainConfig.model_fields)


@pytest.fixture
def stopped(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of logs of a run that has one of its two epochs behind it, and half the second."""
    from engine.job import Job

    original = Job.step

    def stop(self: Job, inputs: object, labels: object, position: object = None) -> object:
        if (position.epoch, position.steps) == (2, 2):  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return original(self, inputs, labels, position)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped with 1 epoch and 2 steps done; go on"):
            train(config_file, "train.max_epochs=2")
    return config_file.parent / "logs/tiny"


def test_the_newest_that_was_stopped_goes_on_with_its_own_settings(
    stopped: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with those of the page, nor with a finished run's, though that one is newer."""
    train(config_file, "train.run_name=newer", "train.max_epochs=1")
    raw = yaml.safe_load(config_file.read_text())
    raw["train"] |= {"seed": 9, "batch_size": 3}
    config_file.write_text(yaml.safe_dump(raw))
    capsys.readouterr()
    assert resume("--config", str(config_file)) == 0
    out = capsys.readouterr().out
    assert f"going on after step 2 of epoch 2 of {stopped}" in out and "are new" not in out
    assert summary(config_file)["epochs"] == 2
    said = fail(config_file, "--resume")
    assert "holds no run that was stopped: every run there is finished; --resume NAME" in said


@pytest.mark.parametrize("which", ["logs/tiny", "weights/tiny", "weights/tiny/last.pt", "tiny"])
def test_a_run_is_named_as_people_name_it(stopped: Path, config_file: Path, which: str) -> None:
    source = str(config_file.parent / which) if "/" in which else which
    config, _ = training_settings(config_file, source)
    assert config.from_checkpoint == "tiny" and config.max_epochs == 2
    assert Path(config.log_path).resolve() == stopped.parent.resolve()


def training_settings(config_file: Path, source: str) -> tuple[TrainConfig, list[str]]:
    config, notes = settings_to_resume(str(config_file), source, [])
    return config.train, notes


def test_a_setting_behind_resume_is_no_run(
    stopped: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config_file.parent)
    (config_file.parent / "config.yaml").write_text(config_file.read_text())
    assert resume("train.log_epoch=1", "train.max_epochs=3") == 0
    assert summary(config_file)["epochs"] == 3


def test_no_such_run_is_one_sentence(stopped: Path, config_file: Path, tmp_path: Path) -> None:
    assert "tinny: no such run; did you mean tiny?" in fail(config_file, "--resume", "tinny")
    (stopped / "config.yaml").unlink()
    assert "is not there: name its settings" in fail(config_file, "--resume", str(stopped))
    none = [f"train.log_path={tmp_path / 'nowhere'}"]
    assert "holds no run that was stopped: there is none" in fail(config_file, "--resume", *none)


def test_what_is_new_is_said_and_what_would_be_another_run_is_refused(
    stopped: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [path.read_bytes() for path in (stopped / "config.yaml", stopped / "split.csv")]
    wrong = ["train.seed=5", "train.batch_size=4", "vit.hidden_dim=64"]
    said = fail(config_file, "--resume", str(stopped), *wrong)
    for change in ("hidden_dim: 48 -> 64", "batch_size: 8 -> 4", "seed: 0 -> 5"):
        assert change in said
    assert f"that would be another run than {stopped}; leave it out and go on with: python" in said
    for key, old, new in (("mode", "scratch", "pretrained"), ("optim", "adamw", "sgd")):
        said = fail(config_file, "--resume", str(stopped), f"train.{key}={new}", "vit.dropout=0")
        assert f"train.{key}: {old} -> {new}" in said
    said = fail(config_file, "--resume", str(stopped), "train.val_fraction=0.4")
    assert "train.val_fraction: 0.2 -> 0.4: that would be another run" in said
    assert [p.read_bytes() for p in (stopped / "config.yaml", stopped / "split.csv")] == before
    capsys.readouterr()
    free = ["train.max_epochs=3", "train.lr=2e-3", "train.log_epoch=1"]
    assert resume(str(stopped), *free) == 0
    out = capsys.readouterr().out
    assert "settings that are new: " in out
    for change in ("max_epochs: 2 -> 3", "train.lr: 0.001 -> 0.002", "log_epoch: auto -> 1"):
        assert change in out
    rows = list(csv.DictReader((stopped / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 3
    last = torch.load(config_file.parent / "weights/tiny/last.pt", weights_only=True)
    assert last["scheduler"]["base_lrs"] == [0.002, 0.002], "it is used, not only said"
    said = fail(config_file, "--resume", str(stopped), "train.max_epochs=2")
    assert "train.max_epochs: 2 is less than the 3 epochs that are begun" in said


def test_a_warm_up_that_nobody_set_follows_fewer_epochs(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or `auto`. It was 15 epochs of 300, and `train.max_epochs=6` was refused for it."""
    monkeypatch.chdir(config_file.parent)
    auto = ["train.warmup_epochs=auto", "train.max_epochs=300", "train.report=false"]
    original, calls = Job.step, iter(range(1000))

    def stop(*args: Any) -> Any:
        if next(calls) == 8:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped with 2 epochs done"):
            train(config_file, "train.run_name=long", *auto)
    training.main(["--resume", "long", "train.max_epochs=6"])
    kept = load_config("logs/long/config.yaml")[0].train
    assert (kept.max_epochs, kept.warmup_epochs) == (6, 0.3)
    for fewer in ("auto", "5", "4.0", "3"):
        found, _ = settings_to_resume("config.yaml", "long", [f"train.max_epochs={fewer}"])
        assert found.train.warmup_epochs == "auto"
    decays = ["train.max_epochs=1", "train.scheduler_type=wsd", "train.decay_epochs=0.5"]
    found, _ = settings_to_resume("config.yaml", "long", decays)
    assert found.train.warmup_epochs == "auto"
    for epochs in ("6", "60"):  # what was not shortened stays
        found, _ = settings_to_resume("config.yaml", "long", [f"train.max_epochs={epochs}"])
        assert found.train.warmup_epochs == 0.3
    own_file = Path("logs/long/config.yaml")
    own_file.write_text(own_file.read_text().replace("warmup_epochs: 0.3", "warmup_epochs: 2"))
    found, _ = settings_to_resume("config.yaml", "long", ["train.max_epochs=5"])
    assert found.train.warmup_epochs == 2, "somebody has set it"
    own = ["--resume", "long", "train.max_epochs=8", "train.warmup_epochs=9"]
    with pytest.raises(ConfigError, match=r"warmup_epochs: 9 is more than max_epochs \(8\)"):
        training.main(own)


def test_an_edit_of_the_run_s_own_settings_is_seen(stopped: Path, config_file: Path) -> None:
    own = stopped / "config.yaml"
    own.write_text(own.read_text().replace("seed: 0", "seed: 3"))
    said = fail(config_file, "--resume", "tiny")
    assert "train.seed: 0 -> 3: that would be another run" in said
    assert f"{go_on(stopped)} train.seed=0, or begin a new one" in said, "a way that leads on"
    assert resume(str(stopped), "train.seed=0") == 0


def test_what_puts_edits_back_is_what_was_edited() -> None:
    wrong = {
        "train.lr": ("auto", 0.5),
        "train.optim": ("auto", "adamw"),
        "train.classes": (None, 2),
    }
    written = {"vit": {}, "train": {"lr": 0.5, "optim": "auto", "classes": 2}}
    assert put_back(wrong, written) == ["train.lr=auto", "train.classes=null"]


def test_labels_that_were_edited_meanwhile_are_another_run(
    config_file: Path, image_folder: Path
) -> None:
    labels = config_file.parent / "labels.csv"
    labels.write_text("path,decision,label\nred/00.png,relabel,blue\n")
    train(config_file, f"train.labels={labels}", "train.max_epochs=1")
    logs = str(config_file.parent / "logs/tiny")
    assert resume(logs, "train.max_epochs=2") == 0
    labels.write_text("path,decision,label\nred/00.png,relabel,green\nred/01.png,leave out,\n")
    said = fail(config_file, "--resume", logs, "train.max_epochs=3")
    assert "2 of the pictures that" in said and "red/00.png (blue, now green)" in said
    assert "red/01.png (red, now left out)" in said and "put train.labels back" in said
    labels.write_text("path,decision,label\nred/00.png,relabel,blue\n")
    picture("red", 55).save(image_folder / "red/02.png")
    said = fail(config_file, "--resume", logs, "train.max_epochs=3")
    assert "red/02.png (changed)" in said


def test_a_path_that_is_found_from_elsewhere_is_no_other_one() -> None:
    assert is_same_place("weights/a.npz", "/there/weights/a.npz")
    assert is_same_place("weights/../a.npz", "a.npz") and is_same_place(None, None)
    assert not is_same_place("weights/a.npz", "/there/b/a.npz")
    assert not is_same_place(None, "a.npz")


def test_a_sanity_check_is_nothing_to_go_on_with(config_file: Path) -> None:
    train(config_file, "overfit_one_batch.overfit=true", "overfit_one_batch.max_steps=1")
    said = fail(config_file, "--resume")
    assert "holds no run that was stopped" in said


def test_a_stop_before_the_training_says_what_is_there(tmp_path: Path) -> None:
    run = Run("one", str(tmp_path / "logs"), str(tmp_path / "weights"))

    def said() -> str:
        with pytest.raises(KeyboardInterrupt) as caught, before_training(run):
            raise KeyboardInterrupt
        return str(caught.value)

    assert said() == "stopped before the training; the same command begins again"
    run.folder.mkdir(parents=True)
    run.split.write_text("path\n")
    assert said().startswith("stopped before the training; go on with: python")
    run.resumes = True
    assert f"{run.folder} is as it was; go on with: python" in said()


def test_a_split_that_was_deleted_is_drawn_again(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (stopped / "split.csv").read_bytes()
    (stopped / "split.csv").unlink()
    assert resume(str(stopped)) == 0
    assert "it is drawn again, the same" in capsys.readouterr().out
    assert (stopped / "split.csv").read_bytes() == before


def test_a_stop_while_the_report_is_written_names_its_command(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_report", stop)
    with pytest.raises(KeyboardInterrupt, match="the run is complete, its report: python -m tools"):
        train(config_file, "train.max_epochs=1", "train.report=true")
    assert summary(config_file)["epochs"] == 1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_settings_that_were_cut_are_the_checkpoint_s(
    stopped: Path, config_file: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    page = stopped / "config.yaml"
    whole = page.read_bytes()
    page.write_bytes(whole[: int(len(whole) * share)] + b"\0" * 20)
    assert resume("--config", str(config_file)) == 0
    out = capsys.readouterr().out
    assert f"{page} was {'cut off' if share else 'empty'}: it is written again as" in out
    assert "going on after step 2 of epoch 2" in out and "are new" not in out
    assert page.read_bytes() == whole and summary(config_file)["epochs"] == 2


def test_what_is_edited_is_not_taken_for_cut() -> None:
    whole = "vit:\n  dim: 8\ntrain:\n  lr: 0.1\n  views: 2\n  seed: 0\n"
    for cut in ("", "vit:\n  d", "vit:\n  dim: 8\ntrain:\n  lr: 0.1\n  views: auto\n  see"):
        assert is_beginning(cut, whole)
    for edited in (whole.replace("0.1", "0.2"), "train:\n  lr: 0.1", whole + "x", "vit:\n  lr"):
        assert not is_beginning(edited.rstrip(), whole)
    assert not is_beginning(whole.rstrip(), whole)


def test_a_run_of_another_process_is_left_alone(
    stopped: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = stopped.parent / "newer"
    newer.mkdir()
    for name in ("config.yaml", "split.csv"):
        (newer / name).write_bytes((stopped / name).read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(newer)], stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        assert resume("--config", str(config_file)) == 0
        out = capsys.readouterr().out
        assert f"{newer} is running (host" in out and f"pid {process.pid}" in out
        assert f"going on after step 2 of epoch 2 of {stopped}" in out
        said = fail(config_file, "--resume")
        assert f"holds no run that was stopped: {newer} is running (host" in said
    finally:
        process.kill()
        process.wait()
    assert newest(str(stopped.parent)) == (newer, [])


def test_what_is_new_in_the_folder_is_not_read(
    stopped: Path, config_file: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class of its own, a picture that can't be read, and a class without any."""
    for name in ("amber", "zinc"):
        (image_folder / name).mkdir()
    picture("red", 99).save(image_folder / "amber" / "a.png")
    (image_folder / "red" / "new.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert resume("--config", str(config_file)) == 0
    assert "not used: 2 file(s)" in capsys.readouterr().out
    assert summary(config_file)["epochs"] == 2
    log = (stopped / "run.log").read_text()
    assert f"new.png: not in {stopped}/split.csv" in log


def test_a_stop_behind_the_summary_calls_the_run_complete(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.outcome.to_tensorboard", stop)
    with pytest.raises(KeyboardInterrupt, match="the run is complete, its report: python -m tools"):
        train(config_file, "train.max_epochs=1")
    folder = config_file.parent / "logs/tiny"
    assert (folder / "predictions.csv").exists() and (folder / "summary.json").exists()


def test_a_run_without_its_predictions_is_not_finished(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine.outcome.write_csv

    def killed(path: Path, *args: Any) -> None:
        if path.name == "predictions.csv":
            raise SystemExit(137)
        original(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr("engine.outcome.write_csv", killed)
        with pytest.raises(SystemExit):
            train(config_file, "train.max_epochs=1")
    assert newest(str(config_file.parent / "logs"))[0].name == "tiny"


def test_a_run_that_lacks_its_report_alone_is_named(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    page = config_file.parent / "logs/tiny/config.yaml"
    page.write_text(page.read_text().replace("report: false", "report: true"))
    said = fail(config_file, "--resume")
    assert f"{page.parent} is finished but for its report: python -m tools.report" in said
    (page.parent / "report.html").touch()
    assert "every run there is finished" in fail(config_file, "--resume")


def test_what_never_has_a_report_does_not_lack_it(config_file: Path) -> None:
    """A sanity check, and a run that diverged."""
    train(config_file, "train.report=true", "overfit_one_batch.overfit=true")
    assert "every run there is finished" in fail(config_file, "--resume")
    with pytest.raises(UserError, match="not finite"):
        train(config_file, "train.report=true", "train.lr=1e30", "train.run_name=far")
    assert "every run there is finished" in fail(config_file, "--resume")


def test_a_finished_run_has_nothing_left_to_do(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was judged and trained on all pictures a second time, without a word."""
    train(config_file, "train.max_epochs=1")
    folder = config_file.parent / "logs/tiny"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert resume(str(folder)) == 0
    assert capsys.readouterr().out == (
        f"{folder} is finished, and nothing is left to do; train.max_epochs=... trains it for "
        "longer\n"
    )
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    resume(str(folder), "train.max_epochs=2")
    assert summary(config_file)["epochs"] == 2
    (folder / "predictions.csv").unlink()  # what is damaged is made again
    resume(str(folder))
    assert (folder / "predictions.csv").exists()


@pytest.mark.slow
def test_the_seconds_of_what_was_done_before_a_stop_are_known(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.job import Job

    original = Job.step

    def stop(self: Job, inputs: object, labels: object, position: Any = None) -> object:
        if position is not None and (position.epoch, position.steps) == (2, 1):
            raise KeyboardInterrupt
        return original(self, inputs, labels, position)  # type: ignore[arg-type]

    later = time.perf_counter
    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", stop)
        patch.setattr("engine.outcome.time.perf_counter", lambda: 1000 * later())
        with pytest.raises(KeyboardInterrupt):
            train(finetune)
    resume(str(finetune.parent / "logs/tiny"))
    assert summary(finetune)["cache_seconds"] > 20  # of a pass of some tenths of a second


def test_a_finished_run_that_is_stopped_again_says_how_to_go_on(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old summary.json is there until the first thing is written."""
    train(config_file, "train.max_epochs=1")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.prepare", stop)
    with pytest.raises(KeyboardInterrupt, match="go on with: .*--resume"):
        train(config_file, "--resume", "tiny", "train.max_epochs=2")


def test_check_of_a_run_that_goes_on_looks_at_its_own_pictures(
    stopped: Path, config_file: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "amber").mkdir()
    for name in ("amber", "red"):
        for i in range(9):
            picture("red", 50 + i).save(image_folder / name / f"new{i}.png")
    before = {path: path.read_bytes() for path in stopped.parent.rglob("*") if path.is_file()}
    for words, said in (
        ([], "steps: 4 an epoch, 8 in 2 epochs, of which 6 are done"),
        (["train.max_epochs=1"], "train.max_epochs: 1 is less than the 2 epochs that are begun"),
        (["train.seed=4"], "train.seed: 0 -> 4: that would be another run"),
    ):
        capsys.readouterr()
        assert train(config_file, "--resume", "tiny", *words, "--check") == 0
        out = capsys.readouterr().out
        assert said in out and ("would not begin" in out) == bool(words) and "about -" not in out
    assert {p: p.read_bytes() for p in stopped.parent.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", [".", str(REPO)])
def test_the_projects_own_folder_is_no_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(REPO)
    said = fail(config_file, "--resume", name)
    assert said.startswith(f"{name} is not a run; name one under ")
