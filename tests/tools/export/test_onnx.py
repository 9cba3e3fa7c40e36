"""tools.export --to onnx: every precision, what it costs, and what is refused."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier import Classifier
from images import read_image
from tests.helpers import COLOURS, pictures_of, small_run
from tools.export import graph, onnx_folder, quantised
from tools.export.given import Given
from tools.export.proof import prove
from utils import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A run with both heads and a likeness, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("a home")
    small_run(folder, pictures_of(folder / "images"), "tiny", head="both")
    classifier = Classifier(folder / "weights/tiny/best.safetensors", device="cpu")
    return Given(classifier, folder / "logs/tiny", argparse.Namespace())


def asked(given: Given, **options: Any) -> Given:
    return Given(given.classifier, given.run, argparse.Namespace(**options))


def test_fp32_is_the_classifier_from_pixels_and_from_files(given: Given, tmp_path: Path) -> None:
    folder = tmp_path / "an export"
    proof = prove(given, folder, onnx_folder.write(given, folder))
    assert proof.inputs <= 1e-5 and proof.other == ()  # EXIF, CMYK, alpha, strips: all of them
    session = quantised.session(folder / "model.onnx")
    about = session.get_modelmeta().custom_metadata_map
    certainty = given.classifier.certainty
    assert certainty is not None
    assert json.loads(about["classes"]) == sorted(COLOURS)
    assert json.loads(about["temperature"]) == pytest.approx(certainty.temperature.item())
    pictures = sorted((folder / "golden/pictures").iterdir())
    answers = given.classifier(pictures)
    for path, answer in zip(pictures, answers, strict=True):
        _, unlike = session.run(None, {"pixels": read_image(path)[None]})
        assert certainty.likeness is not None
        one = 1 / len(certainty.likeness.known)  # a known picture may be as far to the last digit
        assert unlike[0] == pytest.approx(answer.unlike, abs=one + 1e-6)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_smaller_one(given: Given, tmp_path: Path, precision: str) -> None:
    whole = onnx_folder.write(given, tmp_path / "fp32")
    options = asked(given, precision=precision, most_loss=1.0)
    written = onnx_folder.write(options, tmp_path / precision)
    proof = prove(options, tmp_path / precision, written)
    assert 0 < proof.inputs <= written.tolerance and whole.tolerance == 1e-5
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("fp32", precision)]
    assert sizes[1] < 0.85 * sizes[0]


def test_eight_bits_that_cost_too_much_are_refused(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_folder, "cost", lambda *_: quantised.Cost(100, 90, 88, 96))
    learned = quantised.Cost(100, 90, 100, 96, learned=True)
    assert learned.loss == 0.04 and "the same answer as fp32 to 96 of 100" in str(learned)
    with pytest.raises(UserError, match=r"loses 0\.0200 of accuracy.*--most-loss 0\.01.*fp16"):
        onnx_folder.write(asked(given, precision="int8"), tmp_path / "o")
    assert not list((tmp_path / "o").iterdir())
    written = onnx_folder.write(asked(given, precision="int8", most_loss=0.02), tmp_path / "p")
    assert any("0.8800 (fp32 0.9000); the same answer to 96" in note for note in written.notes)


def test_the_cost_is_counted_on_held_out_pictures(given: Given, tmp_path: Path) -> None:
    onnx_folder.write(given, tmp_path)
    found = quantised.cost(given, tmp_path / "model.onnx")
    assert found.pictures and found.same == found.pictures and found.before == found.after
    assert quantised.cost(
        Given(given.classifier, None, given.options), tmp_path / "model.onnx"
    ) == (quantised.Cost(0, 0, 0, 0))


def test_the_cost_is_counted_on_what_no_training_saw(given: Given, tmp_path: Path) -> None:
    """With a test part on that alone; where the refit learned all, other answers count."""
    onnx_folder.write(given, tmp_path)
    assert given.run is not None
    run = tmp_path / "logs"
    shutil.copytree(given.run, run)
    refitted = json.loads((run / "summary.json").read_text()) | {
        "refit": {"parts": ["train", "val"]}
    }
    (run / "summary.json").write_text(json.dumps(refitted))
    copied = Given(given.classifier, run, given.options)
    val = quantised.cost(given, tmp_path / "model.onnx").pictures
    found = quantised.cost(copied, tmp_path / "model.onnx")
    assert (found.pictures, found.learned) == (val, True)
    assert "was not measured, as the run has no test part" in str(found)
    split = (run / "split.csv").read_text().splitlines()
    tested = [line.replace(",train,", ",test,") for line in split[:7]]
    (run / "split.csv").write_text("\n".join([*tested, *split[7:]]) + "\n")
    found = quantised.cost(copied, tmp_path / "model.onnx")
    assert (found.pictures, found.learned) == (sum(",test," in line for line in tested), False)
    assert f"accuracy of these weights on {found.pictures} held-out pictures" in str(found)


def test_a_network_of_more_than_one_file_is_refused(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="one ONNX file holds"):
        graph.answering_model(given.classifier)


def test_halves_are_the_nearest_ones() -> None:
    from onnx import helper, numpy_helper

    array = np.linspace(-1, 1, 5000, dtype=np.float32)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(array, "w")])
    model = quantised.with_halves(helper.make_model(graph))
    (half,) = model.graph.initializer
    assert numpy_helper.to_array(half).dtype == np.float16
    assert np.abs(numpy_helper.to_array(half) - array).max() < 5e-4
    assert model.graph.node[0].output == ["w"]
