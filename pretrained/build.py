"""Weights -> a VisionTransformer, with the head and the frozen part that a job wants."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certainty.certainty import certainty_in
from config import OF_THE_WEIGHTS, Config, Preprocessing, ViTConfig
from model import VisionTransformer
from pretrained.files import digest_of, metadata_in, read_arrays
from pretrained.names import Missing, missing, resolve
from pretrained.read import Weights, convert, layers_head, read
from utils import UserError, log, some

FOUND = ("layers.", "certainty.")  # not trained: solved for and measured at the end of a run
HEADS = ("head.", "pre_logits.", *FOUND)  # of what is the head's the names begin so


def load_model(
    path_or_name: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    device: str | torch.device = "cpu",
) -> VisionTransformer:
    """A VisionTransformer from any known weights, its architecture inferred from the arrays.

    `num_classes=None` keeps the file's head (and pre_logits; without a head, features come out);
    a number gives a fresh zero head. `image_size`, in pixels, resamples the positions; None keeps
    the table's own size. Raises UserError where the weights can't be had or understood.
    """
    for name, value, least, most in (
        ("num_classes", num_classes, 0, 10_000_000),
        ("image_size", image_size, 1, 10_000),
    ):
        whole_number = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole_number and least <= value <= most):
            raise UserError(f"{name}={value!r:.40}: a whole number from {least} to {most:,}")
    classes = None if num_classes is None else int(num_classes)  # NumPy's, too
    size = None if image_size is None else int(image_size)
    weights = whole(resolve(str(path_or_name)))
    _say(weights)
    return build(weights, num_classes=classes, image_size=size).to(device)


def build(
    weights: Weights,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    classes: tuple[str, ...] | None = None,
) -> VisionTransformer:
    """The model that `load_model` promises, of weights already read, in eval mode.

    Its parameters are the weights' own arrays, not copies.
    """
    changes: dict[str, Any] = {"dropout": dropout, "attention_dropout": attention_dropout}
    state = dict(weights.state)
    fresh: set[str] = set()
    if num_classes is not None:
        changes |= {"num_classes": num_classes, "representation_size": None}
        dropped = {name for name in state if name.startswith(HEADS)}
        state = {name: tensor for name, tensor in state.items() if name not in dropped}
        fresh = {"head.weight", "head.bias"} if num_classes else set()
        if dropped:
            log.info("dropped for a fresh head: %s", some(sorted(dropped)))
    if image_size is not None:
        patch = weights.vit.patch_dim
        if image_size % patch:
            raise UserError(
                f"vit.dim: {image_size} is not a multiple of the weights' patch_dim ({patch}); the "
                f"nearest is {max(1, round(image_size / patch)) * patch}"
            )
        changes["dim"] = image_size
        state["pos_embed"] = resample_positions(state["pos_embed"], image_size // patch)
    vit = weights.vit.model_copy(update=changes)
    preprocessing = weights.preprocessing.model_copy(update={"image_size": vit.dim})
    kept = weights.classes if num_classes is None else classes
    with torch.device("meta"):  # no random values that would be overwritten: 1.4 s for a B/16
        net = VisionTransformer(vit, preprocessing, kept)
        net.layers, net.certainty = layers_head(state, vit), certainty_in(state)
    state |= {name: torch.zeros(net.get_parameter(name).shape) for name in fresh}
    state |= {name: array.long() for name, array in state.items() if name.endswith(".depths")}
    net.load_state_dict(state, assign=True)
    return net.eval()


def whole(path: Path) -> Weights:
    """What `read` gives of a file; of one that holds only what was trained (`train.save`), with the
    rest out of the weights that it was trained from."""
    if path.is_dir() or "base" not in metadata_in(path):
        return read(path)
    arrays, metadata = read_arrays(path)
    if "base" not in metadata:  # another program's word
        return read(path)
    base = metadata["base"]
    lacks = f"{path} holds only what was trained from {base}"
    try:
        rest = dict(read(resolve(base)).state)
    except UserError as error:
        raise UserError(f"{lacks}, which is needed as well: {error}") from None
    patch = rest["patch_embed.proj.weight"].shape[-1]
    if metadata["dim"] % patch:
        raise UserError(
            f"{path} is for pictures of {metadata['dim']} px, no multiple of {base}'s patches "
            f"({patch} px); fetch or write the file again"
        )
    rest["pos_embed"] = resample_positions(rest["pos_embed"], metadata["dim"] // patch)
    rest = {n: a for n, a in rest.items() if n not in arrays and not n.startswith(HEADS)}
    if digest_of(rest) != metadata["frozen"]:
        raise UserError(f"{lacks}, which is not what it was then; put the right file there")
    return convert(rest | arrays, metadata, str(path))


class NotFetched(UserError):
    """Weights that are not here, of an architecture that their name does not tell."""


def build_for(config: Config, classes: tuple[str, ...], fetch: bool = True) -> VisionTransformer:
    """The model that a config asks for, with a head for `classes`, frozen as its mode says.

    The head is fresh, unless the weights are a checkpoint of ours for the very same classes. With
    `fetch=False`, in the place of weights that are not here come random ones of the same sizes.

    Raises UserError listing the keys of `vit` that the file sets unlike its weights.
    """
    vit = config.vit
    if vit.num_classes not in ("auto", len(classes)):
        raise UserError(
            f"vit.num_classes is {vit.num_classes}, but {config.train.base_dir} has "
            f"{len(classes)} classes ({some(classes)}); set it to {len(classes)} or auto"
        )
    if config.train.mode == "scratch":
        net = VisionTransformer(vit.concrete(len(classes)), classes=classes)
        net.preprocessing = fit_of(net.preprocessing, config)
        return net
    assert config.train.checkpoint is not None
    named = (config.train.checkpoint, config.train.save_path, config.train.log_path)
    absent = None if fetch else missing(*named)
    weights = stand_in(absent) if absent else whole(resolve(*named))
    if not absent:
        _say(weights)
    _check_architecture(vit, weights)
    size = vit.dim if "dim" in vit.model_fields_set else weights.preprocessing.image_size
    keeps_head = weights.classes == classes and weights.vit.num_classes == len(classes)
    weights = without_layers(weights)
    if keeps_head:
        log.info("  the head is kept: it was trained on these classes")
    net = build(
        weights,
        num_classes=None if keeps_head else len(classes),
        image_size=size,
        dropout=vit.dropout,
        attention_dropout=vit.attention_dropout,
        classes=classes,
    )
    net.preprocessing = fit_of(net.preprocessing, config)
    if config.train.mode == "finetune":
        depth = net.vit.num_layers - config.train.trained_blocks
        if depth < 0:
            raise UserError(
                f"train.finetune_blocks is {config.train.finetune_blocks}, but {weights.source} "
                f"has {net.vit.num_layers} blocks"
            )
        net.freeze_trunk(depth)
    return net


def stand_in(absent: Missing) -> Weights:
    """Random weights in the place of some that are not here; NotFetched where their sizes are not
    known before."""
    what = f"the weights are not here: a run fetches {absent.source} to {absent.path}"
    if absent.vit is None:
        raise NotFetched(f"{what}; what it does with them can't be said before")
    net = VisionTransformer(absent.vit)
    total, _ = net.parameter_counts()
    log.info("%s (about %.0f MB); nothing is fetched now", what, 4 * total / 1e6)
    known = Preprocessing(image_size=absent.vit.dim)
    state = {name: array for name, array in net.state_dict().items() if not name.startswith(HEADS)}
    return Weights(state, net.vit, known, "google", absent.source)


def _say(weights: Weights) -> None:
    log.info("weights: %s, %s layout", weights.source, weights.layout)
    for note in weights.notes:
        log.info("  %s", note)


def fit_of(preprocessing: Preprocessing, config: Config) -> Preprocessing:
    """The weights' preprocessing, with the fit that the config names."""
    asked = config.train.fit
    return preprocessing if asked == "auto" else preprocessing.model_copy(update={"fit": asked})


def without_layers(weights: Weights) -> Weights:
    """A head over layers is solved for, not trained, and what is known of a network's answers is
    another's: a training begins without either."""
    state = {n: tensor for n, tensor in weights.state.items() if not n.startswith(FOUND)}
    if any(name.startswith("layers.") for name in weights.state):
        log.info("  the head over layers is left out: a training solves for it anew")
        if not weights.vit.num_classes:
            log.info("  beside it there was no class head: a fresh one takes its place")
    return replace(weights, state=state)


def _check_architecture(vit: ViTConfig, weights: Weights) -> None:
    differing = [
        f"{key}: {getattr(vit, key)} in the config, {getattr(weights.vit, key)} in the weights"
        for key in OF_THE_WEIGHTS
        if key != "dim"  # for which the positions are resampled
        and key in vit.model_fields_set
        and getattr(vit, key) != getattr(weights.vit, key)
    ]
    if differing:
        raise UserError(
            f"vit does not fit {weights.source}: {'; '.join(differing)}; leave these keys of vit "
            "out, or write auto"
        )
    for key in ("eps", "gelu"):
        asked, own = getattr(vit, key), getattr(weights.vit, key)
        if asked not in ("auto", own):
            log.info(
                "vit.%s: %s is not what the weights were trained with; using %s", key, asked, own
            )


def resample_positions(pos_embed: Tensor, grid: int) -> Tensor:
    """The position table (1, N, D) for a grid x grid of patches; the class token's row is kept.

    Bicubic with antialiasing, in float32, as timm's `resample_abs_pos_embed`. Raises ValueError
    where the table's patches are not a square.
    """
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    old = round(patches.shape[1] ** 0.5)
    if old * old != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patch positions are not a square")
    if old == grid:
        return pos_embed
    D = patches.shape[2]
    square = patches.reshape(1, old, old, D).permute(0, 3, 1, 2).float()  # 1 D old old
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True)
    patches = square.permute(0, 2, 3, 1).reshape(1, grid * grid, D).to(pos_embed.dtype)
    return torch.cat([cls, patches], dim=1)
