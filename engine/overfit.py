"""The sanity check: one batch, until it is known by heart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from config import TrainConfig
from dataset import make_loaders
from engine.job import Job
from engine.metrics_log import COLUMNS, MetricsLog
from engine.start import Work
from model import Tail, Tokens, VisionTransformer
from tokens.trunk import Trunk
from transforms import eval_transform
from utils import log, progress_bar, write_json


def repeated_batch(work: Work) -> Iterator[tuple[Tensor | Tokens, Tensor]]:
    """The same batch of training images, without augmentation, for ever; in finetune mode what the
    frozen trunk makes of it."""
    net, device = work.net, work.device
    channels = net.vit.input_channels
    loaders = make_loaders(work.split, work.train, net.preprocessing, channels, device)
    plain = eval_transform(net.preprocessing, channels)
    loaders["train"].dataset.transform = plain  # type: ignore[attr-defined]
    images, labels = (tensor.to(device) for tensor in next(iter(loaders["train"])))
    frozen = net.frozen_depth is not None
    inputs = Trunk(net, device, work.train.trunk_bf16)(images) if frozen else images
    while True:
        yield inputs, labels


def overfit(work: Work, batches: Iterable[tuple[Tensor | Tokens, Tensor]]) -> dict[str, Any]:
    """Train on one batch until the network knows it by heart; returns what summary.json holds.

    Says PASS, or FAIL and likely why.

    Dropout, weight decay and label smoothing are off; the learning rate is the config's, warmed
    up over 10 steps.
    """
    options = work.config.overfit_one_batch
    job = job_by_heart(work.net, work.train, options.max_steps)
    work.net.eval()  # dropout is a model's only difference in training
    losses: list[float] = []
    accuracy, started = 0.0, time.perf_counter()
    bar = progress_bar(batches, "overfitting one batch", options.max_steps)
    with MetricsLog(work.run.folder, COLUMNS) as metrics:
        for step, (inputs, labels) in enumerate(bar, 1):
            loss, right, norm = job.gradients(inputs, labels)
            losses.append(loss)
            accuracy = right / len(labels)
            passed = loss < options.tolerance and accuracy == 1.0
            done = passed or step == options.max_steps or not math.isfinite(loss + norm)
            if done or step % options.logging_steps == 0:
                seconds = time.perf_counter() - started
                metrics.write(None, **row_of(step, loss, accuracy, norm, job), seconds=seconds)
                log.info("step %d: loss %.4f, accuracy %.2f", step, loss, accuracy)
            if done:
                break
            job.optimizer.step()
            job.scheduler.step()
    verdict = "PASS" if passed else "FAIL"
    assert job.train.lr != "auto"
    reason = "" if passed else why_not(losses, accuracy, work.net.num_classes, job.train.lr)
    log.info("%s after %d steps: loss %.4g, accuracy %.2f%s", verdict, step, loss, accuracy, reason)
    summary = {"mode": job.train.mode, "overfit": verdict, "steps": step, "loss": loss}
    summary |= {"accuracy": accuracy, "seconds": round(time.perf_counter() - started, 1)}
    write_json(work.run.folder / "summary.json", summary)
    return summary


def job_by_heart(net: VisionTransformer, train: TrainConfig, steps: int) -> Job:
    """A job without anything that keeps a batch from being learned by heart."""
    off: dict[str, Any] = dict.fromkeys(("weight_decay", "label_smoothing", "mixup", "cutmix"), 0.0)
    train = train.model_copy(update={**off, "ema": None, "class_weights": "none"})
    job = Job(net, net if net.frozen_depth is None else Tail(net), train, [0], steps)
    job.scheduler = LambdaLR(job.optimizer, lambda step: min(1.0, (step + 1) / 10))
    return job


def row_of(step: int, loss: float, accuracy: float, norm: float, job: Job) -> dict[str, Any]:
    """A step as metrics.csv has it, its seconds aside."""
    lr = job.scheduler.get_last_lr()[0]
    row = {"epoch": step, "train_loss": loss, "train_accuracy": accuracy, "lr": lr}
    return row | {"grad_norm_mean": norm, "grad_norm_max": norm}


def why_not(losses: list[float], accuracy: float, num_classes: int, lr: float) -> str:
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
