"""Errors, files that appear whole or not at all, seeds, devices and the log."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import hashlib
import json
import logging
import os
import random
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm import tqdm

from system.durable import flush, temporary_of
from system.filenames import shown
from system.parallel import begun_by, is_first, rank, tell_torchrun
from system.shortages import shortage
from system.stopping import stopping
from system.streams import LogFile, any_streams, silence

log = logging.getLogger("vit")

LEAST_FREE = 1 << 16  # bytes of a disk that is not full
FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """Something that the user can put right; the message is one sentence that says how."""

    def __str__(self) -> str:
        # One from a DataLoader's worker process comes with that process's traceback before it.
        return super().__str__().rpartition("UserError: ")[2].strip()


@any_streams
def command_line(main: Callable[[], int | None], *more: type[Exception]) -> int:
    """Run a program's main and turn what a user can cause into one sentence and an exit status.

    2 for UserError, `more` of its kind, a full disk or memory; 130 for Ctrl-C, which SIGTERM (143)
    and SIGHUP (129) are taken for.
    """
    user_errors: tuple[type[Exception], ...] = (UserError, *more)
    with stopping() as signals:
        try:
            return main() or 0
        except user_errors as error:
            say_failed(shown(str(error)))
            return 2
        except KeyboardInterrupt as stop:
            if is_first():
                say_stopped(str(stop))
            return signals.status
        except (OSError, RuntimeError, MemoryError, EOFError) as error:
            sentence = shortage(error)
            if sentence is None and isinstance(error, BrokenPipeError):
                silence(sys.stdout)  # its reader has seen enough, such as `head`
                return 0
            if sentence is None and isinstance(error, OSError):
                sentence = of_the_disk(error)
            if sentence is None:
                raise
            say_failed(sentence)
            return 2
        finally:
            # The bars' leftovers must not swallow the shell's next line.
            sys.stdout.flush()


def say_failed(sentence: str) -> None:
    """The sentence that a program ends with."""
    print(f"{of_whom()}error: {sentence}", file=sys.stderr)
    tell_torchrun(sentence)


def of_whom() -> str:
    """Which of several processes speaks, where it is not the first."""
    return "" if is_first() else f"process {rank()} on {socket.gethostname()}: "


def say_stopped(sentence: str) -> None:
    """The last words; with the terminal that was closed (SIGHUP) nobody hears them."""
    with contextlib.suppress(OSError):
        print(f"\n{shown(sentence) or 'stopped'}", file=sys.stderr)


def of_the_disk(error: OSError) -> str | None:
    """What a user can do about an error of files; None where that is not known."""
    name = shown(str(error.filename)) if error.filename else None
    simple = (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError)
    odd = error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EIO)
    if isinstance(error, PermissionError) and name:
        return f"{name}: {error.strerror}; give yourself the right to it (chmod), or name another"
    if isinstance(error, simple) or odd:
        return f"{name}: {error.strerror}"
    if error.errno == errno.EROFS:
        return f"{name} is on a read-only disk"
    if error.errno == errno.ENOENT and name:
        return f"{name} is not there and can't be made"
    if error.errno in FULL:
        where = f" while writing {name}" if name else ""
        return f"no space left on the disk{where}; free some and go on"
    return None


@contextlib.contextmanager
def replacing(
    path: Path, need_bytes: int = 0, durable: bool = True, earlier: Path | None = None
) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it when the block ends well, else removed.

    The file is on the disk before it has its name, and its name before this returns: after a power
    cut there is the old file or the new one. Without `durable` that is left to the system, for what
    can be made again. The file that is replaced is renamed to `earlier`, where that is given.

    Raises UserError beforehand where the disk has less than `need_bytes` left: the writers of
    large files report a full disk in many shapes, and some of them not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_disk(path.parent, need_bytes, f"{path}")
    temporary = temporary_of(path)
    try:
        yield temporary
        # Some writers make files for their owner's eyes alone; give it what open() would have.
        os.umask(umask := os.umask(0))
        temporary.chmod(0o666 & ~umask)
        if durable:
            flush(temporary)
        if earlier is not None and path.exists():
            os.replace(path, earlier)
        os.replace(temporary, path)
        if durable:
            flush(path.parent)
    except (RuntimeError, ValueError, SafetensorError) as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        if free_bytes(path.parent) < max(LEAST_FREE, need_bytes - written):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    except OSError as error:
        ours = error.filename in (None, str(temporary))
        if ours or error.errno in FULL:  # a copy names its source there
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def some(names: Iterable[str], most: int = 12, between: str = ", ") -> str:
    """Names in a sentence: the first of them, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (between.join(names[:most]) or "none") + rest


def quoted(names: Iterable[str]) -> list[str]:
    """Names as a list of them takes them: one with a comma in quotes."""
    return [f'"{name}"' if "," in name else name for name in names]


def shell(*words: str | Path) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(map(str, words))


def go_on(folder: Path) -> str:
    """The command that goes on with the run of a folder of logs."""
    program = Path("training.py")  # as it is typed in the project's own folder
    if not program.exists():
        program = Path(__file__).parent / program
    return shell(*begun_by(), program, "--resume", folder)


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
            f"no disk space for {what}: it needs {-(-need_bytes // 10**6):,} MB and "
            f"{free // 10**6:,} MB are free; free some, or write elsewhere"
        )


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(shown(text), encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    columns: Iterable[str] | None = None,
    durable: bool = True,
) -> None:
    """Write a table, whole or not at all, under the columns named, or those of its first row."""
    if columns is None:
        rows = list(rows)
        columns = rows[0]
    with (
        replacing(path, durable=durable) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(
            {name: shown(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows
        )


def sha256_of(path: Path, block_read: Callable[[int], object] = lambda size: None) -> str:
    """A file's digest, a block at a time; `block_read` is told the bytes of each."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            block_read(len(block))
    return digest.hexdigest()


# --------------------------------------------------------------------------- seeds and devices


def seed_everything(seed: int, *place: int) -> None:
    """Seed Python, NumPy and PyTorch for one epoch, or one step of it.

    Each has a seed of its own, so a resumed run draws what an uninterrupted one draws.
    """
    state = int(np.random.SeedSequence([seed, *(place or (0,))]).generate_state(1)[0])
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


def be_deterministic(wanted: bool) -> None:
    """Whether PyTorch takes only operations that give the same bits each time; cuBLAS looks at its
    variable when it is first used. https://docs.pytorch.org/docs/stable/notes/randomness.html"""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def pick_device(wanted: str) -> tuple[torch.device, str | None]:
    """The device for a config's `device`, and a line to show where it isn't the one asked for."""
    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    best = next(name for name, there in has.items() if there)
    if wanted not in ("auto", *has):
        raise UserError(f"device: {wanted!r} is none of auto, {', '.join(has)}")
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


# ------------------------------------------------------------------------------------ the log


class _Readable(logging.Formatter):
    """Writes the names of files as any file takes them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def progress_bar(*values: Any, **options: Any) -> tqdm:
    """A tqdm bar that goes away at the end; none where nobody looks, as a log file would be filled,
    nor of work beside the main thread's, over whose bar it would write."""
    shown = is_first() and threading.current_thread() is threading.main_thread()
    nobody = None if shown else True
    return tqdm(*values, **{"leave": False, "disable": nobody, **options})


class _BarFriendlyHandler(logging.Handler):
    """Prints above the progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:  # a run goes on when its reader, or its terminal, has gone
            silence(sys.stdout)
            log.warning("standard output takes no more (%s); the log goes on", error.strerror)


def setup_log() -> None:
    """Send the log to the terminal, kind to progress bars, and remember it until a file is open."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = _BarFriendlyHandler(logging.INFO if is_first() else logging.WARNING)
    terminal.setFormatter(_Readable(of_whom().replace("%", "%%") + "%(message)s"))
    log.addHandler(terminal)
    log.addHandler(MemoryHandler(1 << 20, flushLevel=logging.CRITICAL + 1))


def log_to(path: Path) -> None:
    """Append the log, what was remembered of it first, to a file."""
    file = LogFile(path, encoding="utf-8")
    file.setFormatter(_Readable("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(log.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            log.removeHandler(handler)
            handler.close()
    log.addHandler(file)


def end_log() -> None:
    """Let go of the log's file; what is said from now on goes to the terminal alone."""
    for handler in list(log.handlers):
        if isinstance(handler, logging.FileHandler):
            log.removeHandler(handler)
            handler.close()
