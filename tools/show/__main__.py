"""What a weights file is, of any layout that can be trained from: no run is needed.

    python -m tools.show last                          also a run's name or folder, or a file
    python -m tools.show weights/vit-s14.safetensors google/vit-base-patch16-224/ --json

Says the network, its head and classes, how a picture becomes its input, what was settled by a rule
because the file leaves it open, how sure its answers are, where it comes from, what was measured,
its SHA-256, and what can be done with it next. Nothing is fetched, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.run import trained
from filenames import shown
from pretrained.files import weights_in
from pretrained.names import LOGS, WEIGHTS, missing
from pretrained.near import find_local, near
from tools.show.facts import facts_of
from tools.show.words import said
from utils import UserError, command_line


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.show",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "a weights file, a model's folder, a run's name or folder, or last, the newest run"
    parser.add_argument("files", nargs="+", metavar="FILE", help=what)
    parser.add_argument("--json", action="store_true", help="a list with an object a file")
    args = parser.parse_args(argv)
    found = []
    for wanted in args.files:
        try:
            facts = facts_of(find(wanted))
        except UserError as error:
            if len(args.files) == 1:
                raise
            print(f"error: {shown(str(error))}", file=sys.stderr)
            continue
        found.append(facts)
        if not args.json:
            print(("\n" if len(found) > 1 else "") + shown(said(facts)), flush=True)
    if args.json:
        print(json.dumps(found, indent=2))
    return 0 if len(found) == len(args.files) else 2


def find(wanted: str) -> Path:
    """The weights file that a path, a run's name, a folder or `last` stands for, of those that are
    on this machine."""
    try:
        file = trained(wanted)
    except OSError:  # a name that is too long is no path
        file = None
    if file is not None:
        return file
    if wanted == "last":
        raise UserError(f"{LOGS} holds no run with weights yet: train one, or name a file")
    if found := find_local(wanted, [WEIGHTS], LOGS):
        return weights_in(found) if found.is_dir() else found
    if absent := missing(wanted):
        raise UserError(
            f"{wanted} is not on this machine: a training that names it as train.checkpoint "
            f"fetches {absent.source} to {absent.path}"
        )
    raise UserError(f"{wanted}: no such weights; {near(wanted, [WEIGHTS], LOGS)}")


if __name__ == "__main__":
    raise SystemExit(command_line(main))
