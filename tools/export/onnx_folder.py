"""ONNX: one file that takes the pixels of any picture, and answers."""

from __future__ import annotations

from pathlib import Path

from tools.export.given import Given, Written
from tools.export.graph import NEEDS, answering_model, joined
from tools.export.quantised import PRECISIONS, cost, with_bytes, with_halves
from tools.export.reading import DEEP
from utils import UserError, replacing

ORDINARY = False  # it takes a network with any head
__all__ = ["NEEDS", "ORDINARY", "write"]
MODEL = "model.onnx"
MOST_LOSS = 0.01
# Of a probability. 16 bits keep three digits of a weight; what 8 bits do to one picture is not
# bounded, so accuracy decides about them, and this finds what is broken.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2}

_HOW = """
import onnxruntime
from PIL import Image, ImageOps

OPTIONS = onnxruntime.SessionOptions()
OPTIONS.log_severity_level = 3
SESSION = onnxruntime.InferenceSession(
    str(HERE / "model.onnx"), OPTIONS, providers=["CPUExecutionProvider"]
)
PREPROCESSING = json.loads(SESSION.get_modelmeta().custom_metadata_map["preprocessing"])


def of_one(pixels):
    return SESSION.run(["probabilities"], {"pixels": pixels[None]})[0]
"""

# What becomes of a picture file, by `of_one(pixels)` and PREPROCESSING.
READING = '''
def of_pictures(pictures):
    """Probabilities of pixels (h, w, 3), uint8: each picture has its own size."""
    found = [of_one(picture) for picture in pictures]
    return np.concatenate(found)


def of_pixels(inputs):
    """The graph takes pixels and makes the inputs itself: so those that become just these."""
    channels = inputs.shape[1]
    mean, std = (np.array(PREPROCESSING[k])[:channels, None, None] for k in ("mean", "std"))
    square = np.rint((inputs * std + mean) * 255)
    if channels == 1:  # the grey of three equal colours is a trifle less, and cut
        square = np.repeat(square + 1, 3, axis=1)
    square = square.astype(np.uint8).transpose(0, 2, 3, 1)
    edge = 0
    if PREPROCESSING["fit"] == "crop":  # its middle is what is seen
        size = PREPROCESSING["image_size"]
        whole = round(size / PREPROCESSING["crop"])
        edge = round((whole - size) / 2), whole - size - round((whole - size) / 2)
        square = np.pad(square, ((0, 0), edge, edge, (0, 0)))
    return of_pictures(square)


def of_files(paths):
    pictures = []
    for path in paths:
        picture = eight_bits(ImageOps.exif_transpose(Image.open(path)))
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        pictures.append(np.asarray(picture.convert("RGB")))
    return of_pictures(pictures)
'''

HOW = _HOW + "\n" + DEEP + "\n" + READING

LOAD = """
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(model.get_modelmeta().custom_metadata_map["classes"])
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")  # of any size
probabilities = model.run(["probabilities"], {"pixels": np.asarray(picture)[None]})[0][0]
print(classes[probabilities.argmax()], probabilities.max())
"""


def write(given: Given, folder: Path) -> Written:
    """model.onnx, in the precision that was asked for; float32 without."""
    return write_model(given, folder, getattr(given.options, "precision", None) or "fp32")


def write_model(given: Given, folder: Path, precision: str) -> Written:
    """The same in a precision. Raises UserError where 8 bits cost more accuracy than the options'
    `most_loss`."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: it is one of {', '.join(PRECISIONS)}")
    import onnx

    answering = answering_model(given.classifier)
    if precision != "fp32":
        answering = with_bytes(answering) if precision == "int8" else with_halves(answering)
    model = joined(given.classifier, answering, precision)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MODEL) as temporary:
        onnx.save(model, temporary)
    notes = [f"{MODEL}: {precision}, {(folder / MODEL).stat().st_size / 1e6:.1f} MB"]
    if precision == "int8":
        notes.append(_affordable(given, folder / MODEL))
    return Written("onnxruntime", HOW, TOLERANCES[precision], tuple(notes), LOAD.strip())


def _affordable(given: Given, model: Path) -> str:
    """What 8 bits cost, said; UserError where it is more than was allowed."""
    found = cost(given, model)
    most = getattr(given.options, "most_loss", None)
    most = MOST_LOSS if most is None else most
    if found.loss > most + 1e-9:
        model.unlink()
        what = f"loses {found.loss:.4f} of accuracy"
        if found.learned:
            what = f"answers {found.loss:.4f} of the pictures otherwise"
        raise UserError(
            f"int8 {what}, more than --most-loss {most:g}: {found}; take --precision fp16, or "
            "allow more"
        )
    return f"int8: {found}"
