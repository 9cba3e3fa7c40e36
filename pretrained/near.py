"""Local weights by a name: without their ending, by their run; what was meant by a wrong one."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from filing.yaml_files import section_of
from pretrained.claims import ordinary
from pretrained.files import ENDINGS, WEIGHTS_FILES, holds_weights, weights_in
from system.filenames import name_of
from utils import UserError, some

BEST = WEIGHTS_FILES[0]
LEFT_BY_A_RUN = ("config.yaml", "summary.json", "metrics.csv")


def find_local(name: str, places: Sequence[Path], logs: Path) -> Path | None:
    """The file or folder that a path stands for, with its ending or without, or a run's name or its
    folder; None where nothing is there.

    `places` are the folders of weights, `logs` that of the runs. Raises UserError where a run is
    meant that has kept no network.
    """
    try:
        if not Path(name).is_dir():
            ordinary(Path(name))
        return _find(name, places, logs)
    except (OSError, ValueError):  # a name too long, or with a zero in it, is no path
        return None


def _find(name: str, places: Sequence[Path], logs: Path) -> Path | None:
    path = Path(name)
    if path.is_file():
        return path
    # The name alone may be that of a folder, too: vit-s14/ with its runs, and vit-s14.safetensors.
    if path.is_dir() and holds_weights(path):
        return path
    for folder in (path, logs / name):
        if (folder / "config.yaml").is_file() and is_run(folder):
            return _of_run(folder, places)
    if path.is_dir():
        return _with_ending(path) or path
    for there in (path, *(place / name for place in places)):
        if there.is_file() or (there.is_dir() and holds_weights(there)):
            return there
        if found := _with_ending(there):
            return found
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's logs; the project's own has a config.yaml, too, and is none."""
    if (folder / "training.py").is_file():
        return False
    return any((folder / name).is_file() for name in LEFT_BY_A_RUN)


def _with_ending(path: Path) -> Path | None:
    if not path.name:
        return None
    endings = (*ENDINGS, ".safetensors.index.json", ".bin.index.json")
    return next((f for end in endings if (f := path.with_name(path.name + end)).is_file()), None)


def _of_run(folder: Path, places: Sequence[Path]) -> Path:
    """The network that a run has kept, by its folder of logs."""
    possible = _where_kept(folder, places)
    if kept := _with_weights(possible):
        return weights_in(kept)
    raise UserError(
        f"{folder} is a run that has kept no network: there is no {possible[0] / BEST}; train it "
        "to its end, or name other weights"
    )


def _where_kept(folder: Path, places: Sequence[Path]) -> list[Path]:
    """Where the weights of a run may lie, by its folder of logs; first where it says so."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        kept = Path(name_of(section_of(text, "train")["save_path"]))
    except (OSError, ValueError, TypeError, KeyError):
        kept = places[0]
    return [place / folder.resolve().name for place in (kept, *places)]


def _with_weights(folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in folders if folder.is_dir() and holds_weights(folder)), None)


def possible(name: str) -> bool:
    """Whether a system can have such a name at all."""
    parts = Path(name).parts
    return "\0" not in name and all(len(part.encode(errors="replace")) < 256 for part in parts)


def near(name: str, places: Sequence[Path], logs: Path, more: Iterable[str] = ()) -> str:
    """What may have been meant by a name that stands for nothing, as the end of a sentence."""
    wanted = Path(name)
    files = [one for place in (wanted.parent, *places) for one in _weights_below(place)]
    pages = sorted(logs.glob("*/config.yaml"))
    kept: dict[Path, Path] = {}
    for page in pages:
        with contextlib.suppress(OSError):  # a folder that nobody here has named
            if folder := _with_weights(_where_kept(page.parent, places)):
                kept[page] = folder
    if name == "last" and kept:  # no weights are called so: a run that goes on would take its own
        newest = kept[max(kept, key=os.path.getmtime)]
        return f"did you mean the newest run's, {newest}?"
    once = {Path(file).absolute(): file for file in reversed(files)}
    known = [str(page.parent) for page in kept if kept[page].absolute() not in once]
    there = list(dict.fromkeys([*reversed(once.values()), *known, *more]))
    by_stem = {_stem(one): one for one in reversed(there)}
    close = [by_stem[stem] for stem in difflib.get_close_matches(_stem(name), by_stem, 3, 0.6)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if local := [one for one in there if one not in set(more)]:
        return f"there are {some(local, 6)}"
    return f"there are no weights in {' or '.join(map(str, places))}"


def _stem(name: str) -> str:
    path = Path(name.lower())
    return path.stem if path.suffix in ENDINGS else path.name


def _weights_below(folder: Path) -> list[str]:
    """The weights in a folder, and its folders that hold some."""
    try:
        entries = sorted(folder.iterdir())
    except (OSError, ValueError):
        return []
    return [
        str(entry)
        for entry in entries
        if (entry.suffix in ENDINGS and entry.is_file())
        or (entry.is_dir() and holds_weights(entry))
    ]
