"""What a trained network says of pictures: a table, a file, or the pictures sorted into folders.

    python -m tools.predict PATH...                             a table
    python -m tools.predict PATH... --out answers.csv           or answers.jsonl
    python -m tools.predict PATH... --sort-into DIR --how copy  a folder an answer; or link, move
    python -m tools.predict --undo DIR/undo.csv                 take that back
    python -m tools.predict --truth FOLDER                      score FOLDER/class/*

A PATH is a picture, a folder (with all that lie in it, however deep), a pattern, or - for a list of
paths on standard input. An answer that is less probable than --min-confidence is `unsure`; of a
picture that is as far from the training pictures as --unlike it is `unlike`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from answers import USUAL, Row, add_thresholds, row_of, thresholds
from classifier import UNLIKE, Classifier, find_checkpoint, wanted_weights
from config import ConfigError
from engine.run import BEST
from layout.paths import STDIN
from system.filenames import a_path, home, text_of
from tools.predict.pictures import UNDO, Asked, find_pictures
from tools.predict.rows import KINDS, AnswersFile
from tools.predict.said import NOT_ANSWERS, Table, Tally, counted
from tools.predict.scoring import foreign, learned, scored
from tools.predict.sorting import HOW, put_there, sort_into, take_back
from utils import UserError, command_line, progress_bar, sha256_of, shell, some

MOST_NAMED = 20  # pictures that can't be read, on the terminal; a file has all


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.undo is not None:
        print(take_back(args.undo))
        return 0
    wanted = wanted_weights(args.checkpoint)
    checkpoint = find_checkpoint(home(wanted))
    asked = find_pictures(args.paths, args.truth, put_there(args.sort_into))
    note(*asked.notes)
    classifier = Classifier(
        checkpoint,
        device=args.device,
        min_confidence=args.min_confidence,
        unlike=UNLIKE if args.unlike is USUAL else args.unlike,
        flip=args.flip,
    )
    args.top = min(args.top, len(classifier.classes))
    note(f"by {checkpoint}", *thresholds(classifier, args.unlike is not USUAL))
    if args.truth:
        see_the_classes(asked, classifier, checkpoint, wanted)
    tally = Tally(answers=None if args.sort_into is None else [])
    file = open_file(args, classifier, checkpoint)
    answer_all(args, asked, classifier, file, tally)
    if not tally.said:
        where = "" if file is None else f"; {file.path} says why"
        what = "the picture can't" if tally.total == 1 else f"none of {tally.total} pictures can"
        raise UserError(f"{what} be read{where}; name others")
    print(*([""] if file is None else []), counted(tally), sep="\n")
    if args.truth:
        print("\n".join(scored(tally.counts, classifier.classes)))
    if tally.answers is not None:
        sort(args, tally.answers)
    print("\n".join(next_steps(args, tally)))
    return 0


def note(*lines: str) -> None:
    """Say something beside the answers: they can be piped."""
    for line in lines:
        tqdm.write(line, file=sys.stderr)


# ------------------------------------------------------------------------------------ the answers


def answer_all(
    args: argparse.Namespace,
    asked: Asked,
    classifier: Classifier,
    file: AnswersFile | None,
    tally: Tally,
) -> None:
    """Answer each picture: into the file, or as a line of the table; after Ctrl-C all that was
    answered is in the file."""
    table = Table(classifier.classes, args.top, classifier.certainty is not None)
    if file is not None:
        done = []
        for row in file.rows():
            tally.add(row)
            done.append(row.path)
        asked.leave_out(done)
        if file.finished and not asked.truth:
            note(f"{file.path} is finished: its answers are counted again, none is asked for anew")
        if file.finished and asked.truth:
            raise UserError(
                f"{file.path} is finished, and lacks {len(asked.truth)} of these pictures: answer "
                "them into another file"
            )
    else:
        print(table.head())
    total = len(asked.truth) + tally.total
    show = named(tally) if file is not None else lambda row: tqdm.write(table.line(row))
    bar = progress_bar(
        total=total, initial=tally.total, desc="answering", unit="image", smoothing=0.1
    )
    try:
        with bar:
            waiting: list[Row] = []
            for path, answer in classifier.stream(asked.truth):
                row = row_of(str(path), asked.truth[str(path)], answer, args.top)
                tally.add(row)
                show(row)
                bar.update()
                waiting.append(row)
                if file is not None and len(waiting) == classifier.batch_size:
                    file.write(waiting)
                    waiting.clear()
            if file is not None and not file.finished:
                file.write(waiting)
                file.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(stopped(args, file, total)) from None


def named(tally: Tally) -> Callable[[Row], None]:
    """Names pictures that can't be read; the others are in the file."""

    def show(row: Row) -> None:
        if row.problem is not None and tally.unreadable <= MOST_NAMED:
            note(f"{text_of(row.path)}: skipped, it can't be read ({row.problem})")
        if row.problem is not None and tally.unreadable == MOST_NAMED + 1:
            note("more pictures can't be read: the file names them all")

    return show


def stopped(args: argparse.Namespace, file: AnswersFile | None, total: int) -> str:
    if file is None:
        return "stopped; with --out answers.csv, what is answered is kept"
    done = sum(1 for _ in file.rows())
    again = shell("python", "-m", "tools.predict", *args.words)
    again += "" if args.resume else " --resume"
    return f"stopped: {done:,} of {total:,} answers are in {file.path}; go on: {again}"


def open_file(
    args: argparse.Namespace, classifier: Classifier, checkpoint: Path
) -> AnswersFile | None:
    if args.out is None:
        return None
    if not args.out.parent.exists():
        note(f"the folder {args.out.parent} is made")
    settings: dict[str, Any] = {"checkpoint": str(checkpoint), "sha256": sha256_of(checkpoint)}
    settings |= {"top": args.top}
    settings |= {"min_confidence": classifier.min_confidence, "unlike": classifier.unlike}
    settings |= {"flip": args.flip, "truth": args.truth}
    return AnswersFile(args.out, settings, classifier.batch_size, args.resume)


def see_the_classes(asked: Asked, classifier: Classifier, checkpoint: Path, wanted: str) -> None:
    """Say which folders are no classes of the network, and whether it has learned the pictures."""
    lines = foreign(asked.classes, classifier.classes)
    if len(lines) == len(asked.classes):
        raise UserError(f"no folder is one of the network's classes: {lines[0]}")
    note(*lines)
    scored_ones = [p for p, label in asked.truth.items() if label in classifier.classes]
    if n := learned(scored_ones, checkpoint, wanted):
        note(
            f"{n} of the {len(scored_ones)} pictures {'was' if n == 1 else 'were'} trained on: the "
            "score flatters; what its run measured is on pictures that it had not seen"
        )


# ------------------------------------------------------------------------------ what comes of them


def sort(args: argparse.Namespace, answers: Sequence[tuple[str, str]]) -> None:
    try:
        found = sort_into(args.sort_into, args.how, answers)
    except KeyboardInterrupt:
        undo = shell("python", "-m", "tools.predict", "--undo", args.sort_into / UNDO)
        raise KeyboardInterrupt(f"stopped while sorting; take it back: {undo}") from None
    done = {"copy": "copied", "link": "linked", "move": "moved"}[args.how]
    if found.failed and not (found.folders.total() or found.there):
        raise UserError(f"none of {len(found.failed):,} is {done}; {some(found.failed, 3, '; ')}")
    print(f"{found.folders.total():,} {done} into {text_of(str(args.sort_into))}")
    if found.there:
        print(f"{found.there:,} were there already")
    for problem in found.failed[:MOST_NAMED]:
        note(f"not {done}: {problem}")
    if len(found.failed) > MOST_NAMED:
        note(f"and {len(found.failed) - MOST_NAMED:,} more not {done}")


def next_steps(args: argparse.Namespace, tally: Tally) -> list[str]:
    """Where things are, and what can be done with them."""
    lines = []
    if args.out is not None:
        lines.append(f"answers: {text_of(str(args.out))}")
    if args.sort_into is not None:
        undo = shell("python", "-m", "tools.predict", "--undo", args.sort_into / UNDO)
        lines.append(f"take back: {undo}")
    doubtful = sum(tally.said[name] for name in NOT_ANSWERS)
    if args.sort_into is None and doubtful:
        those = "the one that is" if doubtful == 1 else f"the {doubtful:,} that are"
        lines.append(
            f"next: look at {those} unsure or unlike; --sort-into DIR puts such pictures into "
            "folders of their own"
        )
    elif args.out is None and args.sort_into is None:
        lines.append(
            "next: --out answers.csv keeps the answers, --sort-into DIR sorts the pictures"
        )
    return lines


# ---------------------------------------------------------------------------------- the command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help=f"a picture, folder or pattern; {STDIN}: a list")
    add("--checkpoint", help=f"a run's {BEST}, its name or folder (config.yaml's, or last)")
    add("--out", type=a_path, metavar="FILE", help="where the answers go: a .csv or .jsonl")
    add("--resume", action="store_true", help="finish the file that --out names")
    add("--top", type=int, default=1, metavar="K", help="the K most probable classes (1)")
    add_thresholds(parser)
    add("--flip", action="store_true", help="average with the mirror image; twice the time")
    add("--truth", action="store_true", help="PATHs have one sub-folder a class: score the answers")
    add(
        "--sort-into",
        type=a_path,
        metavar="DIR",
        help="put the pictures into folders of answers",
    )
    add("--how", choices=HOW, help="with --sort-into (copy)")
    add("--undo", type=a_path, metavar=f"DIR/{UNDO}", help="take back what --sort-into did")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    args = parser.parse_args(argv)
    check(parser, args)
    args.how = args.how or HOW[0]
    args.words = sys.argv[1:] if argv is None else argv
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """What doesn't go together."""
    if args.undo is None and not args.paths:
        parser.error(f"name pictures or folders, or {STDIN} for a list on standard input")
    if args.undo is not None and (args.paths or args.out or args.sort_into):
        parser.error("--undo stands alone")
    if args.out is not None and args.out.suffix.lower() not in KINDS:
        parser.error(f"--out {args.out}: its name ends in {' or '.join(KINDS)}")
    if args.resume and args.out is None:
        parser.error("--resume goes with --out")
    if args.how and args.sort_into is None:
        parser.error("--how goes with --sort-into")
    if args.truth and STDIN in args.paths:
        parser.error("--truth takes folders, no list")
    if args.top < 1:
        parser.error(f"--top {args.top} must be at least 1")


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
