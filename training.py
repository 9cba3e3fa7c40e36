"""Fine-tune a Vision Transformer on a folder of images, one sub-folder a class.

python training.py                                what config.yaml says
python training.py --config F train.lr=1e-4 ...   another file, and overrides of its keys
python training.py --check                        say what would be done, and exit
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from config import Config, ConfigError, TrainConfig, dump_config, load_config
from dataset import (
    PARTS,
    FileIndex,
    Split,
    eval_transform,
    load_split,
    make_loaders,
    write_split,
)
from features import (
    Loaders,
    Plan,
    Trunk,
    cache_folder,
    damage,
    may_cache,
    open_cache,
    plan_cache,
)
from metrics import evaluate
from model import Tail, Tokens, VisionTransformer
from pretrained import build_for, metadata_of, read_arrays, save_model
from utils import (
    MetricsLog,
    Run,
    UserError,
    autocast,
    check_disk,
    command_line,
    git_commit,
    keep_freed_memory,
    log,
    pick_device,
    seed_everything,
    setup_log,
    unbroken,
    versions,
    write_json,
    write_text,
)

COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "lr",
    "grad_norm_mean",
    "grad_norm_max",
    "seconds",
    "images_per_second",
)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_log()
    keep_freed_memory()
    config, notes = load_config(args.config, args.overrides)
    device, fallback = pick_device(config.train.device)
    run = open_run(config, only_checks=args.check)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update={"run_name": run.name, "from_checkpoint": None})
        }
    )
    for note in [*notes, *([fallback] if fallback else [])]:
        log.info(note)

    # Pictures whose tokens are cached need not be read again.
    overfits = config.overfit_one_batch.overfit
    caches = may_cache(config.train) and not overfits
    known = FileIndex(cache_folder(config.train) / "files.json") if caches else None
    split = load_split(config.train, run.split if run.resumes else None, known)
    report_data(split)
    seed_everything(config.train.seed)
    net = build_for(config, split.classes)
    config = config.model_copy(update={"vit": net.vit})
    checkpoints = checkpoint_bytes(config, net)
    plan = plan_cache(net, split, config.train, checkpoints) if caches else None
    if args.check:
        print_check(config, net, split, plan)
        return 0

    if plan is not None and known is not None:
        plan.check_disk()
        known.update(split.samples)
    elif caches:  # every epoch needs the pictures, decoded as far as the memory goes
        split = load_split(config.train, run.split if run.resumes else None)
    if not overfits:
        check_disk(run.weights, checkpoints, f"the checkpoints in {run.weights}")
    run.open()
    if not run.resumes:  # else not before its checkpoint is known to fit
        write_text(run.folder / "config.yaml", dump_config(config))
        write_split(run.split, split)
    net.to(device)
    if overfits:
        batches = repeated_batch(net, split, config, device)
        return 0 if overfit(net, batches, config, run) else 1
    fit(net, split, plan, config, run, device)
    return 0


def fit(
    net: VisionTransformer,
    split: Split,
    plan: Plan | None,
    config: Config,
    run: Run,
    device: torch.device,
) -> dict[str, Any]:
    """Train, keeping the best and the last checkpoint; returns what summary.json holds."""
    train = config.train
    optimizer = build_optimizer(net, train)
    steps_per_epoch = math.ceil(len(split.part("train")) / train.batch_size)
    scheduler = build_scheduler(optimizer, train, steps_per_epoch)
    progress = restore(run, net, optimizer, scheduler)
    if run.resumes:
        write_text(run.folder / "config.yaml", dump_config(config))
    metrics = MetricsLog(run.folder, COLUMNS, progress.epoch, progress.best_epoch)
    keeper = Keeper(run, net, optimizer, scheduler, progress, config)

    with resumable(run, progress), metrics, keeper:
        started = time.perf_counter()
        learner, loaders = prepare(net, split, plan, config.train, device)
        cache_seconds = time.perf_counter() - started if learner is not net else None
        for epoch in range(progress.epoch + 1, train.max_epochs + 1):
            if progress.patience_is_over(train):
                log.info("early stopping: no better epoch since %d", progress.best_epoch)
                break
            seed_everything(train.seed, epoch)
            row = train_epoch(learner, loaders["train"], optimizer, scheduler, train, epoch)
            if epoch % train.eval_epoch == 0 or epoch == train.max_epochs:
                scores = evaluate(learner, loaders["val"], len(split.classes), device, train.bf16)
                row |= {f"val_{name}": value for name, value in scores.items()}
            with unbroken():  # the row of metrics.csv and the checkpoint belong together
                best = progress.take(row, len(split.part("train")))
                metrics.write(progress.best_epoch, **row)
                keeper.keep(best)
            report_epoch(row, train)
    return conclude(net, learner, loaders, split, config, run, progress, cache_seconds)


def prepare(
    net: VisionTransformer,
    split: Split,
    plan: Plan | None,
    train: TrainConfig,
    device: torch.device,
) -> tuple[nn.Module, Loaders]:
    """What trains, and what it is fed: with a plan the end of the network and the cached tokens of
    the rest, else the whole network and images. The loop does not know which."""
    learner: nn.Module
    loaders: Loaders
    if plan is not None:
        learner = Tail(net)
        loaders = open_cache(plan, net, train, device).loaders(plan, split, train, device)
        split.decoded.clear()
    else:
        learner, channels = net, net.vit.input_channels
        loaders = make_loaders(split, train, net.preprocessing, channels, device)
    if train.compile:
        learner.compile()
    return learner, loaders


# ------------------------------------------------------------------------------------ the steps


def train_epoch(
    net: nn.Module,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    train: TrainConfig,
    epoch: int,
) -> dict[str, Any]:
    """One pass over the training part; the epoch's row of metrics.csv, its validation aside."""
    net.train()
    loader.sampler.epoch = epoch
    started = time.perf_counter()
    losses, hits, norms = [], 0, []
    bar = tqdm(loader, f"epoch {epoch}/{train.max_epochs}", leave=False, unit="batch")
    for step, (inputs, labels) in enumerate(bar, 1):
        loss, right, norm = train_step(net, inputs, labels, optimizer, train)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            lr = scheduler.get_last_lr()[0]
            raise Diverged(
                f"the {what} is not finite at step {step} of epoch {epoch} (lr {lr:.3g})"
            )
        optimizer.step()
        scheduler.step()
        losses.append(loss * len(labels))
        hits += right
        norms.append(norm)
        bar.set_postfix(loss=f"{loss:.3f}")
    seconds = time.perf_counter() - started
    seen = len(loader.dataset)
    return {
        "epoch": epoch,
        "train_loss": sum(losses) / seen,
        "train_accuracy": hits / seen,
        "lr": scheduler.get_last_lr()[0],
        "grad_norm_mean": sum(norms) / len(norms),
        "grad_norm_max": max(norms),
        "seconds": seconds,
        "images_per_second": seen / seconds,
    }


class Diverged(UserError):
    """The loss or a gradient is NaN or infinite; the weights of the step before are intact."""


def train_step(
    net: nn.Module,
    inputs: Tensor | Tokens,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    train: TrainConfig,
) -> tuple[float, int, float]:
    """Gradients of one batch, clipped: the loss, the number of right answers, the gradient norm.

    The weights are not changed yet, so a loss that is not finite can't spoil them.
    """
    device = next(net.parameters()).device
    inputs, labels = inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    with autocast(device, train.bf16):
        logits = net(inputs)  # B C
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=train.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), train.clip_grad or math.inf)
    right = int((logits.argmax(1) == labels).sum())
    return loss.item(), right, norm.item()


def build_optimizer(net: VisionTransformer, train: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over what trains; no weight decay on biases, norms, positions, class token.

    Decaying those is of no use to a ViT: https://github.com/facebookresearch/mae/blob/main/util/lr_decay.py
    """
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in trained if decays(name, p)],
            "weight_decay": train.weight_decay,
        },
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": train.lr}
    on = trained[0][1].device.type
    if train.optim == "sgd":
        options["momentum"] = train.momentum
    name = "AdamW" if train.optim == "adamw" else "SGD"
    library: Any = torch.optim
    if train.use_bitsandbytes and (eight_bit := import_bitsandbytes()) is not None:
        library, name = eight_bit, f"{name}8bit"
    elif on in ("cpu", "cuda"):
        # One kernel for all: on 2 cores a step of AdamW over a B/16's last block takes 2.6 ms
        # instead of 7.9, of 18 in all.
        options["fused"] = True
    return getattr(library, name)(groups, **options)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to the matrices, and to nothing that is added or scales."""
    return parameter.ndim > 1 and name not in ("pos_embed", "cls_token")


def import_bitsandbytes() -> Any:
    """bitsandbytes' optimisers, or None, with a line that says so, where it can't be imported."""
    try:
        from bitsandbytes import optim
    except Exception as error:  # its native library fails in many ways, by platform
        log.info("bitsandbytes can't be imported (%s): using the 32-bit optimiser", error)
        return None
    return optim


def build_scheduler(
    optimizer: torch.optim.Optimizer, train: TrainConfig, steps_per_epoch: int
) -> LambdaLR:
    """The learning rate by step: warm-up, then cosine, or stable and a linear decay (wsd).

    Without `decay_epochs`, wsd decays over the last fifth (arXiv:2405.18392 finds 10-20 % enough).
    """
    total = train.max_epochs * steps_per_epoch
    warmup = round(train.warmup_epochs * steps_per_epoch)
    decay_epochs = 0.2 * train.max_epochs if train.decay_epochs is None else train.decay_epochs
    decay = max(1, round(decay_epochs * steps_per_epoch))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if train.scheduler_type == "wsd":
            return min(1.0, (total - step) / decay)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, factor)


# ------------------------------------------------------------------------ stopping and going on


@dataclass
class Progress:
    """Where a run stands: what a resumed run must know beside the weights."""

    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_balanced_accuracy: float = -1.0
    best_loss: float = math.inf
    seconds: float = 0.0
    images: int = 0

    def take(self, row: dict[str, Any], images: int) -> bool:
        """Count an epoch; True where its validation is the best so far (ties: the lower loss)."""
        self.epoch = row["epoch"]
        self.seconds += row["seconds"]
        self.images += images
        if "val_accuracy" not in row:
            return False
        better = (row["val_accuracy"], -row["val_loss"]) > (self.best_accuracy, -self.best_loss)
        if better or not self.best_epoch:
            self.best_epoch = row["epoch"]
            self.best_accuracy = row["val_accuracy"]
            self.best_balanced_accuracy = row["val_balanced_accuracy"]
            self.best_loss = row["val_loss"]
            return True
        return False

    def patience_is_over(self, train: TrainConfig) -> bool:
        return (
            train.early_stopping is not None
            and self.best_epoch > 0
            and self.epoch - self.best_epoch >= train.early_stopping
        )


def snapshot(
    net: VisionTransformer,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    progress: Progress,
) -> dict[str, Any]:
    """Everything needed to go on; the random numbers need nothing, each epoch seeds its own."""
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "progress": asdict(progress),
        "classes": list(net.classes or ()),
        "metadata": metadata_of(net),
    }


class Keeper:
    """Writes best.safetensors and last.pt when they are due, and whatever is still unwritten when
    the loop is left, by Ctrl-C as well.

    An epoch of the cached mode can take less time than writing the whole network, so with
    `save_epoch: auto` it is written every half minute at most; until then it is kept, beside the
    device, in the CPU's memory.
    """

    SECONDS = 30

    def __init__(
        self,
        run: Run,
        net: VisionTransformer,
        optimizer: torch.optim.Optimizer,
        scheduler: LambdaLR,
        progress: Progress,
        config: Config,
    ) -> None:
        self.run, self.net, self.config = run, net, config
        self.optimizer, self.scheduler, self.progress = optimizer, scheduler, progress
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Any] | None = None
        self.written = time.monotonic()

    def keep(self, best: bool) -> None:
        """Keep the state at an epoch's end, and the network where it is the best so far."""
        if best:
            self.best = self._trained()
        every = self.config.train.save_epoch
        if every == "auto":
            due = time.monotonic() > self.written + self.SECONDS
        else:
            due = self.progress.epoch % every == 0
        self.last = snapshot(self.net, self.optimizer, self.scheduler, self.progress)
        if due:
            self.write()
        else:
            self.last["model"] |= self._trained()
            self.last["optimizer"] = copied(self.last["optimizer"])

    def _trained(self) -> dict[str, Tensor]:
        """Copies of the parameters that train; the others stay as they are."""
        return {n: copied(p.detach()) for n, p in self.net.named_parameters() if p.requires_grad}

    def write(self) -> None:
        """The best first: what goes on from last.pt must find it."""
        if self.best is not None:
            epoch = str(self.progress.best_epoch)
            save_model(
                self.run.best, self.net, self.best, config=dump_config(self.config), epoch=epoch
            )
        if self.last is not None:
            self.run.save_last(self.last)
        self.best = self.last = None
        self.written = time.monotonic()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *reason: object) -> None:
        self.write()


def copied(state: Any) -> Any:
    """A state dict's tensors, copied to the CPU; its other values as they are."""
    if isinstance(state, Tensor):
        return state.to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return state


def restore(
    run: Run, net: VisionTransformer, optimizer: torch.optim.Optimizer, scheduler: LambdaLR
) -> Progress:
    """Go on from the run's last checkpoint, if it is to be and there is one."""
    state = run.load_last() if run.resumes else None
    if state is None:
        if run.resumes:
            log.info("%s has no checkpoint yet: starting at epoch 1", run.folder)
        return Progress()
    if state["classes"] != list(net.classes or ()):
        raise UserError(f"{run.last} was trained on other classes: {', '.join(state['classes'])}")
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    changed = [n for n in frozen if not same(state["model"].get(n), net.get_parameter(n))]
    if changed:
        raise UserError(
            f"{run.last} has other frozen weights than train.checkpoint ({changed[0]}); go on with "
            f"{run.folder}/config.yaml and the weights that it names"
        )
    try:
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{run.last} does not fit this config ({reason}); go on with {run.folder}/config.yaml"
        ) from None
    scheduler.load_state_dict(state["scheduler"])
    progress = Progress(**state["progress"])
    log.info("going on after epoch %d of %s", progress.epoch, run.folder)
    return progress


def same(saved: Tensor | None, now: Tensor) -> bool:
    """Whether a checkpoint's array is the network's; other shapes are load_state_dict's to name."""
    return saved is None or saved.shape != now.shape or torch.equal(saved, now.detach().cpu())


@contextlib.contextmanager
def resumable(run: Run, progress: Progress) -> Iterator[None]:
    """Around the loop: a stop, or a loss that isn't finite, says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        command = f"python training.py --config {run.folder}/config.yaml train.from_checkpoint=true"
        raise KeyboardInterrupt(
            f"stopped with {progress.epoch} epochs done; go on with: {command}"
        ) from None
    except Diverged as error:
        there = [str(path) for path in (run.best, run.last) if path.exists()]
        kept = (
            f"the last good checkpoint is {there[-1]}" if there else "no checkpoint was saved yet"
        )
        raise Diverged(f"{error}; lower train.lr or warm up longer; {kept}") from None


def open_run(config: Config, only_checks: bool) -> Run:
    """A new run, or the one to go on with; nothing is written yet."""
    train = config.train
    if only_checks:
        return Run(train.run_name or "(time and mode)", train.log_path, train.save_path)
    if train.from_checkpoint:
        return Run.reopen(train.from_checkpoint, train.run_name, train.log_path, train.save_path)
    kind = "overfit" if config.overfit_one_batch.overfit else train.mode
    return Run.create(train.run_name, train.log_path, train.save_path, kind)


def conclude(
    net: VisionTransformer,
    learner: nn.Module,
    loaders: Loaders,
    split: Split,
    config: Config,
    run: Run,
    progress: Progress,
    cache_seconds: float | None,
) -> dict[str, Any]:
    """Score the best checkpoint on the test part, write summary.json and say what was reached."""
    net.load_state_dict(read_arrays(run.best)[0])
    device = net.cls_token.device
    test = None
    if "test" in loaders:
        bf16 = config.train.bf16
        test = evaluate(learner, loaders["test"], len(split.classes), device, bf16, "testing")
    total, trainable = net.parameter_counts()
    summary = {
        "mode": config.train.mode,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "val_accuracy": progress.best_accuracy,
        "val_balanced_accuracy": progress.best_balanced_accuracy,
        "val_loss": progress.best_loss,
        "test_accuracy": test and test["accuracy"],
        "test_balanced_accuracy": test and test["balanced_accuracy"],
        "test_loss": test and test["loss"],
        "images": {part: len(split.part(part)) for part in PARTS},
        "seconds": round(progress.seconds, 1),
        "cache_seconds": cache_seconds and round(cache_seconds, 2),
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 2),
        "parameters": {"total": total, "trainable": trainable},
        "weights": config.train.checkpoint if config.train.mode != "scratch" else None,
        "device": str(device),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_json(run.folder / "summary.json", summary)
    tested = f", test accuracy {test['accuracy']:.4f}" if test else ""
    log.info(
        "val accuracy %.4f (epoch %d of %d)%s, after %s of training%s (mode %s)",
        progress.best_accuracy,
        progress.best_epoch,
        progress.epoch,
        tested,
        minutes(progress.seconds),
        f" and {minutes(cache_seconds)} for the token cache" if cache_seconds else "",
        config.train.mode,
    )
    log.info(
        "results: %s (curves.png, metrics.csv, summary.json); weights: %s", run.folder, run.best
    )
    return summary


# ------------------------------------------------------------------------------ overfit one batch


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
    train = config.train.model_copy(update={"weight_decay": 0.0, "label_smoothing": 0.0})
    optimizer = build_optimizer(net, train)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    metrics = MetricsLog(run.folder, COLUMNS)
    net.eval()  # dropout is a model's only difference in training
    learner = net if net.frozen_depth is None else Tail(net)
    losses: list[float] = []
    accuracy, started = 0.0, time.perf_counter()
    bar = tqdm(batches, "overfitting one batch", total=options.max_steps, leave=False)
    for step, (inputs, labels) in enumerate(bar, 1):
        loss, right, norm = train_step(learner, inputs, labels, optimizer, train)
        losses.append(loss)
        accuracy = right / len(labels)
        passed = loss < options.tolerance and accuracy == 1.0
        done = passed or step == options.max_steps or not math.isfinite(loss + norm)
        if done or step % options.logging_steps == 0:
            row: dict[str, Any] = {"epoch": step, "train_loss": loss, "train_accuracy": accuracy}
            row |= {"lr": scheduler.get_last_lr()[0], "grad_norm_mean": norm, "grad_norm_max": norm}
            metrics.write(None, **row, seconds=time.perf_counter() - started)
            log.info("step %d: loss %.4f, accuracy %.2f", step, loss, accuracy)
        if done:
            break
        optimizer.step()
        scheduler.step()
    metrics.close()
    verdict = "PASS" if passed else "FAIL"
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


# ------------------------------------------------------------------------------------- reporting


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    parser.add_argument("--check", action="store_true", help="say what would be done, and exit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args(argv)


def report_data(split: Split) -> None:
    counts = ", ".join(f"{len(split.part(part))} {part}" for part in PARTS if split.part(part))
    log.info("%s: %d classes, images: %s", split.root, len(split.classes), counts)
    for note in split.notes:
        log.info("  %s", note)
    if split.unused:
        log.info("  not used: %d file(s), named by --check and in the run's log", len(split.unused))
    for path, reason in split.unused:
        log.debug("not used: %s: %s", path, reason)


def report_epoch(row: dict[str, Any], train: TrainConfig) -> None:
    if row["epoch"] % train.log_epoch and row["epoch"] != train.max_epochs:
        return
    val = ""
    if "val_accuracy" in row:
        val = f", val loss {row['val_loss']:.4f}, val accuracy {row['val_accuracy']:.4f}"
    log.info(
        "epoch %d: train loss %.4f, train accuracy %.4f%s, %.1f images/s",
        row["epoch"],
        row["train_loss"],
        row["train_accuracy"],
        val,
        row["images_per_second"],
    )


def print_check(config: Config, net: VisionTransformer, split: Split, plan: Plan | None) -> None:
    """What a run would do: the resolved config, the parameters, the data, the steps, the memory."""
    total, trainable = net.parameter_counts()
    print(dump_config(config))
    print(f"parameters: {total:,} in all, {trainable:,} train (mode {config.train.mode})")
    print(f"\n{'class':<32}" + "".join(f"{part:>8}" for part in PARTS))
    for name, counts in split.counts().items():
        print(f"{name:<32}" + "".join(f"{counts[part]:>8}" for part in PARTS))
    print(f"{'all':<32}" + "".join(f"{len(split.part(part)):>8}" for part in PARTS))
    if split.unused:
        print(f"\nnot used: {len(split.unused)}")
        for path, reason in split.unused[:20]:
            print(f"  {path}: {reason}")
        if len(split.unused) > 20:
            print(f"  and {len(split.unused) - 20} more, named in the log of a run")
    steps = math.ceil(len(split.part("train")) / config.train.batch_size)
    epochs = config.train.max_epochs
    print(f"\nsteps: {steps} an epoch, {steps * epochs:,} in {epochs} epochs")
    if plan is not None:
        there = "to be made" if damage(plan.path) else "there already"
        print(f"token cache: {plan.said()}, {there}")
    print(f"memory: about {expected_memory(config, net, split, plan is not None) / 1e9:.1f} GB")
    print(f"disk: about {checkpoint_bytes(config, net) / 1e6:,.0f} MB of checkpoints")


def expected_memory(config: Config, net: VisionTransformer, split: Split, cached: bool) -> float:
    """Bytes, roughly: weights, gradients, optimiser, what the backward pass keeps, images."""
    vit, train = net.vit, config.train
    total, trainable = net.parameter_counts()
    N = (vit.dim // vit.patch_dim) ** 2 + 1
    # Per token a block keeps both norms' outputs, q, k, v, the attention's and projections'
    # outputs (9 D) and the MLP's hidden layer before and after GELU.
    block = 4 * N * (9 * vit.hidden_dim + 2 * vit.ff_dim)
    blocks = vit.num_layers - (net.frozen_depth or 0)
    activations = max(train.batch_size * blocks, train.eval_batch_size) * block
    if cached:
        # Of the last block only the class token's row is kept. The trunk's weights exist twice in
        # its pass, and once more while a checkpoint is written.
        tokens = 4 * N * vit.hidden_dim * max(train.batch_size, train.eval_batch_size)
        activations = activations - train.batch_size * block if blocks > 1 else 2 * tokens
        activations += 2 * 4 * total
    kept = 2 * 4 * trainable + moment_bytes(train, trainable)  # Keeper's best and last
    decoded = sum(pixels.numel() for pixels in split.decoded.values())
    # PyTorch, its libraries and the allocator's slack: what two runs on Linux took beyond the rest.
    runtime = 0.9e9
    gradients = 4 * trainable
    state = 4 * total + gradients + moment_bytes(train, trainable)
    return runtime + state + kept + activations + decoded


def moment_bytes(train: TrainConfig, trainable: int) -> int:
    """What the optimiser remembers: two numbers a parameter for AdamW, one for SGD."""
    return {"adamw": 2, "sgd": 1}[train.optim] * (1 if train.use_bitsandbytes else 4) * trainable


def checkpoint_bytes(config: Config, net: VisionTransformer) -> int:
    """The size of best.safetensors and last.pt together."""
    total, trainable = net.parameter_counts()
    return 2 * 4 * total + moment_bytes(config.train, trainable)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
