"""Folders of links to some of a data set's pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from decoding.formats import EXTENSIONS
from utils import UserError


def few_shots(source: Path, target: Path, n: int, seed: int) -> Path:
    """A folder of links: `n` images a class, drawn by the seed, in train/, all others in test/.

    For a seed, the images of a smaller `n` are among those of a larger one.
    """

    def draw(classes: dict[str, list[Path]]) -> Iterator[tuple[str, Path]]:
        for name, files in classes.items():
            if len(files) <= n:
                folder = source / name
                raise UserError(
                    f"{folder} has {len(files)} images: {n} to train on leave no others"
                )
            random = np.random.default_rng([seed, *name.encode()])
            for i, index in enumerate(random.permutation(len(files))):
                yield "train" if i < n else "test", files[index]

    return linked(source, target, draw)


Draw = Callable[[dict[str, list[Path]]], Iterable[tuple[str, Path]]]


def linked(source: Path, target: Path, draw: Draw) -> Path:
    """A folder of links, <part>/<class>/<file>, of the (part, file) that `draw` takes from the
    classes' files; whole or not at all, and left alone where it is there."""
    if target.is_dir():
        return target
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; --data names the one that holds {source.name}")
    classes = {
        folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)
        for folder in sorted(p for p in source.iterdir() if p.is_dir())
    }
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        for part, file in draw(classes):
            link(file, partial / part / file.parent.name)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def link(file: Path, folder: Path) -> None:
    """A link to a file, or a copy where the system has no links."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / file.name).symlink_to(file.resolve())
    except OSError:
        shutil.copy2(file, folder / file.name)
