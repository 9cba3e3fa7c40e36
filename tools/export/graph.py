"""A classifier as one ONNX graph: uint8 pixels of any size in, probabilities and `unlike` out.

It is two graphs joined: the picture's way to the square that the network sees (`picture.py`), and
what comes after it, written by PyTorch's own exporter (`Answering`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classifier import Classifier
from model import VisionTransformer, entering
from tools.export.ordinary import temperature_of
from tools.export.picture import IR_VERSION, OPSET, picture_graph
from utils import UserError

NEEDS = ("onnx", "onnxruntime", "onnxscript")  # PyTorch's exporter writes with the last
INPUT, OUTPUTS = "pixels", ("probabilities", "unlike")
MOST_BYTES = 1_900_000_000  # of one file: protobuf ends at 2 GiB
HUE = (0.2989, 0.587, 0.114)  # torchvision's Grayscale


class Answering(nn.Module):
    """The square that a network sees (B, 3, S, S), uint8, to calibrated probabilities (B, C) and,
    where the weights know it, how unlike the training pictures it is (B,).

    The same as `Classifier` gives, without what export can't follow (a search in sorted numbers)
    and without what is made for one machine (oneDNN's packed weights).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net
        self.channels = net.vit.input_channels
        likeness = None if net.certainty is None else net.certainty.likeness
        self.depths = [] if likeness is None else likeness.depths.tolist()
        preprocessing = net.preprocessing
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)[: self.channels])
            self.register_buffer(name, values[:, None, None])

    def forward(self, square: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        x, layers = net.forward_layers(self.normalised(square))
        logits = net.forward_tail(x, net.last_read) if net.vit.num_classes else None
        if net.layers is not None:
            logits = net.layers.joined(logits, layers)
        assert logits is not None
        certainty = net.certainty
        if certainty is None:
            return (logits.softmax(1),)
        sure = certainty.probabilities(logits)
        likeness = certainty.likeness
        if likeness is None:
            return (sure,)
        scores = likeness.scores(entering(layers, self.depths))
        nearer = (likeness.known < scores[:, None]).float().sum(1)  # `share_below`
        return sure, nearer / len(likeness.known)

    def normalised(self, square: Tensor) -> Tensor:
        """The network's input (B, c, S, S)."""
        x = square.float()
        if self.channels == 1:  # a uint8 picture's grey is cut to a whole number
            red, green, blue = x.unbind(1)
            x = (red * HUE[0] + green * HUE[1] + blue * HUE[2]).floor()[:, None]
        return (x / 255 - self.mean) / self.std


def answering_model(classifier: Classifier) -> Any:
    """The ONNX model of `Answering`: `square` to the OUTPUTS, any number of pictures at once."""
    import onnx

    answering = Answering(classifier.net).eval()
    S = classifier.preprocessing.image_size
    example = torch.zeros(2, 3, S, S, dtype=torch.uint8)
    with torch.no_grad():
        count = len(answering(example))
    size = 4 * sum(p.numel() for p in classifier.net.parameters())
    if size > MOST_BYTES:
        raise UserError(
            f"the network is {size / 1e9:.1f} GB, and one ONNX file holds {MOST_BYTES / 1e9:.1f} "
            "GB; export it to pt2 or hf"
        )
    with tempfile.TemporaryDirectory() as folder, quiet("torch.onnx"), torch.no_grad():
        path = Path(folder) / "answering.onnx"
        torch.onnx.export(
            answering,
            (example,),
            path,
            input_names=["square"],
            output_names=list(OUTPUTS[:count]),
            dynamic_shapes={"square": {0: torch.export.Dim("batch", min=1, max=1 << 20)}},
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        return onnx.load(path)


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """While it lasts, a library's warnings, on which a user can't act, are not shown."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger(logger).setLevel(level)


def joined(classifier: Classifier, answering: Any, precision: str = "fp32") -> Any:
    """The whole model, of `answering_model`'s, with what else there is to know in its metadata."""
    from onnx import compose, helper

    picture = picture_graph(classifier.preprocessing)
    answering.ir_version = picture.ir_version = IR_VERSION
    del answering.metadata_props[:]
    domains = {o.domain for o in picture.opset_import}
    for opset in answering.opset_import:
        if opset.domain not in domains:
            picture.opset_import.append(opset)
    model = compose.merge_models(picture, answering, io_map=[("square", "square")])
    model.producer_name = "vit-finetune"
    model.graph.name = "classifier"
    model.graph.doc_string = __doc__.partition("\n")[0]
    helper.set_model_props(model, metadata(classifier, precision))
    return model


def metadata(classifier: Classifier, precision: str) -> dict[str, str]:
    """What the graph's metadata holds, each as JSON."""
    certainty = classifier.certainty
    found: dict[str, Any] = {
        "classes": list(classifier.classes),
        "preprocessing": classifier.preprocessing.model_dump(mode="json"),
        "temperature": temperature_of(classifier),
        "set_level": 1.0 if certainty is None else certainty.set_level.item(),
        "min_confidence": classifier.min_confidence,
        "unlike": classifier.unlike,
        "precision": precision,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}
