"""Pictures in a folder against the same in shards: start, loader, memory; a million files scanned.

    python -m benchmarks.shards [--pictures 100000] [--files 1000000] [--folder DIR]

Makes JPEGs of 64 pixels (some 2 KB each) below --folder, where all of it is removed again, and
measures each thing in a process of its own, on one core. `start` is what a run does before its
first batch: the folder or the index to classes, parts and samples, and a loader; `again` is the
same with what the first start kept. `epoch` is a pass over the training pictures through the
loader (read, decoded, cropped to 32 pixels), in this process, folder and shards in turns; in memory
is the folder with all pictures kept decoded, as they are while they fit a quarter of it. The files
are in the system's cache. Peak memory is the process's resident one, without what it shares with
files (RssAnon), and beyond what it has after its imports. Writes results/shards.csv.
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
COLUMNS = ("what", "pictures", "seconds", "pictures_per_second", "peak_mb", "machine", "command")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.measure:
        print(json.dumps(measured(args.measure, args.of, args.data)))
        return 0
    home = Path(tempfile.mkdtemp(prefix="shards-", dir=args.folder))
    check_disk(home, 12_000 * args.pictures, "the pictures")
    bench = Bench(home, args.pictures)
    try:
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

    def folder_and_shards(self) -> None:
        few = self.pictures // 10
        for name, count in (("few", few), ("many", self.pictures)):
            draw(self.home / name, count)
            started = time.perf_counter()
            words = [f"train.data={self.home / 'data'}", "train.group_duplicates=false"]
            shard.main([str(self.home / name), str(self.home / f"{name}-shards"), *words])
            self.note("tools.shard", count, time.perf_counter() - started)
        shutil.rmtree(self.home / "data")
        for name, count in (("few", few), ("many", self.pictures)):
            self.take("start, folder", "start", self.home / name, count)
            self.take("start again, folder", "start", self.home / name, count)
            self.take("start, shards", "start", self.home / f"{name}-shards", count)
        for _ in range(2):
            for name, count in (("many", self.pictures), ("few", few)):
                self.take("epoch, folder", "epoch", self.home / name, count)
                self.take("epoch, shards", "epoch", self.home / f"{name}-shards", count)
        self.take("epoch, folder in memory", "memory", self.home / "many", self.pictures)

    def take(self, what: str, how: str, of: Path, pictures: int) -> None:
        """Measure one thing in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.shards", "--measure", how, "--of", str(of)]
        command += ["--data", str(self.home / "data")]
        quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **quiet}, stdout=subprocess.PIPE, check=True
        )
        found = json.loads(done.stdout.decode().splitlines()[-1])
        self.note(what, pictures, found["seconds"], found["peak_mb"], found["pictures"])

    def note(
        self, what: str, pictures: int, seconds: float, peak: float = 0, passed: int = 0
    ) -> None:
        rate = (passed or pictures) / seconds
        row = {"what": what, "pictures": pictures, "seconds": round(seconds, 2)}
        row |= {"pictures_per_second": round(rate), "peak_mb": round(peak) if peak else ""}
        print("  ".join(f"{value:>24}" for value in row.values()), flush=True)
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
    if how == "scan":
        with Peak() as peak:
            started = time.perf_counter()
            pictures = len(lay_out(of).found)
            seconds = time.perf_counter() - started
    else:
        with Peak() as peak:
            started = time.perf_counter()
            split, pictures = begun(train, how), 0
            loader = loader_of(split, train)
            next(iter(loader))
            seconds, pictures = time.perf_counter() - started, len(split.samples)
            if how != "start":
                if how == "epoch":
                    split.decoded.clear()
                started = time.perf_counter()
                pictures = sum(len(labels) for _, labels in loader)
                seconds = time.perf_counter() - started
    return {"seconds": seconds, "pictures": pictures, "peak_mb": peak.most - peak.before}


def begun(train: TrainConfig, how: str) -> Split:
    """The split as a run reads it: a file that was read before is not read again, but where all are
    to be held in memory."""
    known = None if how == "memory" else known_files(train)
    split = load_split(train, None, known)
    if known is not None:
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
    parser.add_argument("--measure", choices=("start", "epoch", "memory", "scan"), help="one thing")
    parser.add_argument("--of", type=Path, help="of this folder")
    parser.add_argument("--data", type=Path, help="where what is kept lies")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
