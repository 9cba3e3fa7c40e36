"""From a folder of pictures to the report: ours, and timm's loop with its default augmentation.

    python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --way defaults bfloat16
    python -m benchmarks.end_to_end --way views-4 views-4-bfloat16 [--short]

ViT-B/16 (random weights), 750 drawn pictures (600 train, 150 val). Ours: `python training.py` from
an empty cache to report.html, with untouched defaults or, in the ways of four views, as timm
trains: the last block and a class head, augmented views of a picture; `bfloat16`: the frozen
blocks' precision. timm: its ViT with the last block, norm and head training, in the plain loop with
the default augmentation of its train.py, 50 epochs with a validation after each, of which 29
batches (--short: 4) are run and the rest is extrapolated. On idle cores; with OMP_NUM_THREADS=1 all
seconds are the processor's own, so that what else runs there counts for nobody.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import finetune
from benchmarks.machine import RESULTS, keep_others, machine, timed
from benchmarks.peers import EPOCHS
from utils import command_line

PHASES = ("cache_seconds", "search_seconds", "seconds", "verdict_seconds", "refit_seconds")
VIEWS: dict[str, Any] = {"head": "class", "views": 4}
WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "bfloat16": {"trunk_dtype": "bfloat16"},
    "views-4": VIEWS,
    "views-4-bfloat16": {**VIEWS, "trunk_dtype": "bfloat16"},
}
FIELDS = ("machine", "way", "ours_seconds", "head", *PHASES, "timm_seconds", "timm", "times")


def main(argv: list[str] | None = None) -> int:
    parser = finetune.options("end_to_end", __doc__)
    parser.add_argument("--way", nargs="+", choices=WAYS, default=["defaults"])
    parser.set_defaults(augment=True)
    args = parser.parse_args(argv)
    finetune.draw(args.images, 150)
    path, rows = RESULTS / "end-to-end.csv", []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        weights = finetune.random_b16(work / "b16.safetensors")
        peer = finetune.run_peer("timm", args, weights)
        print(f"timm, {EPOCHS} epochs: {peer.wall_seconds:,.0f} s ({peer.extrapolated})")
        for way in args.way:
            seconds, summary = ours(args.images, weights, work / way, WAYS[way])
            phases = {key: round(summary[key] or 0, 1) for key in PHASES}
            print(f"{machine()}: ours, {way}: {seconds:.0f} s (head {summary['head']}; {phases})")
            print(f"ours is faster: {peer.wall_seconds / seconds:.1f} x", flush=True)
            row = {"machine": machine(), "way": way, "ours_seconds": round(seconds, 1)}
            row |= {"head": summary["head"], **phases, "timm": peer.extrapolated}
            row |= {"timm_seconds": round(peer.wall_seconds, 1)}
            rows.append(row | {"times": round(peer.wall_seconds / seconds, 1)})
            keep_others(path, rows, ("machine", "way"), FIELDS)
    return 0


def ours(
    images: str, weights: Path, work: Path, settings: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """The seconds of a run with its defaults but for some settings, and its summary."""
    work.mkdir()
    places = {"data": work / "data", "log_path": work / "logs", "save_path": work / "weights"}
    train = {"checkpoint": str(weights), "base_dir": images, "run_name": "ours", **settings}
    train |= {key: str(path) for key, path in places.items()}
    (work / "ours.yaml").write_text(yaml.safe_dump({"train": train}))
    before = children_seconds()
    _, wall, _ = timed([sys.executable, "training.py", "--config", str(work / "ours.yaml")])
    summary = json.loads((work / "logs/ours/summary.json").read_text())
    return (children_seconds() - before if torch.get_num_threads() == 1 else wall), summary


def children_seconds() -> float:
    """The processor's seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    raise SystemExit(command_line(main))
