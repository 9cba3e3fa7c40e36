"""An ordinary ViT, one head on the class token: what other libraries know."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from certainty.certainty import Certainty
from certainty.sure import HOTTEST
from classifier import Classifier
from config import Config
from config_file import dump_config, load_config
from decoding.files import is_there
from engine.metrics_log import read_metrics
from layout.split_file import read_split
from metrics import wilson
from pretrained.write import export, save_model, sort_metadata
from shards.place import root_of
from system.filenames import name_of
from tools.export.given import Given
from tools.export.golden import answered, held_out_files
from utils import UserError, log, replacing, write_text

TRAINING = Path(__file__).resolve().parents[2] / "training.py"
NAME = "class-head"
ANY_HEAD = "--to pt2 and --to onnx take any head"


def temperature_of(classifier: Classifier) -> float:
    """What the logits are divided by; 1 where the weights don't say."""
    found = classifier.certainty
    return 1.0 if found is None else float(found.temperature)


def folded(classifier: Classifier, layout: str) -> dict[str, Tensor]:
    """A network's arrays under the names of another layout, its temperature in the head's weight
    and bias: the softmax of its logits are the calibrated probabilities."""
    if classifier.net.vit.representation_size is not None:
        raise UserError(
            "the network has a dense layer before its head (vit.representation_size), which newer "
            f"libraries don't know; {ANY_HEAD}"
        )
    temperature = temperature_of(classifier)
    arrays = export(classifier.net, layout)
    heads = ("head.", "head/", "classifier.")
    return {n: a / temperature if n.startswith(heads) else a.clone() for n, a in arrays.items()}


def save_folded(path: Path, classifier: Classifier, layout: str) -> None:
    """Write `folded` as safetensors."""
    arrays = folded(classifier, layout)
    with replacing(path, sum(a.nbytes for a in arrays.values())) as temporary:
        save_file(arrays, temporary, {"format": "pt"})
        sort_metadata(temporary)


def need_colour(classifier: Classifier, library: str) -> None:
    """UserError for a network of grey pictures."""
    if classifier.net.vit.input_channels != 3:
        raise UserError(
            f"the preprocessing of {library} makes colour pictures, the network takes grey ones; "
            "--to onnx, openvino, web, pt2 and npz take them"
        )


def with_class_head(given: Given, folder: Path) -> tuple[Given, tuple[str, ...]]:
    """The same run with a class head instead of one over layers, and what to say of it.

    Of two heads it is the one on the class token; for a head over layers alone one is trained on
    the same tokens, below `folder`. What has a class head alone stays as it is.

    Raises UserError where what the training needs is gone, or it fails.
    """
    if given.classifier.net.layers is None:
        return given, ()
    if given.classifier.net.vit.num_classes:
        return _without_layers(given, folder)
    config = _config_of(given)
    train = config.train
    has_block = train.head != "layers" and train.finetune_blocks
    what = "the last block and the class head" if has_block else "the class head"
    log.info(
        "the head over layers has no place in an ordinary ViT: training %s instead, on the tokens "
        "that are cached, which takes as long as such a run without its cache",
        what,
    )
    changed = _with_class(config, given.run, folder)
    write_text(folder / "config.yaml", dump_config(changed))
    command = [sys.executable, str(TRAINING), "--config", str(folder / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines()
        reason = (lines or [f"status {done.returncode}"])[-1].removeprefix("error: ")
        raise UserError(f"the class head could not be trained: {reason}; {ANY_HEAD}")
    run = folder / "logs" / NAME
    best = folder / "weights" / NAME / "best.safetensors"
    assert given.run is not None
    were = "were" if has_block else "was"
    before, after = _said(summary_of(given.run)), _said(summary_of(run))
    note = (
        f"the run's head over layers has no place in an ordinary ViT: {what} {were} trained "
        f"instead, on the same split. Accuracy: the run {before}, this export {after}"
    )
    return Given(Classifier(best, device="cpu"), run, given.options), (note,)


def _without_layers(given: Given, folder: Path) -> tuple[Given, tuple[str, ...]]:
    """Of two heads the one on the class token, as sure as it is in the mean of both."""
    net = copy.deepcopy(given.classifier.net)
    assert net.layers is not None
    alone = Certainty(0)
    # A scale that was found on pictures held out in turn; of a few steps' head it can be any.
    alone.temperature.fill_(min(HOTTEST, max(1 / HOTTEST, 1 / net.layers.scale.item())))
    net.layers, net.certainty = None, alone
    path = folder / "class-head.safetensors"
    save_model(path, net)
    classifier = Classifier(path, device="cpu")
    both, block = _said(summary_of(given.run)), _of_the_block(given, classifier)
    note = (
        "the head over layers has no place in an ordinary ViT: the other of the two, on the class "
        f"token, answers alone. Accuracy: the class head alone {block}; both {both}"
    )
    return replace(given, classifier=classifier, alone=block), (note,)


def _of_the_block(given: Given, classifier: Classifier) -> str:
    """The class head's own accuracy: its answers to the test part, which no training saw, or the
    validation of the run's epochs, which are the block's."""
    run = given.run
    answers = list(answered(classifier, held_out_files(run, ("test",)), "the class head alone"))
    if answers:
        right = sum(answer.label == label for _, label, answer in answers) / len(answers)
        low, high = wilson(right, len(answers))
        between = f"(95 %: {low:.3f} to {high:.3f})"
        return f"{right:.3f} {between} of {len(answers)} pictures, test part, by these very weights"
    rows = read_metrics((run or Path()) / "metrics.csv")
    best = summary_of(run).get("best_epoch")
    found = [row["val_accuracy"] for row in rows if row["epoch"] == best]
    if not found or found[0] is None:
        return "unknown"
    images = (summary_of(run).get("images") or {}).get("val")
    low, high = wilson(found[0], images) if images else (0.0, 1.0)
    return f"{found[0]:.3f} (95 %: {low:.3f} to {high:.3f}) of {images} pictures, val part"


def _config_of(given: Given) -> Config:
    """The run's settings, where its pictures are still what they were."""
    gone = f"another head would have to be trained, and {{}}; {ANY_HEAD}"
    run = given.run
    if run is None or not (run / "config.yaml").is_file() or not (run / "split.csv").is_file():
        raise UserError(gone.format("the run's config.yaml and split.csv are not there"))
    config, _ = load_config(run / "config.yaml")
    root = root_of(config.train.base_dir, config.train.data)
    if not root.is_dir():
        raise UserError(gone.format(f"its pictures are not at {root} any more"))
    paths = [root / name_of(path) for path in read_split(run / "split.csv")]
    missing = [path for path in paths if not is_there(path)]
    if missing:
        raise UserError(gone.format(f"{len(missing)} of its pictures are gone ({missing[0]}, ...)"))
    return config


def _with_class(config: Config, run: Path | None, folder: Path) -> Config:
    """The settings of the training that gives the run's class head, on the tokens that the run's
    own cache holds: with as many views of a picture."""
    assert run is not None
    train = config.train
    changes: dict[str, Any] = {
        "head": "class",
        "views": 1 if train.views == "auto" else train.views,
        "split": str(run / "split.csv"),
        "new_images": None,
        "from_checkpoint": None,
        "from_run": None,
        "run_name": NAME,
        "log_path": str(folder / "logs"),
        "save_path": str(folder / "weights"),
        "save": "all",
        "report": False,
        "verdict": False,
        "track": None,
    }
    return config.model_copy(update={"train": train.model_copy(update=changes)})


def summary_of(run: Path | None) -> dict[str, Any]:
    """A run's summary.json; nothing where it can't be read."""
    try:
        return json.loads(((run or Path()) / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _said(summary: dict[str, Any]) -> str:
    return scores(summary)[0] if scores(summary) else "unknown"


def scores(summary: dict[str, Any]) -> list[str]:
    """A run's accuracies with their intervals, the test part's first."""
    found = []
    for part in ("test", "val"):
        accuracy = summary.get(f"{part}_accuracy")
        if accuracy is None:
            continue
        images = (summary.get("images") or {}).get(part)
        of = f" of {images} pictures" if images else ""
        interval = summary.get(f"{part}_interval")
        between = f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        found.append(f"{accuracy:.3f}{between}{of}, {part} part")
    return found
