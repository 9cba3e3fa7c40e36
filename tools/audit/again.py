"""Training once more with what was decided, in a process of its own, and what came of it.

The earlier run's settings and split are used again; the frozen blocks' tokens are in the cache.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import TrainConfig
from engine.answers import PREDICTIONS
from inspection.record import Prediction, Record, read_run
from layout.decisions import Decision, write_decisions
from metrics import paired_chance, said_chance, wilson
from system.filenames import shown, text_of
from tools.audit.about import About, earlier, merged, new_words, own_words, settings
from utils import UserError, shell

TRAINING = Path(__file__).resolve().parents[2] / "training.py"
QUICK = ("train.verdict=false", "train.report=false")  # somebody waits for the score
LOG = "training.log"
LINES = 12  # of the log's end, for who waits
PATIENCE = 15.0  # seconds for a stopped training to save what it has


class Training:
    """One training at a time; its outcome stays until the next begins."""

    def __init__(self, folder: Path, about: About) -> None:
        self.folder, self.about = folder, about
        self.process: subprocess.Popen[bytes] | None = None
        self.run: Path | None = None
        self.began = self.ended = 0.0
        self.outcome: dict[str, Any] | None = None

    def start(self, decisions: Mapping[str, Decision]) -> None:
        """Begin, with the decisions as they are now: those of later are the next training's.

        Raises UserError where one runs still, or it is not known what to train.
        """
        if self.process is not None and self.process.poll() is None:
            raise UserError("a training runs already; wait for its end")
        if not decisions:
            raise UserError("nothing is decided yet: decide something, then train again")
        train = settings(self.about)
        name = self._free_name(train)
        labels = self.folder / f"{name}.csv"
        write_decisions(labels, merged(earlier(self.about), decisions))
        self.run, self.outcome = Path(train.log_path) / name, None
        self.began, self.ended = time.monotonic(), 0.0
        with open(self.folder / LOG, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TRAINING), *self.words(labels, name)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is this program's, which stops it
            )

    def words(self, labels: Path, name: str) -> list[str]:
        """What training.py is told."""
        about = self.about
        new = [*own_words(about), *new_words(labels), f"train.run_name={name}", *QUICK]
        if about.run is None:
            return [*([] if about.config is None else ["--config", str(about.config)]), *new]
        config = ["--config", str(about.run / "config.yaml"), "train.from_checkpoint=null"]
        return [*config, f"train.from_run={about.run}", *new]

    def _free_name(self, train: TrainConfig) -> str:
        base = self.about.run.name if self.about.run else self.about.name
        name, number = f"{base}-relabelled", 2
        while any((Path(place) / name).exists() for place in (train.log_path, train.save_path)):
            name = f"{base}-relabelled-{number}"
            number += 1
        return name

    def status(self) -> dict[str, Any]:
        """How it stands, as the page shows it."""
        if self.process is None:
            return _status("idle")
        code = self.process.poll()
        lines = self._lines()
        if code is None:
            return _status("running", time.monotonic() - self.began, lines)
        self.ended = self.ended or time.monotonic()
        seconds = self.ended - self.began
        if code != 0 or self.run is None:
            why = next((line for line in reversed(lines) if line.startswith("error: ")), None)
            said = why.removeprefix("error: ") if why else f"training.py ended with status {code}"
            return _status("failed", seconds, lines, said=[said])
        if self.outcome is None:
            old = None if self.about.run is None else read_run(self.about.run)
            self.outcome = compared(old, read_run(self.run))
        return _status("done", seconds, lines, **self.outcome)

    def _lines(self) -> list[str]:
        with contextlib.suppress(OSError):
            text = (self.folder / LOG).read_bytes()[-20000:].decode("utf-8", "replace")
            lines = re.split(r"[\r\n]+", text)
            return [shown(line) for line in lines if line.strip()][-LINES:]
        return []

    def stop(self) -> str | None:
        """End a training that runs: it saves what it has, or is killed; a sentence on it."""
        if self.process is None or self.process.poll() is not None:
            return None
        with contextlib.suppress(OSError, ValueError):  # Windows knows no such signal
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        if self.process.poll() is None:
            self.process.kill()
        lines = [line for line in self._lines() if "go on with" in line]
        return f"the training of {self.run} was ended, too" + "".join(f": {x}" for x in lines[-1:])


def _status(
    state: str,
    seconds: float = 0.0,
    lines: list[str] | None = None,
    scores: list[tuple[str, str, str]] | None = None,
    said: list[str] | None = None,
) -> dict[str, Any]:
    return {
        "state": state,
        "seconds": round(seconds),
        "lines": lines or [],
        "scores": scores or [],
        "said": said or [],
    }


# ----------------------------------------------------------------------------- what came of it


def compared(old: Record | None, new: Record) -> dict[str, Any]:
    """The new score beside the old one, as the page shows them, and sentences on what they mean.

    Only held-out pictures whose label stands are compared: where the truth was changed, the two
    were asked different things.
    """
    page = shell("python", "-m", "tools.report", text_of(str(new.folder)))
    report = f"The new run is {text_of(str(new.folder))}; its report: {page}"
    if old is None:
        accuracy = _accuracy([p.right for p in new.predictions])
        return {"scores": [("now", *accuracy)], "said": ["There was no run before it.", report]}
    before = {p.path: p for p in old.predictions} if old.part == new.part else {}
    pairs = [(before[p.path], p) for p in new.predictions if p.path in before]
    standing = [(was, now) for was, now in pairs if was.label == now.label]
    if not standing:
        return {
            "scores": [("now", *_accuracy([p.right for p in new.predictions]))],
            "said": ["No held-out picture was answered by both under one label.", report],
        }
    was, now = ([p.right for p in side] for side in zip(*standing, strict=True))
    only_now = sum(n and not w for w, n in zip(was, now, strict=True))
    only_before = sum(w and not n for w, n in zip(was, now, strict=True))
    p = said_chance(paired_chance(only_now, only_before))
    said = [
        f"On the {len(standing)} held-out pictures whose label stands: {only_now} right only now, "
        f"{only_before} only before (McNemar's exact test, {p}).",
        *_truth_changed(before, pairs, standing),
        report,
    ]
    return {"scores": [("before", *_accuracy(was)), ("now", *_accuracy(now))], "said": said}


def _accuracy(right: list[bool]) -> tuple[str, str]:
    """The accuracy, and of what, with its 95 % interval."""
    if not right:
        return "–", f"{PREDICTIONS} has no answer"
    share = sum(right) / len(right)
    low, high = wilson(share, len(right))
    return f"{share:.3f}", f"{low:.3f} to {high:.3f} (95 %), {len(right)} pictures"


def _truth_changed(
    before: Mapping[str, Prediction],
    pairs: list[tuple[Prediction, Prediction]],
    standing: list[tuple[Prediction, Prediction]],
) -> list[str]:
    """What is not compared, and why."""
    relabelled = [now for was, now in pairs if was.label != now.label]
    left_out = len(before) - len(pairs)
    said = []
    if relabelled:
        right = sum(now.right for now in relabelled)
        said.append(
            f"{_pictures(len(relabelled), 'has', 'have')} another label now, and not compared; "
            f"the new network gives {right} of them that label, too."
        )
    if left_out:
        said.append(f"{_pictures(left_out, 'is', 'are')} left out now.")
    if not relabelled and not left_out:
        said.append("No held-out picture's label was changed.")
    return said


def _pictures(n: int, one: str, more: str) -> str:
    return f"{n} held-out picture {one}" if n == 1 else f"{n} held-out pictures {more}"
