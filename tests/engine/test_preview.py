"""--check says what a run would do."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from config_file import load_config
from engine.forecast import clocked, forecast
from engine.preview import expected_memory
from engine.run import Run
from engine.search import PATCHES_A_STEP
from engine.start import set_up
from tests.helpers import CPU, fail, picture, summary, train, without_vit


@pytest.mark.usefixtures("new_files_are_remembered")
def test_check_says_how_large_the_cache_will_be(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(finetune, "--check") == 0
    assert "token cache: 36 records, 0 MB in" in capsys.readouterr().out
    assert not (finetune.parent / "data").exists()
    train(finetune, "--check", "overfit_one_batch.overfit=true")
    assert "token cache" not in capsys.readouterr().out, "none is made"


def test_check_says_what_would_be_done_and_does_nothing(
    config_file: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "red" / "notes.txt").write_text("x")
    assert train(config_file, "--check", "train.lr=2e-3") == 0
    out = capsys.readouterr().out
    for part in (
        "lr: 0.002",
        "48,291 in all, 48,291 train (mode scratch)",
        "notes.txt: no image by its extension",
        "steps: 4 an epoch, 12 in 3 epochs",
        "memory: about",
    ):
        assert part in out
    assert "".join(out.split()).find("red1020") > 0
    assert not (config_file.parent / "logs").exists()
    assert "would not begin" not in out
    train(config_file, "train.max_epochs=2")
    assert train(config_file, "--check") == 0, "also beside a run of that name"
    assert "a run would not begin: " in (out := capsys.readouterr().out)
    assert "logs/tiny exists: a finished run: choose another" in out
    train(config_file, "--resume", "tiny", "train.max_epochs=4", "--check")
    out = capsys.readouterr().out
    assert "steps: 4 an epoch, 16 in 4 epochs, of which 8 are done" in out
    assert "would not begin" not in out


@pytest.mark.slow
def test_check_counts_a_head_over_layers_as_the_run_does(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for head in ("class", "layers", "both"):
        options = [f"train.head={head}", f"train.run_name={head}"]
        train(finetune, "--check", *options)
        said = capsys.readouterr().out.partition("parameters: ")[2].partition("\n")[0]
        train(finetune, *options)
        capsys.readouterr()
        total, *found = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]+", said))
        counted = summary(finetune, head)["parameters"]
        assert sum(found) == counted["trainable"]
        if head == "both":  # the class head is not there where that over layers is alone
            assert total + found[-1] == counted["total"]
        assert ("of a head over layers" in said) == (head != "class")


def test_what_takes_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a large network takes a minute on a busy machine, and was taken three times."""
    calls: list[None] = []
    assert clocked(lambda: calls.append(time.sleep(0.02))) < 0.1 and len(calls) > 2
    monkeypatch.setattr("engine.forecast.SLOW_SECONDS", -1)
    del calls[:]
    assert clocked(lambda: calls.append(time.sleep(0.02))) < 0.1 and len(calls) == 1


def test_check_of_a_sanity_check(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config_file, "--check", "overfit_one_batch.overfit=true", "overfit_one_batch.max_steps=9")
    said = capsys.readouterr().out
    assert "a sanity check: at most 9 steps on one batch of 8; no weights are kept" in said
    assert not re.search("an epoch|time: |of checkpoints", said)


def test_check_says_what_is_still_to_be_chosen(
    finetune: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.views=auto", "train.refit=auto", "train.max_epochs=auto", "train.lr=auto")
    train(finetune, "--check", "train.head=auto", *options)
    said = capsys.readouterr().out
    assert "views auto: 16 of each picture that is learned" in said and "where they h" not in said
    assert "4,800 in 1200 epochs" in said and "part (AdamW's takes 300 epochs)" in said
    monkeypatch.setattr("config.FEW", 0)
    train(finetune, "--check", "train.head=auto", *options)
    said = capsys.readouterr().out
    assert "head: to be chosen on the training part: over layers alone, or both" in said
    assert "and up to 4 views of each picture that is learned, where they help" in said
    assert "in the end: the same once more on all pictures that are not test" in said
    train(finetune, "--check", "train.head=layers")
    said = capsys.readouterr().out
    assert "to be chosen" not in said and "where they help" not in said and "once more" not in said
    assert "steps: none: the head over layers is solved for" in said
    assert "an epoch" not in said and "learning rate" not in said


def test_epochs_are_those_of_what_answers_in_the_end(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few pictures with views train longer; not where the disk has room for none, or no cache."""
    options = ["train.head=auto", "train.views=auto", "train.max_epochs=auto", "train.lr=auto"]
    config, _ = load_config(finetune, options)

    def settled() -> tuple[object, ...]:
        run = Run("x", config.train.log_path, config.train.save_path)
        train = set_up(config, run, CPU).train
        return train.head, train.views, train.max_epochs, train.warmup_epochs

    assert settled() == ("auto", 16, 1200, 60)
    monkeypatch.setattr(
        "engine.start.with_room_for_views",
        lambda train, *rest: train.model_copy(update={"views": 1}),
    )
    assert settled() == ("auto", 1, 300, 15)
    monkeypatch.undo()
    monkeypatch.setattr("engine.start.plan_cache", lambda *rest: None)
    assert settled() == ("class", "auto", 300, 15)


def test_the_memory_of_a_fit_is_foreseen(finetune: Path) -> None:
    """Of few pictures with many views it is the features, in float64."""

    def foreseen(*options: str) -> float:
        config, _ = load_config(finetune, [*options])
        work = set_up(config, Run("x", config.train.log_path, config.train.save_path), CPU)
        return expected_memory(work)

    one = foreseen("train.head=layers", "train.views=1")
    many = foreseen("train.head=layers", "train.views=16")
    width, rows = (2 * 2 + 9) * 48, (30, 30 * 16)  # of blocks 2 and 3, and the nine cells
    features = 20 * width * (rows[1] - rows[0])  # once in float32, twice in float64
    products = 24 * (rows[1] ** 2 - rows[0] ** 2)
    assert many - one == pytest.approx(features + products)


@pytest.mark.usefixtures("new_files_are_remembered")
def test_check_estimates_the_time_and_what_is_copied(
    finetune: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "--check")
    said = capsys.readouterr().out
    assert re.search(r"time: about \d+(\.\d)? (s|min), from a timed batch", said)
    assert "copied" not in said
    train(finetune, "train.lr=1e-3")
    picture("red", 99).save(image_folder / "red" / "more.png")
    capsys.readouterr()
    train(finetune, "--check", "train.run_name=next")
    assert "37 records, 0 MB in" in (said := capsys.readouterr().out)
    assert "to be made; 36 of them copied from an older one" in said


def test_the_forecast_grows_with_what_is_to_be_done(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"timed_trunk": 1.0, "timed_step": 0.1, "timed_scores": 0.5}
    monkeypatch.setattr("engine.forecast.timed_fit", lambda work, images: 2.0)
    for name, seconds in known.items():
        monkeypatch.setattr(f"engine.forecast.{name}", lambda work, s=seconds: s)
    at_once = [False]
    monkeypatch.setattr("engine.forecast.several_at_once", lambda work: at_once[0])

    def expected(*options: str) -> dict[str, float]:
        config, _ = load_config(finetune, ["train.max_epochs=4", *options])
        run = Run("x", config.train.log_path, config.train.save_path)
        return forecast(set_up(config, run, CPU)).seconds

    # 30 to learn, 6 held out: 4 steps of 8 an epoch.
    found = expected("train.lr=1e-3", "train.head=class", "train.verdict=true")
    assert found["the token cache"] == 36
    assert found["training"] == pytest.approx(16 * 0.1)
    assert found["trials and the control"] == pytest.approx(16 * 0.1)
    long = ["train.lr=auto", "train.verdict=false", "train.max_epochs=300"]
    searched = expected("train.head=class", *long)
    assert searched["trials and the control"] == pytest.approx(0.1 * 2000)
    both = expected("train.head=both", *long)
    assert both["trials and the control"] == pytest.approx(0.1 * (900 + 2000))
    short = expected("train.head=both", *long, "train.max_epochs=4")
    assert short["trials and the control"] == pytest.approx(0.1 * 16 * 3), "its own on each fold"
    short = expected("train.head=auto", *long, "train.max_epochs=4")
    assert short["trials and the control"] == pytest.approx(0.1 * 16 * 6), "and a first look"
    many = expected("train.head=both", *long, "train.views=16", "train.lr=auto")
    patches = 30 * 16 * 4**2  # of the records to learn
    assert patches // PATCHES_A_STEP < 2000
    assert many["trials and the control"] == pytest.approx(0.1 * (900 + 2000))
    monkeypatch.setattr("engine.search.PATCHES_A_STEP", 1)
    many = expected("train.head=both", *long, "train.views=16", "train.lr=auto")
    assert many["trials and the control"] == pytest.approx(0.1 * (900 + patches))
    solved = expected("train.head=layers")
    assert solved["the token cache"] == 36 and "training" not in solved
    blocks = 2.0 * 4 / 5  # each alone
    assert solved["the head over layers"] == pytest.approx(2.0 + blocks)
    solved = expected("train.head=layers", "train.verdict=true", "train.refit=true")
    assert solved["the head over layers"] == pytest.approx(2.0 * (2 + 1.2**2) + blocks)
    looks = expected("train.head=both", *long)["the head over layers"]
    assert looks == pytest.approx(2.0 * (1 + 3 * 4 / 9) + blocks)
    whole = expected("train.mode=pretrained", "train.lr=1e-4", "train.head=class")
    assert whole == {"training": pytest.approx(1.6), "validation": pytest.approx(4 * 6 * 0.5)}
    at_once[0] = True
    judged = ["train.lr=1e-3", "train.head=class", "train.verdict=true"]
    alone = expected(*judged)
    assert alone == found, "a training and then a control take a core each"
    again = expected(*judged, "train.refit=true")
    assert again["training"] == pytest.approx(1.6 * (1 + 0.67 * 1.2))
    assert again["trials and the control"] == pytest.approx(1.6 * 0.67)
    deeper = expected(*judged, "train.refit=true", "train.finetune_blocks=2")
    assert deeper["training"] == pytest.approx(1.6 * 2.2), "it takes all cores, in turns"
    assert deeper["trials and the control"] == pytest.approx(1.6)


def test_the_forecast_of_a_run_that_goes_on_is_of_what_is_left(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("timed_trunk", "timed_step", "timed_scores"):
        monkeypatch.setattr(f"engine.forecast.{name}", lambda work: 0.1)
    for mode in ("finetune", "pretrained"):
        config, _ = load_config(finetune, [f"train.mode={mode}", "train.max_epochs=4"])
        work = set_up(config, Run("x", config.train.log_path, config.train.save_path), CPU)
        whole, half = (forecast(work, tries=False, done=done).seconds for done in (0, 8))
        assert half["training"] == pytest.approx(whole["training"] / 2)
        assert forecast(work, tries=False, done=16).seconds["training"] == 0


def test_check_fetches_nothing(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(*args: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.chdir(config_file.parent)
    monkeypatch.setattr("pretrained.names.download", fetched)
    monkeypatch.setattr("pretrained.names.HOME", config_file.parent / "none")
    without_vit(config_file)
    options = ["train.mode=finetune", "train.max_epochs=1", "train.lr=1e-3"]
    assert train(config_file, "--check", *options, "train.checkpoint=google-in21k-augreg-ti16") == 0
    said = capsys.readouterr().out
    assert "a run fetches https://storage.googleapis.com/vit_models/augreg/Ti_16" in said
    assert "weights/google-in21k-augreg-ti16.npz (about 39 MB); nothing is fetched now" in said
    assert "hidden_dim: 192" in said and "time: about" in said and "token cache: 36" in said
    assert train(config_file, "--check", *options, "train.checkpoint=someone/vit") == 0
    said = capsys.readouterr().out
    assert "a run fetches https://huggingface.co/someone/vit to weights/someone--vit; what" in said
    assert "time:" not in said


def test_sizes_that_are_not_the_weights_are_named_with_the_remedy(finetune: Path) -> None:
    said = fail(finetune, "--check", "vit.hidden_dim=96", "vit.num_heads=auto")
    assert "hidden_dim: 96 in the config, 48 in the weights" in said and "num_heads" not in said
    assert "leave these keys of vit out, or write auto" in said
    assert "hidden_dim: 192" in fail(finetune, "vit.preset=Ti")


def test_check_says_that_a_short_training_tries_nothing(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of one that is not short, how much it tries."""
    train(finetune, "--check", "train.lr=auto", "train.max_epochs=1", "train.views=auto")
    said = capsys.readouterr().out
    assert (
        "learning rate: a short training (" in said
        and "the recipe's without a search, sgd, lr" in said
    )
    train(finetune, "--check", "train.lr=auto", "train.max_epochs=auto")
    assert "learning rate: to be found, by trying 16 settings" in capsys.readouterr().out


def test_check_says_that_several_blocks_are_trained_without_a_search(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("train.lr=auto", "train.views=auto", "train.max_epochs=auto")
    train(finetune, "--check", "train.head=auto", "train.finetune_blocks=2", *options)
    said = capsys.readouterr().out
    assert "2 blocks train: no settings are tried" in said and "head: both" in said
    train(finetune, "--check", "train.head=auto", *options)
    assert "blocks train: no" not in capsys.readouterr().out
