"""What train.base_dir names: a folder of pictures, or shards, here or elsewhere.

A folder that tools.shard made, a pattern (`data/train-{000000..000099}.tar`, `*` too), an address
(`https://...`), a command whose output is a tar (`pipe:...`), or several of them with `::` between.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decoding.members import TAR
from shards.index import FORMAT, INDEX
from system.filenames import text_of
from utils import UserError

PIPE = "pipe:"
MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_FILE = re.compile(r"[^/\\\s'\"=]+\.tar(?=$|[\s'\"?#&|;)>])")  # a tar's, in a command


@dataclass(frozen=True)
class Source:
    """One tar: the file's path, here already or where it is fetched to, and the address or command
    that gives it, None for a file of this machine."""

    path: Path
    remote: str | None = None

    def sibling(self, name: str) -> Source:
        """Another file of the same place."""
        before, _, after = (self.remote or "").rpartition(self.path.name)
        return Source(self.path.with_name(name), self.remote and f"{before}{name}{after}")


def is_remote(base_dir: str) -> bool:
    return base_dir.startswith((PIPE, "http://", "https://"))


def names_shards(base_dir: str) -> bool:
    """Whether it is shards that train.base_dir names, and no folder of pictures."""
    if is_remote(base_dir):
        return True
    path = Path(base_dir)
    if path.is_dir():
        return is_ours(path / INDEX) or bool(_bare_tars(path))
    if path.exists():
        return path.suffix.lower() == TAR
    return "::" in base_dir or bool(re.search(r"[{*?\[].*\.tar$", base_dir))


def is_ours(index: Path) -> bool:
    """Whether a file says that it is an index that tools.shard wrote."""
    try:
        with open(index, encoding="utf-8") as file:
            return f'"format": {json.dumps(FORMAT)}' in file.read(200)
    except (OSError, ValueError):
        return False


def _bare_tars(folder: Path) -> list[Path]:
    """The tars of a folder that holds no folders beside them."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if entry.name[0] != "."]
            if any(entry.is_dir() for entry in shown):
                return []
            return sorted(folder / entry.name for entry in shown if entry.name.endswith(TAR))
    except OSError:
        return []


def root_of(base_dir: str, data: str) -> Path:
    """The folder that the paths of a set's pictures start from, as split.csv and predictions.csv
    name them."""
    if not names_shards(base_dir):
        return Path(base_dir)
    if is_remote(base_dir):
        return fetched_folder(data)
    if Path(base_dir).is_dir():
        return Path(base_dir)
    folders = [os.path.dirname(one) or "." for one in base_dir.split("::")]
    plain = [re.split(r"[{*?\[]", folder)[0] for folder in folders]
    whole = [
        before if before == folder else os.path.dirname(before) or "."
        for before, folder in zip(plain, folders, strict=True)
    ]
    return Path(os.path.commonpath(whole) if len(whole) > 1 else whole[0])


def fetched_folder(data: str) -> Path:
    """Where what is fetched lies."""
    return Path(data) / "shards"


def sources_of(base_dir: str, data: str) -> list[Source]:
    """The tars that a folder of shards, a pattern, addresses or commands name; of a folder with an
    index, the index alone. Raises UserError where there are none."""
    if not is_remote(base_dir) and Path(base_dir).is_dir():
        folder = Path(base_dir)
        if is_ours(folder / INDEX):
            return [Source(folder / INDEX)]
        return [Source(path) for path in _bare_tars(folder)]
    found: list[Source] = []
    for one in base_dir.split("::"):
        for spelled in expanded(one):
            found += _sources(spelled, data)
            if len(found) > MOST_SHARDS:
                raise UserError(f"{one} names more than {MOST_SHARDS:,} shards")
    seen: set[Path] = set()
    for source in found:
        if source.path in seen:
            raise UserError(f"{base_dir:.200} names {source.path} twice")
        seen.add(source.path)
    return found


def _sources(spelled: str, data: str) -> list[Source]:
    if is_remote(spelled):
        return [_remote(spelled, data)]
    if Path(spelled).is_file():
        return [Source(Path(spelled))]
    if glob.has_magic(spelled):
        paths = sorted(glob.glob(spelled), key=text_of)
        if paths:
            return [Source(Path(path)) for path in paths]
    raise UserError(
        f"{spelled}: no such shard; train.base_dir takes a folder that tools.shard made, a pattern "
        "like data/train-{000000..000099}.tar, or an address of such"
    )


def _remote(address: str, data: str) -> Source:
    """A tar, or the index of a folder, of elsewhere, and where it will lie here."""
    names = _FILE.findall(address)
    if not names and not address.startswith(PIPE):  # a folder
        address = re.sub(r"/*([?#].*)?$", rf"/{INDEX}\1", address, count=1)
        names = [INDEX]
    if not names:
        raise UserError(f"{address:.200} names no tar; a name that ends in .tar tells shards apart")
    name = names[-1]
    around = "\0".join(address.rpartition(name)[::2])
    folder = hashlib.sha256(around.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return Source(fetched_folder(data) / folder / name, address)


def expanded(pattern: str) -> Iterator[str]:
    """A pattern's names: `{000..099}` counts, `{train,val}` lists; others stay as they are."""
    if pattern.startswith(PIPE):  # a shell's own braces, ${HOME}, are left to it
        found = _RANGE.search(pattern)
    else:
        found = _RANGE.search(pattern) or _CHOICE.search(pattern)
    if found is None:
        yield pattern
        return
    for word in _words(found):
        yield from expanded(pattern[: found.start()] + word + pattern[found.end() :])


def _words(found: re.Match[str]) -> list[str]:
    if found.re is _CHOICE:
        return found[1].split(",")
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise UserError(f"{found[0]} counts down; the first number is the lesser one")
    if last - first >= MOST_SHARDS:
        raise UserError(f"{found[0]} names more than {MOST_SHARDS:,} shards")
    width = len(found[1]) if found[1].startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]
