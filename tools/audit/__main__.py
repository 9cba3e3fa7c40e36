"""What is wrong with a folder of pictures: labels, leaks, copies, odd ones; what to do.

    python -m tools.audit --serve RUN                 the page; decisions are kept
    python -m tools.audit --apply decisions.csv       move pictures as was decided by the page
    python -m tools.audit --undo logs/audit-RUN/undo.csv   put all of them back

What is left out goes to a folder beside that of the pictures, `<folder>-quarantine`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from config import ConfigError
from tools.audit.about import ABOUT, PREFIX
from tools.audit.apply import apply, undo
from tools.audit.serve import serve
from utils import UserError, command_line


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.apply is not None:
        print(apply(args.apply, args.root, args.quarantine))
    elif args.undo is not None:
        print(undo(args.undo))
    elif args.serve:
        serve(audit_folder(args.of), args.port)
    else:
        raise UserError("nothing is measured yet: --serve, --apply and --undo work")
    return 0


def audit_folder(of: str) -> Path:
    """The folder of an audit: itself, or that of a run, by its name or its folder of logs."""
    given = Path(of)
    beside = given.parent / f"{PREFIX}{given.resolve().name}"
    for folder in (given, beside, Path("logs") / f"{PREFIX}{of}"):
        if (folder / ABOUT).is_file():
            return folder
    raise UserError(f"{of}: no audit of it; `python -m tools.audit {of}` makes one")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("of", nargs="?", metavar="RUN|CONFIG|FOLDER")
    add("--apply", type=Path, metavar="FILE", help="move pictures as this decisions.csv says")
    add("--undo", type=Path, metavar="FILE", help="put back what this undo.csv lists")
    add("--root", type=Path, metavar="DIR", help="with --apply: the folder of pictures")
    add(
        "--quarantine",
        type=Path,
        metavar="DIR",
        help="with --apply: where pictures that are left out go (DIR-quarantine beside the set)",
    )
    add("--serve", action="store_true", help="show the page on 127.0.0.1")
    add("--port", type=int, default=0, help="with --serve (any that is free)")
    args = parser.parse_args(argv)
    asked = [args.apply is not None, args.undo is not None, args.of is not None]
    if sum(asked) != 1:
        parser.error("name one: a run, a config or a folder; --apply FILE; or --undo FILE")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
