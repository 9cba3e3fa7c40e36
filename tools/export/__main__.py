"""A finished run in a format of others, with the proof that it answers as the run does.

    python -m tools.export RUN --to hf --out exports/bees       transformers
    python -m tools.export last --to timm --out exports/bees    timm
    python -m tools.export last --to pt2 --out exports/bees     PyTorch alone, any head
    python -m tools.export last --to npz --out exports/bees     Google's layout, for Flax
    python -m tools.export last --to onnx --out exports/bees    one graph, from pixels to answers
    python -m tools.export last --to openvino --out exports/bees   the same for Intel's runtime
    python -m tools.export last --to web --out exports/bees     a page that answers in a browser

RUN is a run's name or folder, a weights file, or last. The folder holds the model, manifest.json
(labels, preprocessing, hashes), README.md (a model card) and golden/: pictures with the answers to
them, and check.py, which compares. That comparison ends each export: a fresh process, without this
project, answers the golden pictures; where it answers otherwise, nothing is left behind.
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from classifier import Classifier, find_checkpoint
from config import ConfigError
from engine.run import config_of
from system.durable import alive
from system.filenames import a_path
from tools.export.card import table, write_card, write_manifest
from tools.export.given import Given
from tools.export.ordinary import with_class_head
from tools.export.proof import Picture, Proof, prove
from tools.export.push import check_name, files_of, push
from tools.export.targets import TARGETS, target
from utils import UserError, command_line, log, setup_log, shell

SHOWN = 5  # pictures that differ, on the terminal


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setup_log()
    if args.push:
        check_name(args.push, args.to)
    check_out(args.out)
    module = target(args.to)
    need(getattr(module, "NEEDS", ()), args.to)
    checkpoint = find_checkpoint(args.run)
    config = config_of(checkpoint, args.run)
    given = Given(Classifier(checkpoint, device="cpu"), config and config.parent, args)
    with beside(args.out) as folder:
        proof, notes = export(given, folder)
    for note in notes:
        print(f"note: {note}")
    print(said(proof))
    again = shell("python", str(args.out / "golden" / "check.py"))
    print(f"{args.to}: {args.out} ({megabytes(args.out)}); check again: {again}")
    if args.dry_run:
        print(f"would go to {args.push}, a {'public' if args.public else 'private'} repository:")
        for name, size in files_of(args.out):
            print(f"  {name} ({size:,} bytes)")
    elif args.push:
        print(f"pushed: {push(args.out, args.push, args.public)}")
    return 0


def export(given: Given, folder: Path) -> tuple[Proof, tuple[str, ...]]:
    """Write a target's whole export into a folder, and prove it; what is to be noted."""
    name = given.options.to
    module = target(name)
    no_notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as temporary:
        shown, notes = given, no_notes
        if getattr(module, "ORDINARY", False):
            shown, notes = with_class_head(given, Path(temporary))
        log.info("writing the model, as %s", name)
        written = module.write(shown, folder)
        written = replace(written, notes=notes + written.notes)
        log.info("proving it: a fresh process answers the golden pictures")
        proof = prove(shown, folder, written)
        write_card(folder, name, given, shown, written, proof)
        write_manifest(folder, name, given, shown, written, proof)
        return proof, written.notes


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, which becomes it where the block ends well, else goes."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = out.absolute().parent / f".{out.name}.{os.getpid()}.tmp"
    for left in folder.parent.glob(f".{glob.escape(out.name)}.*.tmp"):  # of one that was killed
        pid = left.name.split(".")[-2]
        if pid.isdigit() and (int(pid) == os.getpid() or not alive(int(pid))):
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        check_out(out)  # it may be there by now
        if out.is_dir():  # empty
            out.rmdir()
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_out(out: Path) -> None:
    """UserError where there is something that an export would overwrite."""
    if not out.name:
        raise UserError(f"--out {out} is no folder's name; give one that is not there yet")
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} is there already, and stays as it is; name another --out")


def need(packages: tuple[str, ...], name: str) -> None:
    """UserError where a library that a target's proof needs is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"--to {name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )


def said(proof: Proof) -> str:
    """What the proof found, as lines."""
    n = len(proof.pictures)
    lines = [
        f"proof: {n} golden pictures in a fresh process: max |dp| {proof.inputs:.1e} on the same "
        f"inputs ({proof.tolerance:g} at most)"
    ]
    other = proof.other
    if not other:
        return "\n".join([*lines, f"  from the files, too: none of {n} differs by more"])
    answers = sum(not picture.same for picture in other)
    lines.append(
        f"  from the files, by the library's own reading and resizing, {len(other)} of {n} "
        f"differ{'s' if len(other) == 1 else ''}; "
        f"{answers or 'none'} of them {'has' if answers in (0, 1) else 'have'} another answer"
    )
    shown = table(proof, f"  {'picture':32} max |dp|", row).splitlines()
    rest = len(shown) - 1 - SHOWN
    more = [f"  and {rest} more, by less: README.md and manifest.json"] if rest > 0 else []
    return "\n".join([*lines, *shown[: SHOWN + 1], *more])


def row(picture: Picture) -> str:
    difference = picture.reason or f"{picture.difference:.1e}"
    answer = "" if picture.same else "  another answer"
    return f"  {picture.name:32} {difference}  {picture.why}{answer}"


def megabytes(folder: Path) -> str:
    return f"{sum(size for _, size in files_of(folder)) / 1e6:.1f} MB"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's name or folder, a weights file, or last")
    add("--to", required=True, choices=list(TARGETS), help="the format")
    add(
        "--out",
        required=True,
        type=a_path,
        metavar="DIR",
        help="a folder that is not there yet",
    )
    add(
        "--no-pictures",
        action="store_true",
        help="golden pictures of drawn noise: none of the run's own travels along",
    )
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="of the weights, with onnx (fp32) and web (int8)",
    )
    add(
        "--most-loss",
        type=float,
        metavar="X",
        help="accuracy that int8 may lose on the run's held-out pictures (0.01)",
    )
    add(
        "--runtime",
        type=a_path,
        metavar="DIR",
        help="with web: the folder `dist` of onnxruntime-web (fetched with npm)",
    )
    add(
        "--push", metavar="OWNER/NAME", help="upload it to the Hugging Face hub (hf, timm), private"
    )
    add("--public", action="store_true", help="with --push: for everyone to see")
    add("--dry-run", action="store_true", help="with --push: say what would go, and upload nothing")
    args = parser.parse_args(argv)
    if (args.public or args.dry_run) and not args.push:
        parser.error("--public and --dry-run go with --push OWNER/NAME")
    if args.to not in ("onnx", "web") and (args.precision or args.most_loss is not None):
        parser.error("--precision and --most-loss go with --to onnx and --to web")
    if args.most_loss is not None and not 0 <= args.most_loss <= 1:  # NaN is not
        parser.error(f"--most-loss {args.most_loss:g}: a share of the pictures, from 0 to 1")
    precision = args.precision or ("int8" if args.to == "web" else "fp32")
    if args.most_loss is not None and precision != "int8":
        parser.error(f"--most-loss goes with --precision int8, and this is {precision}")
    if args.runtime and args.to != "web":
        parser.error("--runtime goes with --to web")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
