"""Fine-tune a Vision Transformer on a folder of images, one sub-folder a class.

python training.py                                what config.yaml says
python training.py --config F train.lr=1e-4 ...   another file, and overrides of its keys
python training.py --resume                       go on with the newest run that was stopped
python training.py --check                        say what would be done, and exit
torchrun --nproc-per-node=4 training.py           four processes that train as one; docs/scale.md
"""

from __future__ import annotations

if __name__ == "__main__":  # PyTorch takes seconds to import: Ctrl-C is no traceback by then, too
    from system import stopping

    stopping.while_importing()

import argparse
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from config import Config, ConfigError
from config_file import check_config, load_config
from dataset import Paths, labels_of, make_loaders
from engine.again import as_it_goes_on
from engine.checkpoint import Keeper, Progress
from engine.cores import one_core
from engine.follow import keeper_of, opened
from engine.job import Diverged, Job
from engine.look import first_look
from engine.memory import recompute
from engine.metrics_log import MetricsLog
from engine.nonfinite import check_taken, leave_out
from engine.outcome import Clock, conclude, write_report
from engine.overfit import overfit, repeated_batch
from engine.parts import evaluate_together, shared
from engine.position import Position
from engine.preview import preview
from engine.restart import DONE, note_job, run_to_go_on_with
from engine.resume import nothing_left, saved_state, settings_to_resume
from engine.search import as_chosen, search
from engine.sharding import shared_out
from engine.side import branch
from engine.start import Work, begin, open_run, write_config
from engine.stop import after_training, before_all, before_training, resumable
from engine.track import Tracker, settings_of, tracking
from engine.verdict import Judge
from model import Tail
from overrides import arguments
from system.parallel import by_first, heard, is_first, together
from tokens.builder import open_together
from tokens.cache import Loaders
from utils import command_line, end_log, log, progress_bar, seed_everything


def main(argv: list[str] | None = None) -> int:
    with together():
        with before_all():
            asked = by_first(settings, argv)
        if asked is None:
            return 0
        config, notes, only_checks = asked
        if only_checks:
            if is_first():
                preview(config, notes)
            return 0
        summary = fit(config, notes)
        return 1 if summary.get("overfit") == "FAIL" else 0


def settings(argv: list[str] | None) -> tuple[Config, list[str], bool] | None:
    """The config that a command line asks for, the notes to show, and whether it is only to be
    checked; None where nothing is left to do."""
    args = parse(argv)
    if begun := run_to_go_on_with(args.config, args.overrides):
        if begun.ended:
            return None
        args.resume = str(begun.folder)
    if args.resume is not None:
        config, notes = settings_to_resume(args.config, args.resume, args.overrides)
        if not args.check and (said := nothing_left(config)):
            print(said)
            return None
    else:
        config, notes = load_config(args.config, args.overrides)
    if begun:
        notes = [f"torchrun has started this job once more: {begun.folder} goes on", *notes]
    return *as_it_goes_on(config, notes, args.overrides), args.check


def fit(config: Config, notes: Iterable[str] | None = None) -> dict[str, Any]:
    """Train as a config says, from the folder of images to the report.

    Returns what summary.json holds, and where it lies: `folder` (the logs) and `weights_file`. The
    config may be made in Python; `notes` are what `load_config` said of one that was read. Of
    several processes (torchrun) the first returns scores, and all of them must call this. Raises
    ConfigError and UserError, each with one sentence; after Ctrl-C KeyboardInterrupt, all saved.
    """
    with together():
        with before_all():
            config, advice = check_config(config)
            device = begin(config.train, advice if notes is None else notes)
            run = by_first(open_run, config)
        try:
            with before_training(run):
                work = opened(config, run, device)
            if config.overfit_one_batch.overfit:
                summary = overfit(work, repeated_batch(work)) if is_first() else {}
            else:
                summary = learn(work)
                if config.train.report and is_first():
                    with after_training(run):
                        write_report(run.folder)
            if is_first():
                note_job(run.folder, DONE)
        finally:
            end_log()
            run.close()
    return summary | {"folder": str(run.folder), "weights_file": str(run.best)}


def learn(work: Work) -> dict[str, Any]:
    """Train, keeping the chosen and the last checkpoint, then score and judge."""
    run, net, config = work.run, work.net, work.config
    with before_training(run):
        state = by_first(saved_state, work)
    progress = Progress.read(state["progress"]) if state else Progress()
    track = work.train.track if is_first() else None
    tracked = tracking(track, run.folder, bool(state))
    with resumable(run, progress, work.train.max_epochs), heard(), tracked as tracker:
        clock = Clock(progress.spent)
        learner, loaders = prepare(work)
        clock.lap("cache" if work.plan else "prepare")
        before, train, setting = branch(net), work.train, None
        if work.searches:
            kind = by_first(first_look, work, loaders["train"])
            clock.lap("search")
            if kind.views and kind.views > 1:
                work = work.with_views(kind.views)
                learner, loaders = prepare(work)
                clock.lap("cache")
            setting = by_first(search, work, loaders["train"], kind)
            train = as_chosen(work, setting)
            clock.lap("search")
        plain = shared_out(net, train)
        job = Job(net, learner, train, labels_of(work.split.part("train")))
        job.pictures = Paths(work.split, "train")
        if state:
            job.load_state_dict(state, run)
        if run.resumes and is_first():  # not before its checkpoint is known to fit
            write_config(run, config)
        tracker.settings(settings_of(work.config, train))
        with keeper_of(work, job, progress) as keeper, heard():
            for row in keeper.metrics.rows:  # it was told most of them before the stop
                tracker.epoch(row)
            if train.head != "layers":  # which is solved for
                with job.in_parts(), one_core(job.is_small):
                    train_epochs(job, shared(loaders, train), progress, keeper, tracker)
        clock.lap("train")
        if plain is not None:
            work, job = replace(work, net=plain), job.put_together(plain)
        if not is_first():
            return {}
        summary = conclude(work, job, loaders, Judge(before, setting), progress, clock)
        tracker.outcome(summary)
    return summary


def train_epochs(
    job: Job, loaders: Loaders, progress: Progress, keeper: Keeper, tracker: Tracker
) -> None:
    """The loop."""
    train, metrics, done = job.train, keeper.metrics, progress.epoch
    for epoch in range(progress.epoch + 1, job.epochs + 1):
        if progress.patience_is_over(train):
            log.info("early stopping: no better epoch since %d", progress.best_epoch)
            break
        row = train_epoch(job, loaders["train"], progress.begin(), keeper)
        if epoch % train.eval_epoch == 0 or epoch == job.epochs:
            row |= validate(job, loaders["val"])
        keeper.keep(row)
        tracker.epoch(row)
        ends = epoch == job.epochs or progress.patience_is_over(train)
        report_epoch(metrics, train.log_epoch, ends)
    seed_everything(train.seed)  # what follows is the same wherever the loop was left
    if train.log_epoch == "auto" and progress.epoch > done:
        where = metrics.path.name
        log.info("an epoch is shown where validation is better than before; all are in %s", where)


def prepare(work: Work) -> tuple[nn.Module, Loaders]:
    """What trains, and what it is fed: with a plan the end of the network and the cached tokens of
    the rest, else the whole network and images. The loop does not know which."""
    net, split, plan, train, device = work.net, work.split, work.plan, work.train, work.device
    learner: nn.Module = net
    loaders: Loaders
    if plan is not None:
        learner = Tail(net)
        loaders = open_together(plan, net, train, device).loaders(plan, split, train, device)
        split.decoded.clear()
    else:
        loaders = make_loaders(split, train, net.preprocessing, net.vit.input_channels, device)
    if train.recompute:
        recompute(net)
    if train.compile:
        learner.compile()
    return learner, loaders


def train_epoch(job: Job, loader: Any, position: Position, keeper: Keeper) -> dict[str, Any]:
    """One pass over the training part, from a position in it; the epoch's row of metrics.csv, its
    validation aside."""
    job.net.train()
    loader.sampler.begin(position.epoch, position.steps * job.train.batch_size)
    val = keeper.metrics.last_accuracy
    known = {} if val is None else {"val": f"{val:.4f}"}
    said = f"epoch {position.epoch}/{job.epochs}"
    bar = progress_bar(loader, said, unit="batch", initial=position.steps)
    for inputs, labels in bar:
        if job.draws:
            position.seed(job.train.seed)
        try:
            loss, *_ = job.step(inputs, labels, position)
        except Diverged as what:
            leave_out(what, job, position, (inputs, labels), loader.sampler)
        else:
            bar.set_postfix({"loss": f"{loss:.3f}", **known})
        keeper.keep_step()
    loader.sampler.begin(position.epoch)  # whoever iterates it next gets all of it
    check_taken(position)
    return position.row(float(job.scheduler.get_last_lr()[0]))


def validate(job: Job, loader: Any) -> dict[str, Any]:
    """The averaged network's scores, named as metrics.csv and summary.json name them."""
    with job.average.in_place():
        found = evaluate_together(job.learner, loader, job.device, job.train.bf16)
    return {f"val_{name}": value for name, value in found.items()}


def report_epoch(metrics: MetricsLog, every: int | str, ends: bool) -> None:
    """The last row's line: in run.log in any case, on the terminal where it is due, or the end."""
    row = metrics.rows[-1]
    due = metrics.improved() if every == "auto" else row["epoch"] % int(every) == 0
    val = ""
    if row.get("val_accuracy") is not None:
        val = f", val loss {row['val_loss']:.4f}, val accuracy {row['val_accuracy']:.4f}"
    log.log(
        logging.INFO if due or ends else logging.DEBUG,
        "epoch %d: train loss %.4f, train accuracy %.4f%s, %.1f images/s",
        row["epoch"],
        row["train_loss"],
        row["train_accuracy"],
        val,
        metrics.images_per_second,
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        metavar="RUN",
        help="go on with a run that was stopped: its name or folder; last, or none: the newest",
    )
    parser.add_argument("--check", action="store_true", help="say what would be done, and exit")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = arguments(parser, argv)
    if args.resume and "=" in args.resume:  # a setting: the newest run is meant
        args.resume, args.overrides = "last", [args.resume, *args.overrides]
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
