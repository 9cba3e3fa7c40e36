"""A run that stops says one sentence: what is kept, and how to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from engine.checkpoint import Progress
from engine.job import SEARCH, Diverged
from engine.restart import note_job
from engine.run import SUMMARY, Run, report_command
from engine.verdict import NOT_LEARNED
from system.parallel import Lost, is_first
from system.shortages import shortage
from utils import UserError, go_on, log, write_json

THE_SAME = "the same command begins again"


@contextlib.contextmanager
def before_all() -> Iterator[None]:
    """Around what comes before a run has its folders: nothing is there to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped before it began; {THE_SAME}") from None
    except Lost as error:
        raise lost(error, THE_SAME) from None


@contextlib.contextmanager
def before_training(run: Run) -> Iterator[None]:
    """Around what comes before: the pictures are read, the network is built, folders are made."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped before the training; {beginning(run)}") from None
    except Lost as error:
        raise lost(error, beginning(run)) from None


def beginning(run: Run) -> str:
    """How a run is begun that has not trained yet."""
    if run.resumes:
        return f"{run.folder} is as it was; go on with: {go_on(run.folder)}"
    return f"go on with: {go_on(run.folder)}" if run.split.exists() else THE_SAME


def lost(error: Lost, said: str) -> BaseException:
    """What ends a process that lost another one: the first says so, and how to go on."""
    log.debug("%s", error)
    if not is_first():
        return SystemExit(2)
    return UserError(
        "another process of this job has ended, with a sentence of its own unless it was "
        f"killed; {said}"
    )


@contextlib.contextmanager
def after_training(run: Run) -> Iterator[None]:
    """Around what comes after: all is there but the report."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or _complete(run)) from None


def _complete(run: Run) -> str:
    return f"stopped; the run is complete, its report: {report_command(run.folder)}"


@contextlib.contextmanager
def resumable(run: Run, progress: Progress, epochs: int | str) -> Iterator[None]:
    """Around the training, of so many epochs: a stop, a loss that isn't finite or a full memory
    says what is kept and how to go on."""
    was_finished = run.is_finished  # its summary.json goes with the first thing that it writes
    try:
        yield
    except KeyboardInterrupt:
        if run.is_finished and not was_finished:
            raise KeyboardInterrupt(_complete(run)) from None
        done = f"{progress.said()} done"
        if not (progress.epoch or progress.position):
            kept = ", and the settings that were found," if (run.folder / SEARCH).exists() else ""
            done = f"no epoch done (what is in the token cache{kept} stays)"
        elif progress.epoch == epochs:
            done += ", all of them, but not what follows"
        raise KeyboardInterrupt(f"stopped with {done}; go on with: {go_on(run.folder)}") from None
    except Diverged as error:
        there = [str(path) for path in (run.best, run.last) if path.exists()]
        kept = (
            f"the last good checkpoint is {there[-1]}" if there else "no checkpoint was saved yet"
        )
        sentence = f"{NOT_LEARNED}: {error}; lower train.lr or warm up longer"
        outcome = {"verdict": NOT_LEARNED, "verdict_sentence": sentence, "epochs": progress.epoch}
        write_json(run.folder / SUMMARY, outcome)
        note_job(run.folder, f"{sentence}; {kept}")  # torchrun need not try that again
        raise Diverged(f"{sentence}; {kept}") from None
    except Lost as error:
        done = f"{progress.said()} done, go on with: {go_on(run.folder)}"
        raise lost(error, done) from None
    except (RuntimeError, MemoryError, OSError, EOFError) as error:
        if short := shortage(error):
            raise UserError(f"{short}; go on with that and: {go_on(run.folder)}") from error
        if "deterministic implementation" not in str(error):
            raise
        what = str(error).partition(". ")[0]
        raise UserError(f"train.deterministic: {what}; set it to false") from error
