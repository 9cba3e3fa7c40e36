"""--check: what a run would do, and what memory and disk it would take."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from config import RECIPES, Config
from config_file import dump_config
from dataset import PARTS, Split
from engine.again import earlier_search
from engine.began import check_beginning
from engine.forecast import Forecast, forecast, views_of_each
from engine.heads import fitted_size, read_depths
from engine.job import Setting
from engine.last import read_last, steps_of
from engine.resume import check_early, check_pictures, check_settings
from engine.run import Run
from engine.search import as_chosen, searches_all, with_its_epochs
from engine.start import Work, begin, checkpoint_bytes, moment_bytes, see_places, set_up
from engine.trials import Allowance, allowance, recipes_own, settings
from model import LayersHead
from pretrained.build import NotFetched
from system.filenames import cut_to, padded, shown
from tokens.plan import damage
from tokens.trunk import in_half
from utils import UserError, log, minutes


def preview(config: Config, notes: Iterable[str] = ()) -> None:
    """Say what a run would do; nothing is written."""
    train = config.train
    device = begin(train, notes)
    see_places(train)
    run = Run(train.run_name or "(folder and time)", train.log_path, train.save_path)
    run.resumes = bool(train.from_checkpoint) and run.split.exists()
    if run.resumes:
        with told():
            check_early(run, config)
    try:
        work = set_up(config, run, device, begins=False)
    except NotFetched as absent:
        log.info("%s", absent)
    else:
        before = as_before(work, config)
        state = read_last(run.last, None)[0] if run.resumes else None
        done = steps_done(work, state)
        print_check(before, before is work and not done, done)
        if run.resumes:
            with told():
                check_settings(run, work.config, state)
                check_pictures(run, work.split)
                check_beginning(work)
    if not train.from_checkpoint:
        with told():
            run.must_be_new()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Say what a run would end with, and go on."""
    try:
        yield
    except UserError as error:
        log.info("a run would not begin: %s", error)


def steps_done(work: Work, state: Mapping[str, Any] | None) -> int:
    """The steps of a run that is to go on from this checkpoint."""
    if state is None:
        return 0
    return int(state["progress"]["epoch"]) * steps_of_an_epoch(work) + steps_of(state["progress"])


def steps_of_an_epoch(work: Work) -> int:
    return math.ceil(len(work.split.part("train")) / work.train.batch_size)


def as_before(work: Work, config: Config) -> Work:
    """The same with the setting that the earlier run found, where the config as it was written goes
    on from one."""
    there, _ = earlier_search(config, work.train.views)
    setting = Setting.read(there) if there is not None and work.plan is not None else None
    if setting is None:
        return work
    setting = setting.named(work.train)
    print(f"what was to be found: what {work.train.from_run} found")
    if setting.views:
        work = work.with_views(setting.views)
    train = as_chosen(work, setting)
    return replace(work, config=work.config.model_copy(update={"train": train}))


def said_of_parameters(work: Work) -> str:
    net, train = work.net, work.train
    total, trainable = net.parameter_counts()
    trains = f", {trainable:,} train (mode {train.mode})"
    if train.head == "class" or work.plan is None:
        return f"parameters: {total:,} in all{trains}"
    with torch.device("meta"):
        head = LayersHead(read_depths(net), net.vit.hidden_dim, net.num_classes)
    total += head.scale.numel()  # it is neither trained nor solved for
    solved = f"{sum(p.numel() for p in head.fc.parameters()):,}"
    if train.head == "layers":
        return f"parameters: {total:,} in all; {solved} of a head over layers are solved for"
    solved += " more, of a head over layers, are solved for"
    return f"parameters: {total:,} in all{trains}; {solved}"


def print_check(work: Work, tries: bool = True, done: int = 0) -> None:
    """What a run would do, of which so many steps are `done`: the resolved config, the parameters,
    the data, the steps, the memory."""
    train, split, plan = work.train, work.split, work.plan
    print(dump_config(work.config))
    print(said_of_parameters(work))
    print_pictures(split)
    if work.config.overfit_one_batch.overfit:
        most, images = work.config.overfit_one_batch.max_steps, len(split.part("train"))
        size = min(train.batch_size, images)
        print(
            f"\na sanity check: at most {most:,} steps on one batch of {size}; no weights are kept"
        )
        return
    expected = forecast(work, tries, done)
    steps, epochs = steps_of_an_epoch(work), train.max_epochs
    assert epochs != "auto"
    solved = train.head == "layers"
    of_them = f", of which {done:,} are done" if done else ""
    taken = f"{steps} an epoch, {steps * epochs:,} in {epochs} epochs{of_them}"
    print(f"\nsteps: {'none: the head over layers is solved for' if solved else taken}")
    short = allowance(train, len(split.part("train")))
    if train.lr == "auto" and not solved:
        print(f"learning rate: {how_found(work, short)}")
    if train.head == "auto":
        print("head: to be chosen on the training part: over layers alone, or both")
    if plan is not None:
        there = "to be made" if damage(plan.path) else "there already"
        print(f"token cache: {plan.said()}, {there}{copied_of(expected)}")
        if work.searches and not short and train.views == "auto" and train.head in ("auto", "both"):
            views = RECIPES[train.mode].views
            print(f"  and up to {views} views of each picture that is learned, where they help")
    if work.refits:
        print("in the end: the same once more on all pictures that are not test")
    parts = parts_of(expected)
    of_them = f" ({parts})" if parts else ""
    print(f"time: about {minutes(expected.total)}, from a timed batch{of_them}")
    waited = expected.seconds.get("the token cache", 0)
    if hint := in_half(waited, train.trunk_bf16, work.device):
        print(f"  {hint}")
    print(f"memory: about {expected_memory(work) / 1e9:.1f} GB")
    print(f"disk: about {checkpoint_bytes(train, work.net) / 1e6:,.0f} MB of checkpoints")


def copied_of(expected: Forecast) -> str:
    """How much of a cache is copied from an older one."""
    return f"; {expected.copied:,} of them copied from an older one" if expected.copied else ""


def parts_of(expected: Forecast) -> str:
    """The seconds of a run's parts, those that count."""
    return ", ".join(f"{what} {minutes(s)}" for what, s in expected.seconds.items() if s >= 1)


def how_found(work: Work, short: Allowance | None) -> str:
    """What the search for a learning rate would do."""
    candidates = settings(work.net, work.train)
    if short and not searches_all(short, len(candidates)):
        return f"{short}: the recipe's without a search, {recipes_own(candidates, work.train)}"
    said = f"to be found, by trying {len(candidates)} settings on the training part"
    epochs = with_its_epochs(work, work.train.model_copy(update={"optim": "adamw"})).max_epochs
    return said if epochs == work.train.max_epochs else f"{said} (AdamW's takes {epochs} epochs)"


def print_pictures(split: Split) -> None:
    """Images by class and part, and what is not used."""
    print(f"\n{'class':<32}" + "".join(f"{part:>8}" for part in PARTS))
    for name, counts in split.counts().items():
        print(padded(cut_to(name, 31), 32) + "".join(f"{counts[part]:>8}" for part in PARTS))
    print(f"{'all':<32}" + "".join(f"{len(split.part(part)):>8}" for part in PARTS))
    if split.unused:
        print(f"\nnot used: {len(split.unused)}")
        for path, reason in split.unused[:12]:
            print(f"  {shown(str(path))}: {reason}")
        if len(split.unused) > 12:
            print(f"  and {len(split.unused) - 12} more, named in the log of a run")


def expected_memory(work: Work) -> float:
    """Bytes, roughly: weights, gradients, optimiser, what the backward pass keeps, images."""
    net, train = work.net, work.train
    vit = net.vit
    total, trainable = net.parameter_counts()
    N = (vit.dim // vit.patch_dim) ** 2 + 1
    # Per token a block keeps both norms' outputs, q, k, v, the attention's and projections'
    # outputs (9 D) and the MLP's hidden layer before and after GELU.
    block = 4 * N * (9 * vit.hidden_dim + 2 * vit.ff_dim)
    blocks = vit.num_layers - (net.frozen_depth or 0)
    activations = max(train.batch_size * blocks, train.eval_batch_size) * block
    if work.plan is not None:
        # Of the last block only the class token's row is kept. The trunk's weights exist twice in
        # its pass, and once more while a checkpoint is written.
        tokens = 4 * N * vit.hidden_dim * max(train.batch_size, train.eval_batch_size)
        activations = activations - train.batch_size * block if blocks > 1 else 2 * tokens
        activations += 2 * 4 * total
    features = fit_memory(work) if work.plan is not None and train.head != "class" else 0.0
    kept = 2 * 4 * trainable + moment_bytes(train, trainable)  # Keeper's best and last
    decoded = sum(pixels.numel() for pixels in work.split.decoded.values())
    # PyTorch, its libraries and the allocator's slack: what two runs on Linux took beyond the rest.
    runtime = 0.9e9
    gradients = 4 * trainable
    state = 4 * total + gradients + moment_bytes(train, trainable)
    if train.lr == "auto":  # each setting that is tried has its own
        each = 2 * 4 * trainable + moment_bytes(train, trainable)
        kept = max(kept, each * len(settings(net, train)))
    return runtime + state + kept + activations + features + decoded


def fit_memory(work: Work) -> float:
    """Bytes of a fit of the head over layers: the features as they are kept, twice in float64, and
    three products of the rows with one another."""
    pictures = len(work.split.part("train"))
    rows, width = fitted_size(work.net, pictures, views_of_each(work))
    return rows * width * (4 + 2 * 8) + 3 * 8 * min(rows, width) ** 2
