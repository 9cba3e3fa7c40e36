"""One run in each form that others read: does it answer alike where this project is not?

    python -m benchmarks.exports RUN [--only onnx-int8] [--python ENVIRONMENT/bin/python]

Each form is written by tools.export and then loaded by a fresh process that can't import this
project, which answers the golden pictures from the same inputs, and all of the run's held-out
pictures from their files, by its own library's reading and resizing, one after the other. With
`--python` that process is one of another environment, of the forms' own libraries alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT
from classifier import Classifier, find_checkpoint
from config import ConfigError
from config_file import load_config
from engine.run import config_of
from layout.split_file import read_split
from system.filenames import name_of
from tools.export.causes import CLIPPED, HALF_A_PIXEL, PADDED_FIRST, TRANSPARENT, cause
from utils import UserError, command_line, setup_log, write_csv

CSV = RESULTS / "exports.csv"
FIELDS = (
    *("form", "golden_max_dp", "pictures", "same_as_the_exported_head", "same_as_the_run"),
    *("right", "megabytes", "images_per_second"),
)
FORMS = {
    **{name: ("--to", name) for name in ("hf", "timm", "npz", "pt2")},
    **{f"onnx-{p}": ("--to", "onnx", "--precision", p) for p in ("fp32", "fp16", "int8")},
    **{name: ("--to", name) for name in ("openvino", "web")},
}
OF_8_BITS = ("onnx-int8", "web")  # which read as fp32 does
READ_BACK = ("hf", "timm", "npz")  # of an ordinary ViT: its one head is asked, not the run's two
ASKS = """
import importlib.util, json, sys, time
from pathlib import Path

golden, paths = Path(sys.argv[1]) / "golden", json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("check", golden / "check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)
np = check.np
known = json.loads((golden / "expected.json").read_text(encoding="utf-8"))
wanted = np.array([picture["from_inputs"] for picture in known["pictures"]])
inputs = np.load(golden / "pixels.npz")["inputs"]
differs = float(np.abs(np.asarray(check.of_pixels(inputs)) - wanted).max())
check.of_files(paths[:4])  # warm
began = time.perf_counter()
found = [int(np.asarray(check.of_files([path]))[0].argmax()) for path in paths]
rate = len(paths) / (time.perf_counter() - began)
answers = [known["classes"][i] for i in found]
print(json.dumps({"differs": differs, "answers": answers, "rate": rate}))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--only", choices=list(FORMS))
    parser.add_argument("--python", default=sys.executable, help="what the forms are asked by")
    args = parser.parse_args(argv)
    setup_log()
    checkpoint = find_checkpoint(args.run)
    truth = held_out(checkpoint, args.run)
    paths = list(truth)
    own = answers(checkpoint, paths)
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for form in [args.only] if args.only else FORMS:
            folder = Path(home) / form
            export = [sys.executable, "-m", "tools.export", str(checkpoint), *FORMS[form]]
            subprocess.run([*export, "--out", str(folder)], check=True, cwd=ROOT)
            found = asked(folder, paths, args.python)
            head = answers(folder, paths) if form in READ_BACK else own
            tell_others(form, found["answers"], head, paths, checkpoint)
            row = (
                form,
                found["differs"],
                len(paths),
                same(found["answers"], [a.label for a in head]),
                same(found["answers"], [a.label for a in own]),
                same(found["answers"], truth.values()),
                round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1),
                round(found["rate"], 2),
            )
            rows.append(dict(zip(FIELDS, row, strict=True)))
            print(rows[-1], flush=True)
    if not args.only:
        write_csv(CSV, rows, FIELDS)
    return 0


def held_out(checkpoint: Path, wanted: str) -> dict[str, str]:
    """The classes of a run's held-out pictures by their paths."""
    page = config_of(checkpoint, wanted)
    if page is None:
        raise UserError(f"{wanted} is no run with its logs; name one")
    root = Path(load_config(page)[0].train.base_dir).absolute()
    split = read_split(page.parent / "split.csv")
    rows = {p: row for p, row in split.items() if row["part"] in ("val", "test")}
    return {str(root / name_of(path)): row["label"] for path, row in rows.items()}


def answers(weights: Path, paths: list[str]) -> list[Any]:
    return Classifier(weights, device="cpu")(paths)


def tell_others(
    form: str, theirs: list[str], head: list[Any], paths: list[str], checkpoint: Path
) -> None:
    """Each picture that a form answers otherwise, how sure of it the classifier is, and why."""
    how = Classifier(checkpoint, device="cpu").preprocessing
    for path, other, answer in zip(paths, theirs, head, strict=True):
        if other != answer.label:
            why = cause(Path(path), (CLIPPED, TRANSPARENT, HALF_A_PIXEL, PADDED_FIRST), how)
            why = "weights and products of 8 bits" if form in OF_8_BITS else why
            name = "/".join(Path(path).parts[-2:])
            print(f"  {name}: {other}, not {answer.label} ({answer.probability:.3f}): {why}")


def asked(folder: Path, paths: list[str], python: str) -> dict[str, Any]:
    """What an export's own library answers, where nothing of this project can be imported."""
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [python, "-I", "-c", ASKS, str(folder.absolute())],
            input=json.dumps(paths),
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise UserError(f"{folder.name} can't be asked: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def same(ours: list[str], theirs: Any) -> int:
    return sum(a == b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
