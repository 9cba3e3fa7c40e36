"""What the manifest.json beside an export says: of weights, and of programs, where it says all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrained.manifest import MANIFEST, export_metadata, manifest_of
from tools.show.facts import export_of, hashed
from utils import UserError


def program_facts(path: Path, kind: str) -> dict[str, Any]:
    """All that is known of a file that holds a program, as JSON takes it; UserError where nothing
    beside it says what it is."""
    manifest = manifest_of(path)
    if not manifest:
        raise UserError(
            f"{path} is {kind}: it answers by itself, and holds no weights that can be shown. The "
            f"{MANIFEST} that tools.export writes beside such a file would say what it is, and "
            "there is none of it"
        )
    said = export_metadata(path)
    how = said.get("preprocessing")
    sure = "temperature" in said
    return {
        "file": str(path),
        "program": kind,
        "export": export_of(manifest),
        "classes": said.get("classes"),
        "preprocessing": how,
        "temperature": manifest["temperature"] if sure else None,
        "set_level": manifest["set_level"] if sure else None,
        "input": manifest.get("input"),
        "files": hashed([path]),
    }
