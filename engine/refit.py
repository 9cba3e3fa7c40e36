"""Once more, on everything that is not test: no picture is wasted in the network that is kept."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, cast

from engine.checkpoint import keep
from engine.cores import one_core
from engine.heads import add_layers_head
from engine.job import Diverged, Job
from engine.side import endless, side_job
from engine.start import Work
from engine.verdict import Judge
from metrics import evaluate
from tokens.cache import Loaders, TokenLoader
from utils import log, progress_bar, seed_everything

LEARNS = ("train", "val")


def refit(
    work: Work, measured_job: Job, loaders: Loaders, judge: Judge, found: dict[str, Any]
) -> dict[str, Any] | None:
    """Train the setting of the measured job anew on the training and the validation part, and write
    that network in the place of the measured one, whose scores are `found`, with what was found out
    about the answers of that one.

    Returns what it has seen, or None where the measured network stays: the training diverged, or
    what it makes of the validation pictures, which it has learned, is worse than measured.
    """
    loader, train = cast(TokenLoader, loaders["train"]), measured_job.train
    everyone = loader.joined(cast(TokenLoader, loaders["val"]), train)
    seed_everything(train.seed)
    assert train.max_epochs != "auto"
    steps = train.max_epochs * len(everyone)
    job = side_job(judge.before, judge.setting, train, everyone, steps)
    try:
        if train.head != "layers":
            learn_all(job, everyone, steps)
    except Diverged as what:
        log.info("once more on all pictures: the %s is not finite; the measured one stays", what)
        return None
    if train.head != "class":
        add_layers_head(job.net, everyone, train.head, judge.setting)
    known = evaluate(job.learner, loaders["val"], job.device, train.bf16)["accuracy"]
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


def learn_all(job: Job, everyone: TokenLoader, steps: int) -> None:
    """Train, and put the average, where there is one, in the place of the weights."""
    job.net.train()
    bar = progress_bar(islice(endless(everyone), steps), "all pictures", steps, unit="batch")
    with one_core(job.is_small):
        for inputs, labels in bar:
            loss, *_ = job.step(inputs, labels)
            bar.set_postfix(loss=f"{loss:.3f}")
    job.average.settle()
