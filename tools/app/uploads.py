"""What comes in: files as they were, under their own names, and gone when they are answered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

KEPT_SECONDS = 3_600  # of an upload that nobody asked about: who sent it has gone
Upload = tuple[Path, str]  # where it lies, and what it was called


def as_they_come(component: Any, many: bool = False) -> Any:
    """A component of Gradio's that hands on uploads as they are: an Upload or None, or a list of
    them. Its own part would open pictures, with limits and errors of its own.

    A request can name any file of the machine, and any address, as an upload, and a mounted Gradio
    copies the one and fetches the other: here both are refused. (A subclass would do, but for the
    .pyi file that Gradio writes beside its source.)
    """
    folder = Path(component.GRADIO_CACHE).resolve()

    async def upload_at(place: Any) -> str:
        if not Path(str(place)).resolve().is_relative_to(folder):
            raise gr.Error("that is no upload", print_exception=False)
        return str(place)

    def uploads(payload: Any) -> list[Upload]:
        return [(Path(f.path), f.orig_name or "picture") for f in getattr(payload, "root", payload)]

    def one_or_many(payload: Any) -> Any:
        if many:
            return uploads(payload or [])
        return None if payload is None else uploads([payload])[0]

    component.async_move_resource_to_block_cache = upload_at
    component.preprocess = one_or_many
    return component


@contextlib.contextmanager
def gone_after(uploads: Iterable[Upload]) -> Iterator[None]:
    """Delete uploads at the end of the block."""
    try:
        yield
    finally:
        for path, _ in uploads:
            path.unlink(missing_ok=True)


def forget_old(folder: Path) -> None:
    """Delete what was uploaded long ago, and never answered."""
    old = time.time() - KEPT_SECONDS
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # answered meanwhile
            if path.is_file() and path.stat().st_mtime < old:
                path.unlink()
