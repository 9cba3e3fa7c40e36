"""manifest.json and the model card of an export."""

from __future__ import annotations

import contextlib
import html
import json
import re
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from certainty.sure import NOTHING, not_calibrated
from classifier import Classifier, class_names
from config import Config, ConfigError
from config_file import load_config
from pretrained.manifest import MANIFEST
from system.origin import git_commit, versions
from tools.export.causes import CLIPPED
from tools.export.given import Given, Written
from tools.export.ordinary import scores, summary_of, temperature_of
from tools.export.proof import Picture, Proof
from tools.export.reading import deep_lines
from utils import sha256_of, shell, write_json, write_text

DEEP_NAME = "-grey16."  # of golden pictures
PROGRAMS = ("onnx", "openvino", "web")  # from pixels to answers, and how unlike they are
# Where a run writes, and what it went on with: no part of how to train it again.
PLACES = ("run_name", "log_path", "save_path", "data", "from_checkpoint")
OF_THE_VIT = ("dim", "dropout", "attention_dropout")  # the rest is the weights'


def write_manifest(
    folder: Path, target: str, origin: Given, given: Given, written: Written, proof: Proof
) -> None:
    """Everything that using the export takes, and the SHA-256 of each of its files; `origin` is
    the run that was asked for, `given` what was exported of it."""
    classifier = given.classifier
    certainty = classifier.certainty
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    values = {
        "format": target,
        "labels": list(class_names(classifier.net)),
        "preprocessing": classifier.preprocessing.model_dump(),
        "architecture": classifier.net.vit.model_dump(),
        "input": ["batch", classifier.net.vit.input_channels, *[classifier.net.vit.dim] * 2],
        "temperature": temperature_of(classifier),
        "set_level": None if certainty is None else float(certainty.set_level),
        "run": run_name(origin),
        "training": training_command(given.run),
        "checkpoint_sha256": sha256_of(origin.classifier.checkpoint),
        "exported": time.strftime("%Y-%m-%d"),
        "versions": versions() | library_versions(written.library),
        "git_commit": git_commit(),
        "notes": list(written.notes),
        "proof": {
            "same_inputs": proof.inputs,
            "tolerance": proof.tolerance,
            "from_files": [asdict(picture) for picture in proof.pictures],
        },
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": sha256_of(path),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
    }
    write_json(folder / MANIFEST, values)


def library_versions(packages: str) -> dict[str, str]:
    found = {}
    for name in packages.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def run_name(given: Given) -> str:
    """The run's name, or that of the weights' file where there is no run."""
    return given.run.resolve().name if given.run else given.classifier.checkpoint.name


def training_command(run: Path | None) -> str | None:
    """What trains such a network again, in a shell: the settings that are not the defaults."""
    config = _config(run)
    if config is None:
        return None
    values, usual = config.model_dump(), Config().model_dump()
    vit = values["vit"].keys() - {"num_classes"} if config.train.mode == "scratch" else OF_THE_VIT
    words = [f"vit.{k}={as_word(v)}" for k, v in values["vit"].items() if k in vit]
    usual_words = {f"vit.{key}={as_word(value)}" for key, value in usual["vit"].items()}
    words = [w for w in words if w not in usual_words or w.startswith("vit.dim=")]
    for key, value in values["train"].items():
        if value != usual["train"][key] and key not in PLACES:
            words.append(f"train.{key}={as_word(value)}")
    return shell("python", "training.py", *words)


def as_word(value: Any) -> str:
    """A setting as an override has it."""
    if isinstance(value, (list, tuple)):
        plain = (isinstance(v, str) and not re.fullmatch(r"[\w.-]+", v) for v in value)
        items = (json.dumps(v) if odd else str(v) for v, odd in zip(value, plain, strict=True))
        return "[" + ",".join(items) + "]"
    if isinstance(value, bool) or value is None:  # which 1 and 0 equal
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _config(run: Path | None) -> Config | None:
    with contextlib.suppress(ConfigError, OSError):
        return load_config((run or Path()) / "config.yaml")[0] if run else None
    return None


def write_card(
    folder: Path, target: str, origin: Given, given: Given, written: Written, proof: Proof
) -> None:
    """README.md: how to load it, what it was trained on, how well it does, what it can't."""
    classifier, names = given.classifier, class_names(given.classifier.net)
    where = {"place": folder_name(origin), "picture": "picture.jpg"}
    load = written.load.strip()
    for key, value in where.items():
        load = load.replace(f"{{{key}}}", json.dumps(value, ensure_ascii=False)[1:-1])
    packages = " ".join(dict.fromkeys([*written.library.split(), "numpy", "pillow"]))
    parts = [
        _front(target),
        f"# {run_name(origin)}, as {target}",
        f"A Vision Transformer that tells {len(names)} classes apart: {_listed(names)}.",
        f"## Use\n\n`pip install {packages}`, then, {_place(load, target)},\n\n"
        f"```python\n{load}\n```",
        _data(origin.run, given),
        results(given, written),
        _limits(given, target),
        _proof(proof),
        _deep(classifier, proof),
        _training(given),
    ]
    write_text(folder / "README.md", "\n\n".join(part for part in parts if part) + "\n")


def _place(load: str, target: str) -> str:
    """Where the code finds the files."""
    return "in this folder" if target in PROGRAMS else "in the folder that holds this one"


def folder_name(given: Given) -> str:
    return given.options.out.name


def _front(target: str) -> str:
    """The hub's metadata (https://huggingface.co/docs/hub/model-cards)."""
    library = {"hf": "transformers", "timm": "timm"}.get(target)
    lines = ["---", "pipeline_tag: image-classification"]
    lines += [f"library_name: {library}"] if library else []
    return "\n".join([*lines, "---"])


def _listed(names: tuple[str, ...], most: int = 50) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(as_text, names[:most])) + more


def as_text(name: str) -> str:
    """A class's name that Markdown, and what shows it as HTML, takes for no more than text."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(name, quote=False))


def _data(run: Path | None, given: Given) -> str:
    config, images = _config(run), summary_of(run).get("images") or {}
    if config is None:
        return "## Data\n\nNot known: the run's folder was not there when this was exported."
    counts = ", ".join(f"{n} {part}" for part, n in images.items() if n)
    of = f": {counts}" if counts else ""
    pictures = Path(config.train.base_dir).name
    start = Path(config.train.checkpoint or "").name
    begun = f" Training began with the weights `{start}`." if start else ""
    return f"## Data\n\nThe pictures of the folder `{pictures}`{of}.{begun}"


def results(given: Given, written: Written) -> str:
    summary = summary_of(given.run)
    lines = [f"- accuracy {line}" for line in scores(summary)]
    lines = lines or ["- not known: the run's summary.json was not there"]
    whose = ""
    if given.alone is not None:
        own = [f"- accuracy of what is exported, the class head alone: {given.alone}"]
        both = (f"- of the run, whose two heads answer together: {line[2:]}" for line in lines)
        lines, whose = [*own, *both], "of both heads together: "
    certainty = summary.get("certainty") or {}
    error = certainty.get("val_calibration_error_calibrated")
    if error is not None:
        by = "val part"
        if certainty.get("temperature_by") == "val":
            by += ", each by others' temperature"
        lines.append(f"- {whose}calibration error {error:.3f} ({by})")
    if again := summary.get("refit"):
        lines.append(
            f"- what is exported was trained once more on all {again['images']} pictures that are "
            "not test; the run's numbers, these, were measured before"
        )
    if sentence := summary.get("verdict_sentence"):
        lines.append(f"- {whose}{sentence}")
    return "\n".join(["## Results\n", *lines, *(f"- {note}" for note in written.notes)])


def _limits(given: Given, target: str) -> str:
    classifier = given.classifier
    temperature = temperature_of(classifier)
    calibrated = "are not calibrated: the weights hold no temperature"
    if classifier.certainty is not None:
        calibrated = f"are calibrated (temperature {temperature:.3f}, already in the model) for "
        calibrated += "pictures like those that it was measured on"
        if (summary_of(given.run).get("certainty") or {}).get("temperature_by") == NOTHING:
            calibrated = f"are {not_calibrated(len(classifier.certainty.held_out))}"
    if given.alone is not None:
        calibrated = (
            f"are as sure as this head's were within the mean of the two (temperature "
            f"{temperature:.3f}, already in the model); of this head alone that was not measured"
        )
    knows = classifier.certainty is not None and classifier.certainty.likeness is not None
    far = "this format does not say; the project's own weights may"
    if target in PROGRAMS and knows:
        far = "the second output, `unlike`, says: near 1, like none of them"
    return (
        "## Limits\n\n"
        f"- Its probabilities {calibrated}.\n"
        "- It knows its classes alone and gives one of them to any picture. How unlike the "
        f"training pictures one is, {far}.\n"
        "- Other preprocessing gives other answers; manifest.json and golden/ say what is right."
    )


def _proof(proof: Proof) -> str:
    lines = [
        "## Proof\n",
        f"`python golden/check.py` answers {len(proof.pictures)} golden pictures again. When this "
        "was exported, a fresh process without the project differed by at most "
        f"{proof.inputs:.1e} in a probability on the same inputs. From the files, with the "
        "library's own reading and resizing:\n",
        table(
            proof,
            "| picture | largest difference | same answer | why |\n| --- | --- | --- | --- |",
            markdown,
        ),
    ]
    return "\n".join(lines)


def table(proof: Proof, head: str, row: Any) -> str:
    """The pictures that the library makes something else of, the most different first."""
    other = sorted(proof.other, key=lambda p: -(p.difference if p.difference is not None else 9))
    if not other:
        return f"none differs by more than {proof.tolerance:g}."
    return "\n".join([head, *(row(picture) for picture in other)])


def markdown(picture: Picture) -> str:
    difference = picture.reason or f"{picture.difference:.1e}"
    return f"| {picture.name} | {difference} | {'yes' if picture.same else 'no'} | {picture.why} |"


def _deep(classifier: Classifier, proof: Proof) -> str:
    """What becomes of greys of more than 8 bits, and what to do with them before."""
    (picture,) = (p for p in proof.pictures if DEEP_NAME in p.name)
    found = "golden/check.py reads them as the network was shown such"
    if picture.why == CLIPPED:
        size = picture.reason or f"by {picture.difference:.1e}"
        answer = "the same answer" if picture.same else "another answer"
        found = (
            "this library's own reading does just that: of the golden picture "
            f"{picture.name} a probability differs {size} ({answer})"
        )
    return (
        "## Greys of more than 8 bits\n\n"
        'Pillow\'s `convert("RGB")` makes every value above 255 white, and '
        f"{found}. Make 8 bits of them first:\n\n"
        f"```python\n{deep_lines(classifier.preprocessing.greys)}\n```"
    )


def _training(given: Given) -> str:
    command = training_command(given.run)
    return f"## Training\n\n```\n{command}\n```" if command else ""
