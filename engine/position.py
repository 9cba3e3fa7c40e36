"""Where in an epoch a run stands: its steps until now, and what they came to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from utils import seed_everything


@dataclass
class Position:
    """An epoch as far as it is done. Order and augmentation follow from seed, epoch and picture,
    and each step seeds its own random numbers, so this is all that going on needs of it."""

    epoch: int
    steps: int = 0
    images: int = 0  # that were learned from
    hits: int = 0
    seconds: float = 0.0
    left_out: int = 0  # steps that were not finite
    losses: list[float] = field(default_factory=list)  # by step, times its images
    norms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._since = time.perf_counter()

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Position:
        """What `state_dict` gave."""
        lists = {name: state[name].tolist() for name in ("losses", "norms")}
        return cls(**{**state, **lists})

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and tensors in the place of the long lists."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {n: torch.tensor(values[n], dtype=torch.float64) for n in ("losses", "norms")}
        return values | tensors

    def begin(self) -> None:
        """The clock goes on."""
        self._since = time.perf_counter()

    def seed(self, seed: int) -> None:
        """Seed the next step's random numbers, those of dropout and of Mixup."""
        seed_everything(seed, self.epoch, self.steps + 1)

    def take(self, loss: float, hits: int, norm: float, images: int) -> None:
        """Count a step."""
        self.losses.append(loss * images)
        self.norms.append(norm)
        self.hits += hits
        self.images += images
        self._count()

    def leave_out(self) -> None:
        """Count a step that was not taken."""
        self.left_out += 1
        self._count()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self.steps, self._since = self.steps + 1, now

    def row(self, lr: float) -> dict[str, Any]:
        """The epoch's row of metrics.csv, its validation aside."""
        return {
            "epoch": self.epoch,
            "train_loss": sum(self.losses) / self.images,
            "train_accuracy": self.hits / self.images,
            "lr": lr,
            "grad_norm_mean": sum(self.norms) / len(self.norms),
            "grad_norm_max": max(self.norms),
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds,
        }
