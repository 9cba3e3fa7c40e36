"""A tiny run to damage: pictures, weights, settings, and what it comes to, in a second."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import engine.metrics_log
import engine.search
import engine.trials
import pretrained
import training
from config import ConfigError, ViTConfig
from filing.csv_files import read_csv
from model import VisionTransformer
from utils import UserError, of_the_disk

EPOCHS, STOPPED = 4, 2
TINY = {"patch_dim": 8, "hidden_dim": 32, "num_heads": 2, "num_layers": 2, "ff_dim": 32, "dim": 16}
SECONDS = 120  # then it hangs
PICTURES = 8  # of each of the classes
KINDS = ("same result", "sentence", "silently other", "traceback")


@dataclass(frozen=True)
class World:
    """A folder with pictures, weights and the settings of runs below it."""

    home: Path

    @classmethod
    def make(cls, home: Path, **keys: Any) -> World:
        """With two classes of noise and the weights of a network of 2 blocks; `keys` of `train`."""
        draw = np.random.default_rng(0)
        for number, name in enumerate(("dark", "light")):
            (home / "pictures" / name).mkdir(parents=True)
            for i in range(PICTURES):
                noise = draw.normal(70 + 90 * number, 60, (16, 16, 3)).clip(0, 255)
                Image.fromarray(noise.astype(np.uint8)).save(home / f"pictures/{name}/{i}.png")
        torch.manual_seed(0)
        net = VisionTransformer(ViTConfig(**TINY, num_classes=0))  # type: ignore[arg-type]
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        pretrained.save_model(home / "from.safetensors", net)
        own = {"mode": "finetune", "checkpoint": str(home / "from.safetensors"), "views": 1}
        own |= {"base_dir": str(home / "pictures"), "data": str(home / "data"), "head": "class"}
        own |= {"log_path": str(home / "logs"), "save_path": str(home / "weights")}
        own |= {"max_epochs": EPOCHS, "batch_size": 4, "save_epoch": 1, "device": "cpu"}
        own |= {"verdict": False, "refit": False, "report": False, "val_fraction": 0.25}
        (home / "settings.yaml").write_text(yaml.safe_dump({"train": own | keys}))
        return cls(home)

    def run(self, name: str, *overrides: str) -> None:
        training.main(
            ["--config", str(self.home / "settings.yaml"), f"train.run_name={name}", *overrides]
        )

    def stopped(self, name: str, *overrides: str) -> None:
        """A run that is killed after some epochs, with all its files."""

        def killed(metrics: Any, *more: Any) -> None:
            if metrics.rows[-1]["epoch"] == STOPPED:
                os._exit(9)

        def begin() -> None:
            training.report_epoch = killed  # type: ignore[assignment]
            self.run(name, *overrides)

        in_a_child(begin)

    def resume(self, name: str, disk: Path | None = None) -> None:
        config = (disk or self.home) / "logs" / name / "config.yaml"
        training.main(["--config", str(config), "train.from_checkpoint=true"])

    def result(self, name: str, disk: Path | None = None) -> dict[str, Any]:
        """What a run came to: its weights bit by bit, its rows and answers, clocks aside."""
        home = disk or self.home
        kept = load_file(home / "weights" / name / "best.safetensors")
        last = torch.load(home / "weights" / name / "last.pt", weights_only=True)
        logs = home / "logs" / name
        clocks = ("seconds", "images_per_second")
        rows = read_csv(logs / "metrics.csv")
        said = json.loads((logs / "summary.json").read_text())
        return {
            "kept": {n: a.numpy().tobytes().hex() for n, a in kept.items()},
            "last": {n: a.numpy().tobytes().hex() for n, a in last["model"].items()},
            "metrics": [{k: v for k, v in row.items() if k not in clocks} for row in rows],
            "answers": (logs / "predictions.csv").read_text(),
            "split": read_csv(logs / "split.csv"),
            "scores": {k: v for k, v in said.items() if "accuracy" in k or "loss" in k},
        }


def less_of_all() -> None:
    """A search of a few steps, and no pictures of curves."""
    engine.trials.SHORT = 0.0
    engine.search.LEAST_STEPS = 128
    engine.metrics_log.plot_curves = lambda *given: None
    engine.search.plot_search = lambda *given: None
    torch.set_num_threads(1)


@dataclass
class Outcome:
    """How a command ended: its value, what it printed, and its error's kind and words."""

    value: Any = None
    said: str = ""
    kind: str = "ended"  # sentence | traceback | hangs | killed
    error: str = ""


def in_a_child(job: Callable[[], Any]) -> Outcome:
    """Do it in a forked process, which may crash or hang; the value must be JSON's."""
    read, write = os.pipe()
    if not (child := os.fork()):
        os.close(read)
        with contextlib.suppress(BaseException), open(write, "w", encoding="utf-8") as out:
            json.dump(vars(_done(job)), out)
        os._exit(0)
    os.close(write)
    text = _read_all(read, child)
    _, status = os.waitpid(child, 0)
    if text is None:
        return Outcome(kind="hangs")
    if not text:
        return Outcome(kind="killed", error=f"status {status}")
    return Outcome(**json.loads(text))


def _read_all(read: int, child: int) -> str | None:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with open(read, encoding="utf-8") as file:
            return file.read()
    except TimeoutError:
        os.kill(child, signal.SIGKILL)
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _done(job: Callable[[], Any]) -> Outcome:
    found, said = Outcome(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            found.value = job()
        except (UserError, ConfigError) as error:
            found.kind, found.error = "sentence", str(error)
        except OSError as error:  # as utils.command_line has it
            sentence = of_the_disk(error)
            found.kind = "sentence" if sentence else "traceback"
            found.error = sentence or traceback.format_exc()
        except BaseException:
            found.kind, found.error = "traceback", traceback.format_exc()
    found.said = said.getvalue()
    return found


@contextlib.contextmanager
def restored(home: Path, pristine: Path) -> Iterator[None]:
    """The world as it was, before the block."""
    for name in ("logs", "weights", "data"):
        shutil.rmtree(home / name, ignore_errors=True)
        shutil.copytree(pristine / name, home / name)
    yield
