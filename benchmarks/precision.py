"""What the precision of the token cache does to a run: float16 and float32 tokens, and no cache.

    python -m benchmarks.precision [--images data/hymenoptera]

configs/hymenoptera.yaml, three seeds each. Writes a table and docs/precision.png with the losses
laid over each other.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import RESULTS, ROOT
from engine.metrics_log import read_metrics
from utils import command_line, replacing

# What it was measured with; a search would choose each run's own setting.
SETTING = ["train.lr=3e-4", "train.max_epochs=12", "train.warmup_epochs=1"]
SETTING += ["train.verdict=false", "train.report=false", "train.head=class", "train.refit=false"]
SETTING += ["train.weight_decay=0.01", "train.label_smoothing=0"]
WAYS = {
    "float16 cache": ["train.cache_dtype=float16"],
    "float32 cache": ["train.cache_dtype=float32"],
    "no cache": ["train.cache=off"],
}
SEEDS = (0, 1, 2)
Curves = dict[tuple[str, int], list[dict]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--images", default="data/hymenoptera")
    args = parser.parse_args(argv)
    curves: Curves = {}
    for way, options in WAYS.items():
        for seed in SEEDS:
            curves[way, seed] = run(args.images, [*options, f"train.seed={seed}"])
            last = curves[way, seed][-1]
            print(f"{way}, seed {seed}: {last['val_accuracy']:.4f}", flush=True)
    save(curves)
    plot(curves, ROOT / "docs" / "precision.png")
    return 0


def run(images: str, options: list[str]) -> list[dict]:
    """The rows of metrics.csv of a run of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        places = [f"train.{key}={work}/{key}" for key in ("log_path", "save_path", "data")]
        command = [sys.executable, "training.py", "--config", "configs/hymenoptera.yaml"]
        command += [f"train.base_dir={images}", "train.run_name=run", *places, *SETTING, *options]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return read_metrics(Path(work) / "log_path" / "run" / "metrics.csv")


def save(curves: Curves) -> None:
    path = RESULTS / "precision-hymenoptera.csv"
    columns = ("train_loss", "val_loss", "val_accuracy")
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "seed", "epoch", *columns])
        for (way, seed), rows in curves.items():
            writer.writerows([way, seed, row["epoch"], *(row[c] for c in columns)] for row in rows)
    print(f"\n{'':<16}{'final val accuracy, mean':>26}{'largest difference of a loss':>32}")
    for way in WAYS:
        mean = sum(curves[way, seed][-1]["val_accuracy"] for seed in SEEDS) / len(SEEDS)
        pairs = [
            (row, plain)
            for seed in SEEDS
            for row, plain in zip(curves[way, seed], curves["no cache", seed], strict=True)
        ]
        apart = max(abs(a["train_loss"] - b["train_loss"]) for a, b in pairs)
        print(f"{way:<16}{mean:>26.4f}{apart:>32.2g}")
    print(f"saved: {path.relative_to(ROOT)}")


def plot(curves: Curves, path: Path) -> None:
    """The training and validation loss by epoch: a panel a seed, a line a way."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    styles = zip(
        WAYS, ("#0072B2", "#D55E00", "#000000"), ("-", "--", ":"), (5, 3, 1.5), strict=True
    )
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SEEDS), sharey=True)
    for way, colour, line, width in styles:
        for seed, axes in zip(SEEDS, panels, strict=True):
            rows = curves[way, seed]
            epochs = [row["epoch"] for row in rows]
            for column, alpha in (("train_loss", 1.0), ("val_loss", 0.55)):
                label = f"{way}, {'training' if alpha == 1 else 'validation'}"
                losses = [row[column] for row in rows]
                style = {"color": colour, "ls": line, "lw": width, "alpha": alpha, "label": label}
                axes.plot(epochs, losses, **style)
            axes.set(title=f"seed {seed}", xlabel="epoch", yscale="log")
            axes.grid(alpha=0.3)
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(
        "hymenoptera, ViT-S/14: the losses of cached and uncached training", fontsize=11
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
