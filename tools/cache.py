"""Show and clean the token caches of finetune mode.

    python -m tools.cache ls              what is there, how large, made of what, when last used;
                                          --verify reads every record, too
    python -m tools.cache rm KEY ...      remove some; a key may be cut short
    python -m tools.cache prune           remove the damaged, the unfinished, and those that no run
                                          has used for 30 days (--days); --dry-run only names them

A removed cache is made anew by the next run that wants it, and what is damaged of one that stays,
too. Records are checked whenever a run first reads them, so none is trained on that was changed.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from tokens.plan import FORMAT, caches, damage, megabytes, read_header
from tokens.records import Records, read_sums
from utils import UserError, command_line, some

DAY = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """A cache on the disk: what it is of, in words, and whether a run can use it."""

    path: Path
    size: int
    records: str
    made_of: str
    state: str  # ready | being made | unfinished, with the share | damaged, with the reason
    idle_seconds: float

    @property
    def key(self) -> str:
        return self.path.name.partition(".")[0]


def entries(folder: Path) -> Iterator[Entry]:
    """Every cache under <data>/cache, finished or not."""
    for path in [*caches(folder), *caches(folder, ".partial")]:
        with contextlib.suppress(FileNotFoundError):  # finished or removed meanwhile
            yield entry(path)


def entry(path: Path) -> Entry:
    files = [(file.name, file.stat()) for file in path.rglob("*") if file.is_file()]
    size = sum(status.st_size for _, status in files)
    used = max((status.st_mtime for _, status in files), default=path.stat().st_mtime)
    records, made_of, reason = "", "", damage(path)
    state = f"damaged: {reason}" if reason else "ready"
    try:
        header, ids = read_header(path)
        tokens, width = header["recipe"]["shape"]
        records = f"{len(ids):,} x {tokens} x {width} {header['recipe']['dtype']}"
        made_of = f"{header['about']['images']}, {header['about']['weights']}"
    except ValueError:
        pass
    else:
        if path.suffix:
            there = sum(status.st_size for name, status in files if name == "tokens.bin")
            share = there / header["record_bytes"] / len(ids)
            state = f"{'being made' if in_use(path) else 'unfinished'}, {share:.0%}"
        elif header["recipe"].get("format") != FORMAT:
            state = "an older version made it, and no run reads it any more"
    return Entry(path, size, records, made_of, state, time.time() - used)


def verified(entry: Entry) -> Entry:
    """The same, with every record of one that is ready read and compared with its checksum."""
    if entry.state != "ready":
        return entry
    header, ids = read_header(entry.path)
    sums = read_sums(entry.path)
    if sums is None:
        return replace(entry, state="ready, without checksums: the next run adds them")
    bad: set[int] = set()
    for name in ("tokens", "layers") if "layers_bytes" in header else ("tokens",):
        each = header["record_bytes" if name == "tokens" else "layers_bytes"]
        records = Records(entry.path / f"{name}.bin", np.dtype((np.uint8, each)), sums[name])
        bad |= set(records.damaged())
    if not bad:
        return replace(entry, state="ready, every record is what was written")
    numbers = some(map(str, sorted(bad)))
    state = f"damaged: {len(bad):,} of {len(ids):,} records are not what was written (number "
    return replace(entry, state=f"{state}{numbers}); the next run makes these anew")


def in_use(path: Path) -> bool:
    """Whether a run is making this cache now."""
    lock = path.with_suffix(".lock")
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.action == "prune" and not 0 <= args.days < math.inf:
        raise UserError(f"--days {args.days:g}: it takes a number of days, 0 or more")
    folder = Path(args.data) / "cache"
    found = list(entries(folder)) if folder.is_dir() else []
    if args.action == "ls":
        show([verified(e) if args.verify else e for e in found], folder)
        return 0
    if args.action == "rm":
        remove(chosen(found, args.keys, folder), dry_run=False)
    else:
        stale = [e for e in found if e.state != "ready" or e.idle_seconds > args.days * DAY]
        remove([e for e in stale if not in_use(e.path)], args.dry_run)
    return 0


def show(found: list[Entry], folder: Path) -> None:
    for e in found:
        print(f"{e.key}  {megabytes(e.size):>9}  {e.records}  {e.state}, used {ago(e)}")
        if e.made_of:
            print(f"{'':16}  {e.made_of}")
    total = megabytes(sum(e.size for e in found))
    print(f"{len(found)} token cache{'' if len(found) == 1 else 's'} in {folder}, {total}")


def ago(entry: Entry) -> str:
    for unit, seconds in (("day", DAY), ("hour", 3600), ("minute", 60)):
        if (count := int(entry.idle_seconds / seconds)) > 0:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def chosen(found: list[Entry], keys: list[str], folder: Path) -> list[Entry]:
    picked = []
    for key in keys:
        if not key:
            there = some(e.key for e in found)
            raise UserError(f"an empty key names no cache; {folder} has {there}")
        matching = [e for e in found if e.key.startswith(key)]
        if len({e.key for e in matching}) != 1:
            there = some(sorted({e.key for e in found}))
            what = "no cache" if not matching else "more than one cache"
            raise UserError(f"{what} in {folder} has a key that begins with {key}; it has {there}")
        picked += matching
    if busy := [e.key for e in picked if in_use(e.path)]:
        raise UserError(f"{some(busy)} is being made by a run; stop that first")
    return picked


def remove(found: list[Entry], dry_run: bool) -> None:
    """Remove caches, each under its lock: no run begins to make one that is being removed."""
    freed = 0
    for e in found:
        what = f"{e.key} ({megabytes(e.size)}, {e.state})"
        if dry_run:
            print(f"would remove {what}")
        else:
            try:
                with FileLock(e.path.with_suffix(".lock"), timeout=0):
                    going = e.path.with_suffix(".partial")
                    if going != e.path:  # nothing is lost where it may not be removed
                        shutil.rmtree(going, ignore_errors=True)
                        e.path.rename(going)
                    if going.exists():  # else it went with the cache beside it
                        shutil.rmtree(going)
            except Timeout:
                print(f"left {what}: a run is making it")
                continue
            print(f"removed {what}")
        freed += e.size
    verb = "would be" if dry_run else "are"
    print(f"{megabytes(freed)} {verb} free again" if found else "nothing to remove")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", default="data", help="the config's train.data (data)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ls | rm | prune")
    ls = actions.add_parser("ls", help="list them", parents=[common])
    ls.add_argument("--verify", action="store_true", help="read and check every record")
    rm = actions.add_parser("rm", help="remove some", parents=[common])
    rm.add_argument("keys", nargs="+", metavar="KEY")
    prune = actions.add_parser("prune", help="remove what is of no use", parents=[common])
    prune.add_argument("--days", type=float, default=30, help="not used for so many days (30)")
    prune.add_argument("--dry-run", action="store_true", help="remove nothing, say what")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command_line(main))
