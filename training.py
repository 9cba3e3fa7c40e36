"""Fine-tune a Vision Transformer on a folder of images, one sub-folder a class.

python training.py                                what config.yaml says
python training.py --config F train.lr=1e-4 ...   another file, and overrides of its keys
python training.py --check                        say what would be done, and exit
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from config import Config, ConfigError, TrainConfig
from config_file import dump_config, load_config
from dataset import PARTS, Split, load_split, make_loaders, write_split
from engine.checkpoint import Keeper, Progress, resumable, saved_state
from engine.job import Diverged, Job, branch
from engine.outcome import Clock, conclude, write_report
from engine.overfit import overfit, repeated_batch
from engine.preview import checkpoint_bytes, print_check
from engine.run import Run
from engine.search import search, still_to_find
from images import FileIndex
from metrics import evaluate
from model import Tail, VisionTransformer
from pretrained.build import build_for
from tokens.builder import open_cache
from tokens.cache import Loaders
from tokens.plan import Plan, cache_folder, may_cache, plan_cache
from utils import (
    check_disk,
    command_line,
    keep_freed_memory,
    log,
    pick_device,
    seed_everything,
    setup_log,
    write_text,
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
    train = config.train.settled(len(split.part("train")))
    checkpoints = checkpoint_bytes(train, net)
    plan = plan_cache(net, split, train, checkpoints) if caches else None
    if plan is not None and config.train.finetune_blocks <= 1:
        train = train.model_copy(update=still_to_find(config.train))
    config = config.model_copy(update={"vit": net.vit, "train": train})
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
    if not run.resumes:
        write_text(run.folder / "config.yaml", dump_config(config))
        write_split(run.split, split)
    net.to(device)
    if overfits:
        batches = repeated_batch(net, split, config, device)
        return 0 if overfit(net, batches, config, run) else 1
    fit(net, split, plan, config, run, device)
    if config.train.report:
        write_report(run.folder)
    return 0


def fit(
    net: VisionTransformer,
    split: Split,
    plan: Plan | None,
    config: Config,
    run: Run,
    device: torch.device,
) -> dict[str, Any]:
    """Train, keeping the chosen and the last checkpoint; returns what summary.json holds."""
    state = saved_state(run, net)
    progress = Progress(**state["progress"]) if state else Progress()
    with resumable(run, progress):
        clock = Clock()
        learner, loaders = prepare(net, split, plan, config.train, device)
        clock.lap("cache" if plan else "prepare")
        before, setting = branch(net), None
        if config.train.lr == "auto":
            setting = search(net, loaders["train"], config.train, run, device)  # type: ignore[arg-type]
            clock.lap("search")
        train = setting.applied(net, config.train) if setting else config.train
        labels = [sample.label for sample in split.part("train")]
        job = Job(net, learner, train, labels, len(split.classes), device)
        if state:
            job.load_state_dict(state, run)
        if run.resumes:  # not before its checkpoint is known to fit
            write_text(run.folder / "config.yaml", dump_config(config))
        with Keeper(run, job, progress, config) as keeper:
            train_epochs(job, loaders, progress, keeper)
        clock.lap("train")
        return conclude(job, loaders, split, config, before, setting, run, progress, clock)


def train_epochs(job: Job, loaders: Loaders, progress: Progress, keeper: Keeper) -> None:
    """The loop."""
    train = job.train
    for epoch in range(progress.epoch + 1, job.epochs + 1):
        if progress.patience_is_over(train):
            log.info("early stopping: no better epoch since %d", progress.best_epoch)
            break
        seed_everything(train.seed, epoch)
        row = train_epoch(job, loaders["train"], epoch)
        if epoch % train.eval_epoch == 0 or epoch == job.epochs:
            row |= validate(job, loaders["val"])
        keeper.keep(row)
        report_epoch(row, job)


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


def train_epoch(job: Job, loader: Any, epoch: int) -> dict[str, Any]:
    """One pass over the training part; the epoch's row of metrics.csv, its validation aside."""
    job.net.train()
    loader.sampler.epoch = epoch
    started = time.perf_counter()
    losses, hits, norms = [], 0, []
    bar = tqdm(loader, f"epoch {epoch}/{job.epochs}", leave=False, unit="batch")
    for number, (inputs, labels) in enumerate(bar, 1):
        try:
            loss, right, norm = job.step(inputs, labels)
        except Diverged as what:
            lr = job.scheduler.get_last_lr()[0]
            where = f"step {number} of epoch {epoch} (lr {lr:.3g})"
            raise Diverged(f"the {what} is not finite at {where}") from None
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
        "lr": job.scheduler.get_last_lr()[0],
        "grad_norm_mean": sum(norms) / len(norms),
        "grad_norm_max": max(norms),
        "seconds": seconds,
        "images_per_second": seen / seconds,
    }


def validate(job: Job, loader: Any) -> dict[str, Any]:
    """The averaged network's scores, named as metrics.csv and summary.json name them."""
    with job.average.in_place():
        found = evaluate(job.learner, loader, job.device, job.train.bf16)
    return {f"val_{name}": value for name, value in found.items()}


def open_run(config: Config, only_checks: bool) -> Run:
    """A new run, or the one to go on with; nothing is written yet."""
    train = config.train
    if only_checks:
        return Run(train.run_name or "(time and mode)", train.log_path, train.save_path)
    if train.from_checkpoint:
        return Run.reopen(train.from_checkpoint, train.run_name, train.log_path, train.save_path)
    kind = "overfit" if config.overfit_one_batch.overfit else train.mode
    return Run.create(train.run_name, train.log_path, train.save_path, kind)


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


def report_epoch(row: dict[str, Any], job: Job) -> None:
    if row["epoch"] % job.train.log_epoch and row["epoch"] != job.epochs:
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


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
