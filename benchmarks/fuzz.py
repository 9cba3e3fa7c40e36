"""Files made wrong by a seed, thousands a second, through every reader of files of others.

    python -m benchmarks.fuzz [--inputs 40000] [--readers npz ...] [--seed 0] [--keep FOLDER]

A reader accepts a file or raises the errors that it documents, within 5 seconds and in bounded
memory; whatever else happens is undocumented, and told by the place where it was raised. Each works
in a process of its own with 2 GB more than it has at the beginning; one that hangs or dies is
started again behind the file that did it, and `--keep` keeps that. An input is made of its reader's
name, the seed and its number, so any of them can be had again. Prints a table and writes
benchmarks/results/fuzz.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.machine import RESULTS, ROOT
from benchmarks.mutations import mutated
from benchmarks.readers import READERS, Reader
from filing.csv_files import read_csv
from utils import UserError, command_line, progress_bar, shell, write_csv

HANGS_AFTER = 5  # seconds of its own: beside other programs they last longer
GRACE = 60  # seconds by the clock, after which it waits for something
KILLED_AFTER = 90  # and doesn't come back from a library
MEMORY = 2 << 30  # bytes more than at the beginning
MOST_KEPT = 100  # inputs a reader
AT_A_TIME = 500  # inputs that a worker is given


@dataclass
class Tally:
    """What became of a reader's inputs; `places` are those of undocumented errors, by how often."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    documented: int = 0
    undocumented: int = 0
    hangs: int = 0
    deaths: int = 0
    peak_mb: float = 0.0
    seconds: float = 0.0
    places: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: str, place: str) -> None:
        self.inputs += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        if place:
            self.places[place] += 1


class Hang(BaseException):
    """Raised by the alarm: no reader takes it for an error of a file."""


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    rows = []
    for reader in args.readers:
        tally = fuzz(reader, args.inputs, args.seed, args.minutes, args.keep)
        rows.append({**asdict(tally), "places": json.dumps(tally.places)})
        write_csv(args.out, merged(args.out, rows))
        print(line(tally), flush=True)
        for place, times in tally.places.most_common(8):
            print(f"    {times:6} {place}", flush=True)
    total = sum(row["inputs"] for row in rows)
    wrong = sum(row[key] for row in rows for key in ("undocumented", "hangs", "deaths"))
    print(f"{total:,} inputs, {wrong:,} that are not as they should be")
    return 1 if wrong else 0


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows, and those of other readers that a table has."""
    known: dict[str, dict[str, Any]] = {row["reader"]: row for row in rows}
    there = read_csv(path) if path.exists() else []
    known = {row["reader"]: row for row in there} | known
    return [known[reader.name] for reader in READERS if reader.name in known]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {reader.name: reader for reader in READERS}
    parser.add_argument("--inputs", type=int, default=40_000, help="a reader (40000)")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help=shell(*known))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10, help="a reader, at most (10)")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for what isn't as it should be"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.csv")
    args = parser.parse_args(argv)
    if wrong := [name for name in args.readers or () if name not in known]:
        raise UserError(f"--readers: {wrong[0]} is none of {shell(*known)}")
    args.readers = [known[name] for name in args.readers or known]
    return args


def fuzz(
    reader: Reader, inputs: int, seed: int, minutes: float = 10, keep: Path | None = None
) -> Tally:
    """Some inputs through a reader, in processes that are started again where one is stuck."""
    tally, started, place = Tally(reader.name), time.monotonic(), 0
    with progress_bar(total=inputs, desc=reader.name) as bar, worker(reader, seed) as first:
        process, pipe = first
        while place < inputs and time.monotonic() < started + 60 * minutes:
            pipe.send((place, min(inputs, place + AT_A_TIME)))
            while (got := answer(pipe)) is not None and got[0] >= 0:
                number, outcome, where, peak = got
                tally.add(outcome, where)
                tally.peak_mb = max(tally.peak_mb, peak)
                if keep and where and tally.places.total() <= MOST_KEPT:
                    kept(keep, reader, number, seed, outcome)
                place = number + 1
                bar.update()
            if got is None:
                outcome = "hangs" if process.is_alive() else "deaths"
                process.kill()
                process.join()
                tally.add(outcome, f"{outcome} at input {place} ({process.exitcode})")
                if keep:
                    kept(keep, reader, place, seed, outcome)
                place += 1
                process, pipe = begun(reader, seed)
        process.kill()
    tally.seconds = round(time.monotonic() - started, 1)
    return tally


def kept(folder: Path, reader: Reader, number: int, seed: int, outcome: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{outcome}-{reader.name}-{number}-{Path(reader.file).name}".replace(" ", "")
    (folder / name).write_bytes(input_of(reader, reader.seeds(), seed, number))


def answer(pipe: Connection) -> tuple[int, str, str, float] | None:
    """What a worker says next; None where it says nothing in time, or has died."""
    try:
        return pipe.recv() if pipe.poll(KILLED_AFTER) else None
    except (EOFError, OSError):
        return None


# --------------------------------------------------------------------------------------- the worker


@contextlib.contextmanager
def worker(reader: Reader, seed: int) -> Iterator[tuple[Any, Connection]]:
    process, pipe = begun(reader, seed)
    try:
        yield process, pipe
    finally:
        process.kill()
        process.join()


def begun(reader: Reader, seed: int) -> tuple[Any, Connection]:
    forks = multiprocessing.get_context("fork")  # what is imported is shared
    here, there = forks.Pipe()
    process = forks.Process(target=work, args=(reader, seed, there), daemon=True)
    process.start()
    there.close()
    return process, here


def work(reader: Reader, seed: int, pipe: Connection) -> None:
    """Read the inputs that are asked for, and say what became of each."""
    import resource

    # What libraries print of a broken file is not looked at.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout = io.StringIO()
    logging.disable()
    warnings.simplefilter("ignore")
    for way in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(way, ring)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r", reader.file)
        path.parent.mkdir(parents=True)
        path.write_bytes(seeds[0])
        with contextlib.suppress(Exception):
            reader.read(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while True:
            for number in range(*pipe.recv()):
                path.write_bytes(input_of(reader, seeds, seed, number))
                outcome, place = outcome_of(reader, path)
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                pipe.send((number, outcome, place, round(peak / 1024, 1)))
            sys.stdout = io.StringIO()
            pipe.send((-1, "", "", 0.0))


def ring(*_: object) -> None:
    raise Hang


def input_of(reader: Reader, seeds: list[bytes], seed: int, number: int) -> bytes:
    return mutated(Random(f"{reader.name} {seed} {number}"), seeds, reader.aware)


def outcome_of(reader: Reader, path: Path) -> tuple[str, str]:
    """What a reader does with a file, and where it was that it should not have been."""
    signal.setitimer(signal.ITIMER_PROF, HANGS_AFTER)
    signal.alarm(GRACE)
    try:
        reader.read(path)
        return "accepted", ""
    except Hang as stop:
        return "hangs", where(stop)
    except reader.errors as error:
        if isinstance(error, UserError) and "\n" in str(error):
            return "undocumented", f"several lines: {where(error)}"
        return "documented", ""
    except Exception as error:
        return "undocumented", f"{type(error).__name__} {where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def where(error: BaseException) -> str:
    """The last place in this project that an error went through, and the last one of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and ".venv" not in f.filename]
    own = [frame for frame in own if Path(frame.filename).parent.name != "benchmarks"] or own
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in (own[-1], frames[-1])]
    return " -> ".join(dict.fromkeys(places))


def line(tally: Tally) -> str:
    return (
        f"{tally.reader:26} {tally.inputs:8,} inputs {tally.accepted:7,} accepted "
        f"{tally.documented:8,} documented {tally.undocumented:6,} undocumented {tally.hangs:4} "
        f"hangs {tally.deaths:4} deaths {tally.peak_mb:7.1f} MB {tally.seconds:7.1f} s"
    )


if __name__ == "__main__":
    raise SystemExit(command_line(main))
