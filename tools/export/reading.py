"""Pictures to a network's input by Pillow and NumPy alone, as the text of a script."""

from __future__ import annotations

from pprint import pformat

from classifier import Classifier
from decoding.greys import FRACTIONS, IGNORED, LEAST_SHARE, WHOLE, Greys

# What is black and white in greys of more than 8 bits: `decoding.greys`, for one picture.
DEEP = '''
WHOLE, FRACTIONS, LEAST_SHARE, IGNORED = {rule}


def eight_bits(picture):
    """A grey picture of more than 8 bits as the network was shown such; any other as it is."""
    if not picture.mode.startswith("I") and picture.mode != "F":
        return picture
    values, greys = np.asarray(picture).astype(np.float64), PREPROCESSING["greys"]
    if greys is None:
        low, high = np.quantile(values, [IGNORED, 1 - IGNORED])
        usual = WHOLE if (values == np.floor(values)).all() else FRACTIONS
        usual = [(b, w) for b, w in usual if b <= low and high <= w]
        usual = [(b, w) for b, w in usual if high == low or high - low >= LEAST_SHARE * (w - b)]
        greys = (*usual, (low, high if high > low else low + 1))[0]
    black, white = greys
    shown = (values - black) / (white - black) * 255 + 0.5
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))
'''.replace("{rule}", repr((WHOLE, FRACTIONS, LEAST_SHARE, IGNORED)))

_READER = '''
import numpy as np
from PIL import Image, ImageOps

PREPROCESSING = {values}
{deep}

def picture_input(path):
    """A picture file as the network's input (c, h, w): turned by its EXIF, on white, and fitted."""
    p, size = PREPROCESSING, PREPROCESSING["image_size"]
    how = getattr(Image.Resampling, p["interpolation"].upper())
    picture = eight_bits(ImageOps.exif_transpose(Image.open(path)))
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
    values = classifier.preprocessing.model_dump()
    values["channels"] = classifier.net.vit.input_channels
    text = _READER.replace("{deep}", DEEP.rstrip())
    return text.replace("{values}", pformat(values, width=96)).strip() + "\n"


def deep_lines(greys: Greys | None) -> str:
    """Python that makes a picture of 8 bits of a grey one of more, as training shows them."""
    black, white = greys or (0, 65535)
    said = "the training pictures'" if greys else "of 16 bits; of a camera's 12 bits 0, 4095"
    return f"""
import numpy as np
from PIL import Image

black, white = {black:g}, {white:g}  # {said}
values = np.asarray(Image.open("deep.png")).astype(float)
shown = ((values - black) / (white - black) * 255 + 0.5).clip(0, 255).astype(np.uint8)
Image.fromarray(shown).save("picture.png")
""".strip()
