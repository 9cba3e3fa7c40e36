"""The sanity check: one batch, until it is known by heart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from config import Config
from dataset import Split, make_loaders
from engine.job import Job
from engine.run import COLUMNS, MetricsLog, Run
from model import Tail, Tokens, VisionTransformer
from tokens.trunk import Trunk
from transforms import eval_transform
from utils import log, write_json


def repeated_batch(
    net: VisionTransformer, split: Split, config: Config, device: torch.device
) -> Iterator[tuple[Tensor | Tokens, Tensor]]:
    """The same batch of training images, without augmentation, for ever; in finetune mode what the
    frozen trunk makes of it."""
    loaders = make_loaders(split, config.train, net.preprocessing, net.vit.input_channels, device)
    loaders["train"].dataset.transform = eval_transform(  # type: ignore[attr-defined]
        net.preprocessing, net.vit.input_channels
    )
    images, labels = (tensor.to(device) for tensor in next(iter(loaders["train"])))
    frozen = net.frozen_depth is not None
    inputs = Trunk(net, device, config.train.bf16)(images) if frozen else images
    while True:
        yield inputs, labels


def overfit(
    net: VisionTransformer,
    batches: Iterable[tuple[Tensor | Tokens, Tensor]],
    config: Config,
    run: Run,
) -> bool:
    """Train on one batch until the network knows it by heart; says PASS, or FAIL and likely why.

    Dropout, weight decay and label smoothing are off; the learning rate is the config's, warmed
    up over 10 steps.
    """
    options = config.overfit_one_batch
    off: dict[str, Any] = dict.fromkeys(("weight_decay", "label_smoothing", "mixup", "cutmix"), 0.0)
    train = config.train.model_copy(update={**off, "ema": None, "class_weights": "none"})
    learner = net if net.frozen_depth is None else Tail(net)
    assert isinstance(net.vit.num_classes, int)
    device = net.cls_token.device
    job = Job(net, learner, train, [0], net.vit.num_classes, device, options.max_steps)
    job.scheduler = LambdaLR(job.optimizer, lambda step: min(1.0, (step + 1) / 10))
    metrics = MetricsLog(run.folder, COLUMNS)
    net.eval()  # dropout is a model's only difference in training
    losses: list[float] = []
    accuracy, started = 0.0, time.perf_counter()
    bar = tqdm(batches, "overfitting one batch", total=options.max_steps, leave=False)
    for step, (inputs, labels) in enumerate(bar, 1):
        loss, right, norm = job.gradients(inputs, labels)
        losses.append(loss)
        accuracy = right / len(labels)
        passed = loss < options.tolerance and accuracy == 1.0
        done = passed or step == options.max_steps or not math.isfinite(loss + norm)
        if done or step % options.logging_steps == 0:
            row: dict[str, Any] = {"epoch": step, "train_loss": loss, "train_accuracy": accuracy}
            row |= {
                "lr": job.scheduler.get_last_lr()[0],
                "grad_norm_mean": norm,
                "grad_norm_max": norm,
            }
            metrics.write(None, **row, seconds=time.perf_counter() - started)
            log.info("step %d: loss %.4f, accuracy %.2f", step, loss, accuracy)
        if done:
            break
        job.optimizer.step()
        job.scheduler.step()
    metrics.close()
    verdict = "PASS" if passed else "FAIL"
    assert train.lr != "auto"
    reason = "" if passed else why_not(losses, accuracy, net.vit.num_classes, train.lr)
    log.info("%s after %d steps: loss %.4g, accuracy %.2f%s", verdict, step, loss, accuracy, reason)
    seconds = round(time.perf_counter() - started, 1)
    outcome = {"mode": train.mode, "overfit": verdict, "steps": step, "loss": loss}
    write_json(run.folder / "summary.json", {**outcome, "accuracy": accuracy, "seconds": seconds})
    return passed


def why_not(losses: list[float], accuracy: float, num_classes: Any, lr: float) -> str:
    """The likely reasons why one batch was not learned, from how the loss went."""
    recent = losses[-max(1, len(losses) // 5) :]
    lowest, now = min(losses), sum(recent) / len(recent)
    if not math.isfinite(losses[-1]):
        return f"; the loss is not finite: lr {lr:g} is too high"
    if now > 0.8 * math.log(num_classes):
        return (
            f"; the loss stays near chance (ln {num_classes} = {math.log(num_classes):.2f}): the "
            f"labels may change from step to step, no gradient may reach the weights, or lr {lr:g} "
            "may be far off"
        )
    if now > 2 * lowest and now > 0.1:
        return f"; the loss fell to {lowest:.3f} and rose again: lr {lr:g} may be too high"
    if accuracy < 1:
        return (
            "; some images stay wrong: the same picture may bear two labels, or it needs more steps"
        )
    return "; the loss was still falling: raise overfit_one_batch.max_steps"
