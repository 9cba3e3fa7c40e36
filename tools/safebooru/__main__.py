"""Builds a class-per-folder set from a board's public JSON API (Safebooru, or any Gelbooru 0.2).

    python -m tools.safebooru --out data/pilots-safebooru --per-class 150
    python -m tools.safebooru --dry-run                      what there is, and nothing is fetched
    python -m tools.safebooru --wanted my.yaml --out data/mine     other characters

Which pictures: tools/safebooru/pilots.yaml, or a copy of it with other tags. One request at a time,
a pause after each. Stopped, the same command goes on; finished, it asks for nothing. manifest.csv
in the set says what became of each post. A picture that you delete stays away, and another takes
its place. The pictures belong to their artists: see ATTRIBUTION.md in the set.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from system.filenames import a_path, text_of
from tools.safebooru.attribution import ATTRIBUTION, write_attribution
from tools.safebooru.board import KEY, USER, Board
from tools.safebooru.gather import Gathering, by_hand, survey, tidy
from tools.safebooru.manifest import MANIFEST, Manifest
from tools.safebooru.wanted import PILOTS, Wanted, read_wanted
from utils import UserError, command_line, minutes, progress_bar, shell

SAFEBOORU = "https://safebooru.org"
LEAST_PAUSE_S = 0.5
LOCAL = ("localhost", "127.0.0.1", "::1")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        run(args)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError("--out is too long a name for this disk; choose a shorter one") from None
    return 0


def run(args: argparse.Namespace) -> None:
    wanted = read_wanted(args.wanted)
    manifest = Manifest.read(args.out)
    see_that_it_is_the_same_board(manifest, args.base_url)
    key = {"api_key": os.environ.get(KEY, ""), "user_id": os.environ.get(USER, "")}
    key = {name: value for name, value in key.items() if value}
    board = Board(args.base_url, args.pause, args.most_requests, key)
    if args.dry_run:
        follow_the_hand(manifest, args)
        look_through(args, board, wanted, manifest)
    else:
        build(args, board, wanted)


# ------------------------------------------------------------------------------------- the set


def build(args: argparse.Namespace, board: Board, wanted: Wanted) -> None:
    """Fill the set, and say what is in it."""
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.out / ".lock", timeout=0):
            manifest = Manifest.read(args.out)
            manifest.begin()
            tidy(manifest)
            follow_the_hand(manifest, args)
            try:
                ended = fill(args, board, wanted, manifest)
            finally:
                if manifest.rows:
                    write_attribution(manifest)
    except Timeout:
        raise UserError(f"{args.out} is being filled by another run; wait for it") from None
    print("\n".join([*table(manifest, wanted, args, ended), *why_not(manifest), ""]))
    taken = manifest.decided("taken")
    if not taken:
        raise UserError("no picture was taken, as the lines above say")
    size = sum(row.bytes for row in taken) / 1e6
    print(f"set: {shown(args.out)} ({len(taken):,} pictures, {size:,.0f} MB); {MANIFEST} says what")
    print(f"  became of each post, {ATTRIBUTION} whose the pictures are: not ours to pass on")
    print(f"next: {shell('python', 'training.py', f'train.base_dir={args.out}')}")


def fill(args: argparse.Namespace, board: Board, wanted: Wanted, manifest: Manifest) -> list[str]:
    """The classes that the board has too few of; a stop says how to go on."""
    total = args.per_class * len(wanted.classes)
    counts = [min(manifest.count(name), args.per_class) for name in wanted.classes]
    with progress_bar(total=total, initial=sum(counts), desc="fetching", unit="picture") as bar:

        def decided(*_: object) -> None:
            bar.n = sum(manifest.count(name) for name in wanted.classes)
            bar.set_postfix(requests=board.requests)

        gathering = Gathering(board, wanted, manifest, args.per_class, decided)
        try:
            ended = gathering.run(args.refetch)
        except KeyboardInterrupt:
            here = sum(manifest.count(name) for name in wanted.classes)
            again = shell("python", "-m", "tools.safebooru", *args.words)
            raise KeyboardInterrupt(
                f"stopped: {here:,} of {total:,} pictures are in {shown(args.out)}; go on: {again}"
            ) from None
    if gathering.nameless:
        print("note: posts without an id were passed over")
    return ended


def follow_the_hand(manifest: Manifest, args: argparse.Namespace) -> None:
    """Write down what was taken away by hand since the last run, and what is back."""
    gone, back = by_hand(manifest)
    if gone:
        then = "they stay away, and others take their place; --refetch brings them back"
        then = "they are fetched again" if args.refetch else then
        print(f"note: removed by hand since the last run: {len(gone):,}; {then}")
    if back:
        print(f"note: back, after they had been removed: {len(back):,}")
    if (gone or back) and args.dry_run:
        manifest.rows |= {row.post: row for row in (*gone, *back)}
    elif gone or back:
        manifest.put(*gone, *back)


def see_that_it_is_the_same_board(manifest: Manifest, base_url: str) -> None:
    other = next((r.board for r in manifest.rows.values() if r.board != base_url), None)
    if other is not None:
        raise UserError(
            f"{manifest.folder} holds pictures of {other}: choose another --out for {base_url}"
        )


# ---------------------------------------------------------------------------------- what is said


def table(
    manifest: Manifest, wanted: Wanted, args: argparse.Namespace, ended: Sequence[str]
) -> list[str]:
    """How many pictures each class has."""
    width = max(map(len, wanted.classes))
    lines = [f"{'class':{width}}  pictures"]
    for name in wanted.classes:
        any_post = any(row.label == name for row in manifest.rows.values())
        few = "no more" if any_post else f"no post for {wanted.query(name)!r}: check the tags"
        few = f"  (the board has {few}; {args.per_class} were wanted)" if name in ended else ""
        lines.append(f"{name:{width}}  {manifest.count(name):8,}{few}")
    return lines


def why_not(manifest: Manifest) -> list[str]:
    """The posts that were not taken, by decision and reason."""
    reasons = sorted(manifest.reasons().items(), key=lambda item: (item[0][0], -item[1]))
    if not reasons:
        return []
    lines = ["", f"{sum(n for _, n in reasons):,} posts were not taken:"]
    lines += [f"  {n:6,}  {decision:9}  {reason}" for (decision, reason), n in reasons]
    if any(decision == "failed" for (decision, _), _ in reasons):
        lines.append("what failed is asked for again when its class lacks pictures")
    return lines


def look_through(
    args: argparse.Namespace, board: Board, wanted: Wanted, manifest: Manifest
) -> None:
    """Say what a run would fetch."""
    width = max(map(len, wanted.classes))
    print(f"{'class':{width}}    here  to fetch  of posts listed")
    would = 0
    for name in wanted.classes:
        here = manifest.count(name)
        found = survey(board, wanted, manifest, name, max(0, args.per_class - here))
        would += found.fit
        why = ", ".join(f"{n:,} {reason}" for reason, n in found.reasons.most_common())
        why = f" ({why})" if why else ""
        why += "; the board has no more" if found.ended else ""
        print(f"{name:{width}}  {here:6,}  {found.fit:8,}  {found.listed:15,}{why}")
    took = minutes(would * args.pause)
    print(f"\nto fetch: {would:,} pictures into {shown(args.out)}, {took} at the least")
    print("  (near-duplicates, and files that are no good, are found while fetching)")


def shown(path: Path) -> str:
    return text_of(str(path))


# ---------------------------------------------------------------------------------- the command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.safebooru",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--out",
        type=a_path,
        default=Path("data/pilots-safebooru"),
        help="the set (%(default)s)",
    )
    add("--per-class", type=int, default=150, metavar="N", help="pictures a class (%(default)s)")
    add("--wanted", type=a_path, default=PILOTS, metavar="FILE", help="classes and tags, a YAML")
    add(
        "--base-url",
        type=address,
        default=SAFEBOORU,
        metavar="URL",
        help=f"another board of the same software (%(default)s); where it asks for a key: {KEY} "
        f"and {USER} in the environment",
    )
    add("--pause", type=float, default=1.0, metavar="S", help="seconds between requests (1)")
    add("--most-requests", type=int, default=5000, metavar="N", help="stop after (%(default)s)")
    add("--dry-run", action="store_true", help="show counts; fetch and write nothing")
    add("--refetch", action="store_true", help="bring back pictures that were removed by hand")
    args = parser.parse_args(argv)
    if args.per_class < 1 or args.most_requests < 1:
        parser.error("--per-class and --most-requests must be at least 1")
    local = urlsplit(args.base_url).hostname in LOCAL
    if not (0 if local else LEAST_PAUSE_S) <= args.pause < float("inf"):
        parser.error(f"--pause {args.pause:g}: leave a board at least {LEAST_PAUSE_S} s")
    args.words = sys.argv[1:] if argv is None else argv
    return args


def address(text: str) -> str:
    """A board's address, without what stands behind it."""
    text = text.rstrip("/").removesuffix("/index.php")
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"{text} is no address like {SAFEBOORU}")
    return text.rstrip("/")


if __name__ == "__main__":
    raise SystemExit(command_line(main))
