"""timm: a folder that create_model("local-dir:DIR", pretrained=True) and hf-hub: load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from classifier import Classifier, class_names
from config import PRESETS, Preprocessing
from tools.export.causes import CLIPPED, TRANSPARENT
from tools.export.given import Given, Written
from tools.export.ordinary import need_colour, save_folded
from utils import write_json

ORDINARY = True
NEEDS = ("timm",)
EPS = 1e-6  # timm's

_HOW = """
import timm
import torch
from PIL import Image, ImageOps

MODEL = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()
TRANSFORM = timm.data.create_transform(**timm.data.resolve_model_data_config(MODEL))


@torch.inference_mode()
def of_pixels(inputs):
    return torch.cat([MODEL(x[None]).softmax(-1) for x in torch.from_numpy(inputs)]).numpy()


def of_files(paths):
    pictures = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    return of_pixels(np.stack([TRANSFORM(picture).numpy() for picture in pictures]))
"""
_LOAD = """
import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
picture = ImageOps.exif_transpose(Image.open("{picture}")).convert("RGB")
chances = model(transform(picture)[None]).softmax(-1)[0].tolist()
print(dict(zip(model.pretrained_cfg["label_names"], chances)))
"""


def write(given: Given, folder: Path) -> Written:
    """config.json and model.safetensors; the temperature is in the head, so that its softmax are
    the calibrated probabilities."""
    classifier = given.classifier
    need_colour(classifier, "timm")
    write_json(folder / "config.json", model_config(classifier))
    save_folded(folder / "model.safetensors", classifier, "timm")
    notes = [
        "timm's own ImageDataset does not turn pictures by EXIF; ImageOps.exif_transpose does",
        "transparency: convert('RGB') leaves it out, this project lays it on white",
    ]
    eps = classifier.net.vit.eps
    if eps != EPS:
        notes.append(f"timm's layer norms have eps {EPS:g}, and the network's {eps:g}")
    known = (CLIPPED, TRANSPARENT)
    return Written("torch timm", _HOW, notes=tuple(notes), load=_LOAD, otherwise=known)


def model_config(classifier: Classifier) -> dict[str, Any]:
    """config.json: an architecture of timm's, and what of it is otherwise."""
    vit, names = classifier.net.vit, class_names(classifier.net)
    ratio = vit.ff_dim / vit.hidden_dim
    if int(vit.hidden_dim * ratio) != vit.ff_dim:  # timm cuts the product off
        ratio = (vit.ff_dim + 0.5) / vit.hidden_dim
    arguments = {
        "img_size": vit.dim,
        "patch_size": vit.patch_dim,
        "embed_dim": vit.hidden_dim,
        "depth": vit.num_layers,
        "num_heads": vit.num_heads,
        "mlp_ratio": ratio,
        "act_layer": "gelu_tanh" if vit.gelu == "tanh" else "gelu",
    }
    return {
        "architecture": architecture(vit.hidden_dim),
        "num_classes": len(names),
        "num_features": vit.hidden_dim,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": pretrained_cfg(classifier.preprocessing, names),
    }


def architecture(width: int) -> str:
    """timm's ViT of that width; any will do for another, as the arguments say all."""
    names = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}
    of_width = {PRESETS[preset]["hidden_dim"]: name for preset, name in names.items()}
    return f"vit_{of_width.get(width, 'base')}_patch16_224"


def pretrained_cfg(preprocessing: Preprocessing, names: tuple[str, ...]) -> dict[str, Any]:
    """How timm makes a picture the input, and what the logits mean."""
    size, crop = preprocessing.image_size, preprocessing.crop
    target = round(size / crop)
    if math.floor(size / crop) != target:  # timm cuts off, where torchvision is given a round size
        crop = size / (target + 0.01)
    modes = {"crop": "center", "squash": "squash", "pad": "border"}
    return {
        "tag": "finetuned",
        "custom_load": False,
        "input_size": [3, size, size],
        "fixed_input_size": True,
        "interpolation": preprocessing.interpolation,
        "crop_pct": crop if preprocessing.fit == "crop" else 1.0,
        "crop_mode": modes[preprocessing.fit],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": len(names),
        "label_names": list(names),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "pool_size": None,
    }
