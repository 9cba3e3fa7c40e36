"""Which pictures the weights that a run begins with have learned, in an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import TrainConfig
from dataset import Split
from engine.run import BEST, config_of
from filing.yaml_files import section_of
from layout.split_file import read_split
from pretrained.files import metadata_in
from pretrained.manifest import manifest_of
from pretrained.names import missing, resolve
from system.filenames import name_of
from utils import UserError, log


def learned_by(checkpoint: Path, wanted: str, log_path: str = "logs") -> set[str]:
    """The digests of the pictures that a checkpoint has learned, by the split.csv of its run, of
    the one that an export is of, and of those whose weights that began with; none where that isn't
    there. `wanted`: what was named to find it."""
    known: set[str] = set()
    met: set[Path] = set()
    while (run := _run_of(checkpoint, wanted, log_path)) and run.folder not in met:
        met.add(run.folder)
        # What is trained once more on all that is not test has learned val, too.
        parts = ("train", "val") if run.has_seen_val else ("train",)
        try:
            rows = read_split(run.folder / "split.csv").values()
            known |= {row["sha256"] for row in rows if row["part"] in parts}
        except UserError as error:
            log.warning("what %s has learned is not known: %s", checkpoint, error)
        wanted, save_path = _began_with(run.folder)
        places = save_path, log_path
        if not wanted or missing(wanted, *places):
            break
        try:
            checkpoint = resolve(wanted, *places)
        except UserError:  # it lies elsewhere by now
            break
    return known


@dataclass(frozen=True)
class _Learned:
    folder: Path
    has_seen_val: bool


def _run_of(checkpoint: Path, wanted: str, log_path: str) -> _Learned | None:
    """The run whose weights a file, or a folder with an export, has."""
    checkpoint = checkpoint / BEST if (checkpoint / BEST).exists() else checkpoint
    said = metadata_in(checkpoint) if checkpoint.is_file() else {}
    if "config" in said or checkpoint.suffix == ".pt":  # a folder may be called as a run is
        config = config_of(checkpoint, wanted, log_path)
        found = None if config is None else config.parent
        return _Learned(found, "seen" in said) if found and _is_whole(found) else None
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for file in [checkpoint] if checkpoint.is_file() else sorted(folder.glob("*.safetensors")):
        found = Path(log_path) / str(manifest_of(file).get("run"))
        if _is_whole(found):
            best = Path(_began_with(found)[1]) / found.name / BEST
            return _Learned(found, "seen" in metadata_in(best))
    return None


def _began_with(run: Path) -> tuple[str, str]:
    """The weights that a run began with, "" for none, and where it keeps its own."""
    text = (run / "config.yaml").read_text(encoding="utf-8", errors="replace")
    said = section_of(text, "train")
    begun = "" if said.get("mode") == "scratch" else str(said.get("checkpoint") or "")
    return name_of(begun), name_of(str(said.get("save_path") or "weights"))


def _is_whole(run: Path) -> bool:
    return all((run / name).is_file() for name in ("config.yaml", "split.csv"))


def learned_before(train: TrainConfig, split: Split, part: str) -> int:
    """How many of a part's pictures the weights that a run begins with have learned."""
    named = (train.checkpoint or "", train.save_path, train.log_path)
    if train.mode == "scratch" or not train.checkpoint or missing(*named):
        return 0
    known = learned_by(resolve(*named), train.checkpoint, train.log_path)
    return sum(sample.sha256 in known for sample in split.part(part)) if known else 0


def warn_of_learned(train: TrainConfig, split: Split) -> None:
    """Say of each held-out part how many of its pictures were learned before."""
    for part in ("val", "test"):
        if n := learned_before(train, split, part):
            log.warning(
                "beware: %s has learned %d of the %d %s pictures: what it gets right of them says "
                "nothing of new ones; train.split= that run's split.csv keeps them apart",
                *(train.checkpoint, n, len(split.part(part)), part),
            )
