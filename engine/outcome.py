"""The end of a run: the test part, predictions.csv, summary.json, the last lines, the report."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from config import TrainConfig
from dataset import PARTS, Split
from drawing import may_fail
from engine.again import compare_with_run, tell_comparison
from engine.answers import (
    OUT_OF_FOLD,
    PREDICTED,
    PREDICTIONS,
    rows_of,
    unseen_accuracy,
    write_unseen,
)
from engine.average import Average
from engine.certain import make_certain
from engine.checkpoint import Progress, keep
from engine.heads import add_layers_head, by_layer, each_can_be_left_out, said_by_layer
from engine.job import SEARCH, Job, Setting
from engine.metrics_log import METRICS
from engine.plots import plot_layers
from engine.refit import measured, once_more, refit, train_beside
from engine.run import SUMMARY, Run
from engine.start import Work
from engine.track import log_outcome, reached, settings_of
from engine.verdict import Judge
from engine.written import rewriting
from images import greys_of
from metrics import balanced_interval, confusion, score_lines, scores, wilson
from model import VisionTransformer
from pretrained.build import FOUND
from pretrained.read import read_arrays
from system.filenames import name_of
from system.origin import git_commit, versions
from system.parallel import alone
from tokens.cache import Loaders, TokenLoader
from utils import log, minutes, progress_bar, write_csv, write_json


class Clock:
    """The seconds of a run's phases, beside those that were `spent` before it was stopped."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.seconds = spent
        self.started = time.perf_counter()

    def lap(self, phase: str) -> None:
        self.lap_of({phase: 1})

    def lap_of(self, work: Mapping[str, float]) -> None:
        """A lap of several phases at the same time, each with its share of the work."""
        now, total = time.perf_counter(), sum(work.values()) or 1
        for phase, own in work.items():
            share = (now - self.started) * own / total
            self.seconds[phase] = self.seconds.get(phase, 0.0) + share
        self.started = now

    def said(self, phase: str) -> float | None:
        return round(self.seconds[phase], 2) if phase in self.seconds else None


def conclude(
    work: Work, job: Job, loaders: Loaders, judge: Judge, progress: Progress, clock: Clock
) -> dict[str, Any]:
    """Score the kept network on the test part, judge it, write summary.json and say all that."""
    run, split = work.run, work.split
    given, found = kept_network(work, job, loaders, judge.setting, progress)
    clock.lap("test")
    found["certainty"] = make_certain(work, job, loaders, given, judge.setting)
    part = "test" if "test" in given else "val"
    said = {"certainty": found["certainty"], "measured": measured(part, found)}
    own = {name: json.dumps(value) for name, value in said.items()}
    keep(run.best, job.net, work.config, None, epoch=str(progress.best_epoch), **own)
    clock.lap("certainty")
    right = (given[part][0].argmax(1) == given[part][1]).numpy()
    known = facts(split, part, found, progress, given[part], job.train)
    if before := work.learned.get(part):
        known["learned_before"] = before
    control = judge.control(job, loaders)
    again = once_more(job, loaders, judge) if work.refits else None
    lost = train_beside(control, again, job.train.seed)
    sides = {"verdict": control, "refit": again}
    clock.lap_of({phase: side.steps for phase, side in sides.items() if side})
    learned = judge.verdict(job, loaders, known, right, control)
    clock.lap("verdict")
    kept = refit(work, job, loaders, judge, found, again, lost) if again else None
    clock.lap("refit")
    found |= {"out_of_fold_accuracy": unseen_accuracy(run.folder), "refit": kept}
    assert job.net.certainty is not None
    temperature = job.net.certainty.temperature.cpu()
    rows = [row for p, (z, y) in given.items() for row in rows_of(split, p, z / temperature, y)]
    reported = [row for row in rows if row["part"] == part]
    found["against_run"] = compare_with_run(work.config, part, reported, split)
    summary = summarise(job, judge, progress, clock, found | learned, split)
    with rewriting(run.folder, SUMMARY, PREDICTIONS, METRICS):
        write_csv(run.folder / PREDICTIONS, rows, PREDICTED)
        write_json(run.folder / SUMMARY, summary)  # the last: with it the run is finished
    tell_comparison(summary["against_run"])
    to_tensorboard(work, job.train, summary, reported)
    report_end(summary, run)
    return summary


def kept_network(
    work: Work, job: Job, loaders: Loaders, setting: Setting | None, progress: Progress
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Any]]:
    """Make the job's network the one that is kept, with a head over layers where the config has
    one; its answers for the parts that are held out, and their scores."""
    head = job.train.head
    if job.train.keep == "last" or progress.best_epoch in (0, progress.epoch):
        job.average.settle()  # the file may hold another by now: refit's
        progress.best_epoch = progress.epoch
    elif head != "layers":
        arrays, _ = read_arrays(work.run.best)
        trained = {n: a for n, a in arrays.items() if not n.startswith(FOUND)}
        job.net.load_state_dict(job.net.state_dict() | trained)
        job.average = Average(job.parameters, None)  # what was read is the average
    estimate = None
    if head != "class":
        training = loaders["train"]
        assert isinstance(training, TokenLoader)
        left_out = add_layers_head(job.net, training, head, setting)
        if each_can_be_left_out(training):
            labels = training.dataset
            estimate = (left_out.argmax(1) == labels).float().mean().item()
            tell_layers(job.net, training, work.run, estimate)
            if head == "layers":
                write_unseen(work.run.folder, work.split, left_out, labels)
    given = answers(job, loaders)
    note_scores(given["val"], progress)
    if head != "class":
        note_learned(job, loaders["train"], progress)
    found = held_out_scores(progress, given, work.split)
    return given, found | {"left_out_accuracy": estimate}


def tell_layers(net: VisionTransformer, training: TokenLoader, run: Run, estimate: float) -> None:
    """Say what the head over layers gets right of pictures left out of its fit, and leave
    layers.csv and layers.png: what each block alone tells of the classes."""
    rows = by_layer(net, training)
    guess = 1 / len(training.dataset.unique())
    log.info(
        "the head over layers: %.4f of the training images are right, each left out of the fit",
        estimate,
    )
    log.info("by layer: %s", said_by_layer(rows, guess))
    with rewriting(run.folder, "layers.csv"):
        write_csv(run.folder / "layers.csv", rows)
    plot_layers(rows, guess, run.folder / "layers.png")


def note_scores(given: tuple[Tensor, Tensor], progress: Progress) -> None:
    """What the kept network reaches by its answers `given` for the validation part: an epoch's row
    may be of its trained part alone, or of another network, where settings changed at a stop."""
    val = scores(*given)
    progress.best_accuracy, progress.best_loss = val["accuracy"], val["loss"]
    progress.best_balanced_accuracy = val["balanced_accuracy"]


def note_learned(job: Job, training: Any, progress: Progress) -> None:
    """What the whole network reaches on the plain training pictures, in place of what its trained
    part did."""
    learned = scores(*job.answers(training.plain()))
    progress.train_accuracy, progress.train_loss = learned["accuracy"], learned["loss"]


def held_out_scores(
    progress: Progress, given: dict[str, tuple[Tensor, Tensor]], split: Split
) -> dict[str, Any]:
    """The scores of the kept network on the held-out parts, each accuracy with its interval."""
    scored = scores(*given["test"]) if "test" in given else {}
    found: dict[str, Any] = {
        "val_accuracy": progress.best_accuracy,
        "val_balanced_accuracy": progress.best_balanced_accuracy,
        "val_loss": progress.best_loss,
    }
    names = ("accuracy", "balanced_accuracy", "loss")
    found |= {f"test_{name}": scored.get(name) for name in names}
    for part in ("val", "test"):
        accuracy, n = found[f"{part}_accuracy"], len(split.part(part))
        found[f"{part}_interval"] = None if accuracy is None else list(wilson(accuracy, n))
    return found


def summarise(
    job: Job, judge: Judge, progress: Progress, clock: Clock, found: dict[str, Any], split: Split
) -> dict[str, Any]:
    """What summary.json holds: `found`, the scores and the verdict, and how they came about."""
    train = job.train
    total, trainable = job.net.parameter_counts()
    learned = train.head != "layers"  # else it was solved for
    if job.net.layers is not None:
        solved = sum(p.numel() for p in job.net.layers.fc.parameters())
        trainable = trainable + solved if learned else solved
    return {
        "mode": train.mode,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps_left_out": progress.left_out,
        **found,
        "train_loss": progress.train_loss,
        "train_accuracy": progress.train_accuracy,
        "head": train.head,
        "chosen": asdict(judge.setting) if judge.setting and learned else None,
        **{name: getattr(train, name) if learned else None for name in OPTIMISED},
        "images": {part: len(split.part(part)) for part in PARTS},
        "seconds": round(progress.seconds, 1),
        "cache_seconds": clock.said("cache"),
        "search_seconds": clock.said("search"),
        "verdict_seconds": clock.said("verdict"),
        "refit_seconds": clock.said("refit") if found["refit"] else None,
        "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 2),
        "parameters": {"total": total, "trainable": trainable},
        "weights": train.checkpoint if train.mode != "scratch" else None,
        "device": str(job.device),
        "versions": versions(),
        "git_commit": git_commit(),
    }


OPTIMISED = ("optim", "lr", "weight_decay")
SHOWN = 16  # images with their predictions in TensorBoard


def answers(job: Job, loaders: Loaders) -> dict[str, tuple[Tensor, Tensor]]:
    """The network's logits (n, C) and the labels (n,) of each part that is held out."""
    held_out = [part for part in ("val", "test") if part in loaders]
    return {part: job.answers(loaders[part]) for part in held_out}


def to_tensorboard(
    work: Work, train: TrainConfig, summary: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """The reported part's confusion matrix, some of its images (the surest mistakes, then the least
    sure answers) and the run's settings with what it reached, beside the curves."""
    classes, root = work.split.classes, work.split.root
    counts = confusion([r["label"] for r in rows], [r["predicted"] for r in rows], classes)
    wrong = sorted(
        (row for row in rows if row["label"] != row["predicted"]), key=lambda r: -r["probability"]
    )
    unsure = sorted(
        (row for row in rows if row["label"] == row["predicted"]), key=lambda r: r["probability"]
    )
    shown = [(root / name_of(row["path"]), caption(row)) for row in [*wrong, *unsure][:SHOWN]]
    settings = settings_of(work.config, train)
    values = reached(summary)
    greys = greys_of(work.split.samples)
    with may_fail("the end of the run in TensorBoard"):
        log_outcome(
            work.run.folder, summary["epochs"], settings, values, counts, classes, shown, greys
        )


def caption(row: dict[str, Any]) -> str:
    """What the network says of an image, and what it is where that is something else."""
    says = f"{row['predicted']} {row['probability']:.2f}"
    return says if row["predicted"] == row["label"] else f"{says}, is {row['label']}"


def write_report(folder: Path) -> None:
    """report.html by its tool, in a process of its own: the tools build on this core, not the other
    way round, and a report that fails must not fail a run."""
    here = str(Path(__file__).resolve().parents[1])
    # As -m does, but for its first place to look: a `tools` in the working folder is another.
    code = f"import runpy, sys; sys.path[0] = {here!r}; runpy.run_module('tools.report', "
    code += "run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, str(folder)]
    # Its threads don't wait busily: the maps of a picture took 0.8 s instead of 0.17 beside another
    # program (S/14), 5.6 s instead of 1.0 (B/16); on idle cores as long (EXPERIMENTS.md).
    status, said = _waited_for(command, {"OMP_WAIT_POLICY": "passive"} | alone())
    if status == 0:
        log.info("report: %s", folder / "report.html")
    else:
        reason = (said.strip().splitlines() or ["no reason given"])[-1]
        log.info("no report.html: %s", reason.removeprefix("error: "))


def _waited_for(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """A program's exit status and what it said on stderr, with the seconds shown meanwhile."""
    said: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "errors": "replace"}
    with subprocess.Popen(command, env=env, **said) as program:
        try:
            with progress_bar(desc="writing the report", bar_format="{desc}: {elapsed}") as bar:
                while (text := _rest_of(program)) is None:
                    bar.refresh()
        except BaseException:
            program.kill()
            raise
    return program.returncode, text


def _rest_of(program: subprocess.Popen[str]) -> str | None:
    """What a program said on stderr, or None where it is not at its end within half a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return program.communicate(timeout=0.5)[1]
    return None


def facts(
    split: Split,
    part: str,
    found: dict[str, Any],
    progress: Progress,
    given: tuple[Tensor, Tensor],
    train: TrainConfig,
) -> dict[str, Any]:
    """What the verdict is about: the accuracy of the reported part, by the network's answers
    `given` for it, what chance would reach, and how long it was trained."""
    predicted, labels = given[0].argmax(1), given[1]
    images = len(labels)
    classes = labels.bincount()
    recalls = [(predicted[labels == c] == c).double().mean().item() for c in labels.unique()]
    known = {
        "part": part,
        "images": images,
        "accuracy": found[f"{part}_accuracy"],
        "interval": found[f"{part}_interval"],
        "chance": round(1 / len(split.classes), 7),
        "largest_class": round(classes.max().item() / images, 7),
        "balanced_accuracy": found[f"{part}_balanced_accuracy"],
        "balanced_interval": list(
            balanced_interval(list(zip(recalls, classes[classes > 0].tolist(), strict=True)))
        ),
        "balanced_chance": round(1 / len(recalls), 7),
        "images_of_the_rarest_class": int(classes[classes > 0].min()),
        "one_answer": round(predicted.bincount().max().item() / images, 7),
        "train_accuracy": round(progress.train_accuracy, 7),
        "train_images_of_the_rarest_class": min(
            Counter(sample.label for sample in split.part("train")).values()
        ),
    }
    if train.head != "layers":  # which is solved for
        learned = len(split.part("train"))
        taken = progress.epoch * math.ceil(learned / train.batch_size)
        known |= {"steps": taken, "recipe_steps": train.steps(learned)[1]}
    return known


def report_end(summary: dict[str, Any], run: Run) -> None:
    """The last lines of a run: what it reached, whether it learned, where to look."""
    phases = {"cache_seconds": "the token cache", "search_seconds": "trying settings"}
    phases |= {"verdict_seconds": "the verdict", "refit_seconds": "training on all pictures"}
    took = [f"{minutes(summary['seconds'])} of training"]
    # After a stop before the first checkpoint what was done is read, and its seconds are not known.
    known = {what: summary[key] for key, what in phases.items() if (summary[key] or 0) >= 0.5}
    took += [f"{minutes(seconds)} for {what}" for what, seconds in known.items()]
    kept = f"epoch {summary['best_epoch']} of {summary['epochs']}"
    if summary["head"] == "layers":
        kept = "a head over layers, solved for"
    log.info("%s (mode %s, %s)", ", ".join(took), summary["mode"], kept)
    for line in score_lines(summary):
        log.info("%s", line)
    log.info("%s", summary["verdict_sentence"])
    if again := summary["refit"]:
        log.info(
            "kept: the same trained once more on all %d pictures that are not test; the accuracy "
            "was measured before",
            again["images"],
        )
    wanted = {
        "curves.png": summary["epochs"],
        METRICS: summary["epochs"],
        SUMMARY: True,
        PREDICTIONS: True,
        SEARCH: summary["chosen"],
        "layers.png": summary["left_out_accuracy"] is not None,
        OUT_OF_FOLD: summary["out_of_fold_accuracy"] is not None,
    }
    files = [name for name, is_ in wanted.items() if is_ and (run.folder / name).exists()]
    log.info("results: %s (%s); weights: %s", run.folder, ", ".join(files), run.best)
