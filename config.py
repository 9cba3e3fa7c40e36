"""The schema of config.yaml: the only reader of YAML, and where each setting gets its type.

Every fault of a file is reported at once, each with its key and what would be right.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """The configuration can't be used; the message lists every fault and is meant for the user."""


def _false_is_none(value: Any) -> Any:
    """Off is written null; the old files also wrote False."""
    return None if value is False else value


def _no_bool(value: Any) -> Any:
    """Python takes True for 1; in a config file that is a slip."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _on_off(value: Any) -> Any:
    """YAML reads a bare on and off as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Whole, Field(ge=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
NotNegative = Annotated[Number, Field(ge=0)]
Auto = Literal["auto"]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Preprocessing(_Section):
    """How pixels become the network's input; it belongs to the weights and travels with them.

    An image is resized so that its shorter side is image_size / crop, cut to its central
    image_size square, scaled to [0, 1], and normalised per channel by mean and std.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: float = 0.875


class ViTConfig(_Section):
    """The architecture; keys that a file leaves out are taken from the weights that it names."""

    patch_dim: Count = 16
    input_channels: Literal[1, 3] = 3
    num_classes: Annotated[Whole, Field(ge=0)] | Auto = "auto"
    hidden_dim: Count = 768
    num_heads: Count = 12
    num_layers: Count = 12
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    eps: Annotated[Number, Field(gt=0, lt=0.1)] | Auto = "auto"
    ff_dim: Count = 3072
    dim: Count = 224
    gelu: Literal["tanh", "exact", "auto"] = "auto"
    representation_size: Count | None = None

    def concrete(self, num_classes: int | None = None) -> ViTConfig:
        """The same architecture with every `auto` settled: eps 1e-6 and exact GELU, as timm's."""
        classes = self.num_classes if num_classes is None else num_classes
        if classes == "auto":
            raise ConfigError("vit.num_classes is auto: a model needs the number itself")
        gelu = "exact" if self.gelu == "auto" else self.gelu
        eps = 1e-6 if self.eps == "auto" else self.eps
        return self.model_copy(update={"num_classes": classes, "gelu": gelu, "eps": eps})


Mode = Literal["scratch", "pretrained", "finetune"]


@dataclass(frozen=True)
class Recipe:
    """What `auto` means in a mode. Learning rates are AdamW's, at a batch of 16.

    `steps` make up the epochs, within `epochs`: a tiny set needs more epochs, not fewer steps
    (BiT-HyperRule, arXiv:1912.11370). `sane` is where the learning rate trains at all.
    """

    lr: float
    sane: tuple[float, float]
    steps: int
    epochs: tuple[int, int]
    weight_decay: float
    label_smoothing: float = 0.1
    layer_decay: float = 1.0
    ema: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    views: int | None = None


BATCH = 16  # that of the recipes
SGD_FACTOR = 30.0  # SGD's learning rates by AdamW's: 6e-3 where AdamW takes 2e-4 (paper, table 4)
HEAD_FACTOR = 15.0  # a head alone takes so much more: 3e-3 (EXPERIMENTS.md, 2026-11-24)
WARMUP = 0.05  # of the epochs
RECIPES: dict[Mode, Recipe] = {
    # Chosen on training parts: EXPERIMENTS.md, 2026-11-24.
    "finetune": Recipe(2e-4, (1e-5, 3e-3), 900, (12, 300), 0.01, views=4),
    # lr, layer-wise decay: arXiv:2106.08254, and timm's fine-tuning of its ViTs (0.65 to
    # 0.75); all weights at 1e-3 diverge or crawl (lucidrains/vit-pytorch#34).
    "pretrained": Recipe(1e-4, (1e-6, 5e-4), 600, (8, 100), 0.05, layer_decay=0.75, ema=0.99),
    # AdamW 5e-4, weight decay 0.05: DeiT, arXiv:2012.12877, table 9. Mixup and CutMix weaker than
    # there, as for small sets in arXiv:2106.10270.
    "scratch": Recipe(5e-4, (3e-5, 3e-3), 4000, (20, 300), 0.05, mixup=0.2, cutmix=0.5),
}


class TrainConfig(_Section):
    """How the network is trained, on what, and where the results go; config.yaml explains."""

    mode: Mode = "finetune"
    checkpoint: Annotated[str | None, BeforeValidator(_false_is_none)] = "google-in21k-augreg"
    from_checkpoint: Annotated[bool | str | None, BeforeValidator(_false_is_none)] = None
    finetune_blocks: Annotated[Whole, Field(ge=0)] = 1
    cache: Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_off)] = "auto"
    cache_dtype: Literal["float16", "float32"] = "float16"

    base_dir: str = "data/pilots"
    data: str = "data"
    val_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    test_fraction: Annotated[
        Annotated[Number, Field(gt=0, lt=1)] | None, BeforeValidator(_false_is_none)
    ] = None
    split: Annotated[str | None, BeforeValidator(_false_is_none)] = None
    on_bad_image: Literal["error", "skip"] = "error"
    num_workers: Annotated[Whole, Field(ge=0)] | Auto = "auto"
    views: Count | Auto = "auto"
    crop_scale: Annotated[Number, Field(gt=0, le=1)] = 0.5
    flip: Annotated[Number, Field(ge=0, le=1)] = 0.5
    color_jitter: Annotated[Number, Field(ge=0, le=1)] = 0.2
    mixup: NotNegative | Auto = "auto"
    cutmix: NotNegative | Auto = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    balanced_sampler: bool = False

    max_epochs: Count | Auto = "auto"
    batch_size: Count = BATCH
    eval_batch_size: Count = 32
    optim: Literal["adamw", "sgd"] | Auto = "auto"
    use_bitsandbytes: bool = False
    lr: Annotated[Number, Field(gt=0)] | Auto = "auto"
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | Auto = "auto"
    momentum: Fraction = 0.9
    weight_decay: NotNegative | Auto = "auto"
    scheduler_type: Literal["warmup-cosine", "wsd"] = "warmup-cosine"
    warmup_epochs: NotNegative | Auto = "auto"
    decay_epochs: NotNegative | None = None
    label_smoothing: Fraction | Auto = "auto"
    ema: Annotated[Fraction | Auto | None, BeforeValidator(_false_is_none)] = "auto"
    clip_grad: Annotated[
        Annotated[Number, Field(gt=0)] | Auto | None, BeforeValidator(_false_is_none)
    ] = "auto"
    keep: Literal["best", "last"] | Auto = "auto"
    early_stopping: Annotated[Count | None, BeforeValidator(_false_is_none)] = None
    verdict: bool = True
    report: bool = True

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    bf16: bool = False
    compile: bool = False
    seed: Annotated[Whole, Field(ge=0)] = 0

    run_name: str | None = None
    save_path: str = "weights"
    log_path: str = "logs"
    eval_epoch: Count = 1
    log_epoch: Count = 1
    save_epoch: Count | Auto = "auto"

    @property
    def draws(self) -> int | None:
        """How many draws of the augmentation an image has, used in turn; 1: the evaluation
        transform instead, so none; None: a new draw in each epoch."""
        return RECIPES[self.mode].views if self.views == "auto" else self.views

    @property
    def recipe_optim(self) -> str:
        """The mode's optimiser. For the last block SGD: of few images it makes more than AdamW
        (EXPERIMENTS.md, 2026-11-24). A rate that is written out was meant for AdamW, though, and
        so are bitsandbytes' 8 bits."""
        if self.optim != "auto":
            return self.optim
        free = self.lr == "auto" and not self.use_bitsandbytes
        return "sgd" if self._trains == "block" and free else "adamw"

    @property
    def recipe_lr(self) -> float:
        """The mode's learning rate for this optimiser and batch (its root: arXiv:2205.10287)."""
        factor = SGD_FACTOR if self.recipe_optim == "sgd" else 1.0
        factor *= HEAD_FACTOR if self._trains == "head" else 1.0
        return RECIPES[self.mode].lr * factor * math.sqrt(self.batch_size / BATCH)

    @property
    def clip(self) -> float | None:
        """The largest gradient norm: 1 with AdamW; SGD is the better without (EXPERIMENTS.md)."""
        if self.clip_grad == "auto":
            return None if self.recipe_optim == "sgd" else 1.0
        return self.clip_grad

    @property
    def _trains(self) -> str:
        if self.mode != "finetune":
            return "all"
        return "block" if self.finetune_blocks else "head"

    def settled(self, images: int) -> TrainConfig:
        """The same with each `auto` of the training settled, for so many training images; a
        search (`lr: auto` in finetune mode) begins with these values."""
        recipe = RECIPES[self.mode]
        if self.max_epochs == "auto":
            fewest, highest = recipe.epochs
            # `steps` are those of the recipe's batch: images seen are what counts.
            wanted = math.ceil(recipe.steps * BATCH / max(1, images))
            most = max(fewest, min(highest, wanted), self.eval_epoch)
        else:
            most = self.max_epochs
        values: dict[str, Any] = {
            "max_epochs": most,
            "optim": self.recipe_optim,
            "lr": self.recipe_lr,
            "warmup_epochs": round(WARMUP * most, 2),
            "weight_decay": recipe.weight_decay,
            "label_smoothing": recipe.label_smoothing,
            "layer_decay": recipe.layer_decay,
            "ema": recipe.ema,
            "mixup": recipe.mixup,
            "cutmix": recipe.cutmix,
            "keep": "last" if self.mode == "finetune" and not self.early_stopping else "best",
        }
        return self.model_copy(
            update={name: value for name, value in values.items() if getattr(self, name) == "auto"}
            | {"max_epochs": most}
        )


class OverfitConfig(_Section):
    """The sanity check: one batch, no augmentation, no dropout, until it is known by heart."""

    overfit: bool = False
    tolerance: Annotated[Number, Field(gt=0)] = 0.01
    max_steps: Count = 200
    logging_steps: Count = 10


class Config(_Section):
    """Everything that a run depends on; frozen, typed, and written beside the run's results."""

    vit: ViTConfig = ViTConfig()
    train: TrainConfig = TrainConfig()
    overfit_one_batch: OverfitConfig = OverfitConfig()


SECTIONS: dict[str, type[_Section]] = {
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
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{path}: {count}", *problems]))
    assert config is not None
    return config, [*notes, *_advice(config.train)]


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, width=100)


def _advice(train: TrainConfig) -> list[str]:
    """A line for a learning rate far from where this mode trains."""
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
    if wrong:
        problems += wrong
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
    train["mode"] = mode
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


def _combinations(config: Config) -> list[tuple[set[str], str]]:
    """Faults of several keys together: the keys, and the message."""
    rows = [*_vit_combinations(config), *_train_combinations(config.train)]
    rows.append(
        (
            config.overfit_one_batch.overfit and bool(config.train.from_checkpoint),
            "overfit_one_batch.overfit train.from_checkpoint",
            "a sanity check starts anew: leave train.from_checkpoint out",
        )
    )
    return [
        (set(keys.split()), f"{keys.split()[0]}: {message}")
        for wrong, keys, message in rows
        if wrong
    ]


def _vit_combinations(config: Config) -> list[tuple[bool, str, str]]:
    """Whether it is wrong, the keys (the first is blamed), and the message."""
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


def _train_combinations(train: TrainConfig) -> list[tuple[bool, str, str]]:
    """The same for the keys of `train` among themselves."""
    epochs = math.inf if train.max_epochs == "auto" else train.max_epochs
    warmup = 0 if train.warmup_epochs == "auto" else train.warmup_epochs
    decay, most = train.decay_epochs or 0, f"max_epochs ({train.max_epochs})"
    name = train.run_name
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
            train.mode == "finetune" and bool({train.mixup, train.cutmix} - {"auto", 0}),
            "train.mixup train.cutmix train.mode",
            "they blend images, and finetune trains on what the frozen blocks made of them: "
            "modes pretrained and scratch only",
        ),
        (
            train.keep == "last" and train.early_stopping is not None,
            "train.keep train.early_stopping",
            "last does not go with early stopping, which is about the best; leave one out",
        ),
        (
            (train.test_fraction or 0) + train.val_fraction >= 1,
            "train.test_fraction train.val_fraction",
            f"{train.test_fraction} and val_fraction ({train.val_fraction}) leave nothing to train",
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
    found = elsewhere or tails
    return f"; did you mean {found[0]}?" if found else ""
