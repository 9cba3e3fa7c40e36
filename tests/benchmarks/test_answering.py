"""One classifier in each of its forms."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import answering


@pytest.mark.slow
def test_each_form_answers_all_pictures(tmp_path: Path) -> None:
    for library in ("onnxruntime", "onnxscript", "openvino", "timm", "transformers"):
        pytest.importorskip(library)
    out = tmp_path / "a.csv"
    words = ["--images", "4", "--rounds", "1", "--preset", "Ti", "--csv", str(out)]
    assert answering.main(words) == 0
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["way"]: float(row["images_per_second"]) for row in csv.DictReader(file)}
    assert rows.keys() >= {"Classifier", "ONNX Runtime, int8", "OpenVINO, fp32", "timm"}
    assert all(rate > 0 for rate in rows.values())


def test_a_graph_is_asked_in_batches(tmp_path: Path) -> None:
    paths = answering.photos(tmp_path / "pictures", answering.BATCH + 3)
    sizes = []

    def graph(pixels):  # type: ignore[no-untyped-def]
        sizes.append(pixels.shape)
        return pixels.reshape(len(pixels), -1)[:, :5].astype(float)

    assert len(answering.in_batches(graph)(paths)) == len(paths)
    assert sizes == [(answering.BATCH, 375, 500, 3), (3, 375, 500, 3)]
