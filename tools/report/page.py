"""What each section of a report shows: the values that page.html takes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from engine.heads import said_by_layer
from engine.verdict import LEARNED, NO_BETTER, NOT_LEARNED, WORSE
from inspection.charts import by_layer, curves
from inspection.numbers import settings_tried, smoothed_floor, what_trains
from inspection.record import PARTS, Prediction, Record
from inspection.thumbnails import thumbnail
from metrics import wilson
from tools.report.answers import SHOWN, answers
from tools.report.pictures import (
    LOOKS_MOST,
    LOOKS_SECONDS,
    chosen_for_looks,
    looks,
)
from utils import UserError, go_on, minutes, progress_bar

PHASES = {
    "seconds": "of training",
    "cache_seconds": "for the token cache",
    "search_seconds": "to try settings",
    "verdict_seconds": "for the verdict",
    "refit_seconds": "to train once more on all pictures",
}
MODES = {
    "pretrained": "pretrained: all weights, from given ones",
    "scratch": "scratch: all weights, from random values",
}
RIVALS = {
    "layers_head": "head over layers alone",
    "logistic_regression": "logistic regression",
    "nearest_neighbours": "nearest neighbours",
    "shuffled_labels": "shuffled labels (control)",
}
GUESSES = {"largest_class": "largest class, always", "chance": "chance"}
CONTENTS = {
    "numbers": "The numbers",
    "run": "What was trained",
    "curves": "Learning curves",
    "confusion": "Confusions",
    "classes": "Class by class",
    "calibration": "Calibration",
    "mistakes": "Surest mistakes",
    "unsure": "Least certain",
    "looks": "Where it looks",
    "unseen": "The training pictures",
    "layers": "By layer",
    "labels": "Suspected labels",
    "search": "Learning rate",
    "settings": "Settings",
}


def page(record: Record, with_looks: bool) -> dict[str, Any]:
    """What the template takes."""
    numbers = record.summary.get("verdict_numbers") or {}
    kept = record.summary.get("best_epoch")
    word = "measured" if record.summary.get("refit") else "kept"
    values: dict[str, Any] = {
        "run": record,
        "folder": str(record.folder),
        "subtitle": subtitle(record),
        "verdict": verdict(record),
        "rivals": rivals(numbers),
        "has_control": "shuffled_labels" in numbers,
        "held_out": held_out(record),
        "facts": facts(record),
        "kept": kept,
        "curves": curves(record.metrics, kept, "step" if record.overfit else "epoch", word),
        "kept_word": word,
        "half": record.summary.get("head") == "both",
        "training_row": training_row(record),
        "floor": floor(record),
        "part_name": PARTS[record.part],
        "classes": record.classes,
        "search": settings_tried(record.search) if len(record.search) > 1 else None,
        "layers": layers(record),
        "versions": versions(record.summary),
        "config_text": record.config_text,
        **answers(record),
        **attention(record, with_looks),
        **audit(record),
    }
    values["notes"] = [*record.notes, *missing(record)]
    there = {
        "numbers": values["rivals"] or values["held_out"],
        "run": values["facts"],
        "confusion": values["matrix"] or values["matrix_image"],
        "classes": values["worst"],
        "mistakes": values["mistakes"] is not None,
        "looks": values["looks"] or values["looks_missing"],
        "labels": values["audit"] or values["audit_page"],
        "settings": values["config_text"] or values["versions"],
    }
    values["contents"] = [
        (name, text) for name, text in CONTENTS.items() if there.get(name, values.get(name))
    ]
    return values


def subtitle(record: Record) -> str:
    images = sum(record.images.values())
    parts = [f"{len(record.classes)} classes" if record.classes else None]
    parts += [f"{images:,} pictures" if images else None, record.began]
    return " · ".join(part for part in parts if part)


def verdict(record: Record) -> dict[str, Any]:
    """The card at the top: its tone, sign, title and sentence, and the one large number."""
    summary = record.summary
    if summary.get("overfit"):
        return overfit_verdict(summary)
    says = summary.get("verdict")
    tones = {LEARNED: ("good", "✓"), NOT_LEARNED: ("bad", "✗")}
    tones |= dict.fromkeys((WORSE, NO_BETTER), ("even", "≈"))
    tone, sign = tones.get(str(says), ("open", "–"))
    card: dict[str, Any] = {"tone": tone, "sign": sign, "command": None, "big": None}
    if says:
        sentence = str(summary.get("verdict_sentence", "")).removeprefix(f"{says}: ")
        card |= {"title": sentence_case(str(says)), "sentence": f"{sentence_case(sentence)}."}
    elif summary:
        card |= {"title": "Finished", "sentence": "This run was not judged: it has no verdict."}
    else:
        epochs = record.metrics[-1]["epoch"] if record.metrics else 0
        done = f"{epochs} epoch{'' if epochs == 1 else 's'} done"
        card |= {"title": "Not finished", "sign": "…"}
        card["sentence"] = f"It runs still, or was stopped, with {done}; go on with:"
        card["command"] = go_on(record.folder)
    return card | large_number(record)


def large_number(record: Record) -> dict[str, Any]:
    """The accuracy that is reported, with its interval."""
    summary = record.summary
    part = record.scored
    if part is None:
        return {}
    low, high = summary.get(f"{part}_interval") or (None, None)
    images = (summary.get("images") or {}).get(part)
    held = f"{low:.3f} to {high:.3f} (95 %)" if low is not None else ""
    of = f"{images:,} pictures" if images else ""
    return {
        "big": f"{summary[f'{part}_accuracy']:.3f}",
        "big_name": f"{PARTS[part]} accuracy",
        "big_interval": ", ".join(filter(None, [held, of])),
    }


def overfit_verdict(summary: dict[str, Any]) -> dict[str, Any]:
    passed = summary["overfit"] == "PASS"
    know = "is known by heart" if passed else "was not learned by heart"
    return {
        "tone": "good" if passed else "bad",
        "sign": "✓" if passed else "✗",
        "title": "Sanity check: " + ("passed" if passed else "failed"),
        "sentence": f"One batch {know} after {summary.get('steps', '?')} steps."
        + ("" if passed else " The run's last line of output, in run.log, says why."),
        "command": None,
        "big": f"{summary['loss']:.3g}" if "loss" in summary else None,
        "big_name": "loss at the end",
        "big_interval": f"accuracy {summary.get('accuracy', 0.0):.2f}",
    }


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def rivals(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """This network, its rivals and what a guess reaches, the highest first after ours."""
    if "accuracy" not in numbers:
        return []
    n = numbers["images"]
    rows = []
    for key, name in RIVALS.items():
        if key in numbers:
            rows.append({"name": name, "value": numbers[key], "interval": wilson(numbers[key], n)})
    rows.sort(key=lambda row: -row["value"])
    for key, name in GUESSES.items():
        rows.append({"name": name, "value": numbers[key], "interval": None})
    ours = {"name": "this network", "value": numbers["accuracy"], "interval": numbers["interval"]}
    return [{**ours, "ours": True}, *({**row, "ours": False} for row in rows)]


def held_out(record: Record) -> list[dict[str, Any]]:
    """The scores of each part, the held-out ones first."""
    summary, names = record.summary, {**PARTS, "train": "training"}
    images = summary.get("images") or record.images
    return [
        {
            "name": names[part],
            "images": images.get(part),
            "accuracy": summary[f"{part}_accuracy"],
            "balanced": summary.get(f"{part}_balanced_accuracy"),
            "loss": summary.get(f"{part}_loss"),
        }
        for part in names
        if summary.get(f"{part}_accuracy") is not None
    ]


def training_row(record: Record) -> str:
    """What the scores of the training part were measured on."""
    if record.summary.get("head") in ("both", "layers"):
        return "The training row is of the plain pictures that the head over layers was fitted to."
    config = record.config
    plain = config is not None and config.train.views == 1
    how = "with label smoothing" if plain else "with augmentation and label smoothing"
    said = f"The training row is the last epoch's, {how}, as trained."
    return " ".join(part for part in (said, floor(record)) if part)


def floor(record: Record) -> str | None:
    """Why a training loss stays up where all is right: label smoothing. None where there is none,
    or where weighted classes or mixed pictures make another floor."""
    train = record.config.train if record.config else None
    if train is None or not isinstance(train.label_smoothing, float) or not train.label_smoothing:
        return None
    mixed = any(isinstance(share, str) or share for share in (train.mixup, train.cutmix))
    if mixed or train.class_weights != "none" or len(record.classes) < 2:
        return None
    lowest = smoothed_floor(train.label_smoothing, len(record.classes))
    return (
        f"Labels are smoothed by {train.label_smoothing:g} in training, so for "
        f"{len(record.classes)} classes the training loss ends at {lowest:.3f} where every answer "
        "is right; a lower one can't be reached. The held-out parts' is plain."
    )


def layers(record: Record) -> dict[str, Any] | None:
    """The curve of what each block tells, and the sentence to it."""
    if not record.layers:
        return None
    guess = 1 / max(2, len(record.classes))
    said = said_by_layer(record.layers, guess)
    sentence = (
        "A linear fit on what leaves one block alone, each training picture left out of it, each "
        f"class counting the same: {said}."
    )
    return {"sentence": sentence, "charts": [by_layer(record.layers, guess)]}


def facts(record: Record) -> list[tuple[str, str]]:
    """What was trained, on what, from which weights, how, how long."""
    summary, train = record.summary, record.config.train if record.config else None
    mode = str(summary.get("mode") or (train.mode if train else ""))
    images = summary.get("images") or record.images
    how_trained = MODES.get(mode, mode)
    if mode == "finetune":
        blocks = train.finetune_blocks if train else None
        if (summary.get("chosen") or {}).get("part") == "head":  # what a search may find
            blocks = 0
        how_trained = f"finetune: {what_trains(blocks, summary.get('head'))}"
    found: list[tuple[str, Any]] = [("mode", how_trained)]
    if train:
        weights = summary.get("weights", train.checkpoint if mode != "scratch" else None)
        found += [("from the weights", weights or "none: random values")]
        found += [("pictures of", train.base_dir)]
    counts = [f"{images[p]:,} {p}" for p in ("train", "val", "test") if images.get(p)]
    found += [("pictures", ", ".join(counts))]
    parameters = summary.get("parameters") or {}
    if parameters.get("total"):  # a baseline of scikit-learn's has none
        share = f"{parameters['trainable']:,} of {parameters['total']:,}"
        found += [("parameters that train", share)]
    chosen = summary.get("chosen") or {}
    optim, lr, decay = (
        chosen.get(key, summary.get(key)) for key in ("optim", "lr", "weight_decay")
    )
    if optim and lr is not None:
        named = train is not None and train.lr != "auto"
        tried = "found by trying" if len(record.search) > 1 else "the recipe's"
        how = f" ({tried})" if chosen and not named else ""
        found += [("optimiser", f"{optim}, lr {lr:.3g}, weight decay {decay or 0:g}{how}")]
    if train:
        found += [("batch", f"{train.batch_size} pictures, seed {train.seed}")]
    kept = ""
    if summary.get("best_epoch"):
        kept = f"epoch {summary['best_epoch']} of {summary['epochs']}"
    if again := summary.get("refit"):
        kept = (
            f"the same trained once more on all {again['images']:,} pictures that are not test; "
            "the numbers here were measured before"
        )
    found += [("kept", kept)]
    took = [f"{minutes(summary[key])} {what}" for key, what in PHASES.items() if summary.get(key)]
    found += [("took", ", ".join(took)), ("device", summary.get("device"))]
    return [(name, str(value)) for name, value in found if value]


def versions(summary: dict[str, Any]) -> list[tuple[str, str]]:
    found = {**(summary.get("versions") or {}), "commit": summary.get("git_commit")}
    return [(name, str(value)) for name, value in found.items() if value]


def missing(record: Record) -> list[str]:
    """A sentence for what can't be shown, where a finished run would show it."""
    if record.overfit or not record.summary:
        return []
    if not record.predictions:
        return [
            "This run left no predictions.csv (it diverged, or is of an older version), so nothing "
            "is said of single classes and pictures."
        ]
    if record.pictures is None:
        where = record.config.train.base_dir if record.config else "the folder of the config"
        return [f"The pictures are not at {where} (seen from here), so none are shown."]
    return []


def attention(record: Record, wanted: bool) -> dict[str, Any]:
    """The attention maps, each class's together, and whether they were cut; or the sentence that
    stands for them."""
    found: dict[str, Any] = {"looks": [], "looks_missing": None, "looks_cut": None}
    if not wanted or not record.predictions or record.pictures is None:
        return found
    if record.weights is None:
        return found | {"looks_missing": "The run's weights are gone, so it can't be said."}
    every = chosen_for_looks(record.predictions)
    chosen = every[:LOOKS_MOST]
    bar = progress_bar(looks(record, chosen), "attention", len(chosen), unit="image")
    try:
        seen = list(bar)
    except UserError as error:
        return found | {"looks_missing": f"The weights can't be used: {error}."}
    there = [look for look in seen if look]
    cut = looks_cut(every, len(seen), f"{LOOKS_SECONDS:g} s" if len(seen) < len(chosen) else None)
    ordered = sorted(there, key=lambda look: look["answer"].label)
    return found | {"looks": ordered, "looks_cut": cut}


def looks_cut(every: list[Prediction], begun: int, seconds: str | None) -> str | None:
    """What is missing of the pictures that should be looked at, and why."""
    if begun == len(every):
        return None
    classes, there = ({answer.label for answer in some} for some in (every, every[:begun]))
    why = f"after {seconds}" if seconds else f"at {begun} pictures"
    if there == classes:
        return f"It was cut {why}: of some classes there is one picture only."
    return f"It was cut {why}: {len(there)} of {len(classes)} classes are shown."


def audit(record: Record) -> dict[str, Any]:
    """The first suspected labels of an audit, in its order, with their pictures; and where the
    audit's own page lies, seen from the report."""
    found = [row for row in record.audit if row.get("kind", "label") == "label"]
    rows = [
        (
            {key: row.get(key) or "" for key in ("path", "suggested", "score")},
            row.get("given") or row.get("label") or "",
            thumbnail(record.pictures, row["path"], record.greys),
        )
        for row in found[:SHOWN]
    ]
    page = record.audit_folder / "audit.html"
    link = f"../{quote(page.parent.name)}/audit.html" if page.is_file() else None
    return {"audit": rows, "audit_in_all": len(found), "audit_page": link}
