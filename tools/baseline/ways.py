"""The baselines, a function each, and the loop that trains those that learn."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from config import Config, Mode, Preprocessing, TrainConfig
from dataset import Split, make_loaders
from engine.rivals import logistic_regression, nearest_neighbours
from images import FileIndex
from metrics import evaluate, predict, scores
from model import Tail, VisionTransformer
from pretrained.build import build_for
from pretrained.layouts import IMAGENET
from tokens.builder import open_cache
from tokens.cache import Loaders, TokenLoader, class_tokens
from tokens.plan import damage, plan_cache
from tools.baseline.networks import (
    AUGREG2,
    TRAIN_PY,
    Recipe,
    mobilenet_v3,
    plain_recipe,
    timm_model,
    timm_recipe,
)
from utils import UserError, autocast, log, progress_bar, seed_everything

SCORED = ("val", "test")
HEAD_LR = 1e-2
CERTAIN = 100.0  # a logit, where one class is all that is said


@dataclass
class Task:
    """What a baseline is given: the config of its mode, settled, and the split."""

    name: str
    config: Config
    split: Split
    known: FileIndex | None
    device: torch.device
    weights: str | None = None

    @property
    def train(self) -> TrainConfig:
        return self.config.train

    def build(self) -> VisionTransformer:
        """The network of the config's weights; its architecture becomes the config's."""
        net = build_for(self.config, self.split.classes)
        self.config = self.config.model_copy(update={"vit": net.vit})
        return net


@dataclass
class Outcome:
    """What a baseline reached: its logits (n, C) for each part, with the labels (n,), and how."""

    answers: dict[str, tuple[Tensor, Tensor]]
    settings: dict[str, Any]
    seconds: float  # of the training alone, as in training.py
    parameters: tuple[int, int] | None = None  # in all, trained
    weights: str | None = None
    epochs: int | None = None
    learned: dict[str, float] = field(default_factory=dict)
    cache_seconds: float | None = None
    answers_alone: bool = False  # it says a class, and not how sure it is

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Those of each part."""
        without = {"loss": None} if self.answers_alone else {}
        return {part: scores(*both) | without for part, both in self.answers.items()}


def frozen(
    task: Task, plain: bool = False
) -> tuple[VisionTransformer, dict[str, TokenLoader], float]:
    """The network as training.py builds it, loaders of its cached tokens, and the seconds that the
    cache took. `plain`: the augmented copies are not needed."""
    if task.train.cache == "off":
        raise UserError(f"{task.name} reads the token cache: set train.cache to auto or on")
    net, train = task.build(), task.train
    plan = plan_cache(net, task.split, train)
    if plan is not None and plain and damage(plan.path):
        train = train.model_copy(update={"views": 1})
        plan = plan_cache(net, task.split, train)
    if plan is None:
        raise UserError(f"{task.name} reads the token cache, for which there is no place")
    plan.check_disk()
    if task.known is not None:
        task.known.update(task.split.samples)
    net.to(task.device)
    started = time.perf_counter()
    cache = open_cache(plan, net, train, task.device)
    loaders = cast(dict[str, TokenLoader], cache.loaders(plan, task.split, train, task.device))
    task.split.decoded.clear()
    return net, loaders, time.perf_counter() - started


def on_class_tokens(task: Task) -> Outcome:
    """A classifier of scikit-learn's on what the head would read of the plain training images."""
    net, loaders, cache_seconds = frozen(task, plain=True)
    started = time.perf_counter()
    features, labels = class_tokens(net, loaders["train"].plain(), task.device)
    parts = {p: class_tokens(net, loaders[p], task.device) for p in SCORED if p in loaders}
    queries = torch.cat([queries for queries, _ in parts.values()])
    classify, key = CLASSIFIERS[task.name]
    arrays = features.numpy(), labels.numpy(), queries.numpy()
    answers, value = classify(*arrays, loaders["train"].groups)
    left = torch.from_numpy(answers)
    found = {}
    for part, (_, targets) in parts.items():
        mine, left = left[: len(targets)], left[len(targets) :]
        certain = F.one_hot(mine, len(task.split.classes)).float()
        found[part] = CERTAIN * certain, targets
    settings = {key: float(value) if key == "C" else int(value)}
    seconds, weights = time.perf_counter() - started, task.train.checkpoint
    return Outcome(
        found,
        settings,
        seconds,
        weights=weights,
        cache_seconds=cache_seconds,
        answers_alone=True,
    )


CLASSIFIERS: dict[str, tuple[Callable, str]] = {
    "logistic": (logistic_regression, "C"),
    "knn": (nearest_neighbours, "neighbours"),
}


def on_tokens(task: Task) -> Outcome:
    """The last blocks, the final norm and the head, trained as timm trains."""
    net, loaders, cache_seconds = frozen(task)
    theirs = timm_model(net)
    assert net.frozen_depth is not None
    net.freeze_trunk(net.frozen_depth)  # sharing the parameters has thawed them
    settings = TRAIN_PY if task.name == "timm" else AUGREG2
    recipe = timm_recipe(settings, theirs, task.train, len(loaders["train"]))
    outcome = learn(task, Tail(net), loaders, recipe)
    outcome.weights, outcome.cache_seconds = task.train.checkpoint, cache_seconds
    return outcome


def head_alone(task: Task) -> Outcome:
    """The final norm and the head, the last block frozen like the rest."""
    net, loaders, cache_seconds = frozen(task)
    net.blocks.requires_grad_(False)
    recipe = plain_recipe(net, HEAD_LR, task.train, len(loaders["train"]))
    outcome = learn(task, Tail(net), loaders, recipe)
    outcome.weights, outcome.cache_seconds = task.train.checkpoint, cache_seconds
    return outcome


def timm_whole(task: Task) -> Outcome:
    """timm's ViT with the weights of ours, all of them trained."""
    net = task.build().to(task.device)
    channels = net.vit.input_channels
    loaders = make_loaders(task.split, task.train, net.preprocessing, channels, task.device)
    theirs = timm_model(net)
    recipe = timm_recipe(AUGREG2, theirs, task.train, len(loaders["train"]))
    outcome = learn(task, theirs, loaders, recipe, watched=True)
    outcome.weights = task.train.checkpoint
    return outcome


def mobilenet(task: Task) -> Outcome:
    """torchvision's MobileNetV3-Large with ImageNet's normalisation."""
    net = mobilenet_v3(len(task.split.classes), task.weights).to(task.device)
    mean, std = IMAGENET["mean"], IMAGENET["std"]
    preprocessing = Preprocessing(mean=mean, std=std, image_size=task.config.vit.dim)
    loaders = make_loaders(task.split, task.train, preprocessing, 3, task.device)
    lr = 3e-4 if task.weights else 1e-3
    recipe = plain_recipe(net, lr, task.train, len(loaders["train"]))
    outcome = learn(task, net, loaders, recipe)
    outcome.weights = task.weights
    return outcome


def learn(
    task: Task, learner: nn.Module, loaders: Loaders, recipe: Recipe, watched: bool = False
) -> Outcome:
    """Train for the config's epochs, then score the parts once; `watched`: val in each epoch."""
    train, loader = task.train, loaders["train"]
    assert train.max_epochs != "auto"
    learned: dict[str, float] = {}
    updates, started = 0, time.perf_counter()
    steps = train.max_epochs * len(loader)
    with progress_bar(total=steps, desc=task.name, unit="step") as bar:
        for epoch in range(1, train.max_epochs + 1):
            seed_everything(train.seed, epoch)
            loader.sampler.epoch = epoch  # type: ignore[union-attr]
            learned, updates = learn_epoch(task, learner, loader, recipe, updates, bar)
            recipe.on_epoch(epoch)
            every = train.max_epochs if train.log_epoch == "auto" else train.log_epoch
            due = epoch % every == 0 or epoch == train.max_epochs
            said = f"train loss {learned['train_loss']:.4f}, train accuracy "
            said += f"{learned['train_accuracy']:.4f}"
            if watched:  # minutes an epoch: whether it still gets better should be seen
                now = evaluate(learner, loaders["val"], task.device, train.bf16, "val")
                said += f", val loss {now['loss']:.4f}, val accuracy {now['accuracy']:.4f}"
            level = logging.INFO if due or watched else logging.DEBUG
            log.log(level, "epoch %d: %s", epoch, said)
    # A network with BatchNorm gets the statistics of its final weights: its running averages
    # (momentum 0.01 in MobileNetV3) lag so far behind a short training that it scores as chance.
    update_bn(loader, learner, task.device)
    seconds = time.perf_counter() - started
    found = {
        part: predict(learner, loaders[part], task.device, train.bf16, part)
        for part in SCORED
        if part in loaders
    }
    sizes = [(p.numel(), p.requires_grad) for p in learner.parameters()]
    parameters = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
    return Outcome(found, recipe.settings, seconds, parameters, None, train.max_epochs, learned)


def learn_epoch(
    task: Task, learner: nn.Module, loader: Any, recipe: Recipe, updates: int, bar: tqdm
) -> tuple[dict[str, float], int]:
    """One pass; the mean loss and the accuracy on the way, and the updates so far."""
    learner.train()
    total, hits, seen = 0.0, 0, 0
    for inputs, labels in loader:
        bar.update()
        if len(labels) < 2:  # batch norm can't learn from a single image
            continue
        inputs, labels = inputs.to(task.device), labels.to(task.device)
        with autocast(task.device, task.train.bf16):
            logits = learner(inputs)  # B C
        loss = recipe.criterion(logits.float(), labels)
        if not torch.isfinite(loss):
            raise UserError(f"{task.name}: the loss is not finite after {updates} steps")
        recipe.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        recipe.optimizer.step()
        updates += 1
        recipe.on_update(updates)
        total += loss.item() * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
        bar.set_postfix(loss=f"{loss.item():.3f}")
    seen = max(1, seen)
    return {"train_loss": total / seen, "train_accuracy": hits / seen}, updates


Way = Callable[[Task], Outcome]
WAYS: dict[str, tuple[Way, Mode]] = {
    "logistic": (on_class_tokens, "finetune"),
    "knn": (on_class_tokens, "finetune"),
    "head": (head_alone, "finetune"),
    "timm": (on_tokens, "finetune"),
    "timm-adamw": (on_tokens, "finetune"),
    "timm-full": (timm_whole, "pretrained"),
    "mobilenet_v3_large": (mobilenet, "scratch"),
}
