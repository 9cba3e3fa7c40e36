"""What a run finds out about its network's answers, and keeps with the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pretrained
from certainty.sure import fit_temperature
from engine import certain
from pretrained.read import read_arrays
from tests.helpers import COLOURS, logits, quick, random_weights, reached, summary, train
from tools.show.facts import facts_of
from tools.show.words import said


@pytest.fixture
def finetunes(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    quick(monkeypatch)
    path = random_weights(tmp_path / "from.safetensors", num_classes=0)
    keys = ["mode=finetune", f"checkpoint={path}", f"data={tmp_path}", "max_epochs=2", "views=1"]
    return [f"train.{key}" for key in keys] + [
        f"vit.{name}=auto" for name in ("num_layers", "hidden_dim", "num_heads", "ff_dim", "dim")
    ]


@pytest.mark.parametrize("head", ["class", "layers", "both"])
@pytest.mark.parametrize("refit", ["true", "false"])
def test_every_head_is_certain(
    head: str,
    refit: str,
    finetunes: list[str],
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certain, "FEWEST_KNOWN", 6)
    found = reached(config_file, *finetunes, f"train.head={head}", f"train.refit={refit}")
    net = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors")
    known = net.certainty
    assert known is not None and known.likeness is not None
    assert known.likeness.depths.tolist() == [1, 2, 3]
    assert known.temperature.item() == pytest.approx(found["certainty"]["temperature"], abs=1e-4)
    _, metadata = read_arrays(config_file.parent / "weights/tiny/best.safetensors")
    assert metadata["classes"] == list(net.classes or ())


def test_a_large_validation_part_is_asked_alone(
    finetunes: list[str], config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certain, "FEW", 5)
    monkeypatch.setattr(certain, "FEWEST_KNOWN", 6)
    monkeypatch.setattr(certain, "found_temperature", lambda z, y: (fit_temperature(z, y), z))
    found = reached(config_file, *finetunes, "train.head=class", "train.refit=false")["certainty"]
    assert found["temperature_by"] == "val" and found["held_out"] == 6
    answers = logits(config_file, "tiny", *finetunes)
    labels = torch.arange(3).repeat_interleave(2)
    assert found["temperature"] == pytest.approx(fit_temperature(answers, labels), rel=1e-3)
    known = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors").certainty
    assert known is not None and known.likeness is not None
    sure, answer = (answers / known.temperature).softmax(1).max(1)
    assert torch.allclose(known.held_out[:, 0], sure, atol=1e-3)
    assert known.held_out[:, 1].tolist() == (answer == labels).float().tolist()
    # A picture's own score is among the known ones: its share says how many are before it.
    assert sorted(known.held_out[:, 2].tolist()) == pytest.approx([i / 6 for i in range(6)])


@pytest.mark.parametrize("head", ["class", "layers"])
def test_of_few_the_training_pictures_out_of_fold_are_asked_too(
    head: str, finetunes: list[str], config_file: Path
) -> None:
    keys = [f"train.head={head}", "train.lr=auto"]
    found = reached(config_file, *finetunes, *keys)["certainty"]
    assert found["temperature_by"] == "the training pictures, out of fold"
    assert found["held_out"] == 6 + 30


@pytest.mark.slow
@pytest.mark.parametrize("head", ["class", "both"])
def test_what_the_folds_say_of_the_temperature_counts_for_more_than_val(
    head: str, finetunes: list[str], config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training pictures are more; a head that was made as sure as it is right stays so."""
    monkeypatch.setattr(certain, "FEW", 5)
    found = reached(config_file, *finetunes, f"train.head={head}", "train.lr=auto")
    sure = found["certainty"]
    assert sure["temperature_by"] == "the training pictures, out of fold"
    chosen = found["chosen"]
    wanted = 1 / chosen["scale"] if head == "class" else chosen["temperature"]
    assert sure["temperature"] == pytest.approx(wanted, abs=1e-4) and sure["held_out"] == 6


@pytest.mark.parametrize("enough", [True, False])
def test_where_all_weights_train_it_is_measured_too(
    enough: bool, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six known pictures a new one is further than all in one of seven cases."""
    monkeypatch.setattr(certain, "FEWEST_KNOWN", 6 if enough else 7)
    train(config_file, "train.verdict=false")
    found = summary(config_file)["certainty"]
    assert found["temperature_by"] == "nothing" and found["held_out"] == 6
    known = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors").certainty
    assert known is not None and (known.likeness is not None) == enough
    if known.likeness is None:
        return
    assert known.likeness.depths.tolist() == [1] and len(known.likeness.known) == 6


def test_by_six_pictures_no_answer_is_made_surer(config_file: Path) -> None:
    """A temperature of .061, by four pictures that happened to be right, once made a calibration
    error of .010 one of .462."""
    train(config_file, "train.verdict=false")
    found = summary(config_file)["certainty"]
    assert found["temperature"] == 1 and found["temperature_by"] == "nothing"
    for part in ("val", "test"):
        before, after = (f"{part}_calibration_error{end}" for end in ("", "_calibrated"))
        assert found.get(before) == found.get(after)
    path = config_file.parent / "weights/tiny/best.safetensors"
    words = " ".join(said(facts_of(path)).split())
    assert "6 pictures are too few to find a temperature by; the validation part's cal" in words


def test_predictions_are_as_sure_as_the_classifier(config_file: Path) -> None:
    import csv

    train(config_file, "train.verdict=false")
    rows = list(csv.DictReader((config_file.parent / "logs/tiny/predictions.csv").open()))
    path = config_file.parent / "weights/tiny/best.safetensors"
    known = pretrained.load_model(path).certainty
    assert known is not None
    sure = known.probabilities(logits(config_file, "tiny")).max(1).values
    assert [float(row["probability"]) for row in rows] == pytest.approx(sure.tolist(), abs=1e-4)
    assert json.loads((config_file.parent / "logs/tiny/summary.json").read_text())["certainty"]


@pytest.mark.slow
def test_a_training_from_a_certain_network_begins_without_that(
    finetunes: list[str], config_file: Path
) -> None:
    train(config_file, *finetunes)
    first = config_file.parent / "weights/tiny/best.safetensors"
    again = [key for key in finetunes if "checkpoint" not in key]
    train(config_file, *again, f"train.checkpoint={first}", "train.run_name=second")
    assert summary(config_file, "second")["certainty"]["held_out"] == 36


def test_where_groups_leave_nothing_to_fit_there_is_no_likeness(
    finetunes: list[str], config_file: Path, tmp_path: Path
) -> None:
    """All training pictures are of one group: whatever holds it out has none left."""
    of = {f"{colour}/{i:02}.png": f"{i // 10}" for colour in COLOURS for i in range(12)}
    table = "path,group\n" + "".join(f"{path},{group}\n" for path, group in of.items())
    (tmp_path / "groups.csv").write_text(table)
    keys = ["train.head=class", f"train.groups={tmp_path / 'groups.csv'}"]
    reached(config_file, *finetunes, *keys, "train.group_duplicates=false")
    net = pretrained.load_model(config_file.parent / "weights/tiny/best.safetensors")
    assert net.certainty is not None and net.certainty.likeness is None
