"""What a program begins with: the log, the device, the pictures, the network, the run's folders."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torchvision.transforms import v2

from config import RECIPES, Config, TrainConfig
from config_file import dump_config
from config_rules import places_that_clash
from dataset import PARTS, Split, load_split, see_names, write_split
from engine.answers import OUT_OF_FOLD, PREDICTIONS
from engine.heads import read_depths
from engine.job import SEARCH
from engine.learned import learned_before
from engine.metrics_log import METRICS
from engine.parts import check_shares
from engine.restart import note_job
from engine.run import Run
from engine.track import check_tracker
from engine.written import changed, forget, is_changed, rewriting, was_written
from images import FileIndex, ImageDataset, greys_of
from model import VisionTransformer
from pretrained.build import build_for
from system.parallel import local_rank, world_size
from tokens.plan import Plan, known_files, plan_cache
from transforms import Own
from utils import (
    UserError,
    be_deterministic,
    check_disk,
    keep_freed_memory,
    log,
    pick_device,
    seed_everything,
    setup_log,
    write_text,
)

EPOCHS = ("max_epochs", "warmup_epochs")


@dataclass
class Work:
    """What a run works on: its folders, its settled config, the pictures, the network, what its
    token cache is to hold (None: it uses none), the index of files that were read before, and of
    how many held-out pictures of each part its first weights have learned."""

    run: Run
    config: Config
    split: Split
    net: VisionTransformer
    plan: Plan | None
    known: FileIndex | None
    device: torch.device
    augmentation: str | None  # what tells a transform of one's own from others
    learned: Mapping[str, int]

    @property
    def train(self) -> TrainConfig:
        return self.config.train

    @property
    def searches(self) -> bool:
        """Whether settings are tried on the cached tokens: for the learning rate, or to see which
        head answers best; several blocks that train would take longer than all else."""
        train = self.train
        cached = self.plan is not None and train.finetune_blocks <= 1 and train.head != "layers"
        return cached and (train.lr == "auto" or train.head != "class")

    @property
    def refits(self) -> bool:
        """Whether the network that is kept is trained once more, on all that is not test."""
        return self.plan is not None and self.train.refits

    def with_views(self, views: int) -> Work:
        """The same with so many views of each training picture."""
        train = self.train.model_copy(update={"views": views})
        plan = Plan(self.net, self.split, train, checkpoint_bytes(train, self.net))
        return replace(self, config=self.config.model_copy(update={"train": train}), plan=plan)

    def told(self) -> tuple[Work, bool]:
        """What the other processes are told of it, which read no folder and write none, and whether
        it has a plan: that is made again."""
        net = self.net if self.device.type == "cpu" else copy.deepcopy(self.net).cpu()
        split = replace(self.split, decoded={})
        return replace(self, known=None, plan=None, split=split, net=net), self.plan is not None

    def on(self, device: torch.device, plans: bool) -> Work:
        """What one of them makes of that."""
        train, net = self.train, self.net.to(device)
        plan = Plan(net, self.split, train, checkpoint_bytes(train, net)) if plans else None
        return replace(self, plan=plan, device=device)

    def open(self) -> None:
        """See that the disk has room, make the run's folders, and write what it begins with."""
        run, train = self.run, self.train
        run.keep_last, run.needs_best = train.keep_last, train.keep == "best"
        if self.known is not None and self.plan is not None:
            self.plan.check_disk()
            self.known.update(self.split.samples)
        elif self.known is not None:  # every epoch needs the pictures, decoded as far as they fit
            self.split = load_split(train, run.split if run.resumes else None)
        if not self.config.overfit_one_batch.overfit:
            there = sum(path.stat().st_size for path in run.weights.glob("*"))
            more = max(0, checkpoint_bytes(train, self.net) - there)
            check_disk(run.weights, more, f"the checkpoints in {run.weights}")
        run.open()
        note_job(run.folder)
        if not run.resumes:
            with rewriting(run.folder, "config.yaml", run.split.name):
                write_text(run.folder / "config.yaml", dump_config(self.config))
                write_split(run.split, self.split)
        self.net.to(self.device)


def begin(train: TrainConfig, notes: Iterable[str] = ()) -> torch.device:
    """Open the log, say the notes in it, and pick the config's device."""
    setup_log()
    keep_freed_memory()
    be_deterministic(train.deterministic)
    check_shares(train)
    device, fallback = pick_device(train.device)
    if device.type == "cuda" and world_size() > 1:
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    for note in [*notes, *([fallback] if fallback else [])]:
        log.info(note)
    return device


def open_run(config: Config) -> Run:
    """A new run, or the one to go on with; nothing is written yet."""
    train = config.train
    see_places(train)
    if train.from_checkpoint:
        return Run.reopen(train.from_checkpoint, train.run_name, train.log_path, train.save_path)
    kind = "overfit" if config.overfit_one_batch.overfit else ""
    return Run.create(train.run_name, train.log_path, train.save_path, train.base_dir, kind)


def see_places(train: TrainConfig) -> None:
    """Raise UserError where a run can't write where its settings say."""
    if clashes := places_that_clash(train):
        raise UserError("; ".join(clashes))


def write_config(run: Run, config: Config) -> None:
    """The settings that a run goes on with, in the place of those that it had."""
    with rewriting(run.folder, "config.yaml"):
        write_text(run.folder / "config.yaml", dump_config(config))


OF_THE_END = ("summary.json", PREDICTIONS, METRICS)  # written anew


def drop_changed(run: Run) -> None:
    """See which files are not as the run wrote them, and say so: what a search left is removed, to
    be made again, and so is the split; the settings may be meant so."""
    for name in changed(run.folder):
        path = run.folder / name
        if name == "config.yaml":
            log.warning("%s is not as the run wrote it: was it changed on purpose?", path)
        elif name in (SEARCH, OUT_OF_FOLD):
            log.warning("%s is not as the run wrote it: the settings are tried again", path)
            for one in (SEARCH, OUT_OF_FOLD):
                (run.folder / one).unlink(missing_ok=True)
            forget(run.folder, SEARCH, OUT_OF_FOLD)
    forget(run.folder, *OF_THE_END)


def split_of(train: TrainConfig, run: Run, known: FileIndex | None) -> Split:
    """The pictures in their parts: for a run that goes on as its split.csv has them. A file that is
    not as the run wrote it is drawn again; UserError where that would be another."""
    if not run.resumes:
        return load_split(train, None, known)
    if not is_changed(run.folder, run.split.name):
        return load_split(train, run.split, known)
    split = load_split(train, None, known)
    again = run.split.with_name(".split-again.csv")
    write_split(again, split)
    try:
        if not was_written(run.folder, run.split.name, again):
            raise UserError(
                f"{run.split} is not as the run wrote it, and the pictures, drawn again, would not "
                "be in the same parts; put that file back, or train again under another name"
            )
        log.warning("%s is not as the run wrote it: it is drawn again, the same", run.split)
        os.replace(again, run.split)
    finally:
        again.unlink(missing_ok=True)
    return load_split(train, run.split, known)


def set_up(config: Config, run: Run, device: torch.device, begins: bool = True) -> Work:
    """Read the pictures, build the network, and settle what is `auto`; nothing is written yet, but
    for weights that are fetched. Where it only looks, and nothing `begins`, neither are they, nor
    is what is not as a run wrote it removed or made again."""
    check_tracker(config.train.track)
    asked = config.train.model_copy(update={"run_name": run.name, "from_checkpoint": None})
    caches = asked.may_cache and not config.overfit_one_batch.overfit
    known = known_files(asked) if caches else None
    if run.resumes and begins:
        drop_changed(run)
    listed = run.split if run.resumes else None
    split = split_of(asked, run, known) if begins else load_split(asked, listed, known)
    report_data(split)
    if not run.resumes:
        see_names(split.classes)
    own = asked.transform and try_transform(asked.transform, split, asked.seed)
    seed_everything(asked.seed)
    net = build_for(config, split.classes, fetch=begins)
    learned = learned_before(asked, split)
    train = asked.settled(len(split.part("train")))
    train = with_greys_of(net, split, train)
    train = with_head(train, net, caches)
    if train.head == "class":
        train = train.model_copy(update={"views": asked.views})
    elif caches and train.views != asked.views:
        train = with_room_for_views(train, net, split)
    plan = plan_cache(net, split, train, checkpoint_bytes(train, net)) if caches else None
    if plan is None and run.resumes and (run.folder / SEARCH).exists():
        raise UserError(
            f"{run.folder} goes on from cached tokens, which are gone, and there is no room to "
            "make them again; train.data names another place"
        )
    if plan is None and asked.head == "auto":  # plan_cache said why
        train = train.model_copy(update={"head": "class", "views": asked.views})
    if plan is None and train.head != "class" and not config.overfit_one_batch.overfit:
        raise UserError(
            f"train.head: {train.head} needs the token cache; train.head=class does not"
        )
    by_auto = [key for key in EPOCHS if getattr(asked, key) == "auto"]
    train = with_epochs(train, by_auto, len(split.part("train")))
    if plan is not None and train.finetune_blocks <= 1 and train.head != "layers":
        train = train.model_copy(update=still_to_find(asked))
    settled = config.model_copy(update={"vit": net.vit, "train": train})
    return Work(run, settled, split, net, plan, known, device, own, learned)


def with_epochs(train: TrainConfig, keys: Sequence[str], images: int) -> TrainConfig:
    """The config with the EPOCHS that go with its kind of head, its views and its optimiser, where
    these `keys` of them are not the config's own."""
    again = train.model_copy(update=dict.fromkeys(keys, "auto")).settled(images)
    return train.model_copy(update={key: getattr(again, key) for key in keys})


def with_room_for_views(train: TrainConfig, net: VisionTransformer, split: Split) -> TrainConfig:
    """The config with the views that few pictures get, half as many while the disk has no room for
    them, or with one."""
    many, why = cast(int, train.views), "" if train.augments else ", as no augmentation is on"
    while many > 1:
        some = train.model_copy(update={"views": many})
        if not (lacks := Plan(net, split, some, checkpoint_bytes(train, net)).lacks_room()):
            log.info("views auto: %d of each picture that is learned%s", many, why)
            return some
        why = f", as the tokens of {many} would take {lacks}"
        many //= 2
    log.info("views auto: one of each picture%s", why)
    return train.model_copy(update={"views": 1})


def with_head(train: TrainConfig, net: VisionTransformer, caches: bool) -> TrainConfig:
    """The config with a kind of head that goes with it: `auto` is `class` without a token cache or
    frozen blocks to read; with several blocks that train, which no search tries, it is `both`."""
    frozen = train.mode == "finetune" and read_depths(net)
    if train.head == "auto" and not (frozen and caches):
        return train.model_copy(update={"head": "class"})
    if train.head != "class" and not frozen:
        blocks = net.vit.num_layers
        raise UserError(
            f"train.head: {train.head} reads the later half of the blocks, {blocks // 2 + 1} to "
            f"{blocks} of {blocks}, as far as they are frozen; train.finetune_blocks=1 leaves some"
        )
    if train.head in ("auto", "both") and train.finetune_blocks > 1:
        views = RECIPES[train.mode].views if train.views == "auto" else train.views
        log.info(
            "%d blocks train: no settings are tried, and no training picture gets an answer by a "
            "fit without it, as that would take longer than all else; both heads answer",
            train.finetune_blocks,
        )
        return train.model_copy(update={"head": "both", "views": views})
    return train


def with_greys_of(net: VisionTransformer, split: Split, train: TrainConfig) -> TrainConfig:
    """The config with the scale of the greys that was found for the pictures; the network takes it
    along, for the pictures that it will be shown."""
    greys = greys_of(split.samples)
    net.preprocessing = net.preprocessing.model_copy(update={"greys": greys})
    return train.model_copy(update={"greys": greys}) if greys else train


def still_to_find(train: TrainConfig) -> dict[str, Any]:
    """What a search is to find: the learning rate and, where they are free as well, the optimiser
    and the weight decay."""
    names = ("lr", "optim", "weight_decay")
    return {name: getattr(train, name) for name in names} if train.lr == "auto" else {}


def try_transform(name: str, split: Split, seed: int) -> str:
    """A transform of one's own on the first training picture: what is wrong with it is said now.

    Returns what tells it from others: its name and its source's digest.
    """
    own = Own(name)
    one_picture = ImageDataset(split.part("train")[:1], v2.Compose([own]), split.decoded, seed)
    log.info("augmentation: %s (%s)", own.extra_repr(), own.place)
    if not torch.equal(one_picture[0, 2][0], one_picture[0, 2][0]):
        log.info(
            "  it gives two pictures from one seed, so no run with it can be repeated: let it take "
            "its random numbers from torch, random or numpy.random themselves"
        )
    return own.extra_repr()


def said_of(split: Split) -> str:
    """A folder's classes and images, in one line."""
    counts = ", ".join(f"{len(split.part(part))} {part}" for part in PARTS if split.part(part))
    return f"{split.root}: {len(split.classes)} classes, images: {counts}"


def report_data(split: Split) -> None:
    """Log what a folder holds, and what of it is not used."""
    log.info("%s", said_of(split))
    for note in split.notes:
        log.info("  %s", note)
    if split.unused:
        log.info("  not used: %d file(s), named by --check and in the run's log", len(split.unused))
    for path, reason in split.unused:
        log.debug("not used: %s: %s", path, reason)


def moment_bytes(train: TrainConfig, trainable: int) -> int:
    """What the optimiser remembers: two numbers a parameter for AdamW, one for SGD."""
    numbers = 1 if train.optim == "sgd" else 2  # auto: it may be AdamW
    return numbers * (1 if train.use_bitsandbytes else 4) * trainable


def checkpoint_bytes(train: TrainConfig, net: VisionTransformer) -> int:
    """The room that checkpoints take: best.safetensors, those to go on from, and the larger of them
    once more: a file that is replaced is there until the new one is whole."""
    total, trainable = net.parameter_counts()
    more = moment_bytes(train, trainable) + (4 * trainable if train.ema else 0)
    kept = trainable if train.save == "trained" and train.mode == "finetune" else total
    best, last = 4 * kept, 4 * trainable + more
    return best + train.keep_last * last + max(best, last)
