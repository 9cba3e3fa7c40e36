"""The simpler and the usual ways to the same job, on the same split, scored and reported alike.

    python -m tools.baseline NAME --config CONFIG [section.key=value ...]

    logistic            scikit-learn's logistic regression on the frozen network's class token
    knn                 nearest neighbours there; C and k by cross-validation on the training part
    head                norm and head alone, on the augmented views: AdamW, lr 1e-2, cosine by step
    timm                the same weights and layers trained as timm's train.py does by default: SGD,
                        lr 0.1 by batch / 256, weight decay 2e-5, cosine by epoch, 5 of warm-up
    timm-adamw          the same with what timm's author published for fine-tuning
                        vit_base_patch16_224.augreg2_in21k_ft_in1k: AdamW, lr 2e-4 by the root of
                        batch / 512 (so train.py scales AdamW), layer decay 0.7, weight decay 0.05
    timm-full           timm's own ViT, all weights trained with those settings, on images
    mobilenet_v3_large  torchvision's, from scratch, or from --weights PATH or --weights imagenet

timm and timm-adamw run on the cached tokens: timm's optimiser holds the parameters of a timm ViT,
which are those of our `Tail`, and that computes what timm's blocks compute (the tests compare the
two). All begin with our zero head, see our augmentation, and are scored with the weights of the
last epoch. train.max_epochs, batch_size, seed, split and the like mean what they mean in
training.py; its lr and what belongs to it are not used. The run's folder appears when it is done.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from config import Config, ConfigError, Mode, Preprocessing, TrainConfig
from config_file import dump_config, load_config
from dataset import PARTS, Split, load_split, make_loaders, write_split
from engine.run import Run
from engine.start import begin, said_of
from engine.verdict import logistic_regression, nearest_neighbours
from images import FileIndex
from metrics import evaluate, score_lines, scores, wilson
from model import Tail, VisionTransformer
from pretrained.build import build_for
from pretrained.layouts import IMAGENET
from tokens.builder import open_cache
from tokens.cache import Loaders, TokenLoader, class_tokens
from tokens.plan import damage, known_files, plan_cache
from tools.baseline.networks import (
    AUGREG2,
    TRAIN_PY,
    Recipe,
    mobilenet_v3,
    plain_recipe,
    timm_model,
    timm_recipe,
)
from utils import (
    UserError,
    autocast,
    command_line,
    git_commit,
    log,
    minutes,
    seed_everything,
    versions,
    write_json,
    write_text,
)

SCORED = ("val", "test")
HEAD_LR = 1e-2


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


@dataclass
class Outcome:
    """What a baseline reached: the scores of each part, and how."""

    scores: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    seconds: float  # of the training alone, as in training.py
    parameters: tuple[int, int] | None = None  # in all, trained
    weights: str | None = None
    epochs: int | None = None
    learned: dict[str, float] = field(default_factory=dict)
    cache_seconds: float | None = None


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    config, notes = load_config(args.config, args.overrides)
    way, mode = WAYS[args.name]
    train = config.train.model_copy(update={"mode": mode, "from_checkpoint": None})
    run = Run.create(train.run_name, train.log_path, train.save_path, f"baseline-{args.name}")
    train = train.model_copy(update={"run_name": run.name})
    device = begin(train, notes)
    known = known_files(train) if mode == "finetune" else None
    split = load_split(train, None, known)
    log.info("%s", said_of(split))
    seed_everything(train.seed)
    train = train.settled(len(split.part("train")))
    config = config.model_copy(update={"train": train})
    outcome = way(Task(args.name, config, split, known, device, args.weights))
    conclude(args.name, outcome, config, split, run, device)
    return 0


# ------------------------------------------------------------------------- on the cached tokens


def frozen(
    task: Task, plain: bool = False
) -> tuple[VisionTransformer, dict[str, TokenLoader], float]:
    """The network as training.py builds it, loaders of its cached tokens, and the seconds that the
    cache took. `plain`: the augmented copies are not needed."""
    if task.train.cache == "off":
        raise UserError(f"{task.name} reads the token cache: set train.cache to auto or on")
    net, train = build_for(task.config, task.split.classes), task.train
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
    answers, value = classify(features.numpy(), labels.numpy(), queries.numpy())
    left = torch.from_numpy(answers)
    found = {}
    for part, (_, targets) in parts.items():
        mine, left = left[: len(targets)], left[len(targets) :]
        certain = F.one_hot(mine, len(task.split.classes)).float()
        found[part] = scores(certain, targets) | {"loss": None}
    settings = {key: float(value) if key == "C" else int(value)}
    seconds, weights = time.perf_counter() - started, task.train.checkpoint
    return Outcome(found, settings, seconds, weights=weights, cache_seconds=cache_seconds)


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


# ---------------------------------------------------------------------------------- on images


def timm_whole(task: Task) -> Outcome:
    """timm's ViT with the weights of ours, all of them trained."""
    net = build_for(task.config, task.split.classes).to(task.device)
    channels = net.vit.input_channels
    loaders = make_loaders(task.split, task.train, net.preprocessing, channels, task.device)
    theirs = timm_model(net)
    recipe = timm_recipe(AUGREG2, theirs, task.train, len(loaders["train"]))
    outcome = learn(task, theirs, loaders, recipe)
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


# ------------------------------------------------------------------------------------- the loop


def learn(task: Task, learner: nn.Module, loaders: Loaders, recipe: Recipe) -> Outcome:
    """Train for the config's epochs, then score the parts once."""
    train, loader = task.train, loaders["train"]
    assert train.max_epochs != "auto"
    learned: dict[str, float] = {}
    updates, started = 0, time.perf_counter()
    steps = train.max_epochs * len(loader)
    with tqdm(total=steps, desc=task.name, unit="step", leave=False) as bar:
        for epoch in range(1, train.max_epochs + 1):
            seed_everything(train.seed, epoch)
            loader.sampler.epoch = epoch  # type: ignore[union-attr]
            learned, updates = learn_epoch(task, learner, loader, recipe, updates, bar)
            recipe.on_epoch(epoch)
            every = train.max_epochs if train.log_epoch == "auto" else train.log_epoch
            if epoch % every == 0 or epoch == train.max_epochs:
                log.info(
                    "epoch %d: train loss %.4f, train accuracy %.4f",
                    *(epoch, learned["train_loss"], learned["train_accuracy"]),
                )
    # A network with BatchNorm gets the statistics of its final weights: its running averages
    # (momentum 0.01 in MobileNetV3) lag so far behind a short training that it scores as chance.
    update_bn(loader, learner, task.device)
    seconds = time.perf_counter() - started
    found: dict[str, dict[str, Any]] = {
        part: dict(evaluate(learner, loaders[part], task.device, train.bf16, part))
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


# ------------------------------------------------------------------------------------- reporting


def conclude(
    name: str,
    outcome: Outcome,
    config: Config,
    split: Split,
    run: Run,
    device: torch.device,
) -> None:
    """Write the run's folder, summary.json last, and say what was reached."""
    images = {part: len(split.part(part)) for part in PARTS}
    total, trained = outcome.parameters or (None, None)
    summary: dict[str, Any] = {"mode": f"baseline {name}"}
    summary |= {"best_epoch": outcome.epochs, "epochs": outcome.epochs}
    for part in SCORED:
        found = outcome.scores.get(part, {})
        for key in ("accuracy", "balanced_accuracy", "loss"):
            summary[f"{part}_{key}"] = found.get(key)
        summary[f"{part}_interval"] = wilson(found["accuracy"], images[part]) if found else None
    used = ("scikit-learn", "timm")
    summary |= {
        "train_loss": None,
        "train_accuracy": None,
        **outcome.learned,
        "verdict": None,
        "chosen": None,
        "settings": outcome.settings,
        "images": images,
        "seconds": round(outcome.seconds, 1),
        "cache_seconds": round(outcome.cache_seconds, 2) if outcome.cache_seconds else None,
        "search_seconds": None,
        "parameters": {"total": total, "trainable": trained},
        "weights": outcome.weights,
        "device": str(device),
        "versions": versions() | {name: metadata.version(name) for name in used if installed(name)},
        "git_commit": git_commit(),
    }
    run.open()
    write_text(run.folder / "config.yaml", dump_config(config))
    write_split(run.split, split)
    write_json(run.folder / "summary.json", summary)
    report(summary, run)


def installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def report(summary: dict[str, Any], run: Run) -> None:
    took = minutes(summary["seconds"])
    if summary["cache_seconds"]:
        took += f", {minutes(summary['cache_seconds'])} for the token cache"
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in summary["settings"].items()}
    settings = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    log.info("%s (%s: %s)", took, summary["mode"], settings)
    for line in score_lines(summary):
        log.info("%s", line)
    log.info("results: %s (summary.json)", run.folder)


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


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.baseline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    parser.add_argument("--weights", help="mobilenet_v3_large: a .pth state dict, or imagenet")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args(argv)
    if args.weights and args.name != "mobilenet_v3_large":
        parser.error("--weights goes with mobilenet_v3_large; the others take train.checkpoint")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
