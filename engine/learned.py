"""Which pictures the weights that a run begins with have learned, in earlier runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from config import TrainConfig
from dataset import Split
from engine.run import BEST, SUMMARY, config_of
from filing.yaml_files import section_of
from layout.split_file import Asked, apply_split, read_split
from pretrained.files import ENDINGS, header_of, metadata_in
from pretrained.manifest import manifest_of
from pretrained.names import found_here
from pretrained.write import in_head
from shards.place import names_shards
from system.filenames import name_of
from utils import UserError, log, shell


@dataclass
class Learned:
    """The digests of the pictures that some weights have learned; the split.csv of each run that
    they come from, the last one first; of that one, whether it learned its val part in the end,
    too, and its pictures with their parts, by path."""

    digests: set[str] = field(default_factory=set)
    splits: list[Path] = field(default_factory=list)
    refitted: bool = False
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def advice(self, train: TrainConfig, split: Split) -> str | None:
        """The settings that keep what that run held out apart; None where there are none."""
        file, *earlier = self.splits
        asked = Path(train.split) if train.split else None
        is_asked = asked and asked.exists() and file.samefile(asked)
        if earlier or train.from_run or is_asked or names_shards(train.base_dir):
            return None
        here = {split.path_of(s): s.sha256 for s in split.samples}
        there = [path for path, row in self.rows.items() if here.get(path) == row["sha256"]]
        if 2 * len(there) < len(self.rows):  # another folder, or laid out otherwise
            return None
        # What train.labels has relabelled, or left out, is no other folder.
        labels = {split.path_of(s): split.classes[s.label] for s in split.samples}
        other = {path for path, row in self.rows.items() if labels.get(path) != row["label"]}
        decided = other if train.labels else set()
        grows = here.keys() != self.rows.keys() - (decided - here.keys())
        again = Asked(file, split.root, split.classes, train.classes is not None, grows, decided)
        try:
            apply_split(again, list(split.samples), [], [])
        except UserError:  # pictures were changed in their place, say
            return None
        return shell(f"train.split={file}", *(["train.new_images=train"] if grows else []))


def learned_before(train: TrainConfig, split: Split) -> dict[str, int]:
    """How many pictures of each held-out part the weights that a run begins with have learned,
    where there are any; it is said, and what to do."""
    name = "" if train.mode == "scratch" else train.checkpoint
    begun = found_here(name, train.save_path, train.log_path) if name else None
    if not (name and begun):
        return {}
    known = learned_by(begun, name, train.log_path, begins=True)
    found = {}
    for part in ("val", "test"):
        pictures = split.part(part)
        if n := sum(sample.sha256 in known.digests for sample in pictures):
            found[part] = n
            log.warning(
                "beware: %s has learned %d of the %d %s pictures: what it gets right of them says "
                "nothing of new ones; %s",
                *(name, n, len(pictures), part, _remedy(known, part, train, split)),
            )
    return found


def _remedy(known: Learned, part: str, train: TrainConfig, split: Split) -> str:
    """What tells something of new pictures."""
    advice = known.advice(train, split)
    if not known.refitted:
        return f"{advice} keeps them apart" if advice else OTHERS
    if advice and any(row["part"] == "test" for row in known.rows.values()):
        return f"that run learned its val part in the end, and {advice} keeps its test part apart"
    why = "that run learned its val part in the end (train.refit=false does not); "
    return (why if part == "val" else "") + OTHERS


OTHERS = "other pictures, or weights that have not learned these, would tell"


def learned_by(
    checkpoint: Path, wanted: str, log_path: str = "logs", begins: bool = False
) -> Learned:
    """What a checkpoint has learned, by the split.csv of its run, of the one that an export is of,
    and of those whose weights that began with; nothing where that isn't there. `wanted`: what was
    named to find it. Where a training `begins` with it a head over layers is left out."""
    known = Learned()
    met: set[Path] = set()
    begun: Path | None = checkpoint
    while begun and (run := _run_of(begun, wanted, log_path)) and run.folder not in met:
        met.add(run.folder)
        file = run.folder / "split.csv"
        # What is trained once more on all that is not test has learned val, too.
        parts = ("train", "val") if run.refitted else ("train",)
        try:
            if run.trained or not (begins or known.splits):
                rows = read_split(file)
                known.digests |= {r["sha256"] for r in rows.values() if r["part"] in parts}
                if not known.splits:
                    known.refitted, known.rows = run.refitted, rows
                known.splits.append(file)
        except UserError as error:
            log.warning("what %s has learned is not known: %s", begun, error)
        wanted, save_path = _began_with(run.folder)
        begun = found_here(wanted, save_path, log_path) if wanted else None
    return known


@dataclass(frozen=True)
class _Run:
    """Whose weights some are; whether any were trained there that another training begins with (a
    head over layers alone is solved for anew), and whether on val, too."""

    folder: Path
    trained: bool
    refitted: bool


def _run_of(checkpoint: Path, wanted: str, log_path: str) -> _Run | None:
    """The run whose weights a file, or a folder with an export, has."""
    checkpoint = checkpoint / BEST if (checkpoint / BEST).exists() else checkpoint
    said = metadata_in(checkpoint) if checkpoint.is_file() else {}
    if "config" in said or checkpoint.suffix == ".pt":  # a folder may be called as a run is
        config = config_of(checkpoint, wanted, log_path)
        return _as_run(config.parent, checkpoint) if config else None
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    files = [checkpoint] if checkpoint.is_file() else sorted(folder.glob("*"))
    for file in (file for file in files if file.suffix in ENDINGS):
        if run := manifest_of(file).get("run"):
            found = Path(log_path) / str(run)
            return _as_run(found, Path(_began_with(found)[1]) / found.name / BEST)
    return None


def _as_run(folder: Path, weights: Path) -> _Run | None:
    """A run's folder, where it is all there, with what its weights say."""
    if not all((folder / name).is_file() for name in ("config.yaml", "split.csv")):
        return None
    said, names = header_of(weights)
    solved = any(map(in_head, names)) and not any(name.startswith("head.") for name in names)
    refitted = "seen" in said
    with contextlib.suppress(OSError, ValueError):  # weights that are gone say nothing
        refitted |= bool(json.loads((folder / SUMMARY).read_bytes()).get("refit"))
    return _Run(folder, not solved, refitted)


def _began_with(run: Path) -> tuple[str, str]:
    """The weights that a run began with, "" for none, and where it keeps its own."""
    page = run / "config.yaml"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    said = section_of(text, "train")
    begun = "" if said.get("mode") == "scratch" else str(said.get("checkpoint") or "")
    return name_of(begun), name_of(str(said.get("save_path") or "weights"))
