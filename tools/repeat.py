"""The same run with several seeds, and the mean and the spread of what they reach.

    python -m tools.repeat CONFIG [--seeds 5] [section.key=value ...]
    python -m tools.repeat CONFIG --baseline NAME        tools.baseline instead of training.py

A seed also draws the parts that are cut from the folder, the new weights and the augmentation. The
runs are called <name>-seed0, <name>-seed1 and so on, <name> being train.run_name or the config's
own; one that is finished is not run again, one that was stopped goes on, and one of other settings
or pictures is refused. The result is printed and
written to <log_path>/<name>-repeat.json: the test part's scores where there is one, else val's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config import Config, ConfigError, TrainConfig
from config_file import load_config
from dataset import load_split, rows_of_split
from engine.again import as_it_goes_on
from engine.resume import asked as asked_of
from engine.resume import changed, said, settings_in, text_of
from filing.csv_files import read_csv
from overrides import arguments, names
from shards.place import names_shards
from system.filenames import same_name
from tokens.plan import known_files
from utils import UserError, command_line, some, write_json

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 4  # of a run's last lines
MOBILENET = "mobilenet_v3_large"  # the baseline that takes --weights
REMEDY = "give these runs another name, train.run_name=..., or remove that one"
# Settings by which a run's result is not another one.
ALL_THE_SAME = (
    *("device", "num_workers", "eval_batch_size", "cache", "on_bad_image", "max_pixels"),
    *("report", "log_epoch", "save_epoch", "save_steps", "keep_last", "save", "track", "parallel"),
    "verdict",
)
# Those that mean for a baseline what they mean in training.py.
OF_BASELINES = (
    *("base_dir", "classes", "val_fraction", "test_fraction", "split", "labels", "groups"),
    *("group_duplicates", "max_epochs", "batch_size", "seed", "checkpoint", "fit", "views"),
    *("crop_scale", "flip", "vertical_flip", "rotate", "color_jitter", "transform", "trunk_dtype"),
    *("balanced_sampler", "bf16", "cache_dtype", "greys", "finetune_blocks", "warmup_epochs"),
)
SCORES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    config, notes = load_config(args.config, args.overrides)
    name = config.train.run_name or Path(args.config).stem
    train = as_it_goes_on(config, notes, args.overrides)[0].train
    # The config's own name is that of training.py's runs.
    if args.baseline and not names(args.overrides, "train.run_name"):
        name = f"{name}-{args.baseline}"
    see_pictures({i: Path(train.log_path) / f"{name}-seed{i}" for i in range(args.seeds)}, train)
    summaries = []
    for seed in range(args.seeds):
        overrides = [*args.overrides, f"train.seed={seed}", f"train.run_name={name}-seed{seed}"]
        try:
            summaries.append(finished(args.config, overrides, args.baseline, args.weights))
        except KeyboardInterrupt:
            done = f"{len(summaries)} of {args.seeds} runs done"
            raise KeyboardInterrupt(f"stopped, {done}; the same command goes on") from None
    result = collect(summaries) | {"name": name, "config": args.config, "baseline": args.baseline}
    path = Path(train.log_path) / f"{name}-repeat.json"
    write_json(path, result | {"overrides": args.overrides})
    print(described(name, result))
    print(f"saved: {path}")
    return 0


# ------------------------------------------------------------------------------------ the runs


def finished(
    config: str, overrides: list[str], baseline: str | None = None, weights: str | None = None
) -> dict[str, Any]:
    """What summary.json of a run says, once it is done: it is run, gone on with, or there already.

    Raises UserError where it fails.
    """
    asked, _ = as_it_goes_on(*load_config(config, overrides), overrides)
    train = asked.train
    assert train.run_name is not None
    path = Path(train.log_path) / train.run_name / "summary.json"
    see_settings(path.parent, asked, baseline, weights)
    if not path.exists():
        status, lines = run(command(config, overrides, train, baseline, weights))
        if status == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if status or not path.exists():
            raise UserError(f"{train.run_name} failed with status {status}; why stands above")
        print("\n".join([f"{train.run_name}:", *(f"  {line}" for line in lines)]), flush=True)
    else:
        print(f"{train.run_name}: there already", flush=True)
    found = json.loads(path.read_text(encoding="utf-8"))
    if "val_accuracy" not in found:
        raise UserError(f"{train.run_name}: {found['verdict_sentence']}; remove {path.parent}")
    return found


def see_pictures(runs: dict[int, Path], train: TrainConfig) -> None:
    """Raise UserError where a run that is finished, by its seed, was of other pictures than are
    there now."""
    now: set[tuple[str, str, str]] = set()
    for seed, run in runs.items():
        if not (run / "summary.json").exists():
            continue
        if not now or names_shards(train.base_dir):  # of their copies the seed draws which is used
            seeded = train.model_copy(update={"seed": seed})
            there = rows_of_split(load_split(seeded, known=known_files(train)))
            now = {(row["path"], row["label"], row["sha256"]) for row in there}
        rows = read_csv(run / "split.csv", ("path", "label", "sha256"))
        then = {(row["path"], same_name(row["label"]), row["sha256"]) for row in rows}
        if then != now:
            raise UserError(
                f"{run} is of other pictures: {len(then - now):,} are gone or changed, and "
                f"{len(now - then):,} are new; {REMEDY}"
            )


def _may_search(train: TrainConfig) -> bool:
    """Whether a run's file leaves `head: auto` as it is, for the search that finds it."""
    return train.mode == "finetune" and train.finetune_blocks <= 1 and train.cache != "off"


def see_settings(
    run: Path, asked: Config, baseline: str | None, weights: str | None = None
) -> None:
    """Raise UserError where a run of this name was begun with other settings."""
    if not all((run / name).exists() for name in ("config.yaml", "split.csv")):
        return
    if (run / "summary.json").exists():
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        wanted = f"baseline {baseline}" if baseline else asked.train.mode
        mode = summary.get("mode", wanted)  # one that diverged has none
        if mode != wanted:
            raise UserError(f"{run} is a run of mode {mode}, not {wanted}; {REMEDY}")
        if baseline == MOBILENET and weights != (began := summary.get("weights")):
            given, others = weights or "random ones", began or "random ones"
            raise UserError(f"{run} began with {others}, not with {given}; {REMEDY}")
    learned = sum(row["part"] == "train" for row in read_csv(run / "split.csv", ("part",)))
    settled = asked.train.settled(learned)
    other = {}
    for key, (old, new) in changed(
        settings_in(text_of(run / "config.yaml")), asked_of(asked)
    ).items():
        section, _, name = key.partition(".")
        if key == "train.finetune_blocks" or (section == "train" and new == "auto"):
            new = getattr(settled, name)  # the run's own file says what that came to
        if new == "auto" and (name != "head" or not _may_search(asked.train)):
            continue
        if name == "classes" and old and new:  # in whichever order
            old, new = sorted(old), sorted(new)
        counts = name not in ALL_THE_SAME
        if baseline:
            counts = section == "vit" or name in OF_BASELINES
        if counts and old != new:
            other[key] = (old, new)
    if other:
        raise UserError(f"{run} is a run with other settings ({some(said(other), 5)}); {REMEDY}")


def command(
    config: str, overrides: list[str], train: TrainConfig, baseline: str | None, weights: str | None
) -> list[str]:
    """The command of one run; a training that was stopped goes on."""
    if baseline is None:
        started = (Path(train.log_path) / str(train.run_name) / "split.csv").exists()
        resume = ["train.from_checkpoint=true"] if started else []
        return [sys.executable, str(ROOT / "training.py"), "--config", config, *overrides, *resume]
    more = ["--weights", weights] if weights else []
    return [sys.executable, "-m", "tools.baseline", baseline, "--config", config, *more, *overrides]


def run(command: Sequence[str]) -> tuple[int, list[str]]:
    """A program's exit status and its last lines; bars and errors go straight to the terminal.

    It has a session of its own, so that Ctrl-C reaches it once, by way of this program, and is
    waited for while it saves.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONIOENCODING"] = "utf-8"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        lines = deque((line.rstrip() for line in process.stdout if line.strip()), SHOWN)
        return process.wait(), list(lines)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    finally:
        if process.poll() is None:
            process.kill()


# ----------------------------------------------------------------------------------- the numbers


def collect(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean, the sample's standard deviation and the values of the reported part's scores."""
    part = reported(summaries[0])
    sizes = sorted(summary["images"][part] for summary in summaries)  # groups are not parted
    result: dict[str, Any] = {
        "part": part,
        "images": sizes[0] if sizes[0] == sizes[-1] else [sizes[0], sizes[-1]],
        "seeds": len(summaries),
    }
    for key in SCORES:
        result[key] = spread([summary[f"{part}_{key}"] for summary in summaries])
    return result | {"seconds": round(sum(map(took, summaries)), 1)}


def reported(summary: dict[str, Any]) -> str:
    """The part that a result is about: test, or val where there is none."""
    return "val" if summary["test_accuracy"] is None else "test"


def spread(values: list[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def took(summary: dict[str, Any]) -> float:
    """The seconds of a run's phases; of those that it has."""
    phases = ("seconds", "cache_seconds", "search_seconds", "verdict_seconds", "refit_seconds")
    return sum(summary.get(phase) or 0.0 for phase in phases)


def mean_and_std(mean: float, std: float | None) -> str:
    """0.955 ± 0.007, or the value alone where there is only one."""
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def described(name: str, result: dict[str, Any]) -> str:
    seeds = f"{result['seeds']} seed{'' if result['seeds'] == 1 else 's'}"
    images = result["images"]
    images = images if isinstance(images, int) else f"{images[0]} to {images[1]}"
    lines = [f"{name}, {seeds}, {result['part']} part ({images} images)"]
    for key, words in SCORES.items():
        found = result[key]
        each = ", ".join(f"{value:.3f}" for value in found["values"])
        lines.append(f"  {words} {mean_and_std(found['mean'], found['std'])} ({each})")
    seconds = result["seconds"]
    total = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    return "\n".join([*lines, f"  {total} of passes, searches, training and verdicts"])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.repeat",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="the settings (config.yaml)")
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, ... (5)")
    parser.add_argument("--baseline", metavar="NAME", help="what tools.baseline knows")
    parser.add_argument("--weights", help="handed on to tools.baseline")
    parser.add_argument("overrides", nargs="*", metavar="CONFIG | section.key=value")
    args = arguments(parser, argv)
    if args.config is None and args.overrides and "=" not in args.overrides[0]:
        args.config = args.overrides.pop(0)
    args.config = "config.yaml" if args.config is None else args.config
    if args.seeds < 1:
        parser.error("--seeds takes 1 or more")
    if args.weights and not args.baseline:
        parser.error("--weights goes with --baseline")
    if any(o.startswith(("train.seed=", "train.from_checkpoint=")) for o in args.overrides):
        parser.error("train.seed and train.from_checkpoint are set run by run; leave them out")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
