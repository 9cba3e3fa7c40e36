"""From a folder of images, one sub-folder a class, to a split and its loaders.

No file is dropped in silence: what is not used is listed with its reason.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from config import Preprocessing, TrainConfig
from images import EXTENSIONS, FileIndex, ImageDataset, Reading, Sample, read_all
from transforms import eval_transform, train_sampler, train_transform
from utils import UserError, some, write_csv

PARTS = ("train", "val", "test")
PART_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Split:
    """A folder's classes and samples, by part; what was not used and why; what else to know."""

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    unused: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()
    decoded: dict[Path, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def part(self, name: str) -> list[Sample]:
        """The samples of `train`, `val` or `test`."""
        return [sample for sample in self.samples if sample.part == name]

    def path_of(self, sample: Sample) -> str:
        """A sample's path below the folder, as split.csv and predictions.csv name it."""
        return sample.path.relative_to(self.root).as_posix()

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by class and part."""
        seen = Counter((self.classes[s.label], s.part) for s in self.samples)
        return {name: {part: seen[name, part] for part in PARTS} for name in self.classes}


# ------------------------------------------------------------------------------- folder -> split


@dataclass(frozen=True)
class _Found:
    """A candidate before it is read: its part is None where the folder has no parts."""

    path: Path
    class_name: str
    part: str | None


def load_split(
    train: TrainConfig, split_file: Path | None = None, known: FileIndex | None = None
) -> Split:
    """Read the folder `train.base_dir` into classes, parts and samples.

    `split_file` (or `train.split`) re-uses a split.csv. Images that `known` has seen are not read.
    Raises UserError for a folder that can't be used: missing, empty, with a class without images,
    fewer than 2 classes, or with unreadable images unless `on_bad_image` is skip.
    """
    root = Path(train.base_dir)
    found, unused = _walk(root)
    classes = _classes(root, found, unused)
    reading = read_all([item.path for item in found], known)
    samples = _samples(found, classes, reading, unused, train.on_bad_image)
    notes: list[str] = []
    wanted = split_file or (Path(train.split) if train.split else None)
    if wanted is not None:
        samples = _apply_split_file(wanted, root, classes, samples, unused)
    else:
        samples = _keep_duplicates_together(samples, unused, notes, root)
        samples = _assign_parts(samples, classes, train, notes)
    split = Split(
        root, classes, tuple(samples), tuple(_files(unused)), tuple(notes), reading.decoded
    )
    return replace(split, notes=(*split.notes, *_missing_classes(split)))


def _files(unused: list[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    """Each file of a folder that is not used, instead of the folder."""
    for path, reason in unused:
        inner = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        yield from [(p, f"in {path.name}: {reason}") for p in inner] or [(path, reason)]


def _walk(root: Path) -> tuple[list[_Found], list[tuple[Path, str]]]:
    """Every file below the class folders, and everything else with the reason why it is left."""
    if not root.exists():
        raise UserError(
            f"{root}: no such folder; train.base_dir takes a folder with one sub-folder of images "
            "a class"
        )
    if not root.is_dir():
        raise UserError(
            f"{root} is a file; train.base_dir takes a folder with a sub-folder a class"
        )
    folders, unused = _subfolders(root)
    found: list[_Found] = []
    train = root / "train"
    has_parts = train in folders and any(p.is_dir() for p in train.iterdir())
    for folder in folders:
        if not has_parts:
            found += _class_folder(folder, None, unused)
        elif folder.name in PART_FOLDERS:
            inner, strays = _subfolders(folder)
            unused += strays
            for class_folder in inner:
                found += _class_folder(class_folder, PART_FOLDERS[folder.name], unused)
        else:
            unused.append((folder, "not one of train, val, test"))
    return found, unused


def _subfolders(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    folders: list[Path] = []
    unused: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            unused.append((path, "hidden"))
        elif path.is_dir():
            folders.append(path)
        else:
            unused.append((path, "not in a class folder"))
    return folders, unused


def _class_folder(folder: Path, part: str | None, unused: list[tuple[Path, str]]) -> list[_Found]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            unused.append((path, "hidden"))
        elif path.is_dir():
            unused.append((path, "a folder inside a class folder"))
        elif path.suffix.lower() not in EXTENSIONS:
            unused.append((path, f"no image by its extension, '{path.suffix}'"))
        else:
            found.append(_Found(path, folder.name, part))
    # A folder without images still is a class, and is then reported.
    return found or [_Found(folder, folder.name, part)]


def _classes(root: Path, found: list[_Found], unused: list[tuple[Path, str]]) -> tuple[str, ...]:
    """The names of all parts' class folders, sorted; found loses its empty folders."""
    names = tuple(sorted({item.class_name for item in found}))
    empty = [item for item in found if item.path.is_dir()]
    found[:] = [item for item in found if not item.path.is_dir()]
    if not found:
        hint = f"; {unused[0][0]} is {unused[0][1]}" if unused else ""
        raise UserError(
            f"{root} has no images in class folders (it takes {root}/<class>/*.jpg and the "
            f"like){hint}"
        )
    bare = sorted({item.class_name for item in empty} - {item.class_name for item in found})
    if bare:
        raise UserError(
            f"{root}: no images in the class folder{'s' if len(bare) > 1 else ''} "
            f"{', '.join(bare)}; add some or remove it"
        )
    if len(names) < 2:
        raise UserError(f"{root} has one class only ({names[0]}); a classifier needs 2 or more")
    return names


def _samples(
    found: list[_Found],
    classes: tuple[str, ...],
    reading: Reading,
    unused: list[tuple[Path, str]],
    on_bad_image: str,
) -> list[Sample]:
    """The files that could be read; the others are an error, or not used."""
    bad = reading.bad
    if bad and on_bad_image == "error":
        listed = "; ".join(f"{path} ({reason})" for path, reason in bad)
        raise UserError(
            f"{len(bad)} unreadable image{'s' if len(bad) > 1 else ''}: {listed}; remove them, or "
            "set train.on_bad_image to skip"
        )
    unused += [(path, f"unreadable: {reason}") for path, reason in bad]
    digests, index = reading.digests, {name: i for i, name in enumerate(classes)}
    samples = [
        Sample(item.path, index[item.class_name], item.part or "", digests[item.path])
        for item in found
        if item.path in digests
    ]
    left = {sample.label for sample in samples}
    gone = [name for i, name in enumerate(classes) if i not in left]
    if gone:
        raise UserError(f"no readable images in the class folder {', '.join(gone)}")
    return samples


def _keep_duplicates_together(
    samples: list[Sample], unused: list[tuple[Path, str]], notes: list[str], root: Path
) -> list[Sample]:
    """Where the folder's own parts share an image, the copy of the earlier part goes: held-out
    images stay held out."""
    rank = {"": 0, "train": 0, "val": 1, "test": 2}
    last: dict[str, Sample] = {}
    labels: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[sample.sha256].add(sample.label)
        if rank[sample.part] >= rank[last.get(sample.sha256, sample).part]:
            last[sample.sha256] = sample
    kept = []
    for sample in samples:
        other = last[sample.sha256]
        if rank[sample.part] < rank[other.part]:
            unused.append((sample.path, f"the same file as {other.path.relative_to(root)}"))
        else:
            kept.append(sample)
    copies = len(samples) - len(last)
    if copies:
        notes.append(f"{copies} images are byte-identical to another; copies share their part")
    for digest, several in labels.items():
        if len(several) > 1:
            paths = [str(s.path.relative_to(root)) for s in samples if s.sha256 == digest]
            notes.append(f"the same image under several classes: {', '.join(paths)}")
    return kept


def _assign_parts(
    samples: list[Sample], classes: tuple[str, ...], train: TrainConfig, notes: list[str]
) -> list[Sample]:
    """Give every sample a part: the folder's own, and a stratified val, and test where it is
    asked for, cut from train if there is none."""
    there = {sample.part for sample in samples}
    fractions = {"test": train.test_fraction, "val": train.val_fraction}
    if "test" in there and train.test_fraction:
        notes.append("train.test_fraction is not used: the folder has a test part of its own")
    cuts = {part: share for part, share in fractions.items() if share and part not in there}
    labels: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[sample.sha256].add(sample.label)
    parts: dict[str, str] = {}
    for label, name in enumerate(classes):
        mine = [s for s in samples if s.label == label and s.part in ("", "train")]
        groups = Counter(s.sha256 for s in mine if len(labels[s.sha256]) == 1)
        if not groups:  # each image is another class's too: that it can't be learned is said later
            groups = Counter(s.sha256 for s in mine)
            if parts.keys() & groups.keys():  # its copies have been given parts
                continue
        if cuts and mine and len(groups) <= len(cuts):
            raise UserError(
                f"class {name} has {len(groups)} different image(s): it needs {len(cuts) + 1} or "
                f"more, one to train on and one for {' and one for '.join(cuts)}"
            )
        total = groups.total()
        for i, (part, share) in enumerate(cuts.items()):
            salt = "" if part == "val" else f" {part}"
            chosen = _cut(groups, share * total, f"{train.seed} {name}{salt}", len(cuts) - i)
            parts |= dict.fromkeys(chosen, part)
            groups = Counter({name: n for name, n in groups.items() if name not in chosen})
    return [
        s if s.part in ("val", "test") else replace(s, part=parts.get(s.sha256, "train"))
        for s in samples
    ]


def _cut(groups: Counter[str], images: float, seed: str, leave: int = 1) -> set[str]:
    """Draw groups of identical images until they make up so many `images`; never none, and
    `leave` groups at least stay.

    The draw ranks each image by itself, so pictures that come later move few of the others.
    """
    names = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    wanted = max(1, round(images))
    chosen: set[str] = set()
    taken = 0
    for name in names:
        fits = taken + groups[name] <= wanted
        if fits and len(chosen) < len(names) - leave:
            chosen.add(name)
            taken += groups[name]
    return chosen or ({min(names, key=lambda n: groups[n])} if names else set())


def _missing_classes(split: Split) -> list[str]:
    counts = split.counts()
    notes = []
    for part in PARTS:
        lacking = [name for name in split.classes if not counts[name][part]]
        if lacking and len(lacking) < len(split.classes):
            notes.append(f"no {part} images of {', '.join(lacking)}")
    for part in ("train", "val"):
        if not split.part(part):
            raise UserError(f"{split.root} has no {part} images")
    return notes


# --------------------------------------------------------------------------------- split.csv


COLUMNS = ("path", "label", "part", "sha256")


def write_split(path: Path, split: Split) -> None:
    """Write split.csv: COLUMNS of each image, its path relative to the folder."""
    rows = ((split.path_of(s), split.classes[s.label], s.part, s.sha256) for s in split.samples)
    write_csv(path, (dict(zip(COLUMNS, row, strict=True)) for row in rows), COLUMNS)


def _apply_split_file(
    file: Path,
    root: Path,
    classes: tuple[str, ...],
    samples: list[Sample],
    unused: list[tuple[Path, str]],
) -> list[Sample]:
    """The parts that a split.csv says; every file that it names must be there, unchanged."""
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            rows = {row["path"]: row for row in csv.DictReader(lines)}
        parts = {path: row["part"] for path, row in rows.items()}
        hashes = {path: row["sha256"] for path, row in rows.items()}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{file} is no split file (columns {', '.join(COLUMNS)}): {error!r}"
        ) from None
    here = {s.path.relative_to(root).as_posix(): s for s in samples}
    wrong = [f"{p} (not there)" for p in rows if p not in here]
    wrong += [f"{p} (changed)" for p, s in here.items() if hashes.get(p, s.sha256) != s.sha256]
    wrong += [
        f"{p} (labelled {rows[p]['label']})"
        for p, s in here.items()
        if p in rows and rows[p]["label"] != classes[s.label]
    ]
    wrong += [f"{p} (part '{part}')" for p, part in parts.items() if part not in PARTS]
    if wrong:
        raise UserError(
            f"{root} is not the folder that {file} was made of: {some(wrong, 10)}; "
            "leave train.split out for a new split"
        )
    unused += [(s.path, f"not in {file}") for p, s in here.items() if p not in rows]
    return [replace(s, part=parts[p]) for p, s in here.items() if p in rows]


# ----------------------------------------------------------------------------------- loaders


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
        loaders[part] = DataLoader(
            images,
            batch_size=train.batch_size if learns else train.eval_batch_size,
            sampler=train_sampler([s.label for s in samples], train) if learns else None,
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
        # Its own random numbers, or a resumed epoch would draw one more than an unbroken run.
        "generator": torch.Generator().manual_seed(train.seed),
        "pin_memory": device.type == "cuda",
        # Forked workers share the decoded images instead of copying them.
        "multiprocessing_context": "fork" if processes and sys.platform == "linux" else None,
    }
