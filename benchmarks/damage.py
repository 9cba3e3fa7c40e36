"""What becomes of a run when a byte of one of its files is another, or the file is cut.

    python -m benchmarks.damage [--times N] [--only TEXT]

In each file of a stopped run, of a finished one and of their token cache, a byte is flipped at N
random places and the file is cut at N random lengths (50 each), one at a time; then comes what a
user would do next: go on with the stopped run, answer for pictures with the finished one's
weights, write its report, look inside it. A run that goes on must end bit by bit as an undisturbed
one. *Sentence*: it ends with one, or ends otherwise and has said which file is not as it was.

A ViT of 2 blocks on 16 pictures; no curves are drawn. Writes benchmarks/results/damage.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.small_world import KINDS, Outcome, World, in_a_child, less_of_all, restored
from classifier import Classifier
from tools.report.__main__ import main as report
from utils import command_line, progress_bar, write_csv

RESULT = RESULTS / "damage.csv"
NOTHING = ("run.log", ".png", ".html", "events.out")  # pictures and logs: nothing is read of them
HARMS = ("flip", "cut")
SAID = re.compile("not as the run wrote it|can't be read|is damaged|of another version")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.damage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=50, help="of each harm, for each file (50)")
    parser.add_argument("--only", default="", help="the files whose path has this in it")
    args = parser.parse_args(argv)
    less_of_all()
    home = Path(tempfile.mkdtemp(prefix="damage-"))
    try:
        rows = table(World.make(home / "world"), home / "pristine", args.times, args.only)
    finally:
        shutil.rmtree(home)
    for row in rows:
        print("  ".join(f"{value!s:>14}" for value in row.values()))
    if not args.only:
        write_csv(RESULT, rows)
    return 0


def table(world: World, pristine: Path, times: int, only: str) -> list[dict[str, Any]]:
    """A row for each file and harm, with what became of it."""
    world.run("finished", "train.keep=best")
    world.stopped("stopped", "train.keep=best")
    for name in ("logs", "weights", "data"):
        shutil.copytree(world.home / name, pristine / name)
    rows: list[dict[str, Any]] = []
    known: dict[str, Any] = {}
    tasks = [task for task in tasks_of(pristine) if only in str(task[0])]
    bar = progress_bar(total=2 * times * len(tasks), desc="damage", unit="trial")
    for file, act in tasks:
        for harm in HARMS:
            kinds: Counter[str] = Counter()
            draw = random.Random(f"{file} {act.__name__} {harm}")
            if act.__name__ not in known:
                with restored(world.home, pristine):
                    known[act.__name__] = in_a_child(partial(act, world)).value
                assert known[act.__name__] is not None, act.__name__
            for _ in range(times):
                with restored(world.home, pristine):
                    place = hurt(world.home / file, harm, draw)
                    outcome = in_a_child(partial(act, world))
                kind = judged(outcome, known[act.__name__])
                kinds[kind] += 1
                bar.update()
                if kind in KINDS[2:]:
                    tell = outcome.error.strip() or outcome.said
                    bar.write(f"{file} {act.__name__} {harm} at {place}: {kind}: {tell[-600:]}")
            row = {"file": str(file), "then": act.__name__, "harm": harm}
            rows.append(row | {kind: kinds[kind] for kind in KINDS})
    bar.close()
    return rows


def tasks_of(pristine: Path) -> list[tuple[Path, Callable[[World], Any]]]:
    """Each file that something is read of, and what is done next."""
    found: list[tuple[Path, Callable[[World], Any]]] = []
    for path in sorted(p for p in pristine.rglob("*") if p.is_file()):
        file = path.relative_to(pristine)
        if any(part in path.name for part in NOTHING) or not path.stat().st_size:
            continue
        if file.parts[0] == "data" or "stopped" in file.parts:
            found.append((file, resume))
        elif path.name == "best.safetensors":
            found += [(file, predict), (file, look_inside)]
        elif file.parts[0] == "weights":
            found.append((file, resume_finished))
        else:
            found += [(file, write_report), (file, resume_finished)]
        if path.name == "config.yaml" and "finished" in file.parts:
            found.append((file, look_inside))
    return found


# --------------------------------------------------------------------------- what a user does next


def resume(world: World) -> Any:
    world.resume("stopped")
    return world.result("stopped")


def resume_finished(world: World) -> Any:
    world.resume("finished")
    return world.result("finished")


def predict(world: World) -> Any:
    network = Classifier(str(world.home / "weights/finished/best.safetensors"))
    answers = network(sorted((world.home / "pictures").rglob("*.png")))
    return [[answer.probabilities, answer.unlike] for answer in answers]


def write_report(world: World) -> str:
    folder = world.home / "logs" / "finished"
    report([str(folder), "--no-looks"])
    return (folder / "report.html").read_text()


def look_inside(world: World) -> str:
    """test.py, under a name that is not the standard library's."""
    file = Path(__file__).parents[1] / "test.py"
    spec = importlib.util.spec_from_file_location("look_inside", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["look_inside"] = module
    spec.loader.exec_module(module)
    module.main(["--checkpoint", str(world.home / "logs/finished")])
    table = world.home / "logs/finished/inspect/table.csv"
    return table.read_text() if table.exists() else "no table"


# --------------------------------------------------------------------------------- what came of it


def hurt(path: Path, harm: str, draw: random.Random) -> int:
    """Flip a bit or more of one byte, or cut the file; where."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    if harm == "cut":
        del content[place:]
    else:
        content[place] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    return place


def judged(outcome: Outcome, known: Any) -> str:
    """Which of KINDS an outcome is."""
    if outcome.kind in ("sentence", "traceback"):
        return outcome.kind
    if outcome.kind != "ended":
        return "traceback"
    if outcome.value == known:
        return "same result"
    usual = known if isinstance(known, str) else ""
    said = outcome.said + (outcome.value if isinstance(outcome.value, str) else "")
    return "sentence" if len(SAID.findall(said)) > len(SAID.findall(usual)) else "silently other"


if __name__ == "__main__":
    started = time.monotonic()
    raise SystemExit(command_line(main))
