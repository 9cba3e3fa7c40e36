"""What is audited: a run's pictures, a config's, or those of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import Config
from config_file import load_config
from engine.answers import OUT_OF_FOLD
from engine.run import LEFT_BY_A_RUN, find_run, plain
from utils import UserError, read_csv

HOW = "train.mode=finetune", "train.head=layers"


@dataclass(frozen=True)
class Target:
    """The config to look with, the notes on it, the run's folder of logs or else the config's file,
    the overrides of it, and a name."""

    config: Config
    notes: Sequence[str]
    run: Path | None
    file: Path | None
    overrides: tuple[str, ...]
    name: str

    @property
    def folder(self) -> Path:
        """Where the audit is written."""
        return Path(self.config.train.log_path) / f"audit-{self.name}"

    @property
    def split_file(self) -> Path | None:
        """The split of the run."""
        return None if self.run is None else self.run / "split.csv"

    def block(self) -> dict[str, tuple[str, float]]:
        """By path, what the run's trained last block answered to pictures that it had not seen, and
        how probably."""
        if self.run is None or not (self.run / OUT_OF_FOLD).is_file():
            return {}
        rows = read_csv(self.run / OUT_OF_FOLD)
        return {row["path"]: (row["predicted"], float(row["probability"])) for row in rows}


def find_target(wanted: str, weights: str | None, overrides: Sequence[str]) -> Target:
    """What a run's name or folder, a config file, or a folder of pictures stands for; UserError
    where it is none of them."""
    own = (*overrides, *([f"train.checkpoint={weights}"] if weights else []))
    more = [*own, *HOW]
    path = Path(wanted).expanduser()
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        config, notes = load_config(path, more)
        return Target(config, notes, None, path, own, _name(config))
    if path.is_dir() and not any((path / name).is_file() for name in LEFT_BY_A_RUN):
        pictures = f"train.base_dir={path}"
        config, notes = load_config("config.yaml", [pictures, *more])
        return Target(config, notes, None, Path("config.yaml"), (pictures, *own), _name(config))
    logs = load_config("config.yaml", list(overrides))[0].train.log_path
    try:
        run = find_run(wanted, logs)
    except UserError as error:
        if path.exists():
            raise
        raise UserError(
            f"{wanted} is no folder of pictures, no config file (.yaml) and no run: {error}"
        ) from None
    if not (run / "split.csv").is_file():
        raise UserError(f"{run} has no split.csv; audit its folder of pictures instead")
    if weights is None and load_config(run / "config.yaml")[0].train.mode != "finetune":
        raise UserError(
            f"the whole network of {run.name} learned these labels, so it doubts none of them: "
            "name the weights that look with --weights"
        )
    config, notes = load_config(run / "config.yaml", more)
    return Target(config, notes, run, None, own, run.name)


def _name(config: Config) -> str:
    return plain(Path(config.train.base_dir).expanduser().resolve().name)
