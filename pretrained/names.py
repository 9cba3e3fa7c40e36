"""A name, owner/name, URL or path -> a file; downloads go on where they broke off."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import requests
from tqdm import tqdm

from pretrained.read import read
from utils import UserError, check_disk, log

WEIGHTS = Path("weights")
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


def resolve(name: str) -> Path:
    """The file or folder that a name, owner/name, URL or path stands for, fetched if need be.

    Raises UserError where it can't be had, saying which file to put where.
    """
    if name in GOOGLE_FILES:
        return _fetched(f"{GOOGLE_BUCKET}/{GOOGLE_FILES[name]}", WEIGHTS / f"{name}.npz")
    if re.match(r"https?://", name):
        file = re.sub(r"[?#].*", "", name).rstrip("/").rpartition("/")[2]
        # Many addresses end in model.safetensors: the hash keeps them apart.
        address = hashlib.sha256(name.encode()).hexdigest()[:8]
        return _fetched(name, WEIGHTS / f"{address}-{file or 'weights'}")
    if Path(name).exists():
        return Path(name)
    is_file = re.search(r"\.(npz|safetensors|pth|pt|bin)$", name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not is_file:
        return _from_hub(name)
    raise UserError(
        f"{name}: no such weights: a path, a URL, owner/name on Hugging Face, or one of "
        f"{', '.join(GOOGLE_FILES)}"
    )


def _fetched(url: str, path: Path) -> Path:
    if not path.exists():
        log.info("fetching %s", url)
        download(url, path, check=read)
    return path


def _from_hub(name: str) -> Path:
    """A model repository's weights and its two descriptions, under weights/owner--name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = WEIGHTS / name.replace("/", "--")
    weights = ("model.safetensors", "pytorch_model.bin")
    if any((folder / file).exists() for file in weights):
        return folder
    endpoint = os.environ.get("HF_ENDPOINT")
    there: set[str] = set()
    for file in ("config.json", "preprocessor_config.json", *weights):
        if there & set(weights):
            break
        try:
            hf_hub_download(name, file, local_dir=folder, endpoint=endpoint)
            there.add(file)
        except LocalEntryNotFoundError:
            raise UserError(
                f"{name} can't be reached; without a network, put the repository's config.json, "
                f"preprocessor_config.json and model.safetensors into {folder}"
            ) from None
        except EntryNotFoundError:
            continue
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{name} can't be had from the Hugging Face hub: {reason}") from None
    if not there & set(weights):
        raise UserError(f"{name} on Hugging Face has neither {' nor '.join(weights)}")
    return folder


DOWNLOAD_TRIES = 4
DOWNLOAD_TIMEOUT_S = 30
CHUNK = 1 << 18


def download(url: str, path: Path, check: Callable[[Path], object] | None = None) -> None:
    """Fetch `url` to `path`, going on where an earlier try broke off.

    Nothing partial is ever named `path`: `check` reads the finished file before it gets its name
    and raises where it is wrong; such a file is removed. Raises UserError where the address can't
    be reached or the file is not there.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(DOWNLOAD_TRIES):
        try:
            _fetch(url, part)
            break
        except requests.HTTPError as error:
            raise UserError(f"{url}: the server answered {error.response.status_code}") from None
        except (requests.RequestException, ConnectionError) as error:
            if attempt == DOWNLOAD_TRIES - 1:
                raise UserError(
                    f"{url} can't be reached ({type(error).__name__}); without a network, fetch "
                    f"it elsewhere and put it at {path}"
                ) from None
            time.sleep(0.2 * 2**attempt)
    if check is not None:
        try:
            check(part)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                part.unlink()
            raise
    os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """One try: ask for what is missing of `part`; a server that can't resume sends it all."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
    headers.setdefault("Accept-Encoding", "identity")
    with requests.get(url, headers=headers, stream=True, timeout=DOWNLOAD_TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            total = int(answer.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if total == have:
                return
            part.unlink()  # not a beginning of this file: start again
            raise requests.ConnectionError("the partial file does not belong to this address")
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        start = have if resumed else 0
        length = int(answer.headers.get("Content-Length", 0))
        if length:
            check_disk(part.parent, length, str(part))
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=start + length or None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=part.stem,
            ) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if length and part.stat().st_size != start + length:
            raise requests.ConnectionError("the connection ended early")
