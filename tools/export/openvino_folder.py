"""OpenVINO: the ONNX graph, from pixels to answers, in the form that Intel's runtime loads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from pprint import pformat

from tools.export.given import Given, Written
from tools.export.graph import NEEDS as OF_THE_GRAPH
from tools.export.onnx_folder import MODEL, READING, write_model
from tools.export.reading import DEEP

ORDINARY = False  # it takes a network with any head
NEEDS = (*OF_THE_GRAPH, "openvino")

_HOW = """
import openvino
from PIL import Image, ImageOps

# A processor with bfloat16 would take that without being asked.
MODEL = openvino.Core().compile_model(
    HERE / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
PREPROCESSING = {values}


def of_one(pixels):
    return MODEL({"pixels": pixels[None]})["probabilities"]
"""

LOAD = """
import json

import numpy as np
import openvino
from PIL import Image, ImageOps

model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
classes = json.load(open("manifest.json", encoding="utf-8"))["labels"]
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # of any size
probabilities = model({"pixels": np.asarray(picture)[None]})["probabilities"][0]
print(classes[probabilities.argmax()], probabilities.max())
"""


def write(given: Given, folder: Path) -> Written:
    """model.xml and model.bin, in float32."""
    import openvino

    with tempfile.TemporaryDirectory() as temporary:
        written = write_model(given, Path(temporary), "fp32")
        model = openvino.convert_model(Path(temporary) / MODEL)
        there = Path(temporary) / "model.xml"
        openvino.save_model(model, there, compress_to_fp16=False)
        for file in (there, there.with_suffix(".bin")):
            shutil.copy(file, folder)  # which says it of a full disk
    values = given.classifier.preprocessing.model_dump(mode="json")
    how = _HOW.replace("{values}", pformat(values, width=96)) + "\n" + DEEP + "\n" + READING
    note = (
        "its runtime resizes with float32 where this project, as torchvision, counts in whole "
        "numbers: a pixel may be one grey value off"
    )
    return Written("openvino", how, written.tolerance, (note,), LOAD.strip())
