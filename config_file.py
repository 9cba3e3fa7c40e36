"""From config.yaml and overrides to a Config: the only reader of YAML.

Every fault of a file is reported at once, each with its key and what would be right.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from config import (
    Config,
    ConfigError,
    OverfitConfig,
    Section,
    TrainConfig,
    ViTConfig,
    advice,
)

SECTIONS: dict[str, type[Section]] = {
    "vit": ViTConfig,
    "train": TrainConfig,
    "overfit_one_batch": OverfitConfig,
}
# The two flags of this project's first version, still understood.
LEGACY_FLAGS = ("finetuning", "freeze_model")


def load_config(path: str | Path, overrides: list[str] | None = None) -> tuple[Config, list[str]]:
    """Read a YAML file and `key.sub=value` overrides into a Config.

    Returns the config and the notes (one line each) that the user should see about it. Raises
    ConfigError with every fault of the file and of the overrides together.
    """
    raw = _read_yaml(Path(path))
    raw = {key: value for key, value in raw.items() if value is not None or key not in SECTIONS}
    problems: list[str] = []
    for override in overrides or []:
        _apply_override(raw, override, problems)
    notes = _translate_legacy(raw, problems)
    config, faults = _validate(raw)
    problems += faults
    if problems:
        raise _listed(str(path), problems)
    assert config is not None
    return config, [*notes, *advice(config.train)]


def check_config(config: Config) -> tuple[Config, list[str]]:
    """A config that was made in Python as `load_config` returns one that was read.

    Raises ConfigError with every fault, as `load_config` does for a file: `model_copy` checks no
    types.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"a {type(config).__name__} is no Config: Config(train=TrainConfig(...))")
    checked, faults = _validate({n: _as_given(getattr(config, n)) for n in config.model_fields_set})
    if checked is None or faults:
        raise _listed("the config", faults)
    return checked, advice(checked.train)


def _as_given(section: Any) -> Any:
    """A section's keys as they were given, those that a copy put in unasked too."""
    fields = section.model_fields_set if isinstance(section, BaseModel) else None
    return section if fields is None else {name: vars(section)[name] for name in fields}


def _listed(where: str, problems: list[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError("\n  ".join([f"{where}: {count}", *problems]))


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, width=100)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name your settings with --config FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{path}{line}: not valid YAML: {what}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections ({', '.join(SECTIONS)}), found {raw!r:.60}")
    return raw


def _apply_override(raw: dict[str, Any], override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not dot:
        hint = _suggest(key, [f"{s}.{f}" for s in SECTIONS for f in SECTIONS[s].model_fields])
        problems.append(f"'{override}': an override is written section.key=value{hint}")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"{key}: '{text}' is not valid YAML")
        return
    if raw.get(section) is None:
        raw[section] = {}
    if isinstance(raw[section], dict):
        raw[section][name] = value


def _translate_legacy(raw: dict[str, Any], problems: list[str]) -> list[str]:
    """finetuning and freeze_model become train.mode: False -> scratch; True -> pretrained,
    with freeze_model finetune."""
    train = raw.get("train")
    if not isinstance(train, dict) or not any(flag in train for flag in LEGACY_FLAGS):
        return []
    train = raw["train"] = dict(train)
    flags = {flag: train.pop(flag, False) for flag in LEGACY_FLAGS}
    wrong = [f"train.{k}: {v!r} is not true or false" for k, v in flags.items() if v not in (0, 1)]
    problems += wrong
    if wrong:
        return []
    mode = "scratch"
    if flags["finetuning"]:
        mode = "finetune" if flags["freeze_model"] else "pretrained"
    if train.get("mode", mode) != mode:
        problems.append(
            f"train.mode: '{train['mode']}' contradicts finetuning/freeze_model, which mean "
            f"'{mode}'; keep only mode"
        )
        return []
    train |= {"mode": mode, "head": train.get("head", "class")}  # there was no other then
    old = ", ".join(f"{flag}: {value}" for flag, value in flags.items())
    return [f"{old} is the old way to write train.mode: {mode}"]


def _validate(raw: dict[str, Any]) -> tuple[Config | None, list[str]]:
    """Types first, then the combinations, those of the keys whose own value is right."""
    try:
        config = Config.model_validate(raw)
        return config, [message for _, message in _combinations(config)]
    except ValidationError as error:
        faults = _describe(error, raw)
    repaired = {
        section: {k: v for k, v in values.items() if (section, k) not in faults}
        for section, values in raw.items()
        if section in SECTIONS and isinstance(values, dict)
    }
    problems = list(faults.values())
    for keys, message in _combinations(Config.model_validate(repaired)):
        if not keys & {".".join(key) for key in faults}:
            problems.append(message)
    return None, problems


Fault = tuple[bool, str, str]  # whether it is wrong, the keys (the first is blamed), the message


def _combinations(config: Config) -> list[tuple[set[str], str]]:
    """Faults of several keys together: the keys, and the message."""
    train = config.train
    rows = [*_vit_combinations(config), *_mode_combinations(train), *_epoch_combinations(train)]
    rows += [*_transform_combinations(train), *_folder_combinations(train)]
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


def _vit_combinations(config: Config) -> list[Fault]:
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


def _mode_combinations(train: TrainConfig) -> list[Fault]:
    """What a mode needs, and what it does not go with."""
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
            train.mode == "finetune" and bool({train.mixup, train.cutmix} - {"auto", 0}),
            "train.mixup train.cutmix train.mode",
            "they blend images, and finetune trains on what the frozen blocks made of them: "
            "modes pretrained and scratch only",
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


def _transform_combinations(train: TrainConfig) -> list[Fault]:
    """How a transform of one's own is named, and what it does not go with."""
    own = train.transform or ""
    return [
        (
            bool(own) and not re.fullmatch(r"[\w.]+:[\w.]+", own),
            "train.transform",
            f"'{own}' is not package.module:function",
        ),
        (
            bool(own) and train.views == 1,
            "train.transform train.views",
            "with views 1 no picture is augmented; leave views out",
        ),
    ]


def _epoch_combinations(train: TrainConfig) -> list[Fault]:
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


def _folder_combinations(train: TrainConfig) -> list[Fault]:
    """What is cut from the folder of images, and the name of the run's own."""
    name = train.run_name
    return [
        (
            (train.test_fraction or 0) + train.val_fraction >= 1,
            "train.test_fraction train.val_fraction",
            f"{train.test_fraction} and val_fraction ({train.val_fraction}) leave nothing to train",
        ),
        (
            name is not None and (name in ("", ".", "..") or "/" in name or "\\" in name),
            "train.run_name",
            f"'{name}' is not a plain folder name",
        ),
    ]


def _describe(error: ValidationError, raw: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """One message a key, in our words; a union's several complaints become one."""
    messages: dict[tuple[str, ...], str] = {}
    for item in error.errors():
        key = tuple(str(part) for part in item["loc"][:2])
        if key in messages:
            continue
        dotted = ".".join(key)
        section = SECTIONS.get(key[0])
        if item["type"] == "extra_forbidden":
            known = list(section.model_fields) if section and len(key) > 1 else list(SECTIONS)
            messages[key] = f"{dotted}: no such key{_suggest(key[-1], known, key)}"
        elif section is None or len(key) == 1:
            keys = (
                f"a section with keys such as {next(iter(section.model_fields))}" if section else ""
            )
            messages[key] = f"{dotted}: {raw.get(key[0])!r:.40} is not {keys or 'understood'}"
        else:
            value = raw[key[0]][key[1]]
            messages[key] = f"{dotted}: {_complaint(value, item, section.model_fields[key[1]])}"
    return messages


def _complaint(value: Any, item: Any, field: FieldInfo) -> str:
    context = item.get("ctx", {})
    bounds = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    for name, words in bounds.items():
        if name in context and not isinstance(value, (str, list, dict)):
            return f"{value} should be {words} {context[name]}"
    return f"{value!r:.60} is not {_wanted(field.annotation)}"


def _wanted(annotation: Any) -> str:
    """What a key takes, in words, read off its type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _wanted(args[0])
    if origin is Literal:
        return " or ".join(str(arg) for arg in args)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_wanted(arg) for arg in args))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return "null" if annotation is type(None) else words.get(annotation, str(annotation))


def _suggest(name: str, known: list[str], key: tuple[str, ...] = ()) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    elsewhere = [f"{s}.{name}" for s, section in SECTIONS.items() if name in section.model_fields]
    tails = [full for full in known if full.endswith(f".{name.partition('=')[0]}")]
    return f"; did you mean {(elsewhere or tails)[0]}?" if elsewhere or tails else ""
