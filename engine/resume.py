"""Going on with a run: which one, its own settings, and what of them may be others by now."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from config import Config, ConfigError
from config_file import READ, dump_config, load_config
from dataset import Split
from engine.again import followed
from engine.answers import PREDICTIONS
from engine.began import check_beginning
from engine.last import holds_best, steps_of
from engine.lock import running_here
from engine.mended import mend_settings
from engine.run import BEST, SUMMARY, Run, config_of, find_run, report_command, runs
from engine.start import Work
from engine.written import changed as changed_files
from engine.written import is_changed
from filing.yaml_files import section_of
from layout.split_file import read_split
from overrides import names
from pretrained.files import digest_of, metadata_in
from pretrained.near import is_run
from system.filenames import same_name
from system.parallel import world_size
from utils import UserError, go_on, log, shell, some

# What makes a run the one that it is. vit's keys do as well, but for dropout.
FIXED = (
    *("mode", "finetune_blocks", "head", "checkpoint", "seed"),
    *("classes", "val_fraction", "test_fraction", "split", "group_duplicates", "groups"),
    *("new_images", "fit", "greys", "batch_size", "balanced_sampler", "shuffle_buffer"),
    *("optim", "use_bitsandbytes", "layer_decay", "ema"),
)
# What may change from a stop on: it is said.
FREE = (
    *("max_epochs", "lr", "weight_decay", "momentum", "scheduler_type", "warmup_epochs"),
    *("decay_epochs", "label_smoothing", "class_weights", "clip_grad", "mixup", "cutmix"),
    *("views", "crop_scale", "flip", "vertical_flip", "rotate", "color_jitter", "transform"),
    *("keep", "early_stopping", "eval_epoch", "on_nonfinite", "verdict", "refit", "report"),
    *("base_dir", "labels", "on_bad_image", "max_pixels", "cache", "cache_dtype"),
    *("device", "bf16", "trunk_dtype", "compile", "deterministic", "num_workers"),
    *("eval_batch_size", "accumulate", "recompute", "parallel"),
    *("log_epoch", "save_epoch", "save_steps", "keep_last", "save", "track"),
)
# Where it lies, and which it is: not worth a word.
PLACES = ("from_checkpoint", "from_run", "data", "shard_cache", "run_name", "save_path", "log_path")
DROPOUT = ("dropout", "attention_dropout")


def settings_to_resume(
    page: str, wanted: str, overrides: Sequence[str]
) -> tuple[Config, list[str]]:
    """The own settings of a run that was stopped, with overrides, and the notes to show.

    `wanted` is its name, one of its two folders or its last.pt; `last`: the newest that is
    not finished, where the settings of `page` have their runs. UserError where there is none.
    """
    if not wanted.strip():
        raise UserError("--resume: no run is named; name one, or none for the newest")
    places = [o for o in overrides if o.startswith(("train.log_path=", "train.save_path="))]
    train = load_config(page, places)[0].train
    path = Path(wanted)
    path = path.parent if path.suffix == ".pt" else path
    skipped: list[str] = []
    if wanted == "last":
        folder, skipped = newest(train.log_path)
    elif (path / "config.yaml").is_file():
        if not is_run(path):
            raise UserError(f"{wanted} is not a run; name one under {train.log_path}")
        folder = path if path.name else path.absolute()
    else:
        config = config_of(path / BEST, str(path), train.log_path) if path.is_dir() else None
        folder = config.parent if config else _found(path, train.log_path)
    own = folder / "config.yaml"
    if not own.is_file():
        raise UserError(
            f"{own} is not there: name its settings with --config, train.run_name= and "
            "train.from_checkpoint=true, without --resume"
        )
    saves = (
        path,
        *(p / folder.name for p in (Path(train.save_path), folder.parent / "../weights")),
    )
    mended = mend_settings(folder, saves)
    found, notes = load_config(own, [*_shorter_warmup(folder, overrides), *overrides])
    update = {"from_checkpoint": folder.name, "run_name": folder.name}
    update |= {"log_path": str(folder.parent)}
    there = folder.absolute().parent.parent / found.train.save_path / folder.name
    if not (Path(found.train.save_path) / folder.name).exists() and there.exists():
        update["save_path"] = str(there.parent)
    found = found.model_copy(update={"train": found.train.model_copy(update=update)})
    return found, [*skipped, *mended, *notes]


def _shorter_warmup(run: Path, overrides: Sequence[str]) -> list[str]:
    """The override that lets the warm-up follow fewer epochs, or `auto`, where it followed the
    run's own."""
    if not names(overrides, "train.max_epochs") or names(overrides, "train.warmup_epochs"):
        return []
    train, split = load_config(run / "config.yaml", [])[0].train, run / "split.csv"
    try:
        epochs = load_config(run / "config.yaml", [*overrides, WARMUP])[0].train.max_epochs
    except ConfigError:  # which is said later
        return []
    before = train.max_epochs
    fewer = "auto" in (epochs, before) or float(epochs) < float(before)
    if train.warmup_epochs == "auto" or not fewer:
        return []
    follows = split.is_file() and "warmup_epochs" in followed(run, train)
    return [WARMUP] if follows else []


WARMUP = "train.warmup_epochs=auto"


def nothing_left(config: Config) -> str | None:
    """What to say of a finished run that is to go on as it is, its files as it wrote them; None
    where there is something to do."""
    folder = Path(config.train.log_path, str(config.train.run_name))
    best = Path(config.train.save_path, folder.name, BEST)
    if not (best.is_file() and (folder / SUMMARY).is_file()) or changed_files(folder):
        return None
    if changed(settings_in(text_of(folder / "config.yaml")), asked(config)):
        return None
    done = json.loads((folder / SUMMARY).read_bytes())
    said = f"{folder} is finished, and nothing is left to do"
    if config.train.report and not (folder / "report.html").exists():
        said += f" but its report: {report_command(folder)}"
    return said + ("; train.max_epochs=... trains it for longer" if done.get("epochs") else "")


def _found(path: Path, log_path: str) -> Path:
    """The run's folder; one that is named by its path may lack config.yaml, which is said then."""
    return path if (path / "split.csv").is_file() else find_run(path.name, log_path)


def newest(log_path: str) -> tuple[Path, list[str]]:
    """The folder of the newest run that was begun, is not finished and is no other process's at
    this moment; lines on newer ones that are."""
    running: list[str] = []
    for folder in reversed(runs(log_path)):
        begun = (folder / "split.csv").exists() and not (folder / SUMMARY).exists()
        text = text_of(folder / "config.yaml")
        if not begun or section_of(text, "overfit_one_batch").get("overfit"):
            continue
        if (holder := running_here(folder)) is None:
            return folder, running
        running.append(f"{folder} is running ({holder}), and is left alone")
    done = "every run there is finished" if runs(log_path) else "there is none"
    done = "; ".join([*running, *_without_report(log_path)]) or done
    raise UserError(
        f"{log_path} holds no run that was stopped: {done}; --resume NAME train.max_epochs=... "
        "trains a finished one for longer"
    )


def _without_report(log_path: str) -> list[str]:
    """What is left to do of the newest run: it was killed at its report, maybe."""
    folder = next(reversed(runs(log_path)), None)
    if folder is None or not all((folder / name).exists() for name in (SUMMARY, PREDICTIONS)):
        return []
    asked = section_of(text_of(folder / "config.yaml"), "train").get("report")
    if asked is not True or (folder / "report.html").exists():
        return []
    return [f"{folder} is finished but for its report: {report_command(folder)}"]


def check_early(run: Run, config: Config) -> None:
    """Refuse what would be another run before pictures are read and weights are fetched for it."""
    own = run.folder / "config.yaml"
    if not (run.resumes and own.is_file()):
        return
    if is_changed(run.folder, own.name):  # last.pt tells what it said
        return
    changes = changed(settings_in(text_of(own)), asked(config))
    settled = {key for key, both in changes.items() if "auto" in both} | {"train.finetune_blocks"}
    refuse(run, {key: both for key, both in changes.items() if key not in settled})


def saved_state(work: Work) -> dict[str, Any] | None:
    """The last checkpoint of the run that is to go on, if there is one: known to be of the same
    run, of these classes and of these frozen weights. What is new in the settings is said."""
    run, net = work.run, work.net
    if not run.resumes:
        return None
    state = run.load_last()
    check_settings(run, work.config, state)
    check_pictures(run, work.split)
    check_beginning(work)
    if state is None:
        log.info("%s has no checkpoint yet: its training begins anew", run.folder)
        return None
    if state["classes"] != list(net.classes or ()):
        raise UserError(f"{run.last} was trained on other classes: {some(state['classes'])}")
    frozen = {n: p for n, p in net.named_parameters() if n not in state["model"]}
    if "frozen" in state and state["frozen"] != digest_of(frozen):  # older files don't say
        raise UserError(
            f"{run.last} goes on from other frozen weights than train.checkpoint; go on with "
            f"{run.folder}/config.yaml and the weights that it names"
        )
    augmentation = work.augmentation
    if state.get("augmentation", augmentation) != augmentation:  # older files don't say
        log.info(
            "the epochs until now had another augmentation: %s",
            state["augmentation"] or "that of the settings",
        )
    if (before := state.get("processes", 1)) != world_size():
        log.info("processes: %d now, %d until then: the batches stay", world_size(), before)
    progress = state["progress"]
    steps = steps_of(progress)
    within = f"step {steps} of epoch {progress['epoch'] + 1}"
    log.info(
        "going on after %s of %s", within if steps else f"epoch {progress['epoch']}", run.folder
    )
    return state


def check_settings(run: Run, config: Config, state: Mapping[str, Any] | None) -> None:
    """Say what is new in a run's settings; UserError where it would be another run with them."""
    text = (state or {}).get("config")  # that of older files is beside the logs
    if text is None and (run.folder / "config.yaml").is_file():
        text = text_of(run.folder / "config.yaml")
    changes = changed(settings_in(text or ""), asked(config))
    by_digest = config.train.mode == "finetune" and state is not None and "frozen" in state
    refuse(run, changes, {"train.checkpoint"} if by_digest else set())
    progress = state["progress"] if state else {"epoch": 0, "best_epoch": 0}
    begun = progress["epoch"] + bool(steps_of(progress))
    epochs = config.train.max_epochs
    if isinstance(epochs, int) and epochs < begun:
        raise UserError(
            f"train.max_epochs: {epochs} is less than the {begun} epochs that are begun"
        )
    if changes and config.train.keep == "best" and comes_again(run, progress):
        raise UserError(
            f"{run.best} was written just before a kill, and is of an epoch that is still to come: "
            f"with other settings it would be another; first go on with: {go_on(run.folder)}"
        )
    if changes:
        log.info("settings that are new: %s", some(said(changes), 30))


def comes_again(run: Run, progress: Mapping[str, Any]) -> bool:
    """Whether the kept network's file is of a later epoch than the checkpoint, in the place of an
    earlier one's that is not to be had any more."""
    if holds_best(progress) or not run.best.exists():
        return False
    said = metadata_in(run.best).get("epoch", "0")
    return said.isdecimal() and int(said) > progress["epoch"]


Changes = Mapping[str, tuple[Any, Any]]


def refuse(run: Run, changes: Changes, seen_later: Collection[str] = ("train.checkpoint",)) -> None:
    """Raise UserError where a setting is new that makes the run the one that it is."""
    wrong = {k: both for k, both in changes.items() if is_fixed(k) and k not in seen_later}
    if "train.optim" in wrong and "train.lr" in changes:  # which settles what auto is
        wrong["train.lr"] = changes["train.lr"]
    if wrong:
        own = run.folder / "config.yaml"
        edited = settings_in(text_of(own))
        back = "".join(" " + shell(word) for word in put_back(wrong, edited))
        raise UserError(
            f"{some(said(wrong))}: that would be another run than {run.folder}; leave it out and "
            f"go on with: {go_on(run.folder)}{back}, or begin a new one"
        )


def put_back(changes: Changes, edited: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The overrides that undo what was edited in a run's own config.yaml, which says `edited`."""
    found = []
    for key, (old, _) in changes.items():
        section, _, name = key.partition(".")
        if edited[section].get(name, old) != old:
            found.append(f"{key}={old if isinstance(old, str) else json.dumps(old)}")
    return found


def said(changes: Changes) -> list[str]:
    return [f"{key}: {old} -> {new}" for key, (old, new) in changes.items()]


def asked(config: Config) -> dict[str, Any]:
    return settings_in(dump_config(config))


def text_of(page: Path) -> str:
    """A config's text, whatever has become of it."""
    return page.read_text(encoding="utf-8", errors="replace")


def settings_in(text: str) -> dict[str, dict[str, Any]]:
    """The settings in a config's text, those that are understood: it may be damaged."""
    return {section: section_of(text, section) for section in ("vit", "train")}


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that two dumps of a config differ in, by their dotted names: old and new."""
    found = {}
    for section in ("vit", "train"):
        before, after = old.get(section) or {}, new[section]
        for key in (key for key in after if key in before and key not in PLACES):
            both = before[key], after[key]
            of_weights = section == "vit" and "auto" in both
            by_search = key == "views" and after[key] == "auto"
            same = both[0] == both[1] or (key in READ and is_same_place(*both))
            if not (same or of_weights or by_search):
                found[f"{section}.{key}"] = both
    return found


def is_same_place(old: str | None, new: str | None) -> bool:
    """Whether a path is another that was found from another working directory."""
    if old is None or new is None:
        return old == new
    one, other = Path(old), Path(new)
    return one.resolve() == other.resolve() or other.parts[-len(one.parts) :] == one.parts


def is_fixed(key: str) -> bool:
    section, _, name = key.partition(".")
    return name not in DROPOUT if section == "vit" else name in FIXED


def check_pictures(run: Run, split: Split) -> None:
    """Raise UserError where pictures of the run's split have other labels by now, or are left out:
    what files hold was seen when the split was read."""
    before = {
        same_name(path): (row["label"], row["part"]) for path, row in read_split(run.split).items()
    }
    now = {
        same_name(split.path_of(sample)): (same_name(split.classes[sample.label]), sample.part)
        for sample in split.samples
    }
    wrong = [
        f"{path} ({before[path][0]}, now {now[path][0] if path in now else 'left out'})"
        for path in before
        if before[path] != now.get(path)
    ]
    if wrong:
        raise UserError(
            f"{len(wrong)} of the pictures that {run.folder} began with are labelled otherwise by "
            f"now: {some(wrong, 5)}; put train.labels back, or begin a new run"
        )
