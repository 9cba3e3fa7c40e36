"""A finished run gone on with: more pictures, or more classes (`train.from_run`)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import Config, TrainConfig
from config_file import load_config
from dataset import Split
from engine.answers import PREDICTIONS
from engine.job import SEARCH
from engine.run import Run, find_run
from engine.written import changed, rewriting
from filing.csv_files import read_csv
from metrics import paired_chance, said_chance
from overrides import names
from utils import UserError, log, replacing, some

# What decides which settings are tried, and which of them is best.
SEARCHED = (
    *("mode", "checkpoint", "finetune_blocks", "batch_size"),
    *("head", "views", "optim", "lr", "weight_decay"),
)
NEEDED = ("config.yaml", "split.csv", "summary.json", PREDICTIONS)


def settings_of_run(config: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """The config of the run that `train.from_run` names, for its folder of pictures as it is now,
    with the command line's overrides; and the notes to show.

    What was held out stays so, new pictures of its classes are trained on, and new classes are
    split as a new folder is. Raises UserError where there is no such run, or it is not finished.
    """
    train = config.train
    assert train.from_run is not None
    run = find_run(train.from_run, train.log_path)
    if lacking := [name for name in NEEDED if not (run / name).is_file()]:
        raise UserError(
            f"train.from_run: {run} is not a finished run, it has no {', '.join(lacking)}; "
            "finish it, or name another"
        )
    others = [name for name in changed(run) if name in (*NEEDED, SEARCH)]
    if "split.csv" in others:
        raise UserError(
            f"train.from_run: {run / 'split.csv'} is not as that run wrote it, and what it held "
            "out must stay so; put it back, or go on from another run"
        )
    kept = [o for o in overrides if o.partition("=")[0] not in ("train.from_run", "train.split")]
    ours = [f"train.from_run={run}", f"train.split={run / 'split.csv'}", "train.new_images=train"]
    ours += ["vit.num_classes=auto", *_free_again(run)]
    found, notes = load_config(run / "config.yaml", [*ours, *kept])
    if not names(kept, "train.run_name"):
        new = found.train.model_copy(update={"run_name": None})
        found = found.model_copy(update={"train": new})
    said = [f"{some(others)} of {run}: not as that run wrote them"] if others else []
    return found, [f"settings: those of {run}, and its split", *said, *notes]


def as_it_goes_on(
    config: Config, notes: list[str], overrides: Sequence[str]
) -> tuple[Config, list[str]]:
    """A config and its notes, or those of `settings_of_run` where it goes on from a finished run; a
    run's own file has all of that."""
    train = config.train
    given = names(overrides, "train.from_run") and not train.from_checkpoint
    if not train.from_run or (not given and _has_all_of_it(train)):
        return config, notes
    words = list(overrides)
    if train.from_checkpoint and not names(overrides, "train.from_checkpoint"):  # in the file
        words.append(f"train.from_checkpoint={train.from_checkpoint}")
        if train.run_name and not names(overrides, "train.run_name"):
            words.append(f"train.run_name={train.run_name}")
    found, notes = settings_of_run(config, words)
    if not names(overrides, "train.from_run"):
        notes.append("the settings name train.from_run: nothing else in them counts; overrides do")
    return found, notes


def _has_all_of_it(train: TrainConfig) -> bool:
    """Whether a config that names a run has its own settings for that: a run's that went on, or
    another split."""
    if not (train.from_run and train.split) or train.new_images == "train":
        return train.split is not None  # the earlier run may be gone by now
    run = find_run(train.from_run, train.log_path)
    return Path(train.split).resolve() != (run / "split.csv").resolve()


def _free_again(run: Path) -> list[str]:
    """The overrides that let follow the number of pictures what followed it in a run: its file has
    what that came to."""
    train = load_config(run / "config.yaml", [])[0].train
    free = [f"train.{name}=auto" for name in followed(run, train)]
    if train.head == "layers":  # no block trained
        free.append(f"train.finetune_blocks={TrainConfig().finetune_blocks}")
    return free


def followed(run: Path, train: TrainConfig) -> list[str]:
    """What of a run's config followed the number of its pictures."""
    learned = sum(row["part"] == "train" for row in read_csv(run / "split.csv", ("part",)))
    return train.by_images(learned)


def earlier_search(config: Config, views: int | str) -> tuple[Path | None, list[str]]:
    """The table of what the earlier run tried, if this one goes on from it; and the settings that
    are not as they were then, with which all is tried anew. `views`: what a picture gets now."""
    if not config.train.from_run:
        return None, []
    run = Path(config.train.from_run)
    if not ((run / SEARCH).is_file() and (run / "config.yaml").is_file()):
        return None, []
    before = load_config(run / "config.yaml", [])[0].train
    now = config.train.model_copy(
        update={
            name: getattr(before, name)
            for name in followed(run, before)
            if getattr(config.train, name) == "auto"
        }
    )
    if views == "auto":  # there are many pictures by now: whether views pay is to be seen
        now = now.model_copy(update={"views": views})
    other = [key for key in SEARCHED if getattr(before, key) != getattr(now, key)]
    return (None if other else run / SEARCH), [f"train.{key}" for key in other]


def take_search(config: Config, run: Run, views: int | str) -> None:
    """The setting that the earlier run found, where a picture gets so many views (`auto`: that is
    to be found): nothing is tried again."""
    if not config.train.from_run or (run.folder / SEARCH).exists():
        return
    there, other = earlier_search(config, views)
    if there is not None:
        with rewriting(run.folder, SEARCH), replacing(run.folder / SEARCH) as temporary:
            shutil.copyfile(there, temporary)
        log.info("the setting is what %s found (%s)", there.parent.name, SEARCH)
    elif other:
        name = Path(config.train.from_run).name
        log.info("the setting is found anew: %s had another %s", name, some(other))


def compare_with_run(
    config: Config, part: str, rows: list[dict[str, Any]], split: Split
) -> dict[str, Any] | None:
    """What became of the pictures of a part that the earlier run has answered, too, whatever their
    files and classes are called by now, by its predictions.csv and by `rows`; None where there are
    none. Those of a class that is several by now are left out: it was not asked which."""
    if not config.train.from_run:
        return None
    run = Path(config.train.from_run)
    try:
        answered = read_csv(run / PREDICTIONS, ("path", "part", "label", "predicted"))
        before = {row["path"]: row for row in answered if row["part"] == part}
        listed = read_csv(run / "split.csv", ("path", "label", "sha256"))
    except UserError as error:
        log.info("what the run answered is not compared: %s", error)
        return None
    digests = {split.path_of(sample): sample.sha256 for sample in split.part(part)}
    answers = [row["path"] for row in listed if row["path"] in before]
    answers.sort(key=lambda path: path in digests)  # of copies the last counts
    own = {row["path"]: row["sha256"] for row in listed}
    then = {own[path]: path for path in answers}
    names = [then.get(digests[row["path"]]) for row in rows]
    found = [(before[name], row) for name, row in zip(names, rows, strict=True) if name]
    called = _called({row["sha256"]: row["label"] for row in listed}, split)
    both = [(old, new) for old, new in found if called.get(old["label"], "") is not None]
    if not both:
        return None
    # By the labels of today: they may be corrected since.
    was = [called.get(old["predicted"], old["predicted"]) == new["label"] for old, new in both]
    now = [new["predicted"] == new["label"] for _, new in both]
    only_new = sum(n and not w for w, n in zip(was, now, strict=True))
    only_old = sum(w and not n for w, n in zip(was, now, strict=True))
    classes: dict[str, list[int]] = {}
    for (_, new), w, n in zip(both, was, now, strict=True):
        counts = classes.setdefault(new["label"], [0, 0, 0])
        counts[0] += 1
        counts[1] += w
        counts[2] += n
    return {
        "run": run.name,
        "part": part,
        "images": len(both),
        "left_out": len(found) - len(both),
        "before": round(sum(was) / len(both), 6),
        "now": round(sum(now) / len(both), 6),
        "only_now": only_new,
        "only_before": only_old,
        "p": round(paired_chance(only_new, only_old), 6),
        "classes": {
            name: dict(zip(("images", "right_before", "right_now"), counts, strict=True))
            for name, counts in sorted(classes.items())
        },
    }


def _called(before: Mapping[str, str], split: Split) -> dict[str, str | None]:
    """Today's name of each class whose pictures, `before` by their digests, mostly lie in another:
    it was renamed, or went into that; None where it fell into several."""
    earlier = Counter(before.values())
    counts: dict[str, Counter[str]] = {}
    for sample in split.samples:
        if (old := before.get(sample.sha256)) is not None:
            counts.setdefault(old, Counter())[split.classes[sample.label]] += 1
    found: dict[str, str | None] = {}
    for old, today in counts.items():
        (new, most), *_ = today.most_common(1)
        is_gone = today.total() < (1 - MOSTLY) * earlier[old]
        if old in split.classes and (is_gone or today[old] * 2 >= today.total()):
            continue  # some labels of it were corrected
        found[old] = new if most >= MOSTLY * today.total() else None
    return found


MOSTLY = 0.7  # of a class's pictures: the others' labels were corrected


def tell_comparison(found: dict[str, Any] | None) -> None:
    """One line with both accuracies on the same pictures, and one for the class that lost most."""
    if found is None:
        return
    p = said_chance(found["p"])
    log.info(
        "on the %d %s pictures that %s answered, too%s: %.4f then, %.4f now (%d right only now, %d "
        "only then; McNemar's exact test, %s)",
        *(found[key] for key in ("images", "part", "run")),
        *(f", but for {n} of classes that are several by now" if (n := found["left_out"]) else "",),
        *(found[key] for key in ("before", "now", "only_now", "only_before")),
        p,
    )
    lost = {n: c["right_before"] - c["right_now"] for n, c in found["classes"].items()}
    worst = max(lost, key=lambda name: lost[name])
    if lost[worst] > 0:
        counts = found["classes"][worst]
        log.info(
            "  of %s %d of %d are right, %d were", worst, counts["right_now"], counts["images"],
            counts["right_before"],
        )  # fmt: skip
