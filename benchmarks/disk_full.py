"""A run whose disk is full, at each of 30 points.

    python -m benchmarks.disk_full [--points N] [--tmpfs]

The writes of a run are counted, one a call, and so are the syncs to the disk; in each trial one of
N of them, evenly spread, and all that come after it, fail with ENOSPC. Then there is space again
and the same run goes on, or begins again where it had not begun: it must end bit by bit as one
that was not disturbed. With `--tmpfs` (root) the disk is a small one instead, of a size for each
point. Writes benchmarks/results/disk-full.csv.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.small_world import Outcome, World, in_a_child, less_of_all
from utils import command_line, write_csv

RESULT = RESULTS / "disk-full.csv"
ROOM = "64m"
NAMES = ("logs", "weights", "data")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.disk_full",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=30, help="of a run (30)")
    args = parser.parse_args(argv)
    less_of_all()
    home = Path(tempfile.mkdtemp(prefix="disk-full-"))
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(disk)], check=True)
    try:
        rows = table(World.make(disk), args.points)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(home)
    write_csv(RESULT, rows)
    failed = [row for row in rows if row["then"] != "same result"]
    print(f"{len(rows)} points, {len(rows) - len(failed)} went on to the same result")
    return int(bool(failed))


def table(world: World, points: int) -> list[dict[str, Any]]:
    """A row for each point: what was said when the disk was full, and what came of going on."""
    known = in_a_child(partial(begun, world)).value
    assert known is not None
    rows = []
    for point in range(points):
        clear(world)
        full = in_a_child(partial(with_full_disk, world, point, points))
        while_full = said_of(full)
        again = in_a_child(partial(go_on, world))
        then = "same result" if again.value == known else f"other: {said_of(again)}"
        rows.append({"point": point, "when": full.value or "", "said": while_full, "then": then})
        print(rows[-1], flush=True)
    return rows
