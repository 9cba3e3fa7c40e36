"""The proof of an export: a fresh process, without this project, answers the golden pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from classifier import class_names
from tools.export.causes import cause
from tools.export.given import Given, Written
from tools.export.golden import expected, golden_pictures
from utils import UserError, write_json, write_text

CHECK = Path(__file__).with_name("check.py.txt")
SECONDS = 1_800  # a fresh process on a slow machine: importing alone takes half a minute


@dataclass(frozen=True)
class Picture:
    """A golden picture read by the target's library: the largest difference of a probability (None
    where it can't be read, with the reason), whether the answer is the same, and why it differs."""

    name: str
    difference: float | None
    same: bool
    reason: str = ""
    why: str = ""


@dataclass(frozen=True)
class Proof:
    """The largest difference of a probability on the same inputs, and each picture by its file."""

    inputs: float
    pictures: tuple[Picture, ...]
    tolerance: float

    @property
    def other(self) -> tuple[Picture, ...]:
        """The pictures that the library's own reading and resizing makes something else of."""
        return tuple(
            p
            for p in self.pictures
            if p.difference is None or not p.difference <= self.tolerance  # NaN is not
        )


def prove(given: Given, folder: Path, written: Written) -> Proof:
    """Write golden/ into an export's folder, and run its check.py in a fresh process.

    Raises UserError where it fails, or answers otherwise than the classifier on the same inputs.
    """
    write_golden(given, folder, written)
    found = _checked(folder)
    if not found["inputs"] <= written.tolerance:  # NaN is not
        raise UserError(
            f"the export answers otherwise than the run: on the same inputs a probability differs "
            f"by {found['inputs']:.2g}, more than {written.tolerance:g}; nothing was left behind"
        )
    pictures, how = folder / "golden" / "pictures", given.classifier.preprocessing
    each = [(Picture(**p), pictures / p["name"]) for p in found["files"]]
    if each and all(p.difference is None for p, _ in each):
        raise UserError(
            f"the export can't answer picture files: {each[0][0].reason}; nothing was left behind"
        )
    explained = (
        p if p.difference is None else replace(p, why=cause(path, written.otherwise, how))
        for p, path in each
    )
    return Proof(found["inputs"], tuple(explained), written.tolerance)


def write_golden(given: Given, folder: Path, written: Written) -> None:
    """The pictures, the inputs that the classifier makes of them, its answers, and check.py."""
    golden = folder / "golden"
    (golden / "pictures").mkdir(parents=True)
    pictures = golden_pictures(given)
    for name, content in pictures:
        (golden / "pictures" / name).write_bytes(content)
    files = [golden / "pictures" / name for name, _ in pictures]
    inputs, by_inputs = expected(given.classifier, files)
    by_file = [list(a.probabilities.values()) for a in given.classifier(files)]
    np.savez_compressed(golden / "pixels.npz", inputs=inputs)
    answers = [
        {"name": name, "from_inputs": row.tolist(), "from_file": own}
        for (name, _), row, own in zip(pictures, by_inputs, by_file, strict=True)
    ]
    write_json(
        golden / "expected.json",
        {"classes": class_names(given.classifier.net), "pictures": answers},
    )
    text = CHECK.read_text(encoding="utf-8").replace("LIBRARY", written.library)
    text = text.replace("TOLERANCE = 1e-5", f"TOLERANCE = {written.tolerance:g}")
    write_text(golden / "check.py", text.replace("# HOW\n", written.how.strip() + "\n"))


def _checked(folder: Path) -> dict[str, Any]:
    """What check.py says, run where nothing of this project can be imported."""
    offline = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }  # all there is lies in the folder
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-I", str((folder / "golden" / "check.py").absolute()), "--json"]
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,
                env=os.environ | offline,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the proof took more than {SECONDS} s; nothing was left behind"
            ) from None
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(
            f"the export can't be read by its own library: {reason}; nothing was left behind"
        ) from None
