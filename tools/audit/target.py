"""What is audited: a run's pictures, a config's, or those of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Config, TrainConfig
from config_file import load_config
from engine.answers import OUT_OF_FOLD
from engine.run import find_run, plain, trained
from filing.csv_files import read_csv
from pretrained.near import is_run
from tools.audit.about import ABOUT, PREFIX, read_about
from utils import UserError

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
        """Where the audit is written: not over that of another folder of the same name, whose
        decisions may lie there."""
        root = Path(self.config.train.base_dir).resolve()
        number = 1
        while True:
            name = f"{PREFIX}{self.name}" + (f"-{number}" if number > 1 else "")
            folder = Path(self.config.train.log_path) / name
            if not (folder / ABOUT).is_file() or _root_of(folder) == root:
                return folder
            number += 1

    @property
    def train(self) -> TrainConfig:
        """The settings to read the pictures with: those that can't be read are listed, and of a
        run's folder also what came since, and not what is gone."""
        known: dict[str, Any] = {"on_bad_image": "skip"}
        if self.run is not None:
            known |= {"split": str(self.run / "split.csv"), "new_images": "train"}
        return self.config.train.model_copy(update=known)

    def block(self) -> dict[str, tuple[str, float]]:
        """By path, what the run's trained last block answered to pictures that it had not seen, and
        how probably."""
        if self.run is None or not (self.run / OUT_OF_FOLD).is_file():
            return {}
        file = self.run / OUT_OF_FOLD
        rows = read_csv(file, ("path", "predicted", "probability"))
        try:
            return {row["path"]: (row["predicted"], float(row["probability"])) for row in rows}
        except ValueError as error:
            raise UserError(f"{file} was changed since the run wrote it: {error}") from None


def find_target(wanted: str, weights: str | None, overrides: Sequence[str]) -> Target:
    """What a run's name or folder, a config file, or a folder of pictures stands for; UserError
    where it is none of them."""
    if not wanted.strip():
        raise UserError("nothing is named: name a run, a config file, or a folder of pictures")
    if weights is not None:
        weights = str(trained(weights) or weights)  # a run's name, or last
    own = (*overrides, *([f"train.checkpoint={weights}"] if weights else []))
    more = [*own, *HOW]
    path = Path(wanted).expanduser()
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        config, notes = load_config(path, more)
        return Target(config, notes, None, path, own, _name(config))
    if (path / ABOUT).is_file():
        raise UserError(f"{path} is an audit: --serve shows it; name its pictures to audit again")
    if path.is_dir() and not is_run(path):
        pictures = f"train.base_dir={path}"
        config, notes = load_config("config.yaml", [pictures, *more])
        return Target(config, notes, None, Path("config.yaml"), (pictures, *own), _name(config))
    if path.is_file():
        raise UserError(f"{path} is a file: name the folder that has a sub-folder for each class")
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
    of_run = load_config(run / "config.yaml")[0].train
    if of_run.mode == "finetune":
        # Its file has the number of then, and there may be another class by now.
        config, notes = load_config(run / "config.yaml", ["vit.num_classes=auto", *more])
        return Target(config, notes, run, None, own, run.name)
    if weights is None:
        raise UserError(
            f"the whole network of {run.name} learned these labels, so it doubts none of them: "
            "name the weights that look with --weights"
        )
    # Its settings are another network's, and another training's: all but those on the pictures.
    config, notes = load_config("config.yaml", [f"train.base_dir={of_run.base_dir}", *more])
    kept = config.train.model_copy(update={name: getattr(of_run, name) for name in ON_PICTURES})
    return Target(config.model_copy(update={"train": kept}), notes, run, None, own, run.name)


ON_PICTURES = (
    "base_dir",
    "classes",
    "labels",
    "groups",
    "group_duplicates",
    "data",
    "log_path",
    "save_path",
    "seed",
    "val_fraction",
    "test_fraction",
    "max_pixels",
    "greys",
)


def _root_of(folder: Path) -> Path | None:
    try:
        return read_about(folder).root.resolve()
    except UserError:
        return None


def _name(config: Config) -> str:
    return plain(Path(config.train.base_dir).expanduser().resolve().name)
