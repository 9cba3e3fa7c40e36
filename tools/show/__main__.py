"""What a weights file is, of any layout that can be trained from: no run is needed.

    python -m tools.show last                          also a run's name or folder, or a file
    python -m tools.show weights/vit-s14.safetensors google/vit-base-patch16-224/ --json

Says the network, its head and classes, how a picture becomes its input, what was settled by a rule
because the file leaves it open, how sure its answers are, where it comes from, what was measured,
its SHA-256, and what can be done with it next. Of an export that is a program (pt2, onnx, web) it
says what the manifest.json beside it knows. Nothing is fetched, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys

from classifier import find_checkpoint
from pretrained.programs import program_kind
from system.filenames import shown
from tools.show.exports import program_facts
from tools.show.facts import facts_of
from tools.show.words import program, said
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
            path = find_checkpoint(wanted)
            kind = program_kind(path)
            facts = program_facts(path, kind) if kind else facts_of(path)
        except UserError as error:
            if len(args.files) == 1:
                raise
            print(f"error: {shown(str(error))}", file=sys.stderr)
            continue
        found.append(facts)
        if not args.json:
            text = program(facts) if kind else said(facts)
            print(("\n" if len(found) > 1 else "") + shown(text), flush=True)
    if args.json:
        print(json.dumps(found, indent=2))
    return 0 if len(found) == len(args.files) else 2


if __name__ == "__main__":
    raise SystemExit(command_line(main))
