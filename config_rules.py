"""Settings that don't go together: each fault with its keys, and what would be right."""

from __future__ import annotations

import math
import os
import re

from config import RECIPES, Config, TrainConfig
from system.filenames import is_table, shown

Fault = tuple[bool, str, str]  # whether it is wrong, the keys (the first is blamed), the message


def combinations(config: Config) -> list[tuple[set[str], str]]:
    """Faults of several keys together: the keys, and the message."""
    train = config.train
    rows = [*_vit(config), *_mode(train), *_epochs(train)]
    rows += [*_transform(train), *_folders(train)]
    rows.append(
        (
            config.overfit_one_batch.overfit and bool(train.from_checkpoint),
            "overfit_one_batch.overfit train.from_checkpoint",
            "a sanity check starts anew: leave train.from_checkpoint out",
        )
    )
    return [
        (set(keys.split()), f"{keys.split()[0]}: {message}")
        for wrong, keys, message in rows
        if wrong
    ]


def places_that_clash(train: TrainConfig) -> list[str]:
    """Where a run can't write: its checkpoints where its logs are, and either as the folder of
    pictures itself, whose folders are classes. Not a fault of the settings alone, but of what lies
    where they are read."""
    log_path, save_path, pictures = (
        os.path.realpath(path) for path in (train.log_path, train.save_path, train.base_dir)
    )
    found = []
    if log_path == save_path:
        found.append(
            f"train.log_path: {shown(train.log_path)} is save_path, too; each needs a folder of "
            "its own"
        )
    for key, place in (("log_path", log_path), ("save_path", save_path)):
        if place == pictures:
            found.append(
                f"train.{key}: {shown(train.base_dir)} is the folder of pictures; runs need one of "
                "their own"
            )
    return found


def _vit(config: Config) -> list[Fault]:
    """What an architecture can't be, and what it does not go with."""
    vit, train = config.vit, config.train

    def settled(*keys: str) -> bool:
        """Keys that the file leaves out come from the weights, and are checked with them."""
        return train.mode == "scratch" or set(keys) <= vit.model_fields_set

    return [
        (
            settled("hidden_dim", "num_heads") and vit.hidden_dim % vit.num_heads != 0,
            "vit.num_heads vit.hidden_dim",
            f"{vit.num_heads} does not divide hidden_dim ({vit.hidden_dim})",
        ),
        (
            settled("dim", "patch_dim") and vit.dim % vit.patch_dim != 0,
            "vit.dim vit.patch_dim",
            f"{vit.dim} is not a multiple of patch_dim ({vit.patch_dim}); "
            f"the nearest is {max(1, round(vit.dim / vit.patch_dim)) * vit.patch_dim}",
        ),
        (
            train.mode == "finetune"
            and "num_layers" in vit.model_fields_set
            and train.finetune_blocks > vit.num_layers,
            "train.finetune_blocks vit.num_layers",
            f"{train.finetune_blocks} is more than num_layers ({vit.num_layers})",
        ),
        (
            train.mode != "scratch" and vit.representation_size is not None,
            "vit.representation_size train.mode",
            "only with mode scratch: pre_logits are dropped with the old head; set it to null",
        ),
        (
            vit.num_classes in (0, 1),
            "vit.num_classes",
            f"{vit.num_classes} can't be told apart: a classifier needs 2 or more, or auto",
        ),
    ]


def _mode(train: TrainConfig) -> list[Fault]:
    """What a mode needs, and what it does not go with."""
    blends = [key for key in ("mixup", "cutmix") if getattr(train, key) not in ("auto", 0)]
    return [
        (
            train.mode != "scratch" and train.checkpoint is None,
            "train.checkpoint train.mode",
            f"mode {train.mode} needs weights: a path, a URL, owner/name, or google-in21k-augreg",
        ),
        (
            train.mode != "finetune" and train.cache == "on",
            "train.cache train.mode",
            f"on works in mode finetune only: in mode {train.mode} the tokens change every step",
        ),
        (
            train.head in ("layers", "both") and not train.may_cache,
            "train.head train.mode train.cache",
            f"{train.head} is fitted to cached tokens: mode finetune, with cache auto or on",
        ),
        (
            train.refit is True and not train.may_refit,
            "train.refit train.mode train.cache train.keep train.early_stopping",
            "true learns val, too: mode finetune, from cached tokens, with the last epoch kept",
        ),
        (
            train.mode == "finetune" and bool(blends),
            " ".join(f"train.{key}" for key in (*blends, "mode")),
            f"{' and '.join(blends)} blend{'' if len(blends) > 1 else 's'} images, and finetune "
            "trains on what the frozen blocks made of them: modes pretrained and scratch only",
        ),
        (
            train.parallel == "fsdp" and train.mode == "finetune",
            "train.parallel train.mode",
            "fsdp shares out a network whose weights all train: modes pretrained and scratch only",
        ),
        (
            train.parallel == "fsdp" and (train.use_bitsandbytes or train.compile),
            "train.parallel train.use_bitsandbytes train.compile",
            "fsdp goes with neither 8-bit moments nor compile",
        ),
        (
            train.balanced_sampler and train.class_weights == "balanced",
            "train.class_weights train.balanced_sampler",
            "balanced beside a balanced sampler would count the rare classes twice; keep one",
        ),
        (
            train.optim == "sgd" and train.use_bitsandbytes and train.momentum == 0,
            "train.momentum train.optim train.use_bitsandbytes",
            "bitsandbytes has no SGD without momentum; 0.9 is usual",
        ),
    ]


def _transform(train: TrainConfig) -> list[Fault]:
    """How a transform of one's own is named, and what it does not go with."""
    own = train.transform
    return [
        (
            own is not None and not re.fullmatch(r"[\w.]+:[\w.]+", own),
            "train.transform",
            f"'{own!s:.60}' is not package.module:function",
        ),
        (
            own is not None and train.views == 1,
            "train.transform train.views",
            "with views 1 no picture is augmented; leave views out",
        ),
    ]


def _epochs(train: TrainConfig) -> list[Fault]:
    """What is counted in epochs, and which epoch is kept."""
    epochs = math.inf if train.max_epochs == "auto" else train.max_epochs
    warmup = 0 if train.warmup_epochs == "auto" else train.warmup_epochs
    decay, most = train.decay_epochs or 0, f"max_epochs ({train.max_epochs})"
    return [
        (
            warmup > epochs,
            "train.warmup_epochs train.max_epochs",
            f"{warmup:g} is more than {most}",
        ),
        (
            warmup <= epochs < warmup + decay,
            "train.decay_epochs train.warmup_epochs train.max_epochs",
            f"{decay:g} and the warm-up ({warmup:g}) are more than {most}",
        ),
        (
            train.decay_epochs is not None and train.scheduler_type != "wsd",
            "train.decay_epochs train.scheduler_type",
            f"only wsd has a decay phase; scheduler_type is {train.scheduler_type}",
        ),
        (
            train.keep == "last" and train.early_stopping is not None,
            "train.keep train.early_stopping",
            "last does not go with early stopping, which is about the best; leave one out",
        ),
        (
            train.eval_epoch > epochs,
            "train.eval_epoch train.max_epochs",
            f"{train.eval_epoch} is more than {most}: nothing would be evaluated",
        ),
        (
            train.early_stopping is not None and train.early_stopping < train.eval_epoch,
            "train.early_stopping train.eval_epoch",
            f"{train.early_stopping} epochs of patience is less than eval_epoch "
            f"({train.eval_epoch})",
        ),
    ]


PATHS = (
    "base_dir",
    "checkpoint",
    "split",
    "labels",
    "from_checkpoint",
    "from_run",
    "data",
    "save_path",
    "log_path",
)


def _folders(train: TrainConfig) -> list[Fault]:
    """What is cut from the folder of images, paths, and the name of the run's own."""
    name = train.run_name
    unset = [
        (key, re.search(r"\$(\w+|\{\w+\})", path))
        for key in PATHS
        if isinstance(path := getattr(train, key), str)
        and "://" not in path
        and not os.path.exists(path)
    ]
    return [
        *(
            (True, f"train.{key}", f"{found[0]} is not set in the environment")
            for key, found in unset
            if found
        ),
        (
            (train.test_fraction or 0) + train.val_fraction >= 1,
            "train.test_fraction train.val_fraction",
            f"{train.test_fraction} and val_fraction ({train.val_fraction}) leave nothing to train",
        ),
        (
            train.groups is not None and _is_no_pattern(train.groups),
            "train.groups",
            f"'{train.groups!s:.60}' is neither a .csv with the columns path and group, nor a "
            "pattern with one pair of parentheses, around what names the group: '(patient\\d+)'",
        ),
        (
            name is not None
            and (name in ("", ".", "..") or "/" in name or "\\" in name or len(name) > 200),
            "train.run_name",
            f"'{name!s:.60}' is not a plain folder name",
        ),
    ]


def _is_no_pattern(groups: str) -> bool:
    """Whether it is not the name of a table, and no regular expression that captures one thing."""
    if is_table(groups):
        return False
    try:
        return re.compile(groups).groups != 1
    except (re.error, RecursionError, OverflowError):
        return True


def advice(train: TrainConfig) -> list[str]:
    """A line for what a training gains nothing by: views that are all alike, and a learning rate
    far from where this mode trains."""
    alike = train.views != "auto" and train.views > 1 and not train.augments
    said = [
        f"train.views: {train.views} of a picture are the same picture, as no augmentation is on; "
        "1 does as well"
    ]
    return [*(said if alike else []), *_far_off(train)]


def _far_off(train: TrainConfig) -> list[str]:
    if train.lr == "auto":
        return []
    scale = train.recipe_lr / RECIPES[train.mode].lr
    low, high = (end * scale for end in RECIPES[train.mode].sane)
    if low <= train.lr <= high:
        return []
    what = "little is learned" if train.lr < low else "it diverges, or unlearns the weights"
    return [
        f"train.lr: {train.lr:g} is far from {train.recipe_lr:.2g}, which mode {train.mode} trains "
        f"well with ({low:.2g} to {high:.2g}, {train.recipe_optim}, batch {train.batch_size}): "
        f"{what}"
    ]
