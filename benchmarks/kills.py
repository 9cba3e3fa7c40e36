"""Runs that are killed at random moments and gone on with: do they end as those left in peace?

    python -m benchmarks.kills [--kills 20] [--modes scratch ...] [--signals KILL TERM]

Tiny networks in five modes, each a real process (forked from this one, which has imported PyTorch
already) that gets SIGKILL or SIGTERM after a random time, every third in the middle of a write, and
is gone on with until it is done. best.safetensors, last.pt's weights and predictions.csv are
compared byte by byte with those of an undisturbed run, metrics.csv but for its times. SIGTERM must
end it within five seconds with status 143 and a sentence. `in an epoch`: kills after which last.pt
was of the middle of one; `in a write`: after which a temporary file was left (SIGKILL), or was
there when the signal was sent (SIGTERM). Prints the counts and writes benchmarks/results/kills.csv,
where the rows of other modes and signals stay.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

import training
from benchmarks.machine import RESULTS
from config import ConfigError, ViTConfig
from engine.run import BEST
from filing.csv_files import read_csv
from model import VisionTransformer
from pretrained.read import read_arrays
from pretrained.write import save_model
from utils import UserError, command_line, progress_bar, write_csv

TINY: dict[str, Any] = {
    "patch_dim": 8,
    "hidden_dim": 64,
    "num_heads": 4,
    "num_layers": 3,
    "ff_dim": 128,
    "dim": 32,
}
COMMON = {"max_epochs": 10, "batch_size": 8, "device": "cpu", "verdict": False, "report": False}
COMMON |= {"save_steps": 3, "save_epoch": 2, "lr": 0.001}
MODES: dict[str, dict[str, Any]] = {
    "scratch": {"mode": "scratch", "optim": "adamw"},
    "pretrained": {"mode": "pretrained"},
    "finetune, class": {
        "mode": "finetune",
        "head": "class",
        "optim": "sgd",
        "views": 2,
        "max_epochs": 25,
    },
    "finetune, both": {"mode": "finetune", "head": "both", "refit": True, "max_epochs": 25},
    "scratch, 8 bit, ema, mixup, 2 workers": {
        "mode": "scratch",
        "use_bitsandbytes": True,
        "ema": 0.9,
        "mixup": 0.5,
        "num_workers": 2,
        "color_jitter": 0.3,
    },
}
CLOCKS = ("seconds", "images_per_second")
MOST_SECONDS = 5  # from SIGTERM to the end
EVERY = 3  # of so many kills one is in the middle of a write


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)  # a process that is forked off has no threads
    file, faulty = RESULTS / "kills.csv", False
    rows = read_csv(file) if file.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        warm_up(home)
        for mode in args.modes or MODES:
            if mode not in MODES:
                raise UserError(f"--modes: {mode} is none of {', '.join(MODES)}")
            for name in args.signals:
                row = trials(home, mode, name, args.kills, random.Random(args.seed))
                print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)
                rows = [r for r in rows if (r["mode"], r["signal"]) != (mode, name)] + [row]
                write_csv(file, rows)
                faulty = faulty or row["other"] > 0 or row["faults"] > 0
    return int(faulty)


def prepare(home: Path) -> None:
    """The pictures, and weights to begin with."""
    noise = np.random.default_rng(0)
    for name, colour in {
        "red": (200, 60, 50),
        "green": (60, 180, 70),
        "blue": (50, 60, 200),
    }.items():
        (home / "pictures" / name).mkdir(parents=True)
        for i in range(26):
            pixels = np.clip(
                noise.normal(0, 60, (40, 36, 3)) * noise.uniform(0, 3) + colour, 0, 255
            ).astype(np.uint8)
            Image.fromarray(pixels).save(home / "pictures" / name / f"{i:02}.png")
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY, num_classes=0))
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    save_model(home / "weights.safetensors", net)


def warm_up(home: Path) -> None:
    """A run in this very process: what it imports on its way needn't be by each that is forked."""
    trial = Trial(home, "scratch", "first")
    with contextlib.redirect_stdout(io.StringIO()):
        training.main(["--config", str(trial.config), "train.max_epochs=1"])


def trials(home: Path, mode: str, name: str, kills: int, chance: random.Random) -> dict[str, Any]:
    """So many kills of runs of a mode, each run gone on with to its end: the counts."""
    whole, took = undisturbed(home, mode)
    seen: Counter[str] = Counter()
    slowest, number = 0.0, 0
    with progress_bar(total=kills, desc=f"{mode}, {name}", unit="kill") as bar:
        while seen["kills"] < kills:
            number += 1
            trial = Trial(home, mode, f"{name}-{number}")
            while seen["kills"] < kills:
                in_a_write = seen["kills"] % EVERY == EVERY - 1
                if not trial.killed(name, chance.uniform(0, took), in_a_write, seen):
                    break
                slowest = max(slowest, trial.seconds)
                bar.update()
            status = trial.go_on().wait()
            seen["faults"] += trial.check(status == 0, f"it ended with status {status}")
            same = status == 0 and trial.result() == whole
            seen["same" if same else "other"] += 1
            trial.check(same, "its weights or numbers are others")
            trial.remove(keep=not same)
    counts = {key: seen[key] for key in ("kills", "in an epoch", "in a write", "same", "other")}
    more = {"faults": seen["faults"], "slowest": round(slowest, 2) if name == "TERM" else None}
    return {"mode": mode, "signal": name, "runs": number, **counts, **more}


def undisturbed(home: Path, mode: str) -> tuple[dict[str, Any], float]:
    """What a run ends with that nobody kills, and its seconds; the second one, whose token cache
    is there, is measured as well, and ends alike."""
    results = []
    for name in ("whole", "again"):
        trial = Trial(home, mode, name)
        started = time.monotonic()
        if status := trial.go_on().wait():
            raise UserError(f"a run in peace ends with status {status}: {trial.said()}")
        took = time.monotonic() - started
        results.append(trial.result())
        trial.remove(keep=False)
    if results[0] != results[1]:
        raise UserError(f"{mode}: two runs in peace end differently")
    return results[0], took


class Process:
    """The training program in a process of its own; what it says goes to a file."""

    def __init__(self, words: list[str], log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = 1
        try:
            status = command_line(lambda: training.main(words), ConfigError)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def ended(self) -> bool:
        """Whether it has ended; it is not waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Its exit status, below 0 where a signal ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Trial:
    """One run, killed and gone on with."""

    def __init__(self, home: Path, mode: str, name: str) -> None:
        self.name = f"{list(MODES).index(mode)}-{name}"
        self.logs, self.weights = home / "logs" / self.name, home / "weights" / self.name
        self.log, self.config = home / f"{self.name}.log", home / f"{self.name}.yaml"
        keys = COMMON | {"data": str(home / "data"), "base_dir": str(home / "pictures")}
        keys |= {"log_path": str(home / "logs"), "save_path": str(home / "weights")}
        keys |= {"run_name": self.name, "checkpoint": str(home / "weights.safetensors")}
        settings: dict[str, Any] = {"train": keys | MODES[mode]}
        if MODES[mode]["mode"] == "scratch":
            settings["vit"] = {**TINY, "dropout": 0.1}
        self.config.write_text(yaml.safe_dump(settings))
        self.seconds = 0.0

    def go_on(self) -> Process:
        """The run begun, or gone on with."""
        begun = (self.logs / "split.csv").exists()
        words = ["--resume", str(self.logs)] if begun else ["--config", str(self.config)]
        self.log.write_text("")
        return Process(words, self.log)

    def killed(self, name: str, delay: float, in_a_write: bool, seen: Counter[str]) -> bool:
        """Whether the run was hit before it ended by itself; what it was doing is counted."""
        process = self.go_on()
        end = time.monotonic() + delay
        while time.monotonic() < end and not process.ended():
            time.sleep(0.002)
        while in_a_write and not self.writes(process) and not process.ended():
            pass
        writing = self.writes(process)
        if process.ended():
            return self._ended(process.wait(), seen)
        started = time.monotonic()
        number = getattr(signal, f"SIG{name}")
        try:  # its loader processes as well, or not
            (os.killpg if seen["kills"] % 2 else os.kill)(process.pid, number)
        except ProcessLookupError:  # it is no group of its own yet
            os.kill(process.pid, number)
        status = process.wait()
        self.seconds = time.monotonic() - started
        if status == 0:  # it was through
            return self._ended(status, seen)
        seen["kills"] += 1
        seen["in a write"] += self.writes(process) if name == "KILL" else writing
        seen["in an epoch"] += self.is_within()
        if name == "TERM":
            told = "go on with" in self.said() or "again" in self.said()
            stopped = status == 143 and (told or (self.logs / "summary.json").exists())
            seen["faults"] += self.check(stopped, f"status {status}: {self.said()[-300:]}")
            quick = self.seconds < MOST_SECONDS
            seen["faults"] += self.check(quick, f"it took {self.seconds:.1f} s to stop")
        return True

    def _ended(self, status: int, seen: Counter[str]) -> bool:
        seen["faults"] += self.check(status == 0, f"status {status}: {self.said()[-300:]}")
        return False

    def check(self, right: bool, what: str) -> int:
        """1 where something is wrong, which is printed."""
        wrong = not right or "Traceback" in self.said()
        if wrong:
            print(f"{self.name}: {what if not right else self.said()[-2000:]}", flush=True)
        return int(wrong)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def writes(self, process: Process) -> bool:
        """Whether a file is just being written by this process, not one that was killed earlier."""
        for folder in (self.weights, self.logs):
            try:
                if any(name.endswith(f".{process.pid}.tmp") for name in os.listdir(folder)):
                    return True
            except FileNotFoundError:
                pass
        return False

    def is_within(self) -> bool:
        """Whether last.pt is of the middle of an epoch."""
        last = self.weights / "last.pt"
        if not last.exists():
            return False
        position = torch.load(last, weights_only=True)["progress"]["position"]
        return position is not None and position["steps"] > 0

    def result(self) -> dict[str, Any]:
        """Everything that must not depend on when a run was killed."""
        found: dict[str, Any] = {}
        last = torch.load(self.weights / "last.pt", weights_only=True)["model"]
        for file, arrays in (("best", read_arrays(self.weights / BEST)[0]), ("last", last)):
            found |= {f"{file}: {n}": array.numpy().tobytes() for n, array in arrays.items()}
        rows = read_csv(self.logs / "metrics.csv")
        found["metrics"] = [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows]
        found["answers"] = (self.logs / "predictions.csv").read_bytes()
        return found

    def remove(self, keep: bool) -> None:
        if not keep:
            for path in (self.logs, self.weights):
                shutil.rmtree(path, ignore_errors=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="of each mode by each signal (20)")
    parser.add_argument("--modes", nargs="+", metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--signals", nargs="+", default=["KILL", "TERM"], choices=["KILL", "TERM"])
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
