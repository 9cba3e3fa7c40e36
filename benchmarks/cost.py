"""What fine-tuning costs against the number of pictures and epochs: ours beside a frozen timm loop.

    python -m benchmarks.cost

250, 500 and 1,000 drawn pictures; 10, 50 and 200 epochs; else the job of benchmarks.finetune. Each
cell of ours is a run of training.py from an empty cache; those of timm are its start plus images by
the rate that it reached over 29 batches. Writes a table and docs/cost.png.
"""

from __future__ import annotations

import csv
import re
import tempfile
from pathlib import Path

import torch

from benchmarks import finetune
from benchmarks.machine import RESULTS, ROOT, machine
from benchmarks.peers import CLASSES
from utils import command_line, replacing

SIZES, EPOCHS = (250, 500, 1000), (10, 50, 200)


def main(argv: list[str] | None = None) -> int:
    args = finetune.options("cost", __doc__).parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        weights = finetune.random_b16(Path(name) / "b16.safetensors")
        args.images = "data/pilots-1000"
        finetune.draw(args.images, 200)
        timm = finetune.run_peer("timm", args, weights)
        for size in SIZES:
            images = subset(Path(args.images), Path(name) / f"images-{size}", size)
            for epochs in EPOCHS:
                with tempfile.TemporaryDirectory(prefix="bench-") as work:
                    ours = finetune.run_ours(args, weights, Path(work), epochs, str(images))
                val = size // 5
                peer = timm.start_seconds + epochs * (
                    (size - val) / timm.train_images_per_second + val / timm.eval_images_per_second
                )
                rows.append((size, epochs, ours.wall_seconds, ours.trunk_seconds, peer))
                print(
                    f"{size} images, {epochs} epochs: ours {ours.wall_seconds:.0f} s "
                    f"(of it trunk pass {ours.trunk_seconds:.0f}), timm {peer:,.0f} s",
                    flush=True,
                )
    save(rows)
    plot(rows, ROOT / "docs" / "cost.png")
    return 0


def subset(source: Path, target: Path, size: int) -> Path:
    """The first pictures of each class, as links."""
    for folder in sorted(p for p in source.iterdir() if p.is_dir()):
        (target / folder.name).mkdir(parents=True)
        for picture in sorted(folder.iterdir())[: size // CLASSES]:
            (target / folder.name / picture.name).symlink_to(picture.resolve())
    return target


def save(rows: list[tuple]) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")
    path = RESULTS / f"cost-float32-torch{torch.__version__.split('+')[0]}-{slug}.csv"
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["images", "epochs", "ours_s", "of_it_trunk_s", "timm_s_extrapolated"])
        writer.writerows([(a, b, *(f"{x:.1f}" for x in more)) for a, b, *more in rows])
    print(f"saved: {path.relative_to(ROOT)}")


def plot(rows: list[tuple], path: Path) -> None:
    """Seconds against epochs on log scales, a line for each number of pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for size, marker in zip(SIZES, "os^", strict=True):
        mine = [row for row in rows if row[0] == size]
        epochs = [row[1] for row in mine]
        label = f"{size:,} images"
        axes.plot(
            epochs, [r[2] for r in mine], f"{marker}-", color="#0072B2", label=f"ours, {label}"
        )
        axes.plot(
            epochs, [r[4] for r in mine], f"{marker}--", color="#D55E00", label=f"timm, {label}"
        )
    axes.set(xscale="log", yscale="log", xlabel="epochs", ylabel="seconds, start to end")
    axes.set_xticks(EPOCHS, [str(e) for e in EPOCHS])
    axes.minorticks_off()
    for seconds, name in ((60, "a minute"), (3600, "an hour"), (86400, "a day")):
        axes.axhline(seconds, color="#999999", lw=0.8, ls=":")
        axes.annotate(name, (EPOCHS[0], seconds), va="bottom", fontsize=8, color="#555555")
    axes.set_title(f"ViT-B/16, last block + norm + head, {machine()}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(command_line(main))
