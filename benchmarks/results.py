"""The table of results: data sets by methods, each cell a run for each of five seeds.

    python -m benchmarks.results [--data DIR]        everything: hours on 2 CPU cores
    python -m benchmarks.results --fast              the columns that freeze most of the network
    python -m benchmarks.results --only hymenoptera  one row; --column ours: one column, or several

The drawn pilots and the weights are those of `make quickstart`; --data holds the folders
characters5, hymenoptera and signdigits. Resumable: a finished run is not run again; a failed one
does not stop the others, but makes the exit status 1.

Runs lie in logs/results/<row>/<column>-seed<k>, without their weights. results.csv and results.md
in benchmarks/results are written after each run; what they hold of other rows and columns stays.
`seconds` are a run's, on average; a seed's token cache is made by the first column that needs it.

A cell is the score on the test part, or on val where a row has none; then val chooses nothing: all
ways here keep their last epoch. The few-shot rows draw their folders by seed into data/shots: 5, 20
or 50 images a class to train (and validate) on, all others to test on.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.folders import few_shots
from benchmarks.machine import RESULTS
from config import ConfigError
from tools.repeat import finished, mean_and_std, reported, spread, took
from utils import UserError, command_line, write_csv, write_text

SEEDS, SLOW_SEEDS = 5, 1
TRAINING = "python training.py --config"
LOGS, SHOTS = Path("logs") / "results", Path("data") / "shots"


@dataclass(frozen=True)
class Row:
    """A data set: its config, its folder under --data (none: as the config has it), and more."""

    config: str
    folder: str | None = None
    overrides: tuple[str, ...] = ()
    shots: int | None = None
    epochs: dict[str, int] = field(default_factory=dict)  # of columns by the row; none: not run


@dataclass(frozen=True)
class Column:
    """A method: training.py, or a baseline of tools.baseline, and its overrides."""

    title: str
    overrides: tuple[str, ...] = ()
    baseline: str | None = None
    slow: bool = False
    longer: bool = False

    @property
    def by_row(self) -> bool:
        """Whether a row says its epochs; one that does not has no such column."""
        return self.slow or self.longer


ROWS = {
    "characters5": Row(
        "configs/characters5.yaml",
        "characters5",
        epochs={"pretrained": 2, "scratch": 2, "timm-full": 100, "mobilenet_v3_large": 8},
    ),
    "pilots": Row("configs/quickstart.yaml", overrides=("train.test_fraction=0.2",)),
    "hymenoptera": Row(
        "configs/hymenoptera.yaml",
        "hymenoptera",
        epochs={
            **{"pretrained": 3, "scratch": 3, "timm-full": 100, "mobilenet_v3_large": 12},
            "timm-longer": 237,
        },
    ),
    "signdigits-50": Row(
        "configs/signdigits-50.yaml",
        "signdigits",
        shots=50,
        epochs={"timm-full": 100, "timm-longer": 144},
    ),
    "signdigits-20": Row(
        "configs/signdigits-20.yaml", "signdigits", shots=20, epochs={"timm-longer": 360}
    ),
    "signdigits-5": Row(
        "configs/signdigits-5.yaml", "signdigits", shots=5, epochs={"timm-longer": 1200}
    ),
}
S14 = (
    *("vit.patch_dim=14", "vit.hidden_dim=384", "vit.num_heads=6", "vit.num_layers=12"),
    *("vit.ff_dim=1536", "vit.dim=224", "train.checkpoint=null"),
)
# The verdict would say the rivals' columns again; refit comes after what is measured.
BARE = ("train.verdict=false", "train.report=false", "train.refit=false")
COLUMNS = {
    "ours": Column("ours", BARE),
    "block": Column("the last block alone", (*BARE, "train.head=class")),
    "layers": Column("ridge over layers alone", (*BARE, "train.head=layers")),
    "head": Column("head alone", baseline="head"),
    "logistic": Column("logistic regression", baseline="logistic"),
    "knn": Column("nearest neighbours", baseline="knn"),
    "timm": Column("timm, train.py's defaults", baseline="timm"),
    "timm-adamw": Column("timm, AdamW", baseline="timm-adamw"),
    # Ours takes four times the recipe's steps where few pictures have views: so does this.
    "timm-longer": Column("timm, train.py's defaults, as long", baseline="timm", longer=True),
    "pretrained": Column(
        "ours, all weights", (*BARE, "train.mode=pretrained", "train.keep=last"), slow=True
    ),
    "scratch": Column(
        "ours, from scratch", (*BARE, "train.mode=scratch", "train.keep=last", *S14), slow=True
    ),
    "timm-full": Column("timm, all weights", baseline="timm-full", slow=True),
    "mobilenet_v3_large": Column(
        "MobileNetV3-Large, from scratch", baseline="mobilenet_v3_large", slow=True
    ),
}
FIELDS = ("row", "column", "part", "images", "epochs", "n", "mean", "std", "scores", "seconds")
Cells = dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True)
class Job:
    """One run: a row, a column, a seed."""

    row: str
    column: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}, {self.column}, seed {self.seed}"

    @property
    def name(self) -> str:
        return f"{self.column}-seed{self.seed}"

    @property
    def summary(self) -> Path:
        return LOGS / self.row / self.name / "summary.json"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    todo = list(jobs(args))
    clock = Clock(todo)
    failed: list[str] = []
    print(f"{len(todo)} runs, of which {sum(job.summary.exists() for job in todo)} are there")
    for number, job in enumerate(todo, 1):
        if not job.summary.exists():
            started = time.perf_counter()
            try:
                measure(job, args.data)
                clock.ran(job, time.perf_counter() - started)
            except KeyboardInterrupt:
                done = f"{number - 1 - len(failed)} of {len(todo)} runs done"
                raise KeyboardInterrupt(f"stopped, {done}; the same command goes on") from None
            except (UserError, ConfigError, OSError) as error:
                failed.append(f"{job}: {error}")
                print(f"[{number}/{len(todo)}] failed: {failed[-1]}", flush=True)
                continue
            print(
                f"[{number}/{len(todo)}] {job}: {score(job):.3f}; {clock.left(todo[number:])}",
                flush=True,
            )
            save()
        last_of_row = number == len(todo) or todo[number].row != job.row
        if last_of_row and not any(line.startswith(f"{job.row},") for line in failed):
            shutil.rmtree(LOGS / job.row / "data", ignore_errors=True)  # the token caches
    save()
    print("\n" + table(read(RESULTS / "results.csv")))
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


# ------------------------------------------------------------------------------------- the runs


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Row by row, seed by seed: what a seed's columns share, the token cache, is made once."""
    for name, row in ROWS.items():
        if args.only not in (None, name):
            continue
        for slow in (False, True):
            if not (args.slow if slow else args.fast):
                continue
            for seed in range(min(args.seeds, SLOW_SEEDS) if slow else args.seeds):
                for key, column in COLUMNS.items():
                    wanted = not args.column or key in args.column
                    there = not column.by_row or key in row.epochs
                    if wanted and column.slow is slow and there:
                        yield Job(name, key, seed)


def measure(job: Job, data: str) -> dict[str, Any]:
    """Run a job; what its summary.json says."""
    row, column = ROWS[job.row], COLUMNS[job.column]
    own = LOGS / job.row
    places = [f"train.log_path={own}", f"train.save_path={own / 'weights'}"]
    places += [f"train.data={own / 'data'}", f"train.run_name={job.name}"]
    overrides = [*settings(job), *places, f"train.seed={job.seed}"]
    if row.shots:
        source = Path(data) / str(row.folder)
        folder = few_shots(source, SHOTS / f"{job.row}-seed{job.seed}", row.shots, job.seed)
        overrides.append(f"train.base_dir={folder}")
    elif row.folder:
        overrides.append(f"train.base_dir={Path(data) / row.folder}")
    try:
        return finished(row.config, overrides, column.baseline)
    finally:
        if job.summary.exists():
            shutil.rmtree(own / "weights" / job.name, ignore_errors=True)


def settings(job: Job) -> list[str]:
    """The overrides that make a row's config a column's run, the places aside."""
    row, column = ROWS[job.row], COLUMNS[job.column]
    epochs = [f"train.max_epochs={row.epochs[job.column]}"] if column.by_row else []
    return [*row.overrides, *column.overrides, *epochs]


class Clock:
    """How long the rest may take: by the runs of the same column, or else of the same speed."""

    def __init__(self, todo: list[Job]) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.there = {job for job in todo if job.summary.exists()}

    def ran(self, job: Job, seconds: float) -> None:
        self.seconds.setdefault(job.column, []).append(seconds)

    def left(self, rest: list[Job]) -> str:
        rest = [job for job in rest if job not in self.there]
        every = statistics.fmean([s for column in self.seconds.values() for s in column])
        means = {column: statistics.fmean(found) for column, found in self.seconds.items()}
        minutes = sum(means.get(job.column, every) for job in rest) / 60
        return f"{len(rest)} to go, about {minutes:,.0f} min" if rest else "that was the last"


# ------------------------------------------------------------------------------------ the table


def summary(job: Job) -> dict[str, Any]:
    return json.loads(job.summary.read_text(encoding="utf-8"))


def score(job: Job) -> float:
    found = summary(job)
    return found[f"{reported(found)}_accuracy"]


def gather(row: str, column: str) -> dict[str, str] | None:
    """A cell of the runs that are there; None where there are none."""
    folders = (LOGS / row).glob(f"{column}-seed*")
    there = [Job(row, column, int(folder.name.rpartition("-seed")[2])) for folder in folders]
    there = sorted((job for job in there if job.summary.exists()), key=lambda job: job.seed)
    found = [summary(job) for job in there]
    if not found:
        return None
    part = reported(found[0])
    values = spread([one[f"{part}_accuracy"] for one in found])
    epochs = {one["epochs"] for one in found} - {None}
    return {
        "row": row,
        "column": column,
        "part": part,
        "images": str(found[0]["images"][part]),
        "epochs": str(max(epochs)) if epochs else "",
        "n": str(len(found)),
        "mean": f"{values['mean']:.4f}",
        "std": "" if values["std"] is None else f"{values['std']:.4f}",
        "scores": " ".join(f"{value:.4f}" for value in values["values"]),
        "seconds": f"{statistics.fmean(map(took, found)):.0f}",
    }


def save() -> None:
    """results.csv and results.md: the cells of the runs that are there, and the old ones."""
    path = RESULTS / "results.csv"
    cells = read(path)
    for row in ROWS:
        for column in COLUMNS:
            if (cell := gather(row, column)) is not None:
                cells[row, column] = cell
    write_csv(path, [cells[r, c] for r in ROWS for c in COLUMNS if (r, c) in cells], FIELDS)
    write_text(RESULTS / "results.md", table(cells) + "\n")


def read(path: Path) -> Cells:
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {(cell["row"], cell["column"]): cell for cell in csv.DictReader(file)}


def table(cells: Cells) -> str:
    """The cells as Markdown: the fast columns, the slow ones, and how to get each row again."""
    blocks = [
        half(cells, [c for c, column in COLUMNS.items() if column.slow is slow])
        for slow in (False, True)
    ]
    said = f"Accuracy on the named part: mean ± standard deviation of {SEEDS} seeds, or one run."
    again = "\n".join(
        f"- `{name}`: `python -m benchmarks.results --only {name}`; the first "
        f"column's seed 0 alone: `{' '.join([TRAINING, row.config, *row.overrides])}`"
        for name, row in ROWS.items()
        if any(key[0] == name for key in cells)
    )
    return "\n\n".join([said, *filter(None, blocks), again])


def half(cells: Cells, columns: list[str]) -> str:
    """A table of some columns; those without any cell are left out."""
    columns = [c for c in columns if any(key[1] == c for key in cells)]
    rows = [row for row in ROWS if any((row, c) in cells for c in columns)]
    if not rows:
        return ""
    titles = [COLUMNS[c].title for c in columns]
    lines = [f"| {' | '.join(['pictures', 'part', *titles])} |", "| --- " * (len(titles) + 2) + "|"]
    for row in rows:
        first = next(cells[row, c] for c in columns if (row, c) in cells)
        entries = [shown(cells.get((row, c)), COLUMNS[c].slow) for c in columns]
        part = f"{first['part']} ({first['images']})"
        lines.append(f"| {' | '.join([row, part, *entries])} |")
    return "\n".join(lines)


def shown(cell: dict[str, str] | None, slow: bool) -> str:
    """0.955 ± 0.007, with the epochs of a slow column, or seeds of another number than usual."""
    if cell is None:
        return ""
    text = mean_and_std(float(cell["mean"]), float(cell["std"]) if cell["std"] else None)
    if slow:
        return f"{text} ({cell['epochs']} epoch{'' if cell['epochs'] == '1' else 's'})"
    return text if cell["n"] == str(SEEDS) else f"{text} (seeds: {cell['n']})"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fast", action="store_true", help="the fast columns alone")
    parser.add_argument("--slow", action="store_true", help="the slow columns alone")
    parser.add_argument("--only", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    columns = ", ".join(COLUMNS)
    parser.add_argument(
        "--column",
        choices=COLUMNS,
        action="append",
        metavar="COLUMN",
        help=f"or several: {columns}",
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of a fast column's cell (5)")
    parser.add_argument("--data", default="data", help="holds characters5, hymenoptera, signdigits")
    args = parser.parse_args(argv)
    if not args.fast and not args.slow:
        args.fast = args.slow = True
    if args.seeds < 1:
        parser.error("--seeds takes 1 or more")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
