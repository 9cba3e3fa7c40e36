"""Weights of an earlier run that has learned what is held out now."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import training
from config_file import load_config
from dataset import load_split
from engine.learned import learned_by
from engine.run import BEST, config_of
from filing.csv_files import read_csv
from tests.helpers import picture, scene, summary, train
from tools import shard
from tools.export import __main__ as export


def test_what_the_weights_have_learned_is_said(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed draws other parts: what is held out was trained on."""
    train(finetune, "train.run_name=one", "train.refit=false", "train.max_epochs=1")
    capsys.readouterr()
    best = finetune.parent / "weights/one/best.safetensors"
    begun = (f"train.checkpoint={best}", "train.max_epochs=1", "train.refit=false")
    train(finetune, *begun, "train.run_name=same")
    assert "beware" not in capsys.readouterr().out
    assert "learned_before" not in summary(finetune, "same")["verdict_numbers"]
    for name in (best, best.parent):
        train(finetune, "--check", *begun, "train.seed=5", f"train.checkpoint={name}")
        said = capsys.readouterr()
        assert "of the 6 val pictures: what it gets right of them" in said.out + said.err
    split = finetune.parent / "logs/one/split.csv"
    whole = split.read_text()
    split.write_text("damaged")
    train(finetune, "--check", *begun, "train.seed=5")
    said = capsys.readouterr()
    assert "has learned is not known" in said.out + said.err
    split.write_text(whole)
    train(finetune, *begun, "train.seed=5", "train.run_name=other")
    found = summary(finetune, "other")
    known = found["verdict_numbers"]["learned_before"]
    assert 0 < known <= 6
    sentence = f"beware: {known} of the 6 pictures were learned before, in the run whose weights it"
    assert sentence in found["verdict_sentence"]


def test_what_is_advised_helps(finetune: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each remedy that the warning names makes it go away, or another is named."""
    few = ("train.max_epochs=1", "train.verdict=false", "train.report=false", "train.head=class")
    parts = ("train.test_fraction=0.2", "train.mode=finetune")
    first = (*few, *parts, "train.run_name=one", "train.refit=false")
    train(finetune, *first)
    logs, weights = finetune.parent / "logs", finetune.parent / "weights"

    def warned(*options: str) -> str:
        capsys.readouterr()
        train(finetune, "--check", *few, *parts, *options)
        said = capsys.readouterr()
        return "\n".join(line for line in (said.out + said.err).splitlines() if "beware" in line)

    begun = f"train.checkpoint={weights / 'one'}"
    advice = f"train.split={logs / 'one' / 'split.csv'}"
    said = warned(begun, "train.seed=5")
    assert said.count(f"{advice} keeps them apart") == 2, "of val and of test"
    assert not warned(begun, advice)
    train(finetune, *few, *parts, begun, advice, "train.run_name=two", "train.refit=true")
    begun = f"train.checkpoint={weights / 'two'}"
    said = warned(begun, advice)
    assert "of the 6 val pictures" in said and "test pictures" not in said
    assert "that run learned its val part in the end (train.refit=false does not); other" in said
    assert "keeps them apart" not in said
    said = warned(begun, "train.seed=5")
    assert "test pictures" in said and "keeps them apart" not in said, "of two runs"
    assert "other pictures, or weights that have not learned these" in said


def test_a_run_is_known_though_its_weights_are_elsewhere_or_gone(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what the file says of itself first, not by the folder that it was copied to."""
    few = ("train.verdict=false", "train.report=false", "train.head=class")
    refits = (*few, "train.refit=true", "train.lr=1e-3", "train.max_epochs=20")
    parts = ("train.test_fraction=0.2", "train.seed=5")
    train(finetune, *refits, "train.run_name=one")
    train(finetune, *few, "train.max_epochs=1", "train.run_name=two", *parts)
    logs, weights = finetune.parent / "logs", finetune.parent / "weights"
    assert summary(finetune, "one")["refit"] is not None
    copied = finetune.parent / "elsewhere" / "two"
    shutil.copytree(weights / "one", copied)
    for place in (copied, weights / "one"):
        known = learned_by(place, str(place), str(logs))
        assert (known.splits, known.refitted) == ([logs / "one" / "split.csv"], True)
    out = finetune.parent / "out"
    assert export.main([str(logs / "one"), "--to", "hf", "--out", str(out)]) == 0
    shutil.rmtree(weights / "one")
    known = learned_by(out, str(out), str(logs))
    assert known.refitted and len(known.digests) == 36


def test_a_run_that_was_renamed_is_not_another_of_its_old_name(finetune: Path) -> None:
    """`--resume` of it went on with that one, and overwrote its network."""
    few = ("train.verdict=false", "train.report=false", "train.head=class", "train.refit=false")
    train(finetune, *few, "train.max_epochs=1", "train.run_name=one")
    logs, weights = finetune.parent / "logs", finetune.parent / "weights"
    for place in (logs, weights):
        (place / "one").rename(place / "better")
    train(finetune, *few, "train.max_epochs=2", "train.run_name=one", "train.seed=7")
    for name in ("one", "better"):
        assert config_of(weights / name / BEST, name, str(logs)) == logs / name / "config.yaml"
        assert learned_by(weights / name, name, str(logs)).splits == [logs / name / "split.csv"]
    kept = (weights / "one" / BEST).read_bytes()
    train(finetune, "--resume", str(weights / "better"), "train.max_epochs=3")
    assert (weights / "one" / BEST).read_bytes() == kept
    assert summary(finetune, "better")["epochs"] == 3
    page = logs / "better" / "config.yaml"
    page.write_text(page.read_text().replace("label_smoothing: 0.1", "label_smoothing: 0.2"))
    assert config_of(weights / "better" / BEST, "better", str(logs)) == page, "the nearest"


def new_class(folder: Path) -> None:
    folder.mkdir()
    for i in range(8):
        scene(i).save(folder / f"{i}.png")


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda images: scene(3).save(images / "red/03.png"), None),
        (lambda images: picture("red", 50).save(images / "red/new.png"), True),
        (lambda images: new_class(images / "grey"), True),
    ],
)
def test_what_is_advised_of_a_folder_that_has_changed_is_taken(
    finetune: Path, capsys: pytest.CaptureFixture[str], change: Any, more: bool | None
) -> None:
    few = ("train.max_epochs=1", "train.verdict=false", "train.report=false", "train.head=class")
    train(finetune, *few, "train.run_name=one", "train.refit=false")
    logs, images = finetune.parent / "logs", finetune.parent / "images"
    change(images)
    begun = ("--check", *few, "train.seed=5", f"train.checkpoint={finetune.parent / 'weights/one'}")
    capsys.readouterr()
    train(finetune, *begun)
    said = "".join(capsys.readouterr())
    assert "beware" in said
    advice = [f"train.split={logs / 'one' / 'split.csv'}", *["train.new_images=train"] * bool(more)]
    assert (f"{' '.join(advice)} keeps them apart" in said) == (more is not None)
    if more:
        train(finetune, *begun, *advice)
        said = "".join(capsys.readouterr())
        assert "beware" not in said and "not used" not in said
        known = learned_by(finetune.parent / "weights/one", "one", str(logs))
        settings, split = load_config(finetune)[0].train, load_split(load_config(finetune)[0].train)
        assert known.advice(settings, split) == " ".join(advice)
        goes_on = settings.model_copy(update={"from_run": str(logs / "one")})
        assert known.advice(goes_on, split) is None, "which has that split"


def test_decided_labels_leave_the_advice(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("train.max_epochs=1", "train.verdict=false", "train.report=false", "train.head=class")
    train(finetune, *few, "train.run_name=one", "train.refit=false")
    decided = finetune.parent / "decisions.csv"
    decided.write_text("path,decision,label\nblue/00.png,relabel,red\nblue/01.png,leave out,\n")
    begun = ("--check", *few, "train.seed=5", f"train.checkpoint={finetune.parent / 'weights/one'}")
    begun = (*begun, f"train.labels={decided}")
    capsys.readouterr()
    train(finetune, *begun)
    advice = f"train.split={finetune.parent / 'logs/one/split.csv'}"
    assert f"{advice} keeps them apart" in "".join(capsys.readouterr())
    train(finetune, *begun, advice)
    assert "beware" not in "".join(capsys.readouterr())


def test_shards_get_no_advice_that_they_refuse(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("train.max_epochs=1", "train.verdict=false", "train.report=false", "train.head=class")
    out = finetune.parent / "packed"
    images = str(finetune.parent / "images")
    shard.main([images, str(out), "--config", str(finetune), "train.test_fraction=0.2"])
    packed = (*few, f"train.base_dir={out}")
    train(finetune, *packed, "train.run_name=one", "train.refit=true")
    capsys.readouterr()
    train(finetune, "--check", *packed, f"train.checkpoint={finetune.parent / 'weights/one'}")
    said = "".join(capsys.readouterr())
    assert "beware" in said and "train.split" not in said


def test_the_advice_for_a_test_part_names_it(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("train.verdict=false", "train.report=false", "train.head=class")
    few = (*few, "train.lr=1e-3", "train.max_epochs=20")
    begun = "train.checkpoint=" + str(finetune.parent / "weights/one")
    train(finetune, *few, "train.run_name=one", "train.refit=true", "train.test_fraction=0.2")
    advice = f"train.split={finetune.parent / 'logs/one/split.csv'}"

    def warned(*options: str) -> str:
        capsys.readouterr()
        train(finetune, "--check", *few, begun, *options)
        return "".join(capsys.readouterr())

    assert f"and {advice} keeps its test part apart" in warned("train.seed=5")
    said = warned(advice)
    assert "val pictures: what" in said and "test pictures: what" not in said
    gone = next((finetune.parent / "images").rglob("*.png"))
    gone.unlink()
    assert f"{advice} train.new_images=train keeps its test part apart" in warned("train.seed=5")
    warned(advice, "train.new_images=train")
    (finetune.parent / "images").rename(finetune.parent / "moved")
    (finetune.parent / "images").mkdir()
    (finetune.parent / "moved").rename(finetune.parent / "images" / "train")
    assert "train.split" not in warned("train.seed=5"), "the paths are others"


def test_a_head_over_layers_alone_leaves_nothing_learned(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training solves for it anew; as it answers, it has learned its pictures."""
    train(finetune, "train.run_name=one", "train.head=layers", "train.report=false")
    capsys.readouterr()
    best = finetune.parent / "weights/one/best.safetensors"
    begun = (f"train.checkpoint={best}", "train.seed=5")
    train(finetune, "--check", "train.head=class", *begun)
    said = capsys.readouterr()
    assert "beware" not in said.out + said.err
    logs = str(finetune.parent / "logs")
    assert not learned_by(best, str(best), logs, begins=True).digests
    assert len(learned_by(best, str(best), logs).digests) >= 30
    train(finetune, *begun, "train.head=class", "train.run_name=two", "train.refit=false")
    two = finetune.parent / "weights/two"
    rows = read_csv(finetune.parent / "logs/two/split.csv")
    own = {row["sha256"] for row in rows if row["part"] == "train"}
    assert learned_by(two, str(two), logs).digests == own, "nor in the next"


def test_weights_that_go_away_meanwhile_cost_nothing(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were asked for again at the end, and a run of days ended with an error."""
    weights = Path(load_config(finetune)[0].train.checkpoint or "")
    kept = weights.read_bytes()

    def gone(*args: Any) -> Any:
        weights.unlink(missing_ok=True)
        return real(*args)

    real = training.train_epochs
    monkeypatch.setattr(training, "train_epochs", gone)
    few = ("train.max_epochs=1", "train.report=false", "train.head=class")
    train(finetune, *few, "train.run_name=whole")
    assert summary(finetune, "whole")["verdict_numbers"]["images"] == 6
    weights.write_bytes(kept)


def test_what_weights_of_weights_have_learned(finetune: Path) -> None:
    """A run that began with an earlier one's, and exports of it."""
    few = ("train.max_epochs=1", "train.verdict=false", "train.report=false")
    train(finetune, *few, "train.run_name=one", "train.refit=false")
    begun = f"train.checkpoint={finetune.parent / 'weights/one'}"
    train(finetune, *few, begun, "train.run_name=two", "train.seed=5", "train.refit=false")
    logs = finetune.parent / "logs"

    def digests(run: str, *parts: str) -> set[str]:
        return {r["sha256"] for r in read_csv(logs / run / "split.csv") if r["part"] in parts}

    def learned(path: Path) -> set[str]:
        return learned_by(path, str(path), str(logs)).digests

    both = digests("one", "train") | digests("two", "train")
    assert digests("two", "train") < both
    weights = finetune.parent / "weights"
    assert learned(weights / "two") == both
    assert learned(weights / "one") == digests("one", "train")
    out = finetune.parent / "out"
    run = str(logs / "two")
    for to in ("hf", "timm", "npz"):
        assert export.main([run, "--to", to, "--out", str(out / to)]) == 0
        assert learned(out / to) == both
    train(finetune, *few, begun, "train.run_name=all", "train.seed=5", "train.refit=true")
    assert learned(weights / "all") == digests("one", "train") | digests("all", "train", "val")
    (logs / "one" / "split.csv").unlink()
    assert learned(weights / "two") == digests("two", "train")
