"""What is wrong with a folder of pictures: labels, leaks, copies, odd ones; what to do.

    python -m tools.audit RUN|CONFIG|FOLDER           look: logs/audit-<name>/audit.html and .csv
    python -m tools.audit --serve RUN|CONFIG|FOLDER   decide by the page, and train again
    python -m tools.audit --apply decisions.csv       move pictures as was decided by the page
    python -m tools.audit --undo logs/audit-RUN/undo.csv   put all of them back

What is left out goes to a folder beside that of the pictures, `<folder>-quarantine`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audit.findings import AUDIT, write_audit
from audit.whole import audit
from config import ConfigError
from dataset import load_split
from engine.start import begin, said_of
from overrides import arguments
from shards.place import names_shards
from system.filenames import a_path
from tokens.plan import known_files
from tools.audit.about import ABOUT
from tools.audit.apply import apply
from tools.audit.page import write_page
from tools.audit.serve import serve
from tools.audit.target import find_target
from tools.audit.undo import undo
from utils import UserError, command_line, log, log_to, shell


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.of is None:
        came = undo(args.undo) if args.undo else apply(args.apply, args.root, args.quarantine)
        print(came.said)
        return 0 if came.whole else 1
    there = (Path(args.of) / ABOUT).is_file()  # an audit's own folder
    folder = Path(args.of) if there and args.serve else look(args)
    if args.serve:
        serve(folder, args.port)
    return 0


def look(args: argparse.Namespace) -> Path:
    """Audit what was named, write what was found, and say it; the folder."""
    target = find_target(args.of, args.weights, args.overrides)
    train = target.train
    if names_shards(train.base_dir):
        raise UserError(
            f"{train.base_dir} holds shards, and an audit is of a folder of pictures: audit the "
            "one that they were made of, and make them again with train.labels=decisions.csv"
        )
    device = begin(train, target.notes)
    known = known_files(train)
    split = load_split(train, known=known)
    folder = target.folder
    folder.mkdir(parents=True, exist_ok=True)
    log_to(folder / "audit.log")
    log.info("%s", said_of(split))
    for note in split.notes:
        log.info("  %s", note)
    found = audit(target.config, split, device, folder, known, target.block())
    page = write_page(folder, found, target.run, target.file, target.overrides)
    write_audit(folder / AUDIT, found.suspects)
    if target.run is not None:
        write_audit(target.run / AUDIT, found.suspects)  # the run's report shows it
    for sentence in found.said:
        log.info("  %s", sentence)
    log.info("saved: %s, %s", folder / AUDIT, page)
    log.info("decide in the page, or with one button that trains again: %s", again(args))
    return folder


def again(args: argparse.Namespace) -> str:
    """The command that serves the page."""
    more = [f"--weights={args.weights}"] if args.weights else []
    return "python -m tools.audit " + shell("--serve", args.of, *more, *args.overrides)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("of", nargs="?", metavar="RUN|CONFIG|FOLDER")
    add("overrides", nargs="*", metavar="section.key=value", help="other settings")
    add("--weights", metavar="W", help="the weights that look (the run's, or the config's)")
    add("--apply", type=a_path, metavar="FILE", help="move pictures as this decisions.csv says")
    add(
        "--undo",
        type=a_path,
        metavar="FILE",
        help="put back what this undo.csv lists, or the newest of a folder",
    )
    add("--root", type=a_path, metavar="DIR", help="with --apply: the folder of pictures")
    add(
        "--quarantine",
        type=a_path,
        metavar="DIR",
        help="with --apply: where pictures that are left out go (DIR-quarantine beside the set)",
    )
    add("--serve", action="store_true", help="show the page on 127.0.0.1")
    add("--port", type=int, default=0, help="with --serve (any that is free)")
    args = arguments(parser, argv)
    asked = [args.apply is not None, args.undo is not None, args.of is not None]
    if sum(asked) != 1:
        parser.error("name one: a run, a config or a folder; --apply FILE; or --undo FILE")
    if args.apply is None and (args.root or args.quarantine):
        parser.error("--root and --quarantine go with --apply FILE")
    if args.of is None and args.serve:
        parser.error("--serve goes with a run, a config or a folder")
    if args.port and not args.serve:
        parser.error("--port goes with --serve")
    if not 0 <= args.port <= 65_535:
        parser.error(f"--port {args.port}: from 1 to 65535, or 0 for any that is free")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
