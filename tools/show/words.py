"""What is known of a weights file, in words."""

from __future__ import annotations

import textwrap
from typing import Any

from certainty.sure import NOTHING, not_calibrated
from config import Preprocessing
from inspection.numbers import what_trains
from inspection.record import PARTS
from system.filenames import shown
from utils import some

WIDTH = 100
LABEL = 16  # columns of a line's label
CLASSES = 10  # that are named
MOST = 160  # characters of another program's metadata
LONGEST = 5000  # characters of anything else: wrapping megabytes takes a minute
LAYOUTS = {
    "google": "Google's layout",
    "huggingface-vit": "Hugging Face's ViT layout",
    "huggingface-dinov2": "Hugging Face's Dinov2 layout",
    "torchvision": "torchvision's layout",
    "timm": "timm's layout (DeiT, MAE and DINOv2 share it)",
}
HEADS = {
    "class": "on the class token (class)",
    "layers": "linear, over {blocks} and the patches (layers), instead of one on the class token",
    "both": "the mean of two (both): on the class token, and linear over {blocks} and the patches",
}
MODES = {
    "pretrained": "pretrained, all weights",
    "scratch": "scratch, all weights from random values",
}


def said(facts: dict[str, Any]) -> str:
    """A weights file in some lines, ending with what can be done next."""
    rows = [
        ("layout", layout(facts)),
        ("network", network(facts)),
        ("head", head(facts)),
        ("classes", classes(facts)),
        ("a picture", picture(Preprocessing.model_validate(facts["preprocessing"]))),
        *sure(facts["certainty"], facts["head"]),
        ("measured", measured(facts["measured"])),
        ("trained", trained(facts)),
        ("seen", seen(facts)),
        ("came from", facts["provenance"]),
        *export(facts["export"]),
        *((name, shortened(text)) for name, text in sorted(facts["metadata"].items())),
        *notes(facts["notes"]),
    ]
    lines = [facts["file"]]
    for label, text in rows:
        lines += row(label, text) if text else []
    files = facts["files"]
    lines += [
        f"  {'sha256' if not i else '':{LABEL}}{f['sha256']}" + of_several(f, files)
        for i, f in enumerate(files)
    ]
    lines += [
        f"  {'next' if not i else '':{LABEL}}{command}"
        for i, command in enumerate(facts["commands"].values())
    ]
    return "\n".join(printable(line) for line in lines)


def program(facts: dict[str, Any]) -> str:
    """A file that holds a program in some lines, by the manifest beside it."""
    known, how = facts["classes"] or [], facts["preprocessing"]
    level = facts["set_level"]
    sure = None if level is None else f"temperature {facts['temperature']:.3g}, already in it"
    (file,) = facts["files"]
    rows = [
        ("a program", f"{facts['program']}, {file['bytes'] / 1e6:,.1f} MB: it answers by itself"),
        ("classes", f"{len(known):,}: {some(known, CLASSES)}"),
        ("a picture", picture(Preprocessing.model_validate(how)) if how else None),
        ("certainty", sure),
        *export(facts["export"]),
        ("no weights", "to train from or to answer with here: name those of its run"),
    ]
    lines = [facts["file"]]
    for label, text in rows:
        lines += row(label, text) if text else []
    lines.append(f"  {'sha256':{LABEL}}{file['sha256']}")
    return "\n".join(printable(line) for line in lines)


def export(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """How an export came to be, by its manifest."""
    if found is None:
        return []
    rows = [("export", f"of {found['run']}, as {found['format']}, {found['exported']}")]
    rows += [("trained by", str(found["training"]))] if found["training"] else []
    notes = found["notes"] if isinstance(found["notes"], list) else []
    return [*rows, *(("note", str(note)) for note in notes)]


def row(label: str, text: str) -> list[str]:
    """A label and its text, in lines of WIDTH."""
    label = label if len(label) < LABEL else f"{label[: LABEL - 2]}…"
    text = shortened(text) if len(text) > LONGEST else text
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=f"  {label:{LABEL}}",
        subsequent_indent=" " * (2 + LABEL),
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """A text without what would steer a terminal: names come from outside."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown(text))


def shortened(text: str) -> str:
    return text if len(text) <= MOST else f"{text[:MOST]}… ({len(text):,} characters)"


def of_several(file: dict[str, Any], files: list[dict[str, Any]]) -> str:
    return f"  {file['file']}" if len(files) > 1 else ""


def layout(facts: dict[str, Any]) -> str:
    what = "this project's own, in timm's layout" if facts["ours"] else LAYOUTS[facts["layout"]]
    if facts["lacks"]:
        what += f"; {facts['lacks']}"
    files = facts["files"]
    size = f"{sum(file['bytes'] for file in files) / 1e6:,.1f} MB"
    return f"{what}, {size}" + (f" in {len(files)} files" if len(files) > 1 else "")


def network(facts: dict[str, Any]) -> str:
    """ViT-S/14 at 224 px, or its sizes where they have no name."""
    vit = facts["architecture"]
    name = vit["name"] or (
        f"a ViT of {vit['num_layers']} blocks, width {vit['hidden_dim']}, {vit['num_heads']} heads,"
        f" MLP {vit['ff_dim']}, patches of {vit['patch_dim']} px,"
    )
    found = f"{name} at {vit['dim']} px, {facts['parameters']:,} parameters"
    shown = facts["preprocessing"]["image_size"]
    if shown != vit["dim"]:
        found += f" (a training resamples its positions to {shown} px)"
    found += ", grey pictures" if vit["input_channels"] == 1 else ""
    if vit["representation_size"]:
        found += f", a tanh layer of {vit['representation_size']} before the head"
    return f"{found}; GELU {vit['gelu']}, eps {vit['eps']:g}"


def head(facts: dict[str, Any]) -> str:
    if facts["head"] is None:
        return "none: features come out; train it first, for classes of your own"
    blocks = facts["head_blocks"] or []
    what = f"block{'' if len(blocks) == 1 else 's'} {some(map(str, blocks))}"
    if len(blocks) > 2 and blocks[-1] - blocks[0] == len(blocks) - 1:
        what = f"blocks {blocks[0]} to {blocks[-1]}"
    return HEADS[facts["head"]].format(blocks=what)


def classes(facts: dict[str, Any]) -> str | None:
    if not facts["num_classes"]:
        return None
    named = facts["classes"]
    return f"{facts['num_classes']:,}: " + (
        some(named, CLASSES) if named else "the file doesn't name them"
    )


def picture(how: Preprocessing) -> str:
    """How a picture becomes the network's input."""
    size, by = how.image_size, how.interpolation
    fitted = {
        "crop": f"its shorter side resized to {round(size / how.crop)} px ({by}), of that the "
        f"central {size} x {size} px",
        "pad": f"its longer side resized to {size} px ({by}), the rest filled with the mean's grey",
        "squash": f"all of it resized to {size} x {size} px ({by})",
    }[how.fit]
    scaled = ", ".join(
        f"{name} {' '.join(f'{v:g}' for v in values)}"
        for name, values in (("mean", how.mean), ("std", how.std))
    )
    greys = ""
    if how.greys is not None:
        greys = f"; of greys of more than 8 bits {how.greys[0]:g} is black, {how.greys[1]:g} white"
    return f"{fitted}; of values in [0, 1] {scaled}{greys}"


def sure(known: dict[str, Any] | None, head: str | None) -> list[tuple[str, str]]:
    """How sure its answers are, and whether it knows pictures that are like nothing learned."""
    if known is None:
        nothing = "the file doesn't say: probabilities are the softmax's, no picture is unlike"
        return [("certainty", nothing)] if head else []
    temperature = calibrated(known)
    if not known["held_out"]:  # an export's
        nothing = "of this head alone they were not measured: every class"
        share = f"the classes of a probability of {known['set_level']:.3g} or more"
        return [("certainty", temperature), ("90 % sets", share if known["set_level"] else nothing)]
    level = f"the classes of a probability of {known['set_level']:.3g} or more"
    if not known["set_level"]:
        level = "every class: the held-out pictures are too few to leave any out"
    return [
        ("certainty", temperature),
        ("90 % sets", level),
        ("unlike pictures", unlike(known)),
        ("held out", held_out(known)),
    ]


def calibrated(known: dict[str, Any]) -> str:
    """The temperature, what it was found on, and the calibration error before and after it."""
    found_on, errors = known["temperature_by"], known["calibration_error"]
    of_part = f"; the {PARTS[errors['part']]} part's" if errors else ""
    if found_on == NOTHING:
        error = f"{of_part} calibration error is {errors['after']:.3f}" if errors else ""
        return f"{not_calibrated(known['held_out'])}{error}"
    by_val = found_on == "val"
    said = f"temperature {known['temperature']:.3g}"
    said += f", found on {'the validation part' if by_val else found_on}" if found_on else ""
    if not errors:
        return said
    whose = ", whose" if by_val and errors["part"] == "val" else of_part
    return (
        f"{said}{whose} calibration error is {errors['before']:.3f} before and "
        f"{errors['after']:.3f} after it"
    )


def unlike(known: dict[str, Any]) -> str:
    likeness = known["likeness"]
    if likeness is None:
        return "not known"
    return (
        f"known: by {likeness['examples']:,} training pictures, weighed against "
        f"{likeness['known']:,} held-out ones"
    )


def held_out(known: dict[str, Any]) -> str:
    """What the answers to held-out pictures were, and what the usual thresholds leave of them."""
    n, right = known["held_out"], known["right"]
    found = f"{n:,} picture{'' if n == 1 else 's'}, {right:,} of them answered rightly"
    limits = f"probability {known['min_confidence']:g} or more"
    if known["likeness"] is not None:
        limits += f", unlike below {known['unlike']:g}"
    return (
        f"{found}; {known['answered']:,} with {limits}, {known['answered_right']:,} of them right"
    )


def measured(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    low, high = found["interval"]
    part = PARTS.get(found["part"], found["part"])
    by = f", of {found['by']}" if found["by"] else ""
    return f"{part} accuracy {found['accuracy']:.4f} ({low:.3f} to {high:.3f}, 95 %){by}"


def trained(facts: dict[str, Any]) -> str | None:
    found = facts["trained"]
    if found is None:
        return None
    said = MODES.get(str(found["mode"]), str(found["mode"]))
    if said == "finetune":
        said += f", {what_trains(found['finetune_blocks'], facts['head'])}"
    said += f"; pictures of {found['base_dir']}" if found["base_dir"] else ""
    said += f"; from {found['checkpoint']}" if found["checkpoint"] else ""
    said += f"; seed {found['seed']}" if found["seed"] is not None else ""
    return said + (f"; epoch {found['epoch']}" if found["epoch"] else "")


def seen(facts: dict[str, Any]) -> str | None:
    """The pictures that it learned, where it was trained once more after it was measured."""
    counts = facts["seen"]
    if not isinstance(counts, dict) or not all(isinstance(n, int) for n in counts.values()):
        return None
    parts = {"train": "training", **PARTS}
    each = " and ".join(f"{n:,} {parts.get(part, part)}" for part, n in counts.items())
    return f"{each} pictures learned: on these it can't be measured"


def notes(found: list[str]) -> list[tuple[str, str]]:
    """What was settled by a rule, and what was left out; that it has seen pictures is said."""
    others = [note for note in found if "has learned its run's validation pictures" not in note]
    return [("note" if i else "settled", note) for i, note in enumerate(others)]
