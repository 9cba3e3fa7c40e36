"""What learns and how: loss, optimiser, schedule, one step; and several jobs side by side."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from config import TrainConfig
from engine.average import Average
from engine.cores import one_core
from engine.parts import Parts
from engine.position import Position
from engine.run import Run
from engine.sharding import is_shared_out, moments_of, take, whole
from filing.csv_files import read_csv
from metrics import predict
from model import Tail, Tokens, VisionTransformer
from pretrained.files import digest_of
from pretrained.write import metadata_of
from system.parallel import world_size
from system.stopping import unbroken
from utils import UserError, autocast, log


class Job:
    """What trains and how: a network, the part of it that learns, its loss, and what changes its
    weights.

    `labels` are those of the training images. `steps`: instead of the config's epochs, the schedule
    squeezed accordingly.
    """

    def __init__(
        self,
        net: VisionTransformer,
        learner: nn.Module,
        train: TrainConfig,
        labels: list[int],
        steps: int | None = None,
    ) -> None:
        assert train.max_epochs != "auto"
        self.net, self.learner, self.train, self.device = net, learner, train, net.device
        self.epochs, self.images = train.max_epochs, len(labels)
        self.steps = steps or self.epochs * math.ceil(len(labels) / train.batch_size)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(net, train)
        self.scheduler = build_scheduler(self.optimizer, train, self.steps)
        self.criterion = build_criterion(train, labels, net.num_classes).to(net.device)
        self.mix = build_mix(train, net.num_classes)
        self.average = Average(self.parameters, train.ema)
        self.pictures: Sequence[str] = ()  # the training images' paths, for messages
        self.parts: Parts | None = None
        self.labels = labels

    @contextlib.contextmanager
    def in_parts(self) -> Iterator[None]:
        """Learn from each batch in parts: with other processes, or in turns, where that is so."""
        if world_size() > 1 or self.train.accumulate > 1:
            criterion = build_criterion(self.train, self.labels, self.net.num_classes, "sum")
            self.parts = Parts(self.learner, criterion.to(self.device), self.train)
        yield
        self.parts = None

    def size_of_batch(self, labels: Tensor, position: Position | None) -> int:
        """The images of a whole batch, of which `labels` may be this process's share."""
        if world_size() == 1 or position is None:
            return len(labels)
        size = self.train.batch_size
        return min(size, self.images - position.steps * size)

    def step(
        self, inputs: Tensor | Tokens, labels: Tensor, position: Position | None = None
    ) -> tuple[float, int, float]:
        """Learn from a batch: its loss, the number of right answers, the gradient's norm; where in
        its epoch that is counts it.

        Raises Diverged, with the weights as they were, where the loss or the norm is not finite.
        """
        images = self.size_of_batch(labels, position)
        loss, right, norm = self.gradients(inputs, labels, images)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged("loss" if not math.isfinite(loss) else "gradient")
        with unbroken():  # a step is taken whole, or not at all
            self.optimizer.step()
            self.scheduler.step()
            self.average.update()
            if position is not None:
                position.take(loss, right, norm, images)
        return loss, right, norm

    def gradients(
        self, inputs: Tensor | Tokens, labels: Tensor, images: int | None = None
    ) -> tuple[float, int, float]:
        """Gradients of a batch, of so many images in all, clipped; the weights are not changed
        yet."""
        if self.parts is None:
            loss, logits, labels = self.loss(inputs, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            hits = (logits.argmax(1) == labels).sum()
        else:
            self.optimizer.zero_grad(set_to_none=True)
            inputs = inputs.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            loss, hits = self.parts.backward(inputs, labels, self.mix, images or len(labels))
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        # One wait for the device a step, not four.
        found = torch.stack([loss.detach(), whole(norm), hits.to(loss.dtype)]).tolist()
        # What is within it stays as it is, where torch multiplies by one: 0.5 of a step's 7 ms
        # (S/14, 2 cores).
        if self.train.clip and not found[1] <= self.train.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.train.clip, norm)
        return found[0], int(found[2]), found[1]

    def loss(self, inputs: Tensor | Tokens, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch's loss, the logits (B, C), and the labels that count as right."""
        inputs = inputs.to(self.device, non_blocking=True)
        labels = targets = labels.to(self.device, non_blocking=True)
        if self.mix is not None:
            inputs, targets = self.mix(inputs, labels)  # B C: the shares of the two images
            labels = targets.argmax(1)
        with autocast(self.device, self.train.bf16):
            logits = self.learner(inputs)  # B C
        return self.criterion(logits.float(), targets), logits, labels

    def answers(self, loader: Any, desc: str | None = "evaluating") -> tuple[Tensor, Tensor]:
        """The network's logits (n, C) of a loader's images, and the labels (n,), as `predict` gives
        them."""
        # Scoring the trials of a quick start takes 2 s on one core or two, and 62 on two of which
        # another program has one.
        with one_core(self.is_small):
            return predict(self.learner, loader, self.device, self.train.bf16, desc)

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers."""
        vit = self.net.vit
        return bool(vit.dropout or vit.attention_dropout or self.mix is not None)

    @property
    def is_small(self) -> bool:
        """Whether no more than a last block trains, on cached tokens, on a CPU."""
        if self.device.type != "cpu" or not isinstance(self.learner, Tail):
            return False
        return self.net.vit.num_layers - (self.net.frozen_depth or 0) <= 1

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on; the random numbers need nothing, each step seeds its own, and
        of what is frozen a digest is enough."""
        return {
            "model": {name: whole(p.detach()) for name, p in self.trained()},
            "frozen": self.frozen,
            "optimizer": whole(self.optimizer.state_dict()),
            "scheduler": self.scheduler.state_dict(),
            "average": whole(self.average.state_dict()),
            "classes": list(self.net.classes or ()),
            "metadata": metadata_of(self.net),
        }

    def put_together(self, plain: VisionTransformer) -> Job:
        """The same with a network of ordinary arrays, after a training in which each process held
        its part of them."""
        weights = {name: whole(p) for name, p in self.trained()}
        average = whole(self.average.state_dict())
        plain.load_state_dict(plain.state_dict() | weights)
        job = Job(plain.to(self.device), plain, self.train, self.labels)
        job.average.load_state_dict(average)
        job.pictures = self.pictures
        return job

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that train, with their names."""
        return [(name, p) for name, p in self.net.named_parameters() if p.requires_grad]

    @cached_property
    def frozen(self) -> str:
        """A digest of the parameters that don't."""
        return digest_of({n: p for n, p in self.net.named_parameters() if not p.requires_grad})

    def load_state_dict(self, state: dict[str, Any], run: Run) -> None:
        """Take up what `state_dict` gave; rates, decay and momentum stay this config's."""
        own = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        try:
            if is_shared_out(self.net):
                for name, parameter in self.trained():
                    take(parameter, state["model"][name])
            else:
                self.net.load_state_dict(self.net.state_dict() | state["model"])
            self.optimizer.load_state_dict(moments_of(self.optimizer, state["optimizer"]))
            self.average.load_state_dict(state.get("average"))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{run.last} does not fit this config ({reason}); go on with "
                f"{run.folder}/config.yaml"
            ) from None
        self.scheduler.load_state_dict(state["scheduler"])
        done, factors = self.scheduler.last_epoch, self.scheduler.lr_lambdas
        for group, mine, factor in zip(self.optimizer.param_groups, own, factors, strict=True):
            group.update(mine, lr=mine["initial_lr"] * factor(done))
        self.scheduler.base_lrs = [mine["initial_lr"] for mine in own]
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class Diverged(UserError):
    """The loss or a gradient is NaN or infinite; the weights of the step before are intact."""


def build_criterion(
    train: TrainConfig, labels: list[int], num_classes: int, reduction: str = "mean"
) -> nn.CrossEntropyLoss:
    """Cross-entropy with label smoothing and, where the config asks for it, classes weighted by
    1 / their images, so that each counts the same (scikit-learn's `balanced`)."""
    weight = None
    if train.class_weights == "balanced":
        counts = torch.bincount(torch.tensor(labels), minlength=num_classes).clamp(min=1)
        weight = len(labels) / (num_classes * counts)
    assert train.label_smoothing != "auto"
    smoothing = train.label_smoothing
    return nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=smoothing)


def build_mix(train: TrainConfig, num_classes: int) -> Callable | None:
    """Mixup and CutMix of a batch, one of them drawn each time; None where both are off."""
    kinds = ((v2.MixUp, train.mixup), (v2.CutMix, train.cutmix))
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    return v2.RandomChoice(chosen) if chosen else None


def build_optimizer(net: VisionTransformer, train: TrainConfig) -> torch.optim.Optimizer:
    """The config's AdamW or SGD over what trains."""
    assert train.lr != "auto" and train.layer_decay != "auto" and train.weight_decay != "auto"
    groups = parameter_groups(net, train.lr, train.weight_decay, train.layer_decay)
    options: dict[str, Any] = {"lr": train.lr}
    if train.optim == "sgd":
        options["momentum"] = train.momentum
    name = "AdamW" if train.optim == "adamw" else "SGD"
    library: Any = torch.optim
    if train.use_bitsandbytes and (eight_bit := import_bitsandbytes()) is not None:
        library, name = eight_bit, f"{name}8bit"
    elif net.device.type in ("cpu", "cuda"):
        # One kernel for all: on 2 cores a step of AdamW over a B/16's last block takes 2.6 ms
        # instead of 7.9, of 18 in all.
        options["fused"] = True
    return getattr(library, name)(groups, **options)


def parameter_groups(
    net: VisionTransformer, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """An optimiser's groups of what trains, from the head backwards: the matrices of a depth, and
    what is added or scales (biases, norms, positions, class token), which no weight decay holds.

    With a `layer_decay` below 1, a block learns so much slower than the one behind it (BEiT,
    arXiv:2106.08254, and https://github.com/facebookresearch/mae/blob/main/util/lr_decay.py).
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in reversed(list(net.named_parameters())):
        if parameter.requires_grad:
            depth = _depth_behind(name, net.vit.num_layers) if layer_decay < 1 else 0
            matrix = parameter.ndim > 1 and name not in ("pos_embed", "cls_token")
            options = {"weight_decay": weight_decay * matrix, "lr": lr * layer_decay**depth}
            group = groups.setdefault((depth, matrix), {"params": [], **options})
            group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _depth_behind(name: str, num_layers: int) -> int:
    """How many layers lie between a parameter and the logits: 0 head and final norm, 1 the last
    block, and so on to the patches."""
    if name.startswith("blocks."):
        return num_layers - int(name.split(".")[1])
    return num_layers + 1 if name.startswith(("patch_embed", "cls_token", "pos_embed")) else 0


def import_bitsandbytes() -> Any:
    """bitsandbytes' optimisers, or None, with a line that says so, where it can't be imported."""
    try:
        from bitsandbytes import optim
    except Exception as error:  # its native library fails in many ways, by platform
        log.info("bitsandbytes can't be imported (%s): using the 32-bit optimiser", error)
        return None
    return optim


def build_scheduler(optimizer: torch.optim.Optimizer, train: TrainConfig, steps: int) -> LambdaLR:
    """The learning rate by step: warm-up, then cosine, or stable and a linear decay (wsd).

    Without `decay_epochs`, wsd decays over the last fifth (arXiv:2405.18392 finds 10-20 % enough).
    """
    assert train.max_epochs != "auto" and train.warmup_epochs != "auto"
    total, an_epoch = steps, steps / train.max_epochs
    warmup = round(train.warmup_epochs * an_epoch)
    decay_epochs = 0.2 * train.max_epochs if train.decay_epochs is None else train.decay_epochs
    decay = max(1, min(round(decay_epochs * an_epoch), total - warmup))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if train.scheduler_type == "wsd":
            return min(1.0, (total - step) / decay)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)


SEARCH = "search.csv"  # in a run's folder: what was tried, and which setting was chosen


@dataclass(frozen=True)
class Setting:
    """A point of the grid: what trains (`block`: the last block too; `head`: norm and head alone),
    its optimiser, its learning rate, its weight decay."""

    part: str
    optim: str
    lr: float
    weight_decay: float
    scale: float = 1.0  # of its logits, so that they are as sure as they are right
    head: str | None = None  # what `head: auto` came to
    views: int | None = None  # what `views: auto` came to
    temperature: float = 1.0  # of the mean of both heads, in the end

    def applied(self, net: VisionTransformer, train: TrainConfig) -> TrainConfig:
        """The config with this setting; with `head`, the network's last block stops training."""
        found: dict[str, Any] = {
            "optim": self.optim,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "head": self.head or ("both" if train.head == "auto" else train.head),
            "views": self.views or train.views,
        }
        if self.part == "head":
            net.blocks.requires_grad_(False)
            found["finetune_blocks"] = 0
        return train.model_copy(update=found)

    def named(self, train: TrainConfig) -> Setting:
        """The same with what the config names in the place of what was found: of a run that goes on
        with new settings, those count."""
        keys = ("optim", "lr", "weight_decay")
        found = {key: getattr(train, key) for key in keys if getattr(train, key) != "auto"}
        if train.head != "auto":
            found["head"] = train.head
        if train.views not in ("auto", self.views):
            found["views"] = None
        return replace(self, **found)

    @classmethod
    def read(cls, path: Path) -> Setting | None:
        """The setting that a search.csv says was chosen; None where there is no such file."""
        if not path.exists():
            return None
        try:
            for row in read_csv(path, kind="table of settings that were tried"):
                if row["chosen"] == "1":
                    rate, decay = float(row["lr"]), float(row["weight_decay"])
                    scale, head = float(row.get("scale") or 1), row.get("head") or None
                    views = int(row.get("views") or 0) or None
                    T = float(row.get("temperature") or 1)
                    return cls(row["part"], row["optim"], rate, decay, scale, head, views, T)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path} can't be read ({error}); remove it, and the settings are tried again"
            ) from None
        return None

    def __str__(self) -> str:
        part = "norm and head alone" if self.part == "head" else "last block, norm and head"
        return f"{self.optim}, lr {self.lr:.2g}, weight decay {self.weight_decay:g}, {part}"
