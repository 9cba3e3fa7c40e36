"""Once more, on everything that is not test: no picture is wasted in the network that is kept."""

from __future__ import annotations

import json
from typing import Any, cast

from engine.checkpoint import keep
from engine.heads import add_layers_head
from engine.job import Job
from engine.side import Lost, Side, side_job, train_side_by_side
from engine.start import Work
from engine.verdict import Judge
from metrics import scores
from tokens.cache import Loaders, TokenLoader
from utils import log, progress_bar, seed_everything

LEARNS = ("train", "val")


def once_more(job: Job, loaders: Loaders, judge: Judge) -> Side:
    """The setting of the measured job anew on the training and the validation part, still to be
    trained: no step where a head over layers answers alone."""
    loader, train = cast(TokenLoader, loaders["train"]), job.train
    everyone = loader.joined(cast(TokenLoader, loaders["val"]), train)
    seed_everything(train.seed)
    assert train.max_epochs != "auto"
    steps = train.max_epochs * len(everyone)
    again = side_job(judge.before, judge.setting, train, everyone, steps)
    return Side([again], everyone, 0 if train.head == "layers" else steps)


def train_beside(control: Side | None, again: Side | None, seed: int) -> Lost:
    """Train the control and the network on all pictures; those that diverged. At the same time
    where no more than a last block trains on a CPU: more of it takes all cores, and where random
    numbers are drawn each has the stream for itself."""
    named = {"the control": control, "all pictures": again}
    sides = {name: side for name, side in named.items() if side and side.steps}
    jobs = [job for side in sides.values() for job in side.jobs]
    at_once = jobs and all(job.is_small and not job.draws for job in jobs)
    lost: Lost = {}
    for names in [list(sides)] if at_once else [[name] for name in sides]:
        some = [sides[name] for name in names]
        seed_everything(seed)
        total = sum(side.steps * len(side.jobs) for side in some)
        with progress_bar(total=total, desc=", ".join(names), unit="step") as bar:
            lost |= train_side_by_side(some, bar)
    return lost


def refit(
    work: Work,
    measured_job: Job,
    loaders: Loaders,
    judge: Judge,
    found: dict[str, Any],
    again: Side,
    lost: Lost,
) -> dict[str, Any] | None:
    """Write the network that was trained `again`, on all pictures that are not test, in the place
    of the measured one, whose scores are `found`, with what was found out about the answers of that
    one.

    Returns what it has seen, or None where the measured network stays: the training diverged, or
    what it makes of the validation pictures, which it has learned, is worse than measured.
    """
    [job], everyone, train = again.jobs, again.batches, measured_job.train
    if what := lost.get(job):
        log.info("once more on all pictures: the %s is not finite; the measured one stays", what)
        return None
    job.average.settle()
    if train.head != "class":
        add_layers_head(job.net, everyone, train.head, judge.setting)
    known = scores(*job.answers(loaders["val"]))["accuracy"]
    if known < found["val_interval"][0]:
        log.info("once more on all pictures: %.4f of val, which it learned; dropped", known)
        return None
    images = {part: len(work.split.part(part)) for part in LEARNS}
    reported = "test" if found.get("test_accuracy") is not None else "val"
    said = measured(reported, found)
    said["by"] = f"the same training on {images['train']} pictures"
    job.net.certainty = measured_job.net.certainty
    own = {"seen": images, "measured": said, "certainty": found["certainty"]}
    texts = {name: json.dumps(value) for name, value in own.items()}
    keep(work.run.best, job.net, work.config, None, **texts)
    return {"images": sum(images.values()), "parts": list(LEARNS), "val_accuracy": known}


def measured(part: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a weights file says of the accuracy on the reported part, by the scores `found`."""
    names = ("accuracy", "interval")
    return {"part": part, **{name: found[f"{part}_{name}"] for name in names}}
