"""The simpler and the usual ways to the same job, on the same split, scored and reported alike.

    python -m tools.baseline NAME --config CONFIG [section.key=value ...]

    logistic            scikit-learn's logistic regression on the frozen network's class token
    knn                 nearest neighbours there; C and k by cross-validation on the training part
    head                norm and head alone, on the augmented views: AdamW, lr 1e-2, cosine by step
    timm                the same weights and layers trained as timm's train.py does by default: SGD,
                        lr 0.1 by batch / 256, weight decay 2e-5, cosine by epoch, 5 of warm-up
    timm-adamw          the same with what timm's author published for fine-tuning
                        vit_base_patch16_224.augreg2_in21k_ft_in1k: AdamW, lr 2e-4 by the root of
                        batch / 512 (so train.py scales AdamW), layer decay 0.7, weight decay 0.05
    timm-full           timm's own ViT, all weights trained with those settings, on images
    mobilenet_v3_large  torchvision's, from scratch, or from --weights PATH or --weights imagenet

timm and timm-adamw run on the cached tokens: timm's optimiser holds the parameters of a timm ViT,
which are those of our `Tail`, and that computes what timm's blocks compute (the tests compare the
two). All begin with our zero head, see our augmentation, and are scored with the weights of the
last epoch. train.max_epochs, batch_size, seed, split and the like mean what they mean in
training.py; its lr and what belongs to it are not used. The run's folder appears when it is done;
tools.compare weighs it against others. logistic and knn say a class alone: in predictions.csv it
has a probability of 1.
"""

from __future__ import annotations

import argparse
from importlib import metadata
from typing import Any

import torch

from config import Config, ConfigError
from config_file import dump_config, load_config
from dataset import PARTS, Split, load_split, write_split
from engine.again import as_it_goes_on
from engine.answers import PREDICTED, PREDICTIONS, rows_of
from engine.run import Run
from engine.start import begin, said_of, see_places
from metrics import score_lines, wilson
from overrides import arguments, names
from system.origin import git_commit, versions
from tokens.plan import known_files
from tools.baseline.ways import SCORED, WAYS, Outcome, Task
from utils import (
    command_line,
    log,
    minutes,
    seed_everything,
    write_csv,
    write_json,
    write_text,
)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    config, notes = as_it_goes_on(*load_config(args.config, args.overrides), args.overrides)
    notes = [note for note in notes if not note.startswith("train.lr:")]  # which is not used
    way, mode = WAYS[args.name]
    train = config.train.model_copy(
        update={"mode": mode, "from_checkpoint": None, "head": "class", "refit": False}
    )
    see_places(train)
    name = train.run_name
    if name and not names(args.overrides, "train.run_name"):
        name = f"{name}-{args.name}"  # the file's own is that of training.py's run
    run = Run.create(name, train.log_path, train.save_path, train.base_dir, f"baseline-{args.name}")
    with run:
        train = train.model_copy(update={"run_name": run.name})
        device = begin(train, notes)
        known = known_files(train) if mode == "finetune" else None
        split = load_split(train, None, known)
        log.info("%s", said_of(split))
        seed_everything(train.seed)
        train = train.settled(len(split.part("train")))
        config = config.model_copy(update={"train": train})
        task = Task(args.name, config, split, known, device, args.weights)
        outcome = way(task)
        conclude(args.name, outcome, task.config, split, run, device)
    return 0


def conclude(
    name: str,
    outcome: Outcome,
    config: Config,
    split: Split,
    run: Run,
    device: torch.device,
) -> None:
    """Write the run's folder, summary.json last, and say what was reached."""
    images = {part: len(split.part(part)) for part in PARTS}
    total, trained = outcome.parameters or (None, None)
    summary: dict[str, Any] = {"mode": f"baseline {name}"}
    summary |= {"best_epoch": outcome.epochs, "epochs": outcome.epochs}
    scored = outcome.scores
    for part in SCORED:
        found = scored.get(part, {})
        for key in ("accuracy", "balanced_accuracy", "loss"):
            summary[f"{part}_{key}"] = found.get(key)
        summary[f"{part}_interval"] = wilson(found["accuracy"], images[part]) if found else None
    used = ("scikit-learn", "timm")
    summary |= {
        "train_loss": None,
        "train_accuracy": None,
        **outcome.learned,
        "verdict": None,
        "chosen": None,
        "settings": outcome.settings,
        "images": images,
        "seconds": round(outcome.seconds, 1),
        "cache_seconds": round(outcome.cache_seconds, 2) if outcome.cache_seconds else None,
        "search_seconds": None,
        "parameters": {"total": total, "trainable": trained},
        "weights": outcome.weights,
        "device": str(device),
        "versions": versions() | {name: metadata.version(name) for name in used if installed(name)},
        "git_commit": git_commit(),
    }
    run.open()
    write_text(run.folder / "config.yaml", dump_config(config))
    write_split(run.split, split)
    rows = [row for part, both in outcome.answers.items() for row in rows_of(split, part, *both)]
    write_csv(run.folder / PREDICTIONS, rows, PREDICTED)
    write_json(run.folder / "summary.json", summary)
    report(summary, run)


def installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def report(summary: dict[str, Any], run: Run) -> None:
    took = minutes(summary["seconds"])
    if summary["cache_seconds"]:
        took += f", {minutes(summary['cache_seconds'])} for the token cache"
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in summary["settings"].items()}
    settings = ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
    log.info("%s (%s: %s)", took, summary["mode"], settings)
    for line in score_lines(summary):
        log.info("%s", line)
    log.info("results: %s (summary.json, predictions.csv)", run.folder)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.baseline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--config", default="config.yaml", help="the settings (config.yaml)")
    parser.add_argument("--weights", help="mobilenet_v3_large: a .pth state dict, or imagenet")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    args = arguments(parser, argv)
    if args.weights and args.name != "mobilenet_v3_large":
        parser.error("--weights goes with mobilenet_v3_large; the others take train.checkpoint")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
