"""What a run began with beside its settings and its split.csv, by digests: began.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dataset import Split
from engine.start import Work
from model import VisionTransformer
from pretrained.build import HEADS
from pretrained.files import digest_of
from system.filenames import same_name, shown
from utils import UserError, log, write_json

BEGAN = "began.json"


def note_beginning(work: Work) -> None:
    """Write what a run begins with."""
    write_json(work.run.folder / BEGAN, _found(work))


def check_beginning(work: Work) -> None:
    """Raise UserError where a run that goes on has other weights to begin with, or other groups by
    `train.groups`, than it had: what was found with those, and the control, would be another run's.
    Near-duplicates that another Pillow sees otherwise are said."""
    folder, now = work.run.folder, _found(work)
    before = _read(folder / BEGAN)
    if before.get("weights", now["weights"]) != now["weights"]:
        raise UserError(
            f"{folder} began with other weights than {shown(str(work.train.checkpoint))} holds by "
            "now, or they were shown pictures otherwise; put those back, or begin a new run"
        )
    if before.get("groups", now["groups"]) == now["groups"]:
        return
    if work.train.groups is None:
        log.warning(
            "other pictures than when %s began are taken for near-duplicates: its numbers of "
            "pictures left out may not be those of an unstopped run",
            folder,
        )
        return
    raise UserError(
        f"the pictures that {folder} began with stay together otherwise by now (train.groups); "
        "put that back, or begin a new run"
    )


def _found(work: Work) -> dict[str, str | None]:
    loaded = work.train.mode != "scratch"
    return {
        "weights": _of_weights(work.net) if loaded else None,
        "groups": _of_groups(work.split),
    }


def _of_weights(net: VisionTransformer) -> str:
    """A digest of what comes from the weights' file: its arrays, and how it is shown pictures. The
    position embedding may be resampled, which another processor rounds otherwise; the greys are
    the pictures'."""
    fresh = ("pos_embed", *HEADS)
    arrays = {n: p for n, p in net.named_parameters() if not n.startswith(fresh)}
    shows = net.preprocessing.model_dump(exclude={"greys"})
    return _digest(digest_of(arrays) + json.dumps(shows, sort_keys=True))


def _of_groups(split: Split) -> str:
    """A digest of which pictures stay together; a group is called by the least digest in it."""
    return _digest(
        "\n".join(sorted(f"{same_name(split.path_of(s))}\t{s.group}" for s in split.samples))
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _read(path: Path) -> dict[str, str | None]:
    """What was noted; nothing where an older version, a kill or damage left nothing."""
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}
