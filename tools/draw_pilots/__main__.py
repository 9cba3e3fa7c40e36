"""Draws stand-ins for the five Evangelion pilots, where Safebooru's pictures cannot be had.

    python -m tools.draw_pilots --out data/pilots --per-class 150 --seed 0

Every picture is *drawn by this program*: none comes from Safebooru, none is by the studio.  The
characters belong to their owners: khara and the makers of the Evangelion series.  The folders carry
Safebooru's tags, so the real pictures can take their place.

Picture k of class c depends on (seed, c, k) alone: the same arguments give the same bytes, whatever
the number of processes.  A finished folder is left alone; an interrupted one is continued.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from numpy.random import default_rng
from PIL import Image
from tqdm import tqdm

from system.filenames import a_path
from system.shortages import shortage
from system.stopping import pool_worker, stopping
from system.streams import any_streams
from tools.draw_pilots.cast import NAMES
from tools.draw_pilots.picture import draw_pilot

DRAWING_VERSION = 1  # raise it whenever a change alters any pixel
STAND_INS = "drawn stand-ins made by this program, not Safebooru pictures"
README, MARKER = "README.txt", ".drawing"
PNG_EVERY = 15  # a few PNGs among the JPEGs, so that loaders meet both


@dataclass(frozen=True)
class Job:
    """One picture to draw and where it goes."""

    folder: Path
    seed: int
    name: str
    number: int

    @property
    def path(self) -> Path:
        """The picture's file."""
        suffix = "png" if self.number % PNG_EVERY == PNG_EVERY - 1 else "jpg"
        return self.folder / self.name / f"{self.number:04d}.{suffix}"


def draw_job(job: Job) -> None:
    """Draw one picture into its file, which appears only when it is complete."""
    image = draw_pilot(job.name, default_rng([job.seed, NAMES.index(job.name), job.number]))
    half = job.path.with_name(job.path.name + ".part")
    if job.path.suffix == ".png":
        image.save(half, format="PNG")
    else:
        image.save(half, format="JPEG", quality=88)
    half.replace(job.path)


def _readme(per_class: int, seed: int) -> str:
    """The note in a drawn folder: word by word as it always was, a folder is known by it."""
    return (
        f"These pictures are {STAND_INS}.\n"
        "They were drawn by tools/draw_pilots.py and keep the place of the real pictures.\n"
        "The characters belong to their owners: khara and the makers of the Evangelion series.\n\n"
        f"drawing version {DRAWING_VERSION}\n--per-class {per_class}\n--seed {seed}\n"
    )


def _refusal(out: Path, wanted: str, force: bool) -> str | None:
    """Say why this folder must not be written to, or None."""
    if out.exists() and not out.is_dir():
        return f"{out} is a file; give a folder."
    if not out.is_dir() or not any(out.iterdir()):
        return None
    # The marker comes first: where both exist, --force was stopped and the README is the old one.
    for note in (out / MARKER, out / README):
        if note.is_file():
            found = note.read_text(encoding="utf-8", errors="replace")
            if found == wanted or (force and STAND_INS in found):
                return None
            if STAND_INS in found:
                return f"{out} holds pilots drawn with other arguments; --force draws them anew."
    return f"{out} is not empty and was not made by this program; choose another folder."


def _clear(out: Path) -> None:
    """Remove the pictures this program drew, and nothing else."""
    for name in NAMES:
        for path in (out / name).glob("[0-9][0-9][0-9][0-9].*"):
            path.unlink()


def is_finished(out: Path, per_class: int, seed: int) -> bool:
    """Tell whether the folder holds exactly what these arguments ask for."""
    note = out / README
    if not note.is_file() or note.read_text(encoding="utf-8") != _readme(per_class, seed):
        return False
    return all(Job(out, seed, n, k).path.exists() for n in NAMES for k in range(per_class))


def fill_folder(out: Path, per_class: int, seed: int, workers: int) -> int:
    """Draw what is missing; returns how many pictures were drawn."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(_readme(per_class, seed), encoding="utf-8")
    for name in NAMES:
        (out / name).mkdir(exist_ok=True)
    jobs = [Job(out, seed, name, k) for name in NAMES for k in range(per_class)]
    missing = [job for job in jobs if not job.path.exists()]
    bar = partial(tqdm, total=len(missing), desc="drawing", unit="picture", disable=None)
    if workers == 1 or len(missing) < 20:
        for job in bar(missing):
            draw_job(job)
    else:
        pool = ProcessPoolExecutor(workers, initializer=pool_worker)
        try:
            for _ in bar(pool.map(draw_job, missing, chunksize=4)):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    (out / MARKER).replace(out / README)
    return len(missing)


def write_sheet(out: Path, per_class: int, seed: int, file: Path) -> None:
    """Write a contact sheet: a row for each character, the first eight pictures of each."""
    columns, cell = 8, 160
    sheet = Image.new("RGB", (columns * cell, len(NAMES) * cell), (255, 255, 255))
    for row, name in enumerate(NAMES):
        for column in range(min(columns, per_class)):
            with Image.open(Job(out, seed, name, column).path) as image:
                image.thumbnail((cell - 6, cell - 6))
                corner = (
                    column * cell + (cell - image.width) // 2,
                    row * cell + (cell - image.height) // 2,
                )
                sheet.paste(image, corner)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, format="PNG")


# ---------------------------------------------------------------------------------- command line


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.draw_pilots", description=f"Draws the five pilots: {STAND_INS}."
    )
    parser.add_argument(
        "--out", type=a_path, default=Path("data/pilots"), help="folder to fill (%(default)s)"
    )
    parser.add_argument(
        "--per-class", type=int, default=150, help="pictures of each character (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes (%(default)s)"
    )
    parser.add_argument(
        "--sheet", type=a_path, metavar="FILE", help="also write a contact sheet (PNG)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="redraw a folder this program made with other arguments",
    )
    return parser.parse_args(argv)


def _fault(args: argparse.Namespace) -> str | None:
    if not 1 <= args.per_class <= 9999:
        return f"--per-class {args.per_class} must lie between 1 and 9999."
    if args.seed < 0:
        return f"--seed {args.seed} must not be negative."
    if args.workers < 1:
        return f"--workers {args.workers} must be at least 1."
    return _refusal(args.out, _readme(args.per_class, args.seed), args.force)


def _run(args: argparse.Namespace) -> None:
    total = args.per_class * len(NAMES)
    if is_finished(args.out, args.per_class, args.seed) and not args.force:
        print(f"{args.out} already holds these {total} pictures ({STAND_INS}).")
    else:
        if args.force:
            _clear(args.out)
        drawn = fill_folder(args.out, args.per_class, args.seed, args.workers)
        print(f"{args.out}: {drawn} pictures drawn, {total} in all ({STAND_INS}).")
    if args.sheet:
        write_sheet(args.out, args.per_class, args.seed, args.sheet)
        print(f"{args.sheet}: contact sheet ({STAND_INS}).")


def main(argv: list[str] | None = None) -> int:
    """Fill the folder; returns 0, 2 for senseless arguments or a folder that is not ours, or the
    status of the signal that stopped it."""
    args = _parse(argv)
    with stopping() as stop:
        try:
            fault = _fault(args)
            if fault is None:
                _run(args)
                return 0
        except OSError as error:
            fault = f"{error.filename or args.out}: {error.strerror or error}."
        except BrokenProcessPool as error:
            fault = f"{shortage(error)} (--workers); the same command continues {args.out}."
        except KeyboardInterrupt:
            again = f"the same command continues {args.out}."
            print(f"draw_pilots: stopped; {again}", file=sys.stderr)
            return stop.status
    print(f"draw_pilots: {fault}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(any_streams(main)())
