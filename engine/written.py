"""Which of a run's files are as it wrote them: checksums.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from filing.csv_files import cells_of
from system.text_files import NoText
from utils import write_json

CHECKSUMS = "checksums.json"


@contextlib.contextmanager
def rewriting(folder: Path, *names: str) -> Iterator[None]:
    """Note the checksums of files that are written in the block. Meanwhile nothing is known of
    them: killed between a file and its checksum, a run would call its own file damaged."""
    forget(folder, *names)
    yield
    known = _known(folder)
    there = [name for name in names if (folder / name).is_file()]
    _write(folder, known | {name: digest_of_file(folder / name) for name in there})


def forget(folder: Path, *names: str) -> None:
    """Say nothing of these files any more: they are going to be written."""
    known = _known(folder)
    if known.keys() & {*names}:
        _write(folder, {n: digest for n, digest in known.items() if n not in names})


def changed(folder: Path) -> list[str]:
    """The files that are not as the run wrote them, or gone; of what it noted nothing of, as an
    older version did of all, nothing is said. A table that a spreadsheet has saved with the same
    cells is the same."""
    return [name for name in _known(folder) if is_changed(folder, name)]


def is_changed(folder: Path, name: str) -> bool:
    """Whether that is so of one file; the others are not read."""
    digest, path = _known(folder).get(name), folder / name
    return digest is not None and not (path.is_file() and digest_of_file(path) == digest)


def was_written(folder: Path, name: str, path: Path) -> bool:
    """Whether a file is what the run wrote under a name."""
    return _known(folder).get(name) == digest_of_file(path)


def digest_of_file(path: Path) -> str:
    """Of a table's cells, whatever separates them; of the lines of another text."""
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if path.suffix == ".csv":
        with contextlib.suppress(NoText):
            text = json.dumps([cells for _, cells in cells_of(path)]).encode()
    return hashlib.sha256(text).hexdigest()


def _known(folder: Path) -> dict[str, str]:
    """What is noted; nothing where that itself is damaged: the others may well be whole."""
    try:
        found = dict(json.loads((folder / CHECKSUMS).read_bytes()))
        return found if found.pop(CHECKSUMS, None) == _own(found) else {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _write(folder: Path, known: dict[str, str]) -> None:
    write_json(folder / CHECKSUMS, known | {CHECKSUMS: _own(known)})


def _own(known: dict[str, str]) -> str:
    """What checksums.json says of itself."""
    return hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()
