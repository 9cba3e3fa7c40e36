"""tools.export --to openvino: the same answers, by its own runtime in a fresh process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from classifier import Classifier, find_checkpoint
from pretrained.programs import program_kind
from tests.helpers import pictures_of, small_run
from tools.export import openvino_folder
from tools.export.card import write_manifest
from tools.export.given import Given
from tools.export.proof import prove
from tools.show import __main__ as show
from utils import UserError

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.mark.slow
def test_openvino_answers_as_the_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head of both kinds, calibrated; from the files a pixel may be one grey value off."""
    small_run(tmp_path, pictures_of(tmp_path / "images"), "tiny", head="both")
    classifier = Classifier(tmp_path / "weights/tiny/best.safetensors", device="cpu")
    options = argparse.Namespace(out=tmp_path / "an export")
    given = Given(classifier, tmp_path / "logs/tiny", options)
    folder = tmp_path / "an export"
    folder.mkdir()
    proof = prove(given, folder, written := openvino_folder.write(given, folder))
    assert proof.inputs <= 1e-5
    differences = [picture.difference for picture in proof.pictures]
    assert max(d for d in differences if d is not None) < 0.02 and None not in differences
    write_manifest(folder, "openvino", given, given, written, proof)
    for name in ("model.xml", "model.bin"):
        assert program_kind(folder / name) == "an OpenVINO model"
        with pytest.raises(UserError, match="is an OpenVINO model, which answers by itself"):
            Classifier(folder / name, device="cpu")
    capsys.readouterr()
    assert show.main([str(folder), "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["program"] == "an OpenVINO model" and facts["export"]["run"] == "tiny"
    assert find_checkpoint(str(folder)).parent == folder
