"""The ONNX graph: pixels to the network's square as torchvision makes it, and to the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from classifier import Classifier
from config import Preprocessing
from tests.helpers import picture, random_weights
from tools.export.graph import answering_model, joined
from tools.export.picture import picture_graph
from transforms import fitted

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZES = [(50, 40), (32, 32), (37, 36), (1, 1), (3, 7), (301, 217), (31, 600), (900, 40), (2, 400)]


def session(model: Any) -> Any:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.skipif(
    not any(name in torch.backends.cpu.get_cpu_capability() for name in ("AVX2", "AVX512")),
    reason="torchvision rounds otherwise on this processor",
)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop"), [(32, 0.875), (45, 1.0), (96, 0.9)])
def test_the_square_is_torchvisions_to_the_byte(how: Any, fit: Any, size: int, crop: float) -> None:
    preprocessing = Preprocessing(
        image_size=size, crop=crop, fit=fit, interpolation=how, mean=(0.485, 0.456, 0.406)
    )
    graph, wanted = session(picture_graph(preprocessing)), v2.Compose(fitted(preprocessing))
    for h, w in SIZES:
        pixels = noise(h, w)
        (found,) = graph.run(None, {"pixels": pixels[None]})
        assert np.array_equal(found[0], wanted(torch.from_numpy(pixels).permute(2, 0, 1))), (h, w)


def test_several_of_one_size_at_once() -> None:
    graph = session(picture_graph(Preprocessing(image_size=24)))
    pixels = noise(3, 70, 50)
    (together,) = graph.run(None, {"pixels": pixels})
    alone = [graph.run(None, {"pixels": one[None]})[0][0] for one in pixels]
    assert np.array_equal(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("vit", [{}, {"input_channels": 1}, {"num_layers": 1}])
def test_it_answers_as_the_classifier(vit: dict[str, int], tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=3, **vit)
    classifier = Classifier(path, device="cpu")
    model = joined(classifier, answering_model(classifier))
    graph = session(model)
    pictures = [np.asarray(picture("red", i, (60, 50))) for i in range(3)]
    wanted = [list(answer.probabilities.values()) for answer in classifier(pictures)]
    (found,) = graph.run(None, {"pixels": np.stack(pictures)})
    assert found == pytest.approx(np.array(wanted), abs=1e-5)
    about = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert about["classes"] == ["class 0", "class 1", "class 2"]
    assert Preprocessing.model_validate(about["preprocessing"]) == classifier.preprocessing
