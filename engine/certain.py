"""What a finished network knows of its own answers, by the pictures that it had not learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from certainty.certainty import Certainty
from certainty.likeness import Likeness, can_be_measured, fit_likeness, share_below
from certainty.sure import NOTHING, calibration_error, found_temperature, set_level
from dataset import loader_options
from engine.answers import OUT_OF_FOLD
from engine.cores import SMALL, one_core
from engine.heads import some_of_each
from engine.job import Job, Setting
from engine.start import Work
from filing.csv_files import read_csv
from images import ImageDataset
from model import VisionTransformer, entering, summaries
from tokens.cache import Loaders, TokenLoader, layers_of
from transforms import eval_transform
from utils import UserError, autocast, progress_bar

FEW = 100  # held-out pictures: fewer, and the training ones that a fold held out are asked as well
# Fewer held-out pictures, and a new one of the classes is further than all of them, so unlike, in
# more than one of twenty cases: in a third by two (Bates et al. 2023, arXiv:2104.08279).
FEWEST_KNOWN = 19
MOST_FITTED = 1_500  # pictures: more, and decompositions take longer than the rest of a run's end


def make_certain(
    work: Work,
    job: Job,
    loaders: Loaders,
    given: Mapping[str, tuple[Tensor, Tensor]],
    setting: Setting | None,
) -> dict[str, Any]:
    """Give the job's network its `certainty`, of its answers to the validation part, one of the
    held-out parts `given` (logits (n, C) and labels (n,)); what summary.json says of it."""
    logits, labels = given["val"]
    folds = _out_of_fold(work)
    known = len(folds) > 0
    if known:  # what a fold held out was made as sure as it is right
        temperature = 1.0 if setting is None else setting.temperature
        if setting is not None and job.train.head == "class":
            temperature = 1 / setting.scale
        own, found_by = (logits / temperature).softmax(1), "the training pictures, out of fold"
    else:
        best, own = found_temperature(logits, labels)
        temperature, found_by = best or 1.0, NOTHING if best is None else "val"
    after = (logits / temperature).softmax(1)
    by_folds = known and len(labels) < FEW
    folds = folds if by_folds else folds[:0]
    likeness, shares = _alike(work, job.net, loaders, by_folds)
    job.net.certainty = _certainty(after, labels, folds, temperature, likeness, shares)
    job.net.certainty.to(job.device)
    # A temperature of val's is fitted without the picture in question, or this would flatter.
    errors = {"val": (logits.softmax(1), own, labels)}
    if "test" in given:
        z, y = given["test"]
        errors["test"] = z.softmax(1), (z / temperature).softmax(1), y
    found: dict[str, Any] = {}
    for part, (before, calibrated, y) in errors.items():
        found[f"{part}_calibration_error"] = round(calibration_error(before, y), 6)
        found[f"{part}_calibration_error_calibrated"] = round(calibration_error(calibrated, y), 6)
    return found | {
        "temperature": round(temperature, 4),
        "temperature_by": found_by,
        "set_level": round(job.net.certainty.set_level.item(), 6),
        "held_out": len(job.net.certainty.held_out),
    }


def _certainty(
    after: Tensor,
    labels: Tensor,
    folds: Tensor,
    temperature: float,
    likeness: Likeness | None,
    shares: Tensor | None,
) -> Certainty:
    sure, answer = after.max(1)
    own = after.gather(1, labels[:, None])[:, 0]
    asked = torch.stack([sure, own, (answer == labels).float()], 1)  # n 3
    asked = torch.cat([asked, folds.float()])
    far = torch.full((len(asked),), -1.0)
    if shares is not None:
        far[: len(shares)] = shares
    found = Certainty(len(asked), likeness)
    found.temperature.fill_(temperature)
    found.set_level.fill_(set_level(asked[:, 1]))
    found.held_out = torch.stack([asked[:, 0], asked[:, 2], far], 1)
    return found


def _out_of_fold(work: Work) -> Tensor:
    """What out_of_fold.csv says of each training picture (m, 3): the answer's probability, the
    label's, and 1 where they are the same."""
    path = work.run.folder / OUT_OF_FOLD
    if not path.exists():
        return torch.empty(0, 3)
    rows = read_csv(path, ("label", "predicted", "probability", "label_probability"))
    try:
        columns = [
            [float(r["probability"]), float(r["label_probability"]), r["label"] == r["predicted"]]
            for r in rows
        ]
    except ValueError as error:
        raise UserError(f"{path} was changed since this run wrote it: {error}") from None
    return torch.tensor(columns, dtype=torch.float32).reshape(-1, 3)


def _alike(
    work: Work, net: VisionTransformer, loaders: Loaders, by_folds: bool
) -> tuple[Likeness | None, Tensor | None]:
    """The likeness to the training pictures, and of each picture that is asked (the validation
    part, and `by_folds` the training one) the share of known ones that lie nearer."""
    depths = _depths(net)
    learned = [sample.label for sample in work.split.part("train")]
    groups = np.array([sample.group for sample in work.split.part("train")])
    chosen = some_of_each(np.array(learned), MOST_FITTED)
    labels = torch.tensor(learned)[torch.from_numpy(chosen)]
    few = len(set(learned)) < 2 or len(chosen) - len(set(learned)) < 2
    if not depths or few or not can_be_measured(labels, groups[chosen]):
        return None, None
    all_asked = by_folds and len(chosen) == len(learned)
    if len(work.split.part("val")) + all_asked * len(learned) < FEWEST_KNOWN:
        return None, None
    features = _features(work, net, loaders, "train", chosen, depths)
    held_out = _features(work, net, loaders, "val", None, depths)
    with one_core(len(chosen) <= SMALL):
        likeness, by_other_folds = fit_likeness(features, labels, depths, groups[chosen])
        known = likeness.scores(held_out)
    if all_asked:
        known = torch.cat([known, by_other_folds])
    likeness.known = known.sort().values
    return likeness, share_below(likeness.known, known)


def _depths(net: VisionTransformer) -> list[int]:
    """The blocks whose input is compared: all that stay frozen but for the first quarter."""
    blocks = net.vit.num_layers
    frozen = blocks if net.frozen_depth is None else net.frozen_depth
    return list(range(max(1, blocks // 4), min(frozen, blocks - 1) + 1))


def _features(
    work: Work,
    net: VisionTransformer,
    loaders: Loaders,
    part: str,
    chosen: np.ndarray | None,
    depths: list[int],
) -> Tensor:
    """The class and mean tokens that enter the blocks `depths` (n, P), of a part's pictures, or
    of those `chosen`: from the cache, or where there is none computed."""
    loader = loaders[part]
    if isinstance(loader, TokenLoader) and loader.cache.layers is not None:
        return entering(layers_of(loader.plain(chosen))[0], depths)
    samples = work.split.part(part)
    some = range(len(samples)) if chosen is None else chosen.tolist()
    transform = eval_transform(net.preprocessing, net.vit.input_channels)
    images = ImageDataset(samples, transform, work.split.decoded, work.train.seed)
    batches = DataLoader(
        Subset(images, some),
        batch_size=work.train.eval_batch_size,
        **loader_options(work.train, work.device),
    )
    found = [
        _entering(net, batch.to(work.device), depths, work.train.trunk_bf16)
        for batch, _ in progress_bar(batches, f"likeness, {part}", unit="batch")
    ]
    return torch.cat(found)


@torch.inference_mode()
def _entering(net: VisionTransformer, images: Tensor, depths: list[int], bf16: bool) -> Tensor:
    was_training = net.training
    net.eval()
    seen = []
    with autocast(net.device, bf16):
        x = net.forward_trunk(images, 0)
        for block in net.blocks[: depths[-1]]:
            x = block(x)
            seen.append(summaries(x.float()))
    net.train(was_training)
    return entering(torch.cat(seen, 1), depths).float().cpu()
