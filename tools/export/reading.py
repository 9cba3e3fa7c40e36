"""Pictures to a network's input by Pillow and NumPy alone, as the text of a script."""

from __future__ import annotations

from pprint import pformat

from classifier import Classifier

_READER = '''
import numpy as np
from PIL import Image, ImageOps

PREPROCESSING = {values}


def picture_input(path):
    """A picture file as the network's input (c, h, w): turned by its EXIF, on white, and fitted."""
    p, size = PREPROCESSING, PREPROCESSING["image_size"]
    how = getattr(Image.Resampling, p["interpolation"].upper())
    picture = ImageOps.exif_transpose(Image.open(path))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    ground = tuple(round(255 * mean) for mean in p["mean"])
    if p["fit"] == "squash":
        picture = picture.resize((size, size), how)
    elif p["fit"] == "pad":
        longer = max(picture.size)
        w, h = (max(1, round(side * size / longer)) for side in picture.size)
        square = Image.new("RGB", (size, size), ground)
        square.paste(picture.resize((w, h), how), ((size - w) // 2, (size - h) // 2))
        picture = square
    else:  # the shorter side resized, the middle cut out
        shorter, target = min(picture.size), round(size / p["crop"])
        w, h = (int(side * target / shorter) for side in picture.size)
        left, top = round((w - size) / 2), round((h - size) / 2)
        picture = picture.resize((w, h), how).crop((left, top, left + size, top + size))
    channels = p["channels"]
    x = np.asarray(picture.convert("L") if channels == 1 else picture, np.float32)
    x = x.reshape(size, size, channels) / 255
    x = (x - np.array(p["mean"][:channels])) / np.array(p["std"][:channels])
    return x.transpose(2, 0, 1).astype(np.float32)
'''


def pillow_reader(classifier: Classifier) -> str:
    """Python that defines `picture_input(path)`, a picture file as the input (c, h, w) of the
    classifier's network."""
    values = classifier.preprocessing.model_dump(exclude={"greys"})
    values["channels"] = classifier.net.vit.input_channels
    return _READER.replace("{values}", pformat(values, width=96)).strip() + "\n"
