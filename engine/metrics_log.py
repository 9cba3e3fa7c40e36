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
# Epochs of few cached pictures take 20 ms, and writing all rows so far as long: so metrics.csv and
# its curves are written no more often than this, and in a fiftieth of the time at most.
ROWS_SECONDS, PLOT_SECONDS, SHARE = 1, 10, 0.02
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

    Where epochs are short the file is some seconds behind, until the log is closed.
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
        self.write_at, self.written = 0.0, 0  # when the next writing is due; the rows there
        self.draw_at = time.monotonic() + PLOT_SECONDS  # a run of seconds is drawn at its end
        there = read_metrics(self.path) if last_epoch else []
        self.rows = [row for row in there if row["epoch"] <= last_epoch]
        self.events = TensorBoard(folder, self.rows)

    def write(self, best_epoch: int | None, **row: float | None) -> None:
        """Add an epoch: a value a column, None where it was not measured."""
        self.rows.append(row)
        self.best_epoch = best_epoch
        self.events.epoch(row)
        if time.monotonic() >= self.write_at:
            self._write()
        if time.monotonic() >= self.draw_at:
            self._draw()

    @property
    def _validations(self) -> list[tuple[float, float]]:
        """Accuracy and loss, negative, of each epoch that was validated: the larger the better."""
        there = [row for row in self.rows if row.get("val_accuracy") is not None]
        return [(row["val_accuracy"], -row["val_loss"]) for row in there]

    @property
    def last_accuracy(self) -> float | None:
        """That of the last validation; None before the first."""
        found = (row.get("val_accuracy") for row in reversed(self.rows))
        return next((accuracy for accuracy in found if accuracy is not None), None)

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

    def _write(self) -> None:
        began = time.monotonic()
        write_csv(self.path, self.rows, self.columns, durable=False)  # last.pt has them, too
        self.written = len(self.rows)
        self.write_at = _next(began, ROWS_SECONDS)

    def _draw(self) -> None:
        began = time.monotonic()
        plot_curves(self.rows, self.best_epoch, self.plot, self.kept)
        self.draw_at = _next(began, PLOT_SECONDS)

    def close(self) -> None:
        """Write the rows and draw the curves as they are now; nothing more is written."""
        if self.written < len(self.rows):
            self._write()
        if self.rows:
            self._draw()
        self.events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def _next(began: float, seconds: float) -> float:
    """When to do again what has just been done, and began then."""
    now = time.monotonic()
    return now + max(seconds, (now - began) / SHARE)


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
