"""Exports are read back: the same answers, classes, preprocessing and certainty; what is a program
says so."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from certainty.certainty import Certainty
from classifier import Classifier, find_checkpoint
from config import Preprocessing
from pretrained.build import load_model
from pretrained.read import read
from pretrained.write import save_model
from tests.helpers import picture, random_weights
from tools.export import targets
from tools.export.card import write_manifest
from tools.export.given import Given, Written
from tools.export.proof import Proof
from tools.predict import __main__ as predict
from tools.show import __main__ as show
from utils import UserError, command_line

CLASSES = ("a, b", "crane", "unsure")
export = importlib.import_module("tools.export.__main__")


def odd(folder: Path, **preprocessing: Any) -> Classifier:
    """A classifier of which no layout's rule says anything rightly."""
    path = random_weights(
        folder / "w.safetensors", num_classes=3, gelu="exact", eps=1e-5, patch_dim=16
    )
    net = load_model(path)
    net.classes = CLASSES
    net.preprocessing = Preprocessing(
        image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), **preprocessing
    )
    net.certainty = Certainty(0)
    net.certainty.temperature.fill_(1.7)
    net.certainty.set_level.fill_(0.25)
    save_model(path, net)
    return Classifier(path, device="cpu")


def exported(classifier: Classifier, target: str, folder: Path) -> Path:
    """An export without its proof."""
    options = export.parse(["w", "--to", target, "--out", str(folder)])
    given = Given(classifier, None, options)
    folder.mkdir()
    written = targets.target(target).write(given, folder)
    write_manifest(folder, target, given, given, written, Proof(0.0, (), 1e-5))
    return folder


def pictures(folder: Path) -> list[Path]:
    found = [folder / f"{i}.png" for i in range(3)]
    for i, path in enumerate(found):
        picture("red", i, (61, 40 - 9 * i)).save(path)
    return found


def same_answers(one: Classifier, other: Classifier, some: list[Path]) -> None:
    assert other.classes == one.classes
    for first, second in zip(one(some), other(some), strict=True):
        assert second.probabilities == pytest.approx(first.probabilities, abs=1e-5)


@pytest.mark.parametrize("target", ["hf", "timm", "npz"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_an_export_comes_back(target: str, fit: str, tmp_path: Path) -> None:
    before = odd(tmp_path, fit=fit, crop=0.9, interpolation="bicubic", greys=(0.0, 4095.0))
    folder = exported(before, target, tmp_path / "an export")
    after = Classifier(folder, device="cpu")
    assert after.preprocessing == before.preprocessing
    assert (after.net.vit.gelu, after.net.vit.eps) == ("exact", 1e-5)
    assert after.certainty is not None and before.certainty is not None
    for name in ("temperature", "set_level"):
        assert getattr(after.certainty, name) == getattr(before.certainty, name)
    same_answers(before, after, pictures(tmp_path))
    some = pictures(tmp_path)
    sets = [[answer.could_be for answer in of(some)] for of in (before, after)]
    assert sets[0] == sets[1]


@pytest.mark.parametrize("target", ["hf", "timm"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_librarys_own_files_say_it_too(target: str, fit: str, tmp_path: Path) -> None:
    """As a repository on the hub that was fetched without its manifest.json."""
    before = odd(tmp_path, fit=fit, crop=0.9, interpolation="bicubic")
    if target == "timm":  # which has 1e-6 in its code
        before.net.vit = before.net.vit.model_copy(update={"eps": 1e-6})
        save_model(tmp_path / "w.safetensors", before.net)
        before = Classifier(tmp_path / "w.safetensors", device="cpu")
    folder = exported(before, target, tmp_path / "an export")
    (folder / "manifest.json").unlink()
    after = Classifier(folder, device="cpu")
    assert after.preprocessing.fit == fit
    assert after.preprocessing.mean == before.preprocessing.mean
    assert after.certainty is None, "the temperature stays in the head"
    same_answers(before, after, pictures(tmp_path))


def test_a_manifest_of_another_file_is_left_alone(tmp_path: Path) -> None:
    before = odd(tmp_path)
    folder = exported(before, "npz", tmp_path / "o")
    shutil.copy(random_weights(tmp_path / "v.safetensors", num_classes=3), folder)
    after = Classifier(folder / "v.safetensors", device="cpu")
    assert after.classes != CLASSES and after.certainty is None
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["v.safetensors"] = manifest["files"]["model.npz"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert Classifier(folder / "v.safetensors", device="cpu").classes != CLASSES


def test_a_file_that_took_an_exports_place_is_said(tmp_path: Path) -> None:
    folder = exported(odd(tmp_path), "timm", tmp_path / "o")
    (tmp_path / "p").mkdir()
    other = exported(odd(tmp_path / "p", crop=0.5), "timm", tmp_path / "p" / "o")
    (other / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-4] + b"0000"
    )
    weights = read(other)
    assert any("manifest.json is of another model.safetensors" in note for note in weights.notes)
    assert "certainty.temperature" not in weights.state


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("architecture", {"num_heads": 0, "gelu": "exact", "eps": 1e-6}, "architecture.num_heads"),
        ("preprocessing", {"image_size": 0}, "preprocessing.image_size is 0"),
        ("labels", ["one"], "names 1 classes"),
    ],
)
def test_a_fault_of_a_manifest_is_named(
    key: str, value: Any, sentence: str, tmp_path: Path
) -> None:
    folder = exported(odd(tmp_path), "npz", tmp_path / "o")
    manifest = json.loads((folder / "manifest.json").read_text()) | {key: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=sentence):
        Classifier(folder, device="cpu")


@pytest.mark.parametrize("target", ["hf", "timm", "npz"])
def test_show_and_predict_find_an_export(
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exported(odd(tmp_path), target, tmp_path / "an export")
    some = pictures(tmp_path)
    capsys.readouterr()
    for wanted in ("an export", str(find_checkpoint("an export"))):
        assert show.main([wanted, "--json"]) == 0
        (facts,) = json.loads(capsys.readouterr().out)
        assert facts["classes"] == list(CLASSES) and facts["certainty"]["temperature"] == 1.7
        assert facts["export"]["format"] == target and facts["file"].startswith("an export")
        assert show.main([wanted]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"export of w.safetensors, as {target}" in text
        assert "90 % sets the classes of a probability of 0.25 or more" in text
        assert predict.main([str(some[0]), "--checkpoint", wanted, "--device", "cpu"]) == 0
        out, error = capsys.readouterr()
        assert any(name in out for name in CLASSES) and "by an export/model." in error


# ---------------------------------------------------------------------------------- programs


def a_graph(path: Path) -> Path:
    """The first bytes of an ONNX file."""
    path.write_bytes(b"\x08\x0a\x12\x0cvit-finetune" + bytes(99))
    return path


def a_program(path: Path) -> Path:
    module = torch.nn.Linear(3, 2)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3),)), path)
    return path


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [(a_graph, "model.onnx", "an ONNX graph"), (a_program, "model.pt2", "a PyTorch program")],
)
def test_a_program_is_shown_by_its_manifest(
    make: Any, name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = odd(tmp_path, crop=0.9)
    folder = tmp_path / "o"
    folder.mkdir()
    make(folder / name)
    for wanted in (folder, folder / name):  # not yet an export
        assert command_line(lambda: show.main([str(wanted)])) == 2  # noqa: B023
        error = capsys.readouterr().err
        assert kind in error and "there is none of it" in error and error.count("\n") == 1
    options = export.parse(["w", "--to", "pt2", "--out", "o"])
    given = Given(classifier, None, options)
    write_manifest(folder, "pt2", given, given, Written("torch", ""), Proof(0.0, (), 1e-5))
    assert show.main([str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"a program {kind}" in text and "classes 3: a, b, crane, unsure" in text
    assert "temperature 1.7, already in it" in text and "36 px (bilinear)" in text
    assert show.main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["set_level"] == 0.25
    with pytest.raises(UserError, match=r"an export of the run w.safetensors, whose weights take"):
        Classifier(folder, device="cpu")


def test_of_several_files_the_one_that_is_taken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    monkeypatch.setattr("pretrained.files.log.warning", lambda text, *of: said.append(text % of))
    random_weights(tmp_path / "weights/one.safetensors")
    assert find_checkpoint("weights") == Path("weights/one.safetensors") and not said
    random_weights(tmp_path / "weights/run/best.safetensors")
    assert find_checkpoint("weights") == Path("weights/one.safetensors")
    assert said == ["weights holds several: one.safetensors is taken, not run/"]
    assert find_checkpoint("run") == Path("weights/run/best.safetensors")
    assert len(said) == 1, "a run's own is no choice"
