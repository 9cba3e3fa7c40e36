"""The same fine-tuning job in other libraries: a loop over timm, and Hugging Face's Trainer."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.machine import clock
from config import TrainConfig
from dataset import load_split
from images import Sample, read_image
from model import VisionTransformer
from pretrained.build import load_model
from pretrained.write import export
from transforms import eval_transform
from utils import autocast

CLASSES, BATCH, EPOCHS, LR = 5, 20, 50, 3e-4


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures of a part as any tutorial reads them: decoded and resized when asked for."""

    def __init__(self, samples: Sequence[Sample], transform: Callable) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(read_image(self.samples[i].path).copy()).permute(2, 0, 1)
        return self.transform(pixels), self.samples[i].label


def pictures(args: argparse.Namespace, weights: VisionTransformer) -> tuple[Pictures, Pictures]:
    split = load_split(TrainConfig(base_dir=args.images))
    transform = eval_transform(weights.preprocessing)
    train, val = (Pictures(split.part(part), transform) for part in ("train", "val"))
    if args.augment:
        train.transform = timm_augmentation()
    return train, val


def timm_augmentation() -> Callable[[Tensor], Tensor]:
    """What timm's train.py does to a training picture by default."""
    from timm.data.transforms_factory import create_transform

    transform: Any = create_transform(224, is_training=True, color_jitter=0.4, hflip=0.5)
    return v2.Compose([v2.ToPILImage(), transform])


def check_same(net: Callable[[Tensor], Tensor], weights: VisionTransformer) -> None:
    """The peer is the same network: it answers the same for an image."""
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net(image), weights(image), rtol=1e-3, atol=1e-3)


def freeze(net: nn.Module, trained: Iterable[nn.Module]) -> list[nn.Parameter]:
    net.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return [p for p in net.parameters() if p.requires_grad]


def timm_loop(args: argparse.Namespace) -> dict[str, Any]:
    """timm's ViT in the plain loop of PyTorch's tutorials."""
    import timm

    started, device = clock(), torch.device(args.device)
    weights = load_model(args.weights)
    net: Any = timm.create_model("vit_base_patch16_224", num_classes=CLASSES, act_layer="gelu_tanh")
    net.load_state_dict(weights.state_dict())
    check_same(net, weights)
    net.to(device)
    parameters = freeze(net, [net.blocks[-1], net.norm, net.head])
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    train, val = pictures(args, weights)
    loader = DataLoader(train, BATCH, shuffle=True, num_workers=args.workers)
    start_seconds = clock() - started

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(device, args.bf16):
            loss = F.cross_entropy(net(images.to(device)).float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    net.train()
    train_rate = rate(loader, step, args.batches)
    net.eval()

    @torch.no_grad()
    def score(images: Tensor, labels: Tensor) -> None:
        with autocast(device, args.bf16):
            net(images.to(device)).argmax(1).cpu()

    eval_rate = rate(DataLoader(val, 32, num_workers=args.workers), score, args.batches)
    return {"start": start_seconds, "train": train_rate, "eval": eval_rate, "images": len(train)}


def rate(loader: Iterable, step: Callable, batches: int) -> float:
    """Images a second over some batches, the first one aside where there are several."""
    seen, started = 0, clock()
    for i, (images, labels) in enumerate(loader):
        step(images, labels)
        if i == 0:
            seen, started = 0, clock()
            continue
        seen += len(labels)
        if i == batches:
            break
    return seen / (clock() - started)


def huggingface_trainer(args: argparse.Namespace) -> dict[str, Any]:
    """Hugging Face's Trainer over its ViTForImageClassification, as its documentation has it."""
    import transformers

    started = time.perf_counter()
    weights = load_model(args.weights)
    with tempfile.TemporaryDirectory() as folder:  # as its users load weights
        config: Any = transformers.ViTConfig
        config(num_labels=CLASSES, hidden_act="gelu_pytorch_tanh").save_pretrained(folder)
        arrays = export(weights, "huggingface-vit")
        save_file(arrays, Path(folder) / "model.safetensors", {"format": "pt"})
        net: Any = transformers.ViTForImageClassification.from_pretrained(folder)
    check_same(lambda images: net(images).logits, weights)
    layers = net.vit.layers if hasattr(net.vit, "layers") else net.vit.encoder.layer
    freeze(net, [layers[-1], net.vit.layernorm, net.classifier])
    train, val = pictures(args, weights)
    stamps: list[float] = []

    class Stamp(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        images, labels = zip(*items, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    training = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=32,
        max_steps=min(args.batches + 1, len(train) // BATCH),
        learning_rate=LR,
        weight_decay=0.01,
        save_strategy="no",
        logging_steps=1000,
        report_to=[],
        use_cpu=args.device == "cpu",
        bf16=args.bf16,
        dataloader_num_workers=args.workers,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=net,
        args=training,
        train_dataset=train,
        eval_dataset=torch.utils.data.Subset(val, range(min(len(val), 32 * args.batches))),
        data_collator=collate,
        callbacks=[Stamp()],
    )
    start_seconds = time.perf_counter() - started
    trainer.train()
    train_rate = (len(stamps) - 1) * BATCH / (stamps[-1] - stamps[0])
    scored = trainer.evaluate()
    return {
        "start": start_seconds,
        "train": train_rate,
        "eval": scored["eval_samples_per_second"],
        "images": len(train),
    }


PEER_LOOPS = {"timm": timm_loop, "huggingface": huggingface_trainer}
