"""Hugging Face: a folder that transformers' AutoModelForImageClassification and pipeline load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from classifier import Classifier, class_names
from config import Preprocessing
from tools.export.causes import CLIPPED, HALF_A_PIXEL, PADDED_FIRST, TRANSPARENT
from tools.export.given import Given, Written
from tools.export.ordinary import need_colour, save_folded
from utils import write_json

ORDINARY = True
NEEDS = ("transformers",)

_HOW = """
import torch
from transformers import AutoModelForImageClassification, pipeline
from transformers.utils import logging

logging.disable_progress_bar()
MODEL = AutoModelForImageClassification.from_pretrained(HERE).eval()
PIPELINE = pipeline("image-classification", model=str(HERE), device="cpu")


@torch.inference_mode()
def of_pixels(inputs):
    batches = [MODEL(x[None]).logits.softmax(-1) for x in torch.from_numpy(inputs)]
    return torch.cat(batches).numpy()


def of_files(paths):
    labels = MODEL.config.id2label  # top_k=None means 5
    found = PIPELINE([str(path) for path in paths], top_k=len(labels))
    scores = [{answer["label"]: answer["score"] for answer in answers} for answers in found]
    return np.array([[score[labels[i]] for i in range(len(labels))] for score in scores])
"""
_LOAD = """
from transformers import pipeline

classify = pipeline("image-classification", model="{place}")
print(classify("{picture}"))
"""


def write(given: Given, folder: Path) -> Written:
    """config.json, model.safetensors and preprocessor_config.json; the temperature is in the
    head, so that its softmax are the calibrated probabilities."""
    classifier = given.classifier
    need_colour(classifier, "transformers")
    write_json(folder / "config.json", model_config(classifier))
    write_json(folder / "preprocessor_config.json", processor(classifier.preprocessing))
    save_folded(folder / "model.safetensors", classifier, "huggingface-vit")
    notes = ["transparency: transformers leaves it out, this project lays it on white"]
    if classifier.preprocessing.fit == "crop":
        notes.append(
            "a crop whose middle lies between two pixels: transformers takes the first, this "
            "project, as torchvision, the even one; where that is another, a picture's crop is "
            "one pixel off"
        )
    known = (CLIPPED, TRANSPARENT, HALF_A_PIXEL, PADDED_FIRST)
    return Written("torch transformers", _HOW, notes=tuple(notes), load=_LOAD, otherwise=known)


def model_config(classifier: Classifier) -> dict[str, Any]:
    """config.json, for ViTForImageClassification."""
    vit, names = classifier.net.vit, class_names(classifier.net)
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "problem_type": "single_label_classification",
        "hidden_size": vit.hidden_dim,
        "num_hidden_layers": vit.num_layers,
        "num_attention_heads": vit.num_heads,
        "intermediate_size": vit.ff_dim,
        "hidden_act": "gelu_pytorch_tanh" if vit.gelu == "tanh" else "gelu",
        "layer_norm_eps": vit.eps,
        "image_size": vit.dim,
        "patch_size": vit.patch_dim,
        "num_channels": vit.input_channels,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        "torch_dtype": "float32",  # as transformers 4 calls it
    }


def processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json. transformers' own processor for ViT squashes a picture; those of
    BiT and LLaVA cut out its middle and pad it."""
    size = preprocessing.image_size
    square = {"height": size, "width": size}
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": {"bilinear": 2, "bicubic": 3}[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.fit == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": square, **common}
    cut = {"do_center_crop": True, "crop_size": square}
    if preprocessing.fit == "pad":
        pads = {"do_pad": True, "size": {"shortest_edge": size}}
        return {"image_processor_type": "LlavaImageProcessor", **pads, **cut, **common}
    shorter = {"shortest_edge": round(size / preprocessing.crop)}
    return {"image_processor_type": "BitImageProcessor", "size": shorter, **cut, **common}
