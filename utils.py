"""Seeds, the run folder, its logs and its checkpoints; files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import difflib
import errno
import json
import logging
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from tqdm import tqdm

log = logging.getLogger("vit")

DOWNLOAD_TRIES = 4
DOWNLOAD_TIMEOUT_S = 30
CHUNK = 1 << 18
PLOT_SECONDS = 10


class UserError(Exception):
    """Something that the user can put right; the message is one sentence that says how."""


def command_line(main: Callable[[], int | None], *more: type[Exception]) -> int:
    """Run a program's main and turn what a user can cause into one sentence and an exit status.

    2 for UserError, `more` of its kind and a full disk; 130 for Ctrl-C.
    """
    user_errors: tuple[type[Exception], ...] = (UserError, *more)
    try:
        return main() or 0
    except user_errors as error:
        # One from a DataLoader's worker process comes with that process's traceback before it.
        print(f"error: {str(error).rpartition('UserError: ')[2].strip()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\nstopped", file=sys.stderr)
        return 130
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno == errno.EROFS:
            print(f"error: {error.filename} is on a read-only disk", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"error: no space left on the disk{where}; free some and go on", file=sys.stderr)
        return 2
    finally:
        # The bars' leftovers must not swallow the shell's next line.
        sys.stdout.flush()


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # it never arrives elsewhere
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if came and callable(before):
        before(signal.SIGINT, None)


@contextlib.contextmanager
def replacing(path: Path, need_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it when the block ends well, else removed.

    Raises UserError beforehand where the disk has less than `need_bytes` left: the writers of
    large files report a full disk in many shapes, and some of them not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_disk(path.parent, need_bytes, f"{path}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        # Some writers make files for their owner's eyes alone; give it what open() would have.
        os.umask(umask := os.umask(0))
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What is left on the disk that holds `folder`, or will hold it."""
    return shutil.disk_usage(existing(folder)).free


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    for there in (folder.absolute(), *folder.absolute().parents):
        if there.exists():
            return there
    raise UserError(f"{folder}: there is no such disk")


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, there already or not, share a disk."""
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def check_disk(folder: Path, need_bytes: int, what: str) -> None:
    """Raise UserError where the disk that holds `folder` has less than `need_bytes` left."""
    free = free_bytes(folder)
    if free < need_bytes:
        raise UserError(
            f"no disk space for {what}: it needs {need_bytes / 1e6:,.0f} MB and "
            f"{free / 1e6:,.0f} MB are free; free some, or write elsewhere"
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None
) -> None:
    """Write a table, whole or not at all, under the columns named, or those of its first row."""
    rows = list(rows)
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0] if columns is None else columns))
        writer.writeheader()
        writer.writerows(rows)


# ---------------------------------------------------------------------------------- downloads


def download(url: str, path: Path, check: Callable[[Path], object] | None = None) -> None:
    """Fetch `url` to `path`, going on where an earlier try broke off.

    Nothing partial is ever named `path`: `check` reads the finished file before it gets its name
    and raises where it is wrong; such a file is removed. Raises UserError where the address can't
    be reached or the file is not there.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(DOWNLOAD_TRIES):
        try:
            _fetch(url, part)
            break
        except requests.HTTPError as error:
            raise UserError(f"{url}: the server answered {error.response.status_code}") from None
        except (requests.RequestException, ConnectionError) as error:
            if attempt == DOWNLOAD_TRIES - 1:
                raise UserError(
                    f"{url} can't be reached ({type(error).__name__}); without a network, fetch "
                    f"it elsewhere and put it at {path}"
                ) from None
            time.sleep(0.2 * 2**attempt)
    if check is not None:
        try:
            check(part)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                part.unlink()
            raise
    os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """One try: ask for what is missing of `part`; a server that can't resume sends it all."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
    headers.setdefault("Accept-Encoding", "identity")
    with requests.get(url, headers=headers, stream=True, timeout=DOWNLOAD_TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            total = int(answer.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if total == have:
                return
            part.unlink()  # not a beginning of this file: start again
            raise requests.ConnectionError("the partial file does not belong to this address")
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        start = have if resumed else 0
        length = int(answer.headers.get("Content-Length", 0))
        if length:
            check_disk(part.parent, length, str(part))
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=start + length or None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=part.stem,
            ) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if length and part.stat().st_size != start + length:
            raise requests.ConnectionError("the connection ended early")


# --------------------------------------------------------------------------- seeds and devices


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed Python, NumPy and PyTorch for one epoch.

    Each epoch has a seed of its own, so a resumed run draws what an uninterrupted one draws.
    """
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed instead of handing large blocks back to the system.

    glibc maps a large block anew for every tensor, and the system then clears it page by page: a
    forward pass of a B/16 spends 5 % of its time on that, full training 2 to 8 % (2 cores). Where
    the C library has no such switch, nothing happens.
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions take no more than 32 MB. Refused, it must not lose its own adaptation.
        if mallopt(mmap_threshold, (1 << 31) - 1) or mallopt(mmap_threshold, 32 << 20):
            mallopt(trim_threshold, (1 << 31) - 1)


def pick_device(wanted: str) -> tuple[torch.device, str | None]:
    """The device for a config's `device`, and a line to show where it isn't the one asked for."""
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    best = next(name for name, there in has.items() if there)
    if wanted == "auto":
        return torch.device(best), None
    if has[wanted]:
        return torch.device(wanted), None
    return torch.device(best), f"train.device: {wanted} is not on this machine; using {best}"


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    """bfloat16 for the matrix products where the config asks for it, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "bitsandbytes", "torchmetrics", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_commit() -> str | None:
    """The commit of this repository, `-dirty` with uncommitted changes; None outside of one."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


# ------------------------------------------------------------------------------ the run folder


class _BarFriendlyHandler(logging.Handler):
    """Prints above the progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def setup_log() -> None:
    """Send the log to the terminal, kind to progress bars, and remember it until a file is open."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = _BarFriendlyHandler(logging.INFO)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(terminal)
    log.addHandler(MemoryHandler(1 << 20, flushLevel=logging.CRITICAL + 1))


def log_to(path: Path) -> None:
    """Append the log, what was remembered of it first, to a file."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(log.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            log.removeHandler(handler)
            handler.close()
    log.addHandler(file)


BEST = "best.safetensors"  # the network of a run that is kept
LEFT_BY_A_RUN = ("config.yaml", "summary.json", "metrics.csv")


def runs(log_path: str | Path) -> list[Path]:
    """The folders of logs of all runs, the newest last."""
    return sorted((c.parent for c in Path(log_path).glob("*/config.yaml")), key=_made)


def _made(folder: Path) -> float:
    return os.path.getmtime(folder / "config.yaml")


def find_run(wanted: str, log_path: str | Path = "logs") -> Path:
    """The folder of logs that a path, a run's name or `last` stands for; UserError for others."""
    logs = Path(log_path)
    if wanted == "last":
        if not (found := runs(logs)):
            raise UserError(f"{logs} holds no run yet: train one, or name a run's folder")
        return found[-1]
    for folder in (Path(wanted), logs / wanted):
        if any((folder / name).is_file() for name in LEFT_BY_A_RUN):
            return folder
    if Path(wanted).exists():
        raise UserError(
            f"{wanted} is not a run: it has no {', '.join(LEFT_BY_A_RUN[:-1])} or "
            f"{LEFT_BY_A_RUN[-1]}; name a folder under {logs}"
        )
    near = difflib.get_close_matches(Path(wanted).name, [run.name for run in runs(logs)], 1)
    hint = f"did you mean {near[0]}?" if near else f"name a folder under {logs}, or last"
    raise UserError(f"{wanted}: no such run; {hint}")


class Run:
    """One run's two folders: `logs/<name>` for what is read, `weights/<name>` for checkpoints."""

    def __init__(self, name: str, log_path: str, save_path: str, resumes: bool = False) -> None:
        self.name = name
        self.resumes = resumes
        self.folder = Path(log_path) / name
        self.weights = Path(save_path) / name
        self.best = self.weights / BEST
        self.last = self.weights / "last.pt"
        self.split = self.folder / "split.csv"

    @classmethod
    def create(cls, name: str | None, log_path: str, save_path: str, mode: str) -> Run:
        """A new run; without a name, one made of the time and the mode. Raises UserError where
        it exists: results are never overwritten."""
        run = cls(name or f"{time.strftime('%Y%m%d-%H%M%S')}-{mode}", log_path, save_path)
        for folder in (run.folder, run.weights):
            if folder.exists() and any(folder.iterdir()):
                raise UserError(
                    f"{folder} exists: go on with it by --config {run.folder}/config.yaml "
                    "train.from_checkpoint=true, choose another train.run_name, or remove it"
                )
        return run

    @classmethod
    def reopen(cls, source: str | bool, name: str | None, log_path: str, save_path: str) -> Run:
        """The run to go on with: True is `name`, or without one the newest under `log_path`;
        a path is that run's folder of logs or of weights, or its last.pt."""
        if source is True and name:
            run = cls(name, log_path, save_path, resumes=True)
        elif source is True:
            # A sanity check leaves no checkpoint, and is nothing to go on with.
            folders = [f for f in runs(log_path) if (Path(save_path) / f.name).is_dir()]
            if not folders:
                raise UserError(f"{log_path} holds no run to go on with; leave from_checkpoint out")
            run = cls(folders[-1].name, log_path, save_path, resumes=True)
        else:
            path = Path(str(source))
            name = (path.parent if path.suffix == ".pt" else path).name
            run = cls(name, log_path, save_path, resumes=True)
            if path.resolve() not in [p.resolve() for p in (run.folder, run.weights, run.last)]:
                raise UserError(
                    f"{path} is not a run under {log_path} and {save_path}; name its own settings "
                    "with --config, or set train.log_path and train.save_path"
                )
        if not run.split.exists():
            raise UserError(f"{run.split} is not there: no run to go on with by that name")
        return run

    def open(self) -> None:
        """Make the folder and begin its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log_to(self.folder / "run.log")

    def save_last(self, state: dict[str, Any]) -> None:
        """Write all that going on needs: tensors and plain values only, read with weights_only."""
        with replacing(self.last, _tensor_bytes(state)) as temporary:
            torch.save(state, temporary)

    def load_last(self) -> dict[str, Any] | None:
        """What `save_last` wrote, on the CPU; None where the run stopped before its first save."""
        if not self.last.exists():
            return None
        try:
            return torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UserError(
                f"{self.last} can't be read ({error}); remove it to start over"
            ) from error


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(_tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_tensor_bytes(value) for value in state)
    return 0


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
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only runs need it

        self.path = folder / "metrics.csv"
        self.plot = folder / "curves.png"
        self.columns = columns
        self.best_epoch = best_epoch or None
        self.drawn = -math.inf
        self.rows = [row for row in read_metrics(self.path) if row["epoch"] <= last_epoch]
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.events = SummaryWriter(str(folder))
        for row in self.rows:
            self._event(row)

    def write(self, best_epoch: int | None, **row: float | None) -> None:
        """Add an epoch: a value a column, None where it was not measured."""
        self.rows.append(row)
        self.best_epoch = best_epoch
        write_csv(self.path, self.rows, self.columns)
        self._event(row)
        # Drawing takes 0.3 s, longer than an epoch of the cached mode may.
        if time.monotonic() > self.drawn + PLOT_SECONDS:
            self._draw()

    def _draw(self) -> None:
        plot_curves(self.rows, self.best_epoch, self.plot)
        self.drawn = time.monotonic()

    def _event(self, row: dict[str, Any]) -> None:
        for name in self.columns:
            if name != "epoch" and row.get(name) is not None:
                group = name if "_" not in name else name.replace("_", "/", 1)
                self.events.add_scalar(group, row[name], int(row["epoch"]))
        self.events.flush()

    def close(self) -> None:
        """Draw the curves as they are now; nothing more is written."""
        if self.rows:
            self._draw()
        self.events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def log_outcome(
    folder: Path,
    epoch: int,
    settings: dict[str, Any],
    reached: dict[str, float],
    confusion: np.ndarray,
    classes: tuple[str, ...],
    images: list[tuple[Path, str]],
) -> None:
    """Add to a run's TensorBoard events what it ended with: hparams, the confusion matrix (true
    classes by predicted ones), and images with their captions."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in settings.items()}
    with SummaryWriter(str(folder), filename_suffix=".outcome") as events:
        for summary in hparams(plain, reached):
            events.file_writer.add_summary(summary)
        for name, value in reached.items():
            events.add_scalar(name, value, epoch)
        events.add_figure("confusion", _confusion(confusion, classes), epoch)
        if images:
            events.add_figure("predictions", _captioned(images), epoch)


def _confusion(matrix: np.ndarray, classes: tuple[str, ...]) -> Any:
    from matplotlib.figure import Figure

    C = len(classes)
    side = min(3 + 0.5 * C, 16)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    if C <= 25:
        for (y, x), count in np.ndenumerate(matrix):
            colour = "black" if shares[y, x] > 0.5 else "white"
            axes.text(x, y, str(count), ha="center", va="center", color=colour, fontsize=9)
    if C <= 60:
        axes.set_xticks(range(C), classes, rotation=90)
        axes.set_yticks(range(C), classes)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def _captioned(images: list[tuple[Path, str]]) -> Any:
    from matplotlib.figure import Figure
    from PIL import Image

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, (path, text) in zip(grid, images, strict=False):
        with contextlib.suppress(OSError), Image.open(path) as image:  # it may be gone by now
            image.thumbnail((240, 240))
            axes.imshow(np.asarray(image.convert("RGB")))
        axes.set_title(textwrap.fill(text, 28), fontsize=8)
    return figure


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv as numbers, None where a cell is empty; [] without a file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows: list[dict[str, Any]] = []
        for row in csv.DictReader(file):
            values: dict[str, Any] = {k: float(v) if v else None for k, v in row.items()}
            rows.append(values | {"epoch": int(row["epoch"])})
        return rows


def plot_curves(rows: list[dict[str, Any]], best_epoch: int | None, path: Path) -> None:
    """Draw the losses, the accuracies and the learning rate by epoch into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = (
        ("Loss", {"train_loss": "training", "val_loss": "validation"}),
        ("Accuracy", {"train_accuracy": "training", "val_accuracy": "validation"}),
        ("Learning rate", {"lr": "learning rate"}),
    )
    # Okabe and Ito's palette, which colour-blind readers can tell apart.
    colours = ("#0072B2", "#D55E00")
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for colour, (column, label) in zip(colours, lines.items(), strict=False):
            points = [(r["epoch"], r[column]) for r in rows if r.get(column) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=label)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="#777777", ls=":", lw=1, label=f"best ({best_epoch})")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_search(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the grid of a search (search.csv's rows) into a PNG: a row for each trained part,
    optimiser and weight decay, a column a learning rate, the scores of the last round that it took
    part in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    def side(row: dict[str, Any]) -> tuple[str, str, float]:
        return row["part"], row["optim"], row["weight_decay"]

    last = {(side(r), r["lr"]): r for r in rows}  # later rounds come later
    sides = list(dict.fromkeys(side for side, _ in last))
    rates = sorted({lr for _, lr in last})
    most = max(r["steps"] for r in rows)
    grid = np.full((len(sides), len(rates)), np.nan)
    for (where, lr), row in last.items():
        grid[sides.index(where), rates.index(lr)] = row["loss"]
    figure = Figure(figsize=(2.6 + 0.85 * len(rates), 1.9 + 0.6 * len(sides)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    known = grid[np.isfinite(grid)]
    least, most_loss = (known.min(), known.max()) if known.size else (1.0, 1.0)
    # Logarithmic: one setting that went wrong would leave all others the same colour.
    scale = LogNorm(least, max(most_loss, 1.01 * least))
    image = axes.imshow(grid, cmap="cividis_r", aspect="auto", norm=scale)
    middle = math.sqrt(least * most_loss)
    for (where, lr), row in last.items():
        y, x = sides.index(where), rates.index(lr)
        colour = "white" if middle <= row["loss"] < math.inf else "black"
        final, mark = row["steps"] == most, "\nchosen" if row["chosen"] else ""
        text = f"{row['accuracy']:.3f}\n{row['loss']:.3f}{mark}"
        weight = "bold" if final else "normal"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8, weight=weight)
    names = {"block": "last block and head", "head": "norm and head"}
    axes.set_xticks(range(len(rates)), [f"{lr:.2g}" for lr in rates])
    labels = [f"{names[part]}\n{optim}, decay {decay:g}" for part, optim, decay in sides]
    axes.set_yticks(range(len(sides)), labels)
    axes.set_xlabel("learning rate")
    axes.set_title("Accuracy and loss inside the training part (bold: finalists)", fontsize=10)
    figure.colorbar(image, label="loss")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")
