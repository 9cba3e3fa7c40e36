"""Pictures in a folder against the same in shards: start, loader, memory; a million files scanned.

    python -m benchmarks.shards [--pictures 100000] [--files 1000000] [--folder DIR]

Makes JPEGs of 64 pixels (some 2 KB each) below --folder, where all of it is removed again, and
measures each thing in a process of its own, with one thread. `start` is what a run does before its
first batch: the folder or the index to classes, parts and samples, and a loader; `again` is the
same with what the first start kept. `loader` is 20,000 training pictures through the loader (read,
decoded, cropped to 32 pixels), folder and shards in turns. The files are in the system's cache.
Seconds are the processor's, which other programs on the machine change little; `wall` are the
clock's. Memory is the most that the process held for itself (RssAnon, without what it shares with
files) beyond what it has after its imports. Writes results/shards.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import RESULTS, ROOT, machine
from config import Preprocessing, TrainConfig
from dataset import Split, load_split, make_loaders
from layout.parts import lay_out
from tokens.plan import known_files
from tools import shard
from utils import check_disk, command_line, pick_device, progress_bar, shell, write_csv

CLASSES, SIDE, HELD_OUT = 10, 64, 50  # every so many-th picture is held out
MOST = 20_000  # pictures through a loader
COLUMNS = ["what", "pictures", "seconds", "wall", "pictures_per_second", "peak_mb"]
COLUMNS += ["machine", "command"]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.measure:
        print(json.dumps(measured(args.measure, args.of, args.data)))
        return 0
    home = Path(tempfile.mkdtemp(prefix="shards-", dir=args.folder))
    check_disk(home, 12_000 * args.pictures, "the pictures")
    bench = Bench(home, args.pictures)
    try:
        bench.make()
        bench.folder_and_shards()
        if args.files:
            empty_files(home / "empty", args.files)
            bench.take("scan of empty files", "scan", home / "empty", args.files)
    finally:
        shutil.rmtree(home)
    about = {"machine": machine(), "command": "python -m benchmarks.shards"}
    about["command"] += "" if argv is None and len(sys.argv) == 1 else f" {shell(*sys.argv[1:])}"
    write_csv(RESULTS / "shards.csv", (row | about for row in bench.rows), COLUMNS)
    return 0


class Bench:
    """What is measured, a row each."""

    def __init__(self, home: Path, pictures: int) -> None:
        self.home, self.pictures = home, pictures
        self.rows: list[dict[str, Any]] = []

    def make(self) -> None:
        """The pictures, a tenth of them and all, and shards of both."""
        for name, count in self.sets():
            draw(self.home / name, count)
            words = [f"train.data={self.home / 'made'}", "train.group_duplicates=false"]
            shard.main([str(self.home / name), str(self.home / f"{name}-shards"), *words])

    def sets(self) -> tuple[tuple[str, int], ...]:
        return ("few", self.pictures // 10), ("many", self.pictures)

    def folder_and_shards(self) -> None:
        for name, count in self.sets():
            self.take("start, folder", "start", self.home / name, count)
            self.take("start again, folder", "start", self.home / name, count)
            self.take("start, shards", "start", self.home / f"{name}-shards", count)
        for _ in range(2):
            for name, count in self.sets():
                self.take("loader, folder", "loader", self.home / name, count)
                self.take("loader, shards", "loader", self.home / f"{name}-shards", count)

    def take(self, what: str, how: str, of: Path, pictures: int) -> None:
        """Measure one thing in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.shards", "--measure", how, "--of", str(of)]
        command += ["--data", str(self.home / "data")]
        quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **quiet}, stdout=subprocess.PIPE, check=True
        )
        found = json.loads(done.stdout.decode().splitlines()[-1])
        rate = found["pictures"] / found["seconds"]
        row = {"what": what, "pictures": pictures, "seconds": round(found["seconds"], 2)}
        row |= {"wall": round(found["wall"], 2), "pictures_per_second": round(rate)}
        row["peak_mb"] = round(found["peak_mb"])
        print("  ".join(f"{value:>20}" for value in row.values()), flush=True)
        self.rows.append(row)


def draw(folder: Path, count: int) -> None:
    """So many JPEGs of coarse noise, no two alike, in parts and classes."""
    for part in ("train", "val"):
        for label in range(CLASSES):
            (folder / part / f"class{label}").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in progress_bar(range(count), desc=f"drawing {folder.name}"):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        part = "val" if number // CLASSES % HELD_OUT == 0 else "train"
        picture.save(folder / part / f"class{number % CLASSES}" / f"{number:07}.jpg", quality=85)


def empty_files(folder: Path, count: int) -> None:
    for label in range(100):
        (folder / f"class{label:02}").mkdir(parents=True)
        for number in range(count // 100):
            os.close(os.open(folder / f"class{label:02}" / f"{number:06}.jpg", os.O_CREAT))


# ------------------------------------------------------------------ in a process of its own


class Peak:
    """The most memory of its own that the process has had in the block, in MB, by looking often."""

    def __enter__(self) -> Peak:
        self.before = self.most = resident()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, resident())

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()
        self.most = max(self.most, resident())


def resident() -> float:
    """MB of memory that are this process's alone."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this benchmark reads Linux's /proc")


def measured(how: str, of: Path, data: Path) -> dict[str, float]:
    """Seconds, pictures, and peak memory beyond the imports'."""
    train = TrainConfig(
        base_dir=str(of),
        data=str(data),
        mode="scratch",
        batch_size=64,
        num_workers=0,
        group_duplicates=False,
    )
    with Peak() as peak:
        clock = Clock()
        if how == "scan":
            return clock.said(len(lay_out(of).found), peak)
        split = begun(train)
        loader = loader_of(split, train)
        next(iter(loader))
        if how == "start":
            return clock.said(len(split.samples), peak)
        split.decoded.clear()
        clock, pictures = Clock(), 0
        for _, labels in loader:
            pictures += len(labels)
            if pictures >= MOST:
                break
        return clock.said(pictures, peak)


class Clock:
    """Seconds of the processor, and of the clock, since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def said(self, pictures: int, peak: Peak) -> dict[str, float]:
        seconds, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        most = max(peak.most, resident()) - peak.before
        return {"pictures": pictures, "seconds": seconds, "wall": wall, "peak_mb": most}


def begun(train: TrainConfig) -> Split:
    """The split as a run reads it: what it read is kept."""
    known = known_files(train)
    split = load_split(train, None, known)
    known.update(split.samples)
    return split


def loader_of(split: Split, train: TrainConfig) -> Any:
    device, _ = pick_device("cpu")
    return make_loaders(split, train, Preprocessing(image_size=32), 3, device)["train"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=100_000, help="JPEGs (100,000)")
    parser.add_argument("--files", type=int, default=1_000_000, help="empty files (1,000,000)")
    parser.add_argument("--folder", type=Path, default=None, help="where they are made (/tmp)")
    parser.add_argument("--measure", choices=("start", "loader", "scan"), help="one thing")
    parser.add_argument("--of", type=Path, help="of this folder")
    parser.add_argument("--data", type=Path, help="where what is kept lies")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
