"""Which pictures the weights that a run begins with have learned, in an earlier run."""

from __future__ import annotations

from pathlib import Path

from config import TrainConfig
from dataset import Split
from engine.run import BEST, config_of
from layout.split_file import read_split
from pretrained.files import metadata_in
from pretrained.names import missing, resolve
from utils import UserError, log


def learned_by(checkpoint: Path, wanted: str, log_path: str = "logs") -> set[str]:
    """The digests of the pictures that a checkpoint has learned, by its run's split.csv; none where
    that isn't there. `wanted`: what was named to find it."""
    checkpoint = checkpoint / BEST if checkpoint.is_dir() else checkpoint
    said = metadata_in(checkpoint) if checkpoint.is_file() else {}
    ours = "config" in said or checkpoint.suffix == ".pt"  # a folder may be called as a run is
    config = config_of(checkpoint, wanted, log_path) if ours else None
    split = None if config is None else config.with_name("split.csv")
    if split is None or not split.is_file():
        return set()
    parts = ("train", "val") if "seen" in said else ("train",)  # refit has trained on val, too
    try:
        return {row["sha256"] for row in read_split(split).values() if row["part"] in parts}
    except UserError as error:
        log.warning("what %s has learned is not known: %s", checkpoint, error)
        return set()


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
