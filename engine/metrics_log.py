"""metrics.csv, a row an epoch, and what is made of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine.plots import plot_curves
from engine.track import TensorBoard
from filing.csv_files import read_csv
from utils import UserError, write_csv

METRICS = "metrics.csv"
PLOT_SECONDS = 10
COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "lr",
    "grad_norm_mean",
    "grad_norm_max",
    "seconds",
    "images_per_second",
)


class MetricsLog:
    """metrics.csv, a row an epoch, the same numbers as TensorBoard events, and curves.png.

    After a stop, `rows` holds what was kept: those up to `last_epoch`. The events are written
    anew from them, so that a resumed run leaves the same files as an uninterrupted one.
    """

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...],
        last_epoch: int = 0,
        best_epoch: int | None = None,
        kept: str = "kept: the best",
    ) -> None:
        self.path = folder / METRICS
        self.plot = folder / "curves.png"
        self.columns = columns
        self.best_epoch = best_epoch or None
        self.kept = kept  # what the epoch that is marked in curves.png is
        self.drawn = time.monotonic()  # a run of seconds is drawn at its end
        there = read_metrics(self.path) if last_epoch else []
        self.rows = [row for row in there if row["epoch"] <= last_epoch]
        self.events = TensorBoard(folder, self.rows)

    def write(self, best_epoch: int | None, **row: float | None) -> None:
        """Add an epoch: a value a column, None where it was not measured."""
        self.rows.append(row)
        self.best_epoch = best_epoch
        write_csv(self.path, self.rows, self.columns, durable=False)  # last.pt has them, too
        self.events.epoch(row)
        # Drawing takes 0.3 s, longer than an epoch of the cached mode may.
        if time.monotonic() > self.drawn + PLOT_SECONDS:
            self._draw()

    @property
    def _validations(self) -> list[tuple[float, float]]:
        """Accuracy and loss, negative, of each epoch that was validated: the larger the better."""
        there = [row for row in self.rows if row.get("val_accuracy") is not None]
        return [(row["val_accuracy"], -row["val_loss"]) for row in there]

    @property
    def last_accuracy(self) -> float | None:
        """That of the last validation; None before the first."""
        return self._validations[-1][0] if self._validations else None

    @property
    def images_per_second(self) -> float:
        """Of all epochs: one alone takes milliseconds where tokens are cached, too few to tell."""
        timed = [row for row in self.rows if row.get("seconds") and row.get("images_per_second")]
        took = [(row["seconds"], row["images_per_second"]) for row in timed]
        return sum(s * rate for s, rate in took) / max(sum(s for s, _ in took), 1e-9)

    def improved(self) -> bool:
        """Whether the last epoch's validation is better than every earlier one's."""
        if self.rows[-1].get("val_accuracy") is None:
            return False
        *earlier, now = self._validations
        return all(now > one for one in earlier)

    def _draw(self) -> None:
        plot_curves(self.rows, self.best_epoch, self.plot, self.kept)
        self.drawn = time.monotonic()

    def close(self) -> None:
        """Draw the curves as they are now; nothing more is written."""
        if self.rows:
            self._draw()
        self.events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv as numbers, None where a cell is empty; [] without a file.

    Raises UserError where it is damaged, or what a spreadsheet made of it can't be read."""
    if not path.exists():
        return []
    try:
        return [_numbers(row) for row in read_csv(path, kind="table of epochs")]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(
            f"{path} holds what is no number ({error}); put it right, or remove it"
        ) from None


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    values = {k: float(v.replace(",", ".")) if v else None for k, v in row.items()}
    return values | {"epoch": int(row["epoch"])}
