"""A folder of pictures as shards: WebDataset tars of some size, with an index.

    python -m tools.shard FOLDER OUT                OUT/train-000000.tar, ..., and an index.json
    python -m tools.shard FOLDER OUT --size 1GB     larger ones; 256MB where nothing is said
    python -m tools.shard FOLDER OUT --verify       read all of them and compare with the folder
    python -m tools.shard FOLDER OUT train.seed=1   what decides about parts, as for training.py

The parts are the folder's own, or drawn as a training would draw them. Ctrl-C keeps what is whole,
and the same command goes on. Then: python training.py train.base_dir=OUT
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from config import ConfigError
from config_file import load_config
from dataset import PARTS, Split, load_split
from engine.run import find_run
from engine.start import begin, report_data
from images import greys_of
from overrides import arguments
from shards.index import INDEX, Index, Shard, read_index, write_rows
from shards.place import names_shards
from shards.write import Planned, check, plan, write
from system.durable import remove_left
from system.filenames import a_path
from tokens.plan import known_files
from utils import (
    UserError,
    check_disk,
    command_line,
    log,
    progress_bar,
    sha256_of,
    shell,
    some,
)

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
LOCK = ".lock"


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    size = bytes_of(args.size)
    folder, out = Path(args.folder), args.out
    if not args.folder.strip():
        raise UserError("nothing is named: name a folder of pictures")
    if names_shards(args.folder):
        raise UserError(f"{folder} holds shards already")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} lies in {folder}, whose pictures it is made of; name another place")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the shards")
    words = [f"train.base_dir={folder}", *args.overrides]
    config, notes = load_config(args.config, words)
    train = config.train
    if train.from_run:
        split_file = find_run(train.from_run, train.log_path) / "split.csv"
        takes = shell(f"train.split={split_file}", "train.new_images=train")
        raise UserError(f"train.from_run: of a run shards take the split, {takes}")
    begin(train, notes)
    known = known_files(train)
    split = load_split(train, None, known)
    split.decoded.clear()
    known.update(split.samples)
    report_data(split)
    planned = plan(split.samples, split.classes, size, train.seed)
    if args.verify:
        verify(planned, split, out)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{out} is being made by another process; wait for it") from None
    try:
        make(planned, split, out)
    finally:
        lock.release()
        (out / LOCK).unlink(missing_ok=True)
    log.info("next: %s", shell("python", "training.py", f"train.base_dir={out}"))
    return 0


def make(planned: list[Planned], split: Split, out: Path) -> None:
    """Write the shards that are not there yet, and the index."""
    remove_left(out, others_write=False)
    see_that_it_is_ours(planned, out)
    there = [shard for shard in planned if (out / shard.name).exists()]
    total = sum(shard.bytes for shard in planned)
    check_disk(out, total - sum(shard.bytes for shard in there), f"the shards in {out}")
    if there:
        log.info("%d of %d shards are there already, and are checked", len(there), len(planned))
    made: list[Shard] = []
    with progress_bar(total=total, unit="B", unit_scale=True, desc="shards") as bar:
        for shard in planned:
            file = out / shard.name
            if file.exists():
                found = checked(shard, file, bar.update)
            else:
                found = write(shard, out, bar.update)
            rows = out / found.rows
            write_rows(rows, shard.rows())
            made.append(replace(found, rows_sha256=sha256_of(rows)))
    index = Index(split.classes, tuple(made), greys_of(split.samples), split.counts())
    index.write(out)
    of = Counter(shard.part for shard in made)
    counts = ", ".join(f"{of[part]} {part}" for part in PARTS if of[part])
    log.info("saved: %s: %d shards (%s), %.1f MB", out, len(made), counts, total / 1e6)


def checked(shard: Planned, file: Path, passed: object) -> Shard:
    """A shard that is there already; UserError where it is not the one that would be made."""
    try:
        return check(shard, file, passed)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(
            f"{file} is not what its folder would give ({error}); remove it to have it made anew, "
            "or name another place"
        ) from None


def see_that_it_is_ours(planned: list[Planned], out: Path) -> None:
    """Raise UserError where a folder holds what nothing here would have put there: another set's
    shards would be trained on, too."""
    ours = {INDEX, LOCK, *(s.name for s in planned)}
    ours |= {Path(shard.name).with_suffix(".npy").name for shard in planned}
    others = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if others:
        raise UserError(
            f"{out} holds what is not of these shards ({some(others, 5)}; other settings, another "
            "--size or pictures give others): name a folder that is not there yet"
        )


def verify(planned: list[Planned], split: Split, out: Path) -> None:
    """Read every shard and compare it with the index and with the folder."""
    if not (out / INDEX).is_file():
        raise UserError(f"{out} has no {INDEX}: it is not finished; without --verify it is gone on")
    index = read_index(out / INDEX)
    names = [shard.name for shard in planned]
    if index.classes != split.classes or [shard.name for shard in index.shards] != names:
        raise UserError(
            f"{out} is not made of this folder with these settings (--size, train.seed ...): its "
            "index has other classes or shards"
        )
    wrong = []
    total = sum(shard.bytes for shard in planned)
    with progress_bar(total=total, unit="B", unit_scale=True, desc="verifying") as bar:
        for shard, listed in zip(planned, index.shards, strict=True):
            try:
                found = check(shard, out / shard.name, bar.update)
                digest = sha256_of(out / listed.rows)
            except FileNotFoundError as error:
                wrong.append(f"{Path(str(error.filename)).name} is not there")
            except ValueError as error:
                wrong.append(f"{shard.name}: {error}")
            else:
                if replace(found, rows_sha256=digest) != listed:
                    wrong.append(f"{shard.name}: the index says otherwise")
    if wrong:
        raise UserError(f"{out}: {some(wrong, 5, '; ')}; remove these, and make them again")
    pictures = len(split.samples)
    log.info("verified: %d shards, %s pictures, every byte", len(planned), f"{pictures:,}")


def bytes_of(text: str) -> int:
    """A size as it is written, 256MB; UserError for what is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", text.upper())
    unit = found and (found[2] + "B" if found[2] and not found[2].endswith("B") else found[2])
    if not found or unit not in UNITS or not (size := int(float(found[1]) * UNITS[unit])):
        raise UserError(f"--size: '{text:.40}' is no size; 256MB and 1GB are")
    if not unit:
        raise UserError(f"--size: {text.strip()} of what? {text.strip()}MB, say")
    return size


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.shard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", help="pictures, as train.base_dir takes them")
    parser.add_argument("out", type=a_path, metavar="OUT", help="the folder of the shards")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--size", default="256MB", help="the most that a shard takes (256MB)")
    parser.add_argument("--verify", action="store_true", help="compare, and make nothing")
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    return arguments(parser, argv)


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
