"""How good a network is on a part of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from tqdm import tqdm

from utils import autocast


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    loader: Iterable[tuple[Any, Tensor]],
    num_classes: int,
    device: torch.device,
    bf16: bool = False,
    desc: str = "evaluating",
) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy (the mean of the classes' recalls) over a loader.

    The network is in eval mode meanwhile: no dropout. The loss is the plain cross-entropy, in
    nats, without label smoothing. Classes without images don't count in the balanced accuracy.
    """
    was_training = net.training
    net.eval()
    loss = MeanMetric().to(device)
    accuracy = MulticlassAccuracy(num_classes, average="micro").to(device)
    recalls = MulticlassAccuracy(num_classes, average="none").to(device)
    seen = torch.zeros(num_classes, dtype=torch.bool, device=device)
    for inputs, labels in tqdm(loader, desc, leave=False, unit="batch"):
        inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with autocast(device, bf16):
            logits = net(inputs).float()  # B C
        loss.update(F.cross_entropy(logits, labels, reduction="none"))
        accuracy.update(logits, labels)
        recalls.update(logits, labels)
        seen[labels] = True
    net.train(was_training)
    return {
        "loss": loss.compute().item(),
        # float32 holds 7 digits; the rest would be noise in every file that shows it.
        "accuracy": round(accuracy.compute().item(), 7),
        "balanced_accuracy": round(recalls.compute()[seen].mean().item(), 7),
    }
