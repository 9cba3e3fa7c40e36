"""The schema of config.yaml, where each setting gets its type, and the recipes behind `auto`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from config_types import (
    OFF,
    Auto,
    Channels,
    Count,
    Depth,
    Deviation,
    Fraction,
    Mean,
    Names,
    NotNegative,
    Number,
    PathText,
    Pixels,
    Size,
    Whole,
    on_off,
)


class ConfigError(ValueError):
    """The configuration can't be used; the message lists every fault and is meant for the user."""


class Section(BaseModel):
    """A section of config.yaml: frozen, and no key but its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


Fit = Literal["crop", "pad", "squash"]


class Preprocessing(Section):
    """How pixels become the network's input; it belongs to the weights and travels with them.

    An image is resized so that its shorter side is image_size / crop, cut to its central
    image_size square (or all of it made that square: `fit`), scaled to [0, 1], and normalised per
    channel by mean and std. Of greys of more than 8 bits, `greys` are black and white.
    """

    mean: tuple[Mean, Mean, Mean] = (0.5, 0.5, 0.5)
    std: tuple[Deviation, Deviation, Deviation] = (0.5, 0.5, 0.5)
    image_size: Pixels = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Annotated[Number, Field(ge=0.1, le=1)] = 0.875
    fit: Fit = "crop"
    greys: tuple[float, float] | None = None


# Sizes of the usual networks (arXiv:2010.11929, table 1; Ti and S: arXiv:2012.12877), patch 16.
SIZES = ("hidden_dim", "num_heads", "num_layers", "ff_dim")
PRESETS: dict[str, dict[str, int]] = {
    "Ti": dict(zip(SIZES, (192, 3, 12, 768), strict=True)),
    "S": dict(zip(SIZES, (384, 6, 12, 1536), strict=True)),
    "B": dict(zip(SIZES, (768, 12, 12, 3072), strict=True)),
    "L": dict(zip(SIZES, (1024, 16, 24, 4096), strict=True)),
    "H": dict(zip(SIZES, (1280, 16, 32, 5120), strict=True)),
}
# What the weights know best: left out or auto, it is theirs; from scratch, the default.
OF_THE_WEIGHTS = ("patch_dim", "input_channels", *SIZES, "dim")


class ViTConfig(Section):
    """The architecture; keys that a file leaves out are taken from the weights that it names."""

    preset: Literal["Ti", "S", "B", "L", "H"] | None = None
    patch_dim: Size = 16
    input_channels: Channels = 3
    num_classes: Annotated[Whole, Field(ge=0, le=10_000_000)] | Auto = "auto"
    hidden_dim: Size = 768
    num_heads: Size = 12
    num_layers: Depth = 12
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    eps: Annotated[Number, Field(gt=0, lt=0.1)] | Auto = "auto"
    ff_dim: Size = 3072
    dim: Pixels = 224
    gelu: Literal["tanh", "exact", "auto"] = "auto"
    representation_size: Size | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_auto(cls, given: Any) -> Any:
        """`auto` is what a key is that is left out; a preset gives the sizes that are left out."""
        if not isinstance(given, dict):
            return given
        kept = {k: v for k, v in given.items() if k not in OF_THE_WEIGHTS or v != "auto"}
        preset = kept.get("preset")
        return (PRESETS.get(preset, {}) if isinstance(preset, str) else {}) | kept

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
# Of few pictures a head over layers learns most by views (EXPERIMENTS.md, 2026-11-27): so many.
FEW, VIEWED, MOST_VIEWS = 400, 800, 16
LONGER = 4  # times the recipe's steps, for these by SGD (EXPERIMENTS.md, 2026-11-28)
SHORT = 0.5  # of the recipe's steps: a training of fewer is called short
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

# What `auto` comes to depends on the training images, or (`keep`) on a setting that may be new.
BY_IMAGES = ("max_epochs", "warmup_epochs", "keep", "views")


class TrainConfig(Section):
    """How the network is trained, on what, and where the results go; config.yaml explains."""

    mode: Mode = "finetune"
    checkpoint: Annotated[PathText | None, OFF] = "google-in21k-augreg"
    from_checkpoint: Annotated[bool | PathText | None, OFF] = None
    from_run: Annotated[PathText | None, OFF] = None
    finetune_blocks: Annotated[Whole, Field(ge=0)] = 1
    head: Literal["class", "layers", "both"] | Auto = "auto"
    cache: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_off)] = "auto"
    cache_dtype: Literal["float16", "float32"] = "float16"
    trunk_dtype: Literal["float32", "bfloat16"] = "float32"

    base_dir: PathText = "data/pilots"
    data: PathText = "data"
    val_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    test_fraction: Annotated[Annotated[Number, Field(gt=0, lt=1)] | None, OFF] = None
    classes: Annotated[Names | None, OFF] = None
    split: Annotated[PathText | None, OFF] = None
    labels: Annotated[PathText | None, OFF] = None
    group_duplicates: bool = True
    groups: Annotated[str | None, OFF] = None
    new_images: Annotated[Literal["train"] | None, OFF] = None
    fit: Fit | Auto = "auto"
    on_bad_image: Literal["error", "skip"] = "error"
    max_pixels: Annotated[Count | None, OFF] = 500_000_000
    greys: tuple[Number, Number] | Auto = "auto"
    num_workers: Annotated[Whole, Field(ge=0, le=1_000)] | Auto = "auto"
    shuffle_buffer: Count = 10_000
    shard_cache: Annotated[Number, Field(gt=0)] | Auto = "auto"
    views: Count | Auto = "auto"
    crop_scale: Annotated[Number, Field(gt=0, le=1)] = 0.5
    flip: Annotated[Number, Field(ge=0, le=1)] = 0.5
    vertical_flip: Annotated[Number, Field(ge=0, le=1)] = 0.0
    rotate: Annotated[Number, Field(ge=0, le=180)] = 0.0
    color_jitter: Annotated[Number, Field(ge=0, le=1)] = 0.2
    transform: Annotated[str | None, OFF] = None
    mixup: NotNegative | Auto = "auto"
    cutmix: NotNegative | Auto = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    balanced_sampler: bool = False

    max_epochs: Count | Auto = "auto"
    batch_size: Count = BATCH
    accumulate: Count = 1
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
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
    ema: Annotated[Fraction | Auto | None, OFF] = "auto"
    clip_grad: Annotated[Annotated[Number, Field(gt=0)] | Auto | None, OFF] = "auto"
    keep: Literal["best", "last"] | Auto = "auto"
    early_stopping: Annotated[Count | None, OFF] = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    verdict: bool = True
    refit: bool | Auto = "auto"
    report: bool = True

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    bf16: bool = False
    compile: bool = False
    deterministic: bool = False
    seed: Annotated[Whole, Field(ge=0)] = 0

    run_name: PathText | None = None
    save_path: PathText = "weights"
    log_path: PathText = "logs"
    eval_epoch: Count = 1
    log_epoch: Count | Auto = "auto"
    track: Annotated[Literal["wandb", "mlflow"] | None, OFF] = None
    save_epoch: Count | Auto = "auto"
    save_steps: Annotated[Count | Auto | None, OFF] = "auto"
    keep_last: Count = 2
    save: Literal["all", "trained"] = "all"

    @property
    def draws(self) -> int | None:
        """How many draws of the augmentation an image has, used in turn; 1: the evaluation
        transform instead, so none; None: a new draw in each epoch."""
        if self.views != "auto":
            return self.views
        by_layers = self.head == "layers" or self.head != "class" and not self.transform
        if self.mode == "finetune" and by_layers or not self.augments:
            return 1  # the head over layers takes one; the block's are made where they pay
        return RECIPES[self.mode].views

    @property
    def augments(self) -> bool:
        """Whether one draw of a picture differs from another."""
        drawn = (self.flip, self.vertical_flip, self.rotate, self.color_jitter)
        return self.transform is not None or self.crop_scale < 1 or any(drawn)

    @property
    def trained_blocks(self) -> int:
        """How many of the last blocks train: none where the head over layers stands alone."""
        return 0 if self.head == "layers" else self.finetune_blocks

    @property
    def may_cache(self) -> bool:
        """Whether tokens may be cached; whether they fit the disk is seen later."""
        return self.mode == "finetune" and self.cache != "off"

    @property
    def trunk_bf16(self) -> bool:
        """Whether the frozen blocks compute in bfloat16: with `bf16` all does."""
        return self.bf16 or self.trunk_dtype == "bfloat16"

    @property
    def may_refit(self) -> bool:
        """Whether val chooses nothing, so that it may be learned, too, in the end."""
        return self.may_cache and self.keep != "best" and not self.early_stopping

    @property
    def refits(self) -> bool:
        """Whether the chosen setting is trained once more on all pictures that are not test."""
        return self.refit is not False and self.may_refit

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
        of_the_end = "block" if self.trained_blocks else "head"
        return of_the_end if self.mode == "finetune" else "all"

    def steps(self, images: int) -> tuple[int, int]:
        """How many steps a training on so many images takes, and how many by the mode's recipe."""
        recipe = self.model_copy(update={"max_epochs": "auto", "views": 1})  # not LONGER
        own, usual = (train.settled(images).max_epochs for train in (self, recipe))
        assert own != "auto" and usual != "auto"
        an_epoch = math.ceil(images / self.batch_size)
        return own * an_epoch, usual * an_epoch

    def settled(self, images: int) -> TrainConfig:
        """The same with each `auto` of the training settled, for so many training images; a
        search (`lr: auto` in finetune mode) begins with these values."""
        recipe, many = RECIPES[self.mode], self._views_of_few(images)
        none: int | str = "auto" if self.augments else 1
        if self.max_epochs == "auto":
            by_sgd = self.recipe_optim == "sgd" and self.finetune_blocks < 2
            longer = LONGER if many and by_sgd else 1
            wanted = math.ceil(longer * recipe.steps * BATCH / max(1, images))
            most = max(recipe.epochs[0], min(longer * recipe.epochs[1], wanted), self.eval_epoch)
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
            "views": (many if self.head == "layers" else min(many, most)) or none,
            "keep": "last" if self.mode == "finetune" and not self.early_stopping else "best",
        }
        return self.model_copy(
            update={name: value for name, value in values.items() if getattr(self, name) == "auto"}
            | {"max_epochs": most, "finetune_blocks": self.trained_blocks}
        )

    def _views_of_few(self, images: int) -> int:
        """What `views: auto` comes to where a head over layers may answer, for few pictures; 0."""
        own = self.head == "class" or self.transform is not None or self.views == 1
        if own or not (self.may_cache and self.augments) or images > FEW:
            return 0
        return max(RECIPES[self.mode].views or 1, min(MOST_VIEWS, VIEWED // max(1, images)))

    def by_images(self, images: int) -> list[str]:
        """Which of BY_IMAGES are what `auto` comes to for so many training images: a run's own file
        says that number, and `auto` no more."""

        def of_auto(name: str) -> Any:
            return getattr(self.model_copy(update={name: "auto"}).settled(images), name)

        return [name for name in BY_IMAGES if of_auto(name) == getattr(self, name)]


class OverfitConfig(Section):
    """The sanity check: one batch, no augmentation, no dropout, until it is known by heart."""

    overfit: bool = False
    tolerance: Annotated[Number, Field(gt=0)] = 0.01
    max_steps: Count = 200
    logging_steps: Count = 10


class InferenceConfig(Section):
    """What predicting takes where no weights are named."""

    checkpoint: Annotated[PathText | None, OFF] = None


class Config(Section):
    """Everything that a run depends on; frozen, typed, and written beside the run's results."""

    vit: ViTConfig = ViTConfig()
    train: TrainConfig = TrainConfig()
    overfit_one_batch: OverfitConfig = OverfitConfig()
    inference: InferenceConfig = InferenceConfig()

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, as the command line takes it."""
        return {f"{s}.{k}": v for s, keys in self.model_dump().items() for k, v in keys.items()}


SECTIONS: dict[str, type[Section]] = {n: type(f.default) for n, f in Config.model_fields.items()}
