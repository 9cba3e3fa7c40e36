"""The networks of tools.baseline: timm's ViT and way of training, torchvision's MobileNet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from config import TrainConfig
from model import VisionTransformer
from utils import UserError

HEAD = "classifier.3"  # MobileNet's last layer


@dataclass(frozen=True)
class Recipe:
    """How a network learns; a schedule is told the number of updates or of epochs that are done."""

    optimizer: torch.optim.Optimizer
    criterion: nn.Module
    settings: dict[str, Any]
    on_update: Callable[[int], object]
    on_epoch: Callable[[int], object] = lambda epoch: None


@dataclass(frozen=True)
class TimmSettings:
    """Flags of timm's train.py: `lr` is that of a batch of `base`."""

    opt: str
    lr: float
    base: int
    weight_decay: float
    layer_decay: float | None
    on_updates: bool  # the schedule steps by update, not by epoch

    def scaled(self, batch_size: int) -> float:
        """By the root for Ada* and LAMB, else in proportion, as train.py does."""
        share = batch_size / self.base
        return self.lr * (share**0.5 if "ada" in self.opt or "lamb" in self.opt else share)


# https://github.com/huggingface/pytorch-image-models/blob/main/train.py
TRAIN_PY = TimmSettings("sgd", 0.1, 256, 2e-5, None, on_updates=False)
# https://huggingface.co/timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/discussions/1; its random
# augmentation and stochastic depth are left out.
AUGREG2 = TimmSettings("adamw", 2e-4, 512, 0.05, 0.7, on_updates=True)
SMOOTHING, WARMUP_EPOCHS, WARMUP_LR = 0.1, 5, 1e-5


# ------------------------------------------------------------------------------------ timm's way


def timm_model(net: VisionTransformer) -> Any:
    """timm's ViT of the same architecture; its parameters are the network's own, not copies."""
    try:
        from timm.models.vision_transformer import VisionTransformer as TimmViT
    except ImportError:
        raise UserError(
            "timm is not installed: pip install -r requirements-dev.txt brings it"
        ) from None
    vit = net.vit
    assert isinstance(vit.eps, float)
    theirs = TimmViT(
        img_size=vit.dim,
        patch_size=vit.patch_dim,
        in_chans=vit.input_channels,
        num_classes=net.num_classes,
        embed_dim=vit.hidden_dim,
        depth=vit.num_layers,
        num_heads=vit.num_heads,
        mlp_ratio=vit.ff_dim / vit.hidden_dim,
        norm_layer=partial(nn.LayerNorm, eps=vit.eps),
        act_layer=partial(nn.GELU, approximate="tanh" if vit.gelu == "tanh" else "none"),
    )
    theirs.load_state_dict(net.state_dict(keep_vars=True), strict=True, assign=True)
    return theirs.to(net.device)


def timm_recipe(settings: TimmSettings, theirs: Any, train: TrainConfig, updates: int) -> Recipe:
    """timm's optimiser, loss and schedule, for so many `updates` an epoch."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    lr = settings.scaled(train.batch_size)
    optimizer = create_optimizer_v2(
        theirs,
        opt=settings.opt,
        lr=lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
    )
    epochs = train.max_epochs
    assert epochs != "auto"
    # train.py has 300 epochs in mind: of a few, 5 would be all.
    warmup = WARMUP_EPOCHS if epochs >= 2 * WARMUP_EPOCHS else epochs / 10
    scheduler, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=epochs,
        warmup_epochs=warmup,  # type: ignore[arg-type]
        warmup_lr=WARMUP_LR,
        step_on_epochs=not settings.on_updates,
        updates_per_epoch=updates,
    )
    said = {"opt": settings.opt, "lr": lr, "weight_decay": settings.weight_decay}
    said |= {"layer_decay": settings.layer_decay, "warmup_epochs": warmup}
    criterion = LabelSmoothingCrossEntropy(smoothing=SMOOTHING)
    return Recipe(optimizer, criterion, said, scheduler.step_update, scheduler.step)


# --------------------------------------------------------------------- MobileNet, a head alone


def mobilenet_v3(num_classes: int, weights: str | None) -> nn.Module:
    """torchvision's MobileNetV3-Large: from scratch, or with a fresh last layer on some weights."""
    from torchvision.models import mobilenet_v3_large

    net = mobilenet_v3_large(num_classes=num_classes)
    if weights:
        load_body(net, mobilenet_weights(weights), weights)
    return net


def plain_recipe(net: nn.Module, lr: float, train: TrainConfig, updates: int) -> Recipe:
    """AdamW over what trains, and a cosine by step after the config's warm-up.

    `updates`: those of an epoch.
    """
    assert train.max_epochs != "auto" and train.warmup_epochs != "auto"
    total, warmup = train.max_epochs * updates, round(train.warmup_epochs * updates)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr)
    said = {"opt": "adamw", "lr": lr, "weight_decay": optimizer.defaults["weight_decay"]}
    scheduler = LambdaLR(optimizer, factor)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    return Recipe(optimizer, criterion, said, lambda updates: scheduler.step())


def mobilenet_weights(source: str) -> dict[str, Tensor]:
    """A state dict from a file, or ImageNet's from torchvision."""
    if source == "imagenet":
        from torchvision.models import MobileNet_V3_Large_Weights

        weights = MobileNet_V3_Large_Weights.DEFAULT
        try:
            return weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{weights.url} can't be reached ({type(error).__name__}); without a network, "
                "fetch it elsewhere and name the file with --weights"
            ) from None
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file; --weights takes a .pth state dict, or imagenet")
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        return {str(name): tensor for name, tensor in state.items()}
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{source} is no state dict: {reason}") from None


def load_body(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put weights into a MobileNet; its last layer stays fresh."""
    wanted = {n: tuple(t.shape) for n, t in net.state_dict().items() if not n.startswith(HEAD)}
    body = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    wrong = sorted(wanted.keys() ^ body.keys())
    wrong = wrong or [n for n in wanted if tuple(body[n].shape) != wanted[n]]
    if wrong:
        raise UserError(f"{source} does not fit mobilenet_v3_large: {', '.join(wrong[:5])}")
    net.load_state_dict(body, strict=False)
