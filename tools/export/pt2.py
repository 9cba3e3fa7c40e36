"""PyTorch: the whole network as one program of torch.export, which torch alone runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from classifier import Classifier, class_names
from pretrained.build import build, whole
from tools.export.given import Given, Written
from tools.export.ordinary import temperature_of
from tools.export.reading import pillow_reader
from utils import check_disk

_HOW = """
import torch

MODEL = torch.export.load(str(HERE / "model.pt2")).module()


@torch.no_grad()
def of_pixels(inputs):
    return torch.cat([MODEL(x) for x in torch.from_numpy(inputs).split(8)]).numpy()


def of_files(paths):
    return of_pixels(np.stack([picture_input(path) for path in paths]))
"""
_LOAD = """
import sys

import torch

sys.path.insert(0, "{place}/golden")
from check import of_files  # reads, fits and answers; see golden/check.py

print(of_files(["{picture}"]))  # probabilities, in the order of manifest.json's labels
"""


class Probabilities(nn.Module):
    """Inputs (B, c, h, w) to calibrated probabilities (B, C)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net = build(whole(classifier.checkpoint))  # a plain one: nothing packed or frozen
        self.net.certainty = None
        self.temperature = temperature_of(classifier)

    def forward(self, images: Tensor) -> Tensor:
        return (self.net(images) / self.temperature).softmax(1)


def write(given: Given, folder: Path) -> Written:
    """model.pt2: normalised float32 inputs, of any number, to probabilities; all heads, the
    temperature and the softmax are inside, the labels beside them in its file labels.json."""
    classifier = given.classifier
    vit = classifier.net.vit
    program = exported(Probabilities(classifier), vit.input_channels, vit.dim)
    size = sum(p.numel() * p.element_size() for p in classifier.net.parameters())
    check_disk(folder, size, "model.pt2")
    labels = json.dumps(class_names(classifier.net))
    content = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
    torch.export.save(program, content, extra_files={"labels.json": labels})
    (folder / "model.pt2").write_bytes(content.getbuffer())
    how = pillow_reader(classifier) + _HOW
    return Written("torch", how, load=_LOAD)


def exported(module: nn.Module, channels: int, side: int) -> torch.export.ExportedProgram:
    """A module as a program for batches of any size."""
    example = torch.zeros(2, channels, side, side)
    batch = torch.export.Dim("batch", min=1, max=4096)
    return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},))
