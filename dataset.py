"""From a folder of images, one sub-folder a class, to a split and its loaders.

No file is dropped in silence: what is not used is listed with its reason.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import Preprocessing, TrainConfig
from images import FileIndex, ImageDataset, Reading, Sample, read_all, with_greys
from layout.draw import assign_parts
from layout.groups import copies_notes, with_groups
from layout.grown import with_new_parts
from layout.labels import decide
from layout.parts import Found, Layout, lay_out
from layout.split_file import (
    COLUMNS,
    PARTS,
    Asked,
    apply_split,
    classes_of,
    first_change,
    leave_new,
    text_below,
)
from shards.ahead import InOrder, following
from shards.load import load as load_shards
from shards.packed import Packed
from shards.place import names_shards
from system.filenames import nearest, same_name, text_of
from system.stopping import quiet_worker
from transforms import EpochSampler, eval_transform, train_sampler, train_transform
from utils import UserError, quoted, shell, some, write_csv


@dataclass(frozen=True)
class Split:
    """A folder's classes and samples, by part; what was not used and why; what else to know."""

    root: Path
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    unused: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()
    decoded: dict[Path, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def part(self, name: str) -> Sequence[Sample]:
        """The samples of `train`, `val` or `test`."""
        if isinstance(self.samples, Packed):
            return self.samples.only(name)
        return [sample for sample in self.samples if sample.part == name]

    def path_of(self, sample: Sample) -> str:
        """A sample's path below the folder, as split.csv and predictions.csv name it."""
        return text_below(self.root, sample.path)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by class and part."""
        if isinstance(self.samples, Packed):
            return self.samples.counts(self.classes)
        seen = Counter((self.classes[s.label], s.part) for s in self.samples)
        return {name: {part: seen[name, part] for part in PARTS} for name in self.classes}


class Paths(Sequence[str]):
    """The paths of a part's samples (see `Split.path_of`), each made when it is asked for."""

    def __init__(self, split: Split, part: str) -> None:
        self.split, self.samples = split, split.part(part)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.split.path_of(self.samples[index])


# ------------------------------------------------------------------------------- folder -> split


def load_split(
    train: TrainConfig, split_file: Path | None = None, known: FileIndex | None = None
) -> Split:
    """Read the folder `train.base_dir` into classes, parts and samples, of `train.classes` alone
    where they are given.

    `split_file` (or `train.split`) re-uses a split.csv. Images that `known` has seen are not read.
    Raises UserError for a folder that can't be used: missing, empty, with a class without images,
    fewer than 2 classes, held-out images of a class that is not trained, or with unreadable images
    unless `on_bad_image` is skip. Shards, where it names some, have their parts already.
    """
    if names_shards(train.base_dir):
        return _of_shards(train, split_file)
    root = Path(train.base_dir)
    wanted = None if train.classes is None else {same_name(name) for name in train.classes}
    written = (Path(train.data) / "cache", Path(train.log_path), Path(train.save_path))
    layout = lay_out(root, wanted, but=written)
    grows = split_file is None and train.split is not None and train.new_images == "train"
    decided = decide(layout, root, Path(train.labels), wanted, grows) if train.labels else set()
    if split_file is not None:
        leave_new(layout, root, split_file)
    classes = _classes(root, layout, wanted)
    unused, notes = layout.unused, layout.notes
    if wanted is not None and (left := sorted(layout.names - wanted)):
        notes.append(f"left out by train.classes: {some(left)}")
    paths = [item.path for item in layout.found]
    reading = read_all(paths, known, train.max_pixels)
    found = zip(layout.found, paths, strict=True)
    samples = _samples(found, classes, reading, unused, train.on_bad_image)
    given = split_file or (Path(train.split) if train.split else None)
    if given is not None:
        asked = Asked(given, root, classes, wanted is not None, grows, decided)
        samples, new = apply_split(asked, samples, unused, notes)
        options: dict[str, Any] = {"new": new, "classes": classes, "train": train, "notes": notes}
        parted = partial(with_new_parts, known=classes_of(given), **options) if new else list
        samples = with_groups(samples, reading.descriptors, root, train, notes, parted)
        notes += copies_notes(samples, root, "as the split says: what is held out was seen")
    else:
        notes += copies_notes(samples, root, "and in the last of these alone they are used")
        samples = _keep_held_out(samples, unused, root)
        samples = with_groups(samples, reading.descriptors, root, train, notes)
        if train.new_images:
            notes.append("train.new_images is not used: train.split names no earlier split")
        samples = assign_parts(samples, classes, train, notes)
    samples = with_greys(samples, reading, train.greys, notes)
    split = Split(root, classes, tuple(samples), tuple(unused), tuple(notes), reading.decoded)
    return replace(split, notes=(*split.notes, *_missing_classes(split)))


def _of_shards(train: TrainConfig, split_file: Path | None) -> Split:
    """The split that shards have; UserError where it is another than that of `split_file`, or of
    train.split."""
    found = load_shards(train)
    split = Split(found.root, found.classes, found.samples, tuple(found.unused), ())
    split = replace(split, notes=(*found.notes, *_missing_classes(split)))
    split_file = split_file or (Path(train.split) if train.split else None)
    if split_file is not None and (row := first_change(split_file, rows_of_split(split))):
        raise UserError(
            f"{train.base_dir} does not hold what {split_file} lists: {row}; put the shards back, "
            "or train again under another name"
        )
    return split


def _classes(root: Path, layout: Layout, wanted: set[str] | None) -> tuple[str, ...]:
    """The names of all parts' class folders, or of those that are wanted, sorted."""
    names = tuple(sorted(layout.names if wanted is None else wanted))
    for name in names:
        if name not in layout.names:
            near = nearest(name, layout.names)
            hint = f"did you mean '{near}'? It has" if near else "it has"
            raise UserError(
                f"train.classes: '{name}' is no class of {root}; {hint} "
                f"{some(quoted(sorted(layout.names)))}"
            )
    bare = sorted({*names} - {item.class_name for item in layout.found})
    if bare:
        raise UserError(
            f"{root}: no images in the class folder{'s' if len(bare) > 1 else ''} "
            f"{some(bare)}; add some or remove it"
        )
    if len(names) < 2:
        raise UserError(
            f"{root} has one class only ({names[0]}); a classifier needs 2 or more, a folder each"
        )
    return names


NOT_CLASSES = ("unsure", "unlike")  # what is said of pictures that have no answer


def see_names(classes: Iterable[str]) -> None:
    """Raise UserError where a class could not be told from what is said of pictures without one."""
    if taken := [name for name in classes if name in NOT_CLASSES]:
        raise UserError(
            f"a class is called {some(taken)}, which tools.predict says of pictures that it has no "
            "answer for; call it otherwise"
        )


SAME_FILE = "the same file as "  # why a copy of a held-out image is not trained on
SHOWN = 5  # of many, in a sentence


def unreadable(bad: list[tuple[Path, str]]) -> str:
    """Which pictures can't be read, and why, as far as a sentence goes; what to do."""
    listed = "; ".join(f"{text_of(str(path))} ({why})" for path, why in bad[:SHOWN])
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    remedy = "remove them, or set train.on_bad_image to skip"
    if any("train.max_pixels" in reason for _, reason in bad):
        remedy = "raise train.max_pixels (null: no limit), make them smaller, or " + remedy
    return f"{len(bad):,} unreadable image{'s' if len(bad) > 1 else ''}: {listed}{more}; {remedy}"


def _samples(
    found: Iterable[tuple[Found, Path]],
    classes: tuple[str, ...],
    reading: Reading,
    unused: list[tuple[Path, str]],
    on_bad_image: str,
) -> list[Sample]:
    """The files that could be read; the others are an error, or not used."""
    bad = reading.bad
    if bad and on_bad_image == "error":
        raise UserError(unreadable(bad))
    unused += [(path, f"unreadable: {reason}") for path, reason in bad]
    digests, index = reading.digests, {name: i for i, name in enumerate(classes)}
    samples = [
        Sample(path, index[item.class_name], item.part or "", digests[path])
        for item, path in found
        if path in digests
    ]
    left = {sample.label for sample in samples}
    gone = [name for i, name in enumerate(classes) if i not in left]
    if gone:
        raise UserError(f"no readable images in the class folder {some(gone)}")
    return samples


def _keep_held_out(
    samples: list[Sample], unused: list[tuple[Path, str]], root: Path
) -> list[Sample]:
    """Where the folder's own parts share an image, the copy of the earlier part goes: held-out
    images stay held out."""
    rank = {"": 0, "train": 0, "val": 1, "test": 2}
    last: dict[str, Sample] = {}
    for sample in samples:
        if rank[sample.part] >= rank[last.get(sample.sha256, sample).part]:
            last[sample.sha256] = sample
    kept = []
    for sample in samples:
        other = last[sample.sha256]
        if rank[sample.part] < rank[other.part]:
            unused.append((sample.path, f"{SAME_FILE}{text_below(root, other.path)}"))
        else:
            kept.append(sample)
    return kept


def _missing_classes(split: Split) -> list[str]:
    """Raise UserError where a part is empty, or holds a class that is not trained; a note for a
    class that is trained and not held out."""
    counts = split.counts()
    for part in ("train", "val"):
        if not split.part(part):
            raise UserError(f"{split.root} has no {part} images")
    trained = [name for name in split.classes if counts[name]["train"]]
    for name in split.classes:
        there = [part for part in ("val", "test") if counts[name][part]]
        if counts[name]["train"]:
            continue
        if not there:
            others = shell(f"train.classes=[{', '.join(quoted(trained))}]")
            raise UserError(
                f"{split.root}: the split uses no image of '{name}'; {others} leaves it out"
            )
        near = nearest(name, trained)
        hint = f", train has '{near}'? Give both folders one name" if near else ""
        raise UserError(
            f"{split.root}: {' and '.join(there)} {'has' if len(there) == 1 else 'have'} '{name}'"
            f"{hint or ', train has no images of it: add some, or remove it'}, or leave it out by "
            "train.classes"
        )
    return [
        f"no {part} images of {some(lacking)}"
        for part in ("val", "test")
        if 0 < len(lacking := [n for n in trained if not counts[n][part]]) < len(trained)
    ]


# --------------------------------------------------------------------------------- split.csv


def write_split(path: Path, split: Split) -> None:
    """Write split.csv: COLUMNS of each image, its path relative to the folder."""
    write_csv(path, rows_of_split(split), COLUMNS)


def rows_of_split(split: Split) -> Iterator[dict[str, str]]:
    """The rows of its split.csv."""
    for s in split.samples:
        row = (split.path_of(s), split.classes[s.label], s.part, s.sha256)
        yield dict(zip(COLUMNS, row, strict=True))


# ----------------------------------------------------------------------------------- loaders


def labels_of(samples: Sequence[Sample]) -> list[int]:
    """The class of each."""
    if isinstance(samples, Packed):
        return samples.labels.tolist()
    return [sample.label for sample in samples]


def lots_of(samples: Sequence[Sample]) -> Sequence[int] | None:
    """How many lie in each shard; None for those of a folder."""
    return samples.lots.tolist() if isinstance(samples, Packed) else None


def make_loaders(
    split: Split,
    train: TrainConfig,
    preprocessing: Preprocessing,
    channels: int,
    device: torch.device,
) -> dict[str, DataLoader]:
    """A loader a part (test only where there is one); train's sampler has the `epoch` to set."""
    loaders = {}
    for part in PARTS:
        samples = split.part(part)
        if not samples:
            continue
        learns = part == "train"
        plain = eval_transform(preprocessing, channels)
        images = ImageDataset(samples, plain, split.decoded, train.seed)
        if learns and train.draws != 1:
            images.transform = train_transform(preprocessing, train, channels)
            images.first = plain if train.draws else None  # as in the token cache
        sampler: EpochSampler | InOrder | None = None
        if learns:
            sampler = train_sampler(labels_of(samples), train, lots_of(samples))
            if isinstance(samples, Packed):
                sampler.ahead = following(samples, train.batch_size, train.shuffle_buffer)
        elif isinstance(samples, Packed):
            sampler = InOrder(samples)
        loaders[part] = DataLoader(
            images,
            batch_size=train.batch_size if learns else train.eval_batch_size,
            sampler=sampler,
            **loader_options(train, device),
        )
    return loaders


def loader_options(train: TrainConfig, device: torch.device) -> dict[str, Any]:
    """How a DataLoader of images works beside a device."""
    if train.num_workers != "auto":
        processes = train.num_workers
    else:  # on a CPU the network needs the cores more than the loader does
        processes = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    return {
        "num_workers": processes,
        "persistent_workers": processes > 0,
        "worker_init_fn": quiet_worker,
        # Its own random numbers, or a resumed epoch would draw one more than an unbroken run.
        "generator": torch.Generator().manual_seed(train.seed),
        "pin_memory": device.type == "cuda",
        # Forked workers share the decoded images instead of copying them.
        "multiprocessing_context": "fork" if processes and sys.platform == "linux" else None,
    }
