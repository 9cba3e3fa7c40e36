"""What a target of an export is given, and what it says of what it wrote."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from classifier import Classifier


@dataclass(frozen=True)
class Given:
    """The classifier that is exported (on the CPU), its run's folder of logs, where that is still
    there, the command line, and where it is one of the run's two heads, that one's own accuracy."""

    classifier: Classifier
    run: Path | None
    options: argparse.Namespace
    alone: str | None = None


@dataclass(frozen=True)
class Written:
    """What a target's `write(given, folder) -> Written` says of the files that it wrote.

    `library` is what reads them, by the names of its packages as pip takes them ("torch",
    "onnxruntime"). `how` is the part of golden/check.py that is the target's own: Python that needs
    that library, NumPy and Pillow alone, and defines

        of_pixels(inputs)   probabilities (n, C) of the network's inputs (n, c, h, w), float32
        of_files(paths)     probabilities (n, C) of a list of picture files, read, turned and
                            resized as the library does it

    with `HERE`, the export's folder, as a pathlib.Path. `load` are the lines of the model card that
    load it and answer for one picture. `tolerance` is the largest difference of a probability from
    the classifier's that is taken for the same, for the same inputs. `notes` are lines for the
    terminal and the model card. `otherwise` is what the library does otherwise with picture files
    (`causes`).
    """

    library: str
    how: str
    tolerance: float = 1e-5
    notes: tuple[str, ...] = ()
    load: str = ""
    otherwise: tuple[str, ...] = ()
