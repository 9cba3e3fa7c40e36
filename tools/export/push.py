"""An export to the Hugging Face hub, or to what HF_ENDPOINT names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from utils import UserError, shell

PUSHED = ("hf", "timm")  # what the hub's own libraries load from there


def check_name(name: str, target: str) -> None:
    """UserError where a folder of this target can't go there."""
    if target not in PUSHED:
        raise UserError(
            f"--push takes {' or '.join(PUSHED)}, which load from the hub, not {target}"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push {name}: give owner/name, as in me/ants-and-bees")


def files_of(folder: Path) -> list[tuple[str, int]]:
    """What would go: each file's place and bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def push(folder: Path, name: str, public: bool) -> str:
    """Upload an export's folder, private unless it is to be public; its address."""
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export")
    except Exception as error:  # its own, requests' and httpx's are of many families
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{name} could not be pushed to {endpoint}: {reason}; the export itself is whole: sign "
            f"in (hf auth login, or HF_TOKEN) and run {shell('hf', 'upload', name, folder)}"
        ) from None
    return f"{endpoint}/{name}"
