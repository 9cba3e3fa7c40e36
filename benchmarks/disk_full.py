"""A run whose disk fills up, at each of 30 points.

    python -m benchmarks.disk_full [--points N]      (root: it mounts a small tmpfs)

Logs, weights and token cache lie on a disk of their own. A run begins to write a file so many
times; in each trial, at one of N of these moments, evenly spread, another file takes all the space
that is left, so that this write and those after it find none. Then there is space again, and the
run goes on, or begins again where it had not begun: it must end bit by bit as one that was not
disturbed, and what it said on the full disk must be no traceback. Each trial runs in a process of
its own. Writes benchmarks/results/disk-full.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import utils
from benchmarks.machine import RESULTS
from benchmarks.small_world import World, in_a_child, less_of_all
from utils import command_line, write_csv

RESULT = RESULTS / "disk-full.csv"
ROOM = "32m"
FILLER = "filler"


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
        places = {"log_path": "logs", "save_path": "weights", "data": "data"}
        own = {key: str(disk / name) for key, name in places.items()}
        rows = table(World.make(home, **own, max_epochs=6), disk, args.points)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(home)
    alike = sum(row["then"] == "same result" for row in rows)
    tracebacks = sum(row["ended"] not in ("sentence", "ended") for row in rows)
    print(f"{len(rows)} points: {alike} went on to the same result, {tracebacks} tracebacks")
    return int(alike < len(rows) or tracebacks > 0)


def table(world: World, disk: Path, points: int) -> list[dict[str, Any]]:
    """A row for each point: what was being written, what was said, and what came of going on."""
    undisturbed = in_a_child(partial(filled, world, disk, None))
    assert undisturbed.kind == "ended", undisturbed.error
    writes = undisturbed.value
    known = in_a_child(partial(world.result, "r", disk)).value
    rows = []
    for number in sorted(
        {round(i * (len(writes) - 1) / max(1, points - 1)) for i in range(points)}
    ):
        for path in disk.iterdir():
            shutil.rmtree(path)
        full = in_a_child(partial(filled, world, disk, number))
        (disk / FILLER).unlink()
        again = in_a_child(partial(gone_on, world, disk))
        kind = "traceback" if "Traceback" in full.said + full.error else full.kind
        then = (
            "same result" if again.value == known else f"other ({again.kind}: {again.error[-200:]})"
        )
        said = (full.error.strip().splitlines() or ["(the run ended)"])[-1].replace(str(disk), "")
        row = {"point": number, "of": len(writes), "writing": writes[number], "ended": kind}
        rows.append(row | {"said": said, "then": then})
        print("  ".join(map(str, rows[-1].values())), flush=True)
        write_csv(RESULT, rows)
        if kind == "traceback":
            print(full.error[-1500:] or full.said[-1500:], flush=True)
    return rows


def filled(world: World, disk: Path, number: int | None) -> list[str]:
    """A run; before the write of that number the disk fills up. The names that it wrote."""
    original, writes = utils.check_disk, []

    def counting(folder: Path, need_bytes: int, what: str) -> None:
        original(folder, need_bytes, what)
        writes.append(Path(what).name if disk.name in what else what)
        if len(writes) - 1 == number:
            fill(disk / FILLER)

    utils.check_disk = counting
    world.run("r", "train.keep=best")
    return writes


def fill(path: Path) -> None:
    """Take what is left of a disk, to the last byte."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def gone_on(world: World, disk: Path) -> dict[str, Any]:
    """What a user does: the command that goes on, or the same once more where nothing has begun."""
    if (disk / "logs/r/config.yaml").exists():
        world.resume("r", disk)
    else:
        world.run("r", "train.keep=best")
    return world.result("r", disk)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
