"""From a folder of pictures to the report: ours with its defaults, timm's loop with its own.

    python -m benchmarks.end_to_end

ViT-B/16 (random weights), 750 drawn pictures (600 train, 150 val). Ours: `python training.py` with
untouched defaults, from an empty cache to report.html: the trunk pass, the search, the training,
rivals and control, once more on all pictures. timm: its ViT with the last block, norm and head
training, in the plain loop with the default augmentation of its train.py, 50 epochs with a
validation after each, of which 29 batches are run and the rest is extrapolated. On idle cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks import finetune
from benchmarks.machine import RESULTS, machine, timed
from benchmarks.peers import EPOCHS
from utils import command_line, write_csv

PHASES = ("cache_seconds", "search_seconds", "seconds", "verdict_seconds", "refit_seconds")


def main(argv: list[str] | None = None) -> int:
    args = finetune.parse(argv)
    args.augment = True
    finetune.draw(args.images, 150)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        weights = finetune.random_b16(work / "b16.safetensors")
        wall, summary = ours(args.images, weights, work)
        peer = finetune.run_peer("timm", args, weights)
    phases = ", ".join(f"{key} {summary[key] or 0:.0f}" for key in PHASES)
    print(f"{machine()}: ours {wall:.0f} s (head {summary['head']}; {phases})")
    print(f"timm, {EPOCHS} epochs: {peer.wall_seconds:,.0f} s ({peer.extrapolated})")
    print(f"ours is faster: {peer.wall_seconds / wall:.1f} x")
    row = {"machine": machine(), "ours_seconds": round(wall, 1), "head": summary["head"]}
    row |= {key: summary[key] for key in PHASES}
    row |= {"timm_seconds": round(peer.wall_seconds, 1), "timm": peer.extrapolated}
    write_csv(RESULTS / "end-to-end.csv", [row])
    return 0


def ours(images: str, weights: Path, work: Path) -> tuple[float, dict[str, Any]]:
    """The seconds of a run with its defaults, and its summary."""
    places = {"data": work / "data", "log_path": work / "logs", "save_path": work / "weights"}
    train = {"checkpoint": str(weights), "base_dir": images, "run_name": "ours"}
    train |= {key: str(path) for key, path in places.items()}
    (work / "ours.yaml").write_text(yaml.safe_dump({"train": train}))
    _, wall, _ = timed([sys.executable, "training.py", "--config", str(work / "ours.yaml")])
    return wall, json.loads((work / "logs/ours/summary.json").read_text())


if __name__ == "__main__":
    raise SystemExit(command_line(main))
