"""What lies in a folder: its pictures, other files and folders, however deep.

Links are followed. What a system leaves in folders is no one's picture, and is not mentioned.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from decoding.formats import EXTENSIONS, MOST_METADATA
from layout.paths import beside
from system.filenames import text_of
from utils import UserError

SYSTEM = {"__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"}
SYSTEM |= {"lost+found", "$recycle.bin", "recycler", "system volume information", "__pycache__"}
SYSTEM |= {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "network trash folder"}
# What a picture's content may be where its name has no extension, or another.
CONTENTS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
SLOW = (b"GIF8", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1")  # where they say much before the picture
DEEPEST = 30  # folders in folders
PILOTS = Path("data/pilots")  # config.yaml's, which a fresh clone has not


@dataclass
class Folder:
    """A folder's pictures, by their names, other files, and folders, as far as they are anyone's.

    A path takes five times the memory of its name, and longer to make than a folder to read.
    """

    path: Path
    names: list[str] = field(default_factory=list)
    others: list[tuple[Path, str]] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        return text_of(self.path.name)

    @property
    def pictures(self) -> list[Path]:
        return [self.path / name for name in self.names]

    def every_picture(self) -> Iterator[Path]:
        """Those of deeper folders, too."""
        for folder, name in self.every_name():
            yield folder / name

    def every_name(self) -> Iterator[tuple[Path, str]]:
        """The same, each as its folder and its name there."""
        for name in self.names:
            yield self.path, name
        for folder in self.folders:
            yield from folder.every_name()

    def count(self) -> int:
        """How many pictures there are, those of deeper folders, too."""
        return len(self.names) + sum(folder.count() for folder in self.folders)

    def every_other(self) -> Iterator[tuple[Path, str]]:
        yield from self.others
        for folder in self.folders:
            yield from folder.every_other()

    @property
    def full(self) -> list[Folder]:
        """Its folders that hold pictures, however deep."""
        return [folder for folder in self.folders if folder.holds_any]

    @property
    def holds_any(self) -> bool:
        return bool(self.names) or any(folder.holds_any for folder in self.folders)

    @property
    def nested(self) -> bool:
        """Whether its pictures lie in folders of it alone."""
        return not self.names and bool(self.full)


Identities = Collection[tuple[int, int]]


def read_tree(root: Path, but: Iterable[Path] = ()) -> Folder:
    """All that lies in a folder, `but` some folders. Raises UserError where it is missing, a file,
    or closed."""
    return _scan(_there(root), {_identity(path) for path in but if path.is_dir()})


def _there(root: Path) -> Path:
    """The folder, where it is one."""
    takes = "train.base_dir takes a folder with one sub-folder of images a class"
    try:
        root.stat()
    except PermissionError:
        raise UserError(_closed(root)) from None
    except (OSError, ValueError):
        above, there = root.absolute().parent, []
        with contextlib.suppress(OSError):
            there = [name for name in beside(above) if (above / name).is_dir()]
        near = difflib.get_close_matches(root.name, there, 1)
        hint = f"did you mean {root.with_name(near[0])}? " if near and root.name else ""
        if root == PILOTS:
            hint = "python -m tools.draw_pilots makes it, or name your own pictures: "
        raise UserError(f"{root}: no such folder; {hint}{takes}") from None
    if not root.is_dir():
        raise UserError(f"{root} is a file; {takes}" + (_unpack(root) or ""))
    return root


def _unpack(file: Path) -> str | None:
    packed = file.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2")
    return ": unpack it, and name the folder" if packed else None


def _closed(folder: Path) -> str:
    return f"{folder}: no permission to read this folder; `chmod -R u+rX` gives it to its owner"


def _scan(folder: Path, but: Identities, above: tuple[tuple[int, int], ...] = ()) -> Folder:
    """Read a folder and those in it, links followed, `but` some; `above` are the folders that it
    lies in."""
    found = Folder(folder)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: text_of(entry.name))
        here = (*above, _identity(folder))
    except PermissionError:
        raise UserError(_closed(folder)) from None
    except OSError as error:  # gone meanwhile, or its path is too long
        found.others.append((folder, error.strerror or "it can't be read"))
        return found
    for entry in entries:
        if entry.name.startswith(".") or entry.name.casefold() in SYSTEM:
            continue
        if _is_folder(entry):
            path = folder / entry.name
            if _lies_in(path, but):
                continue
            if _lies_in(path, here):
                found.others.append((path, "a link back to a folder that it lies in"))
            elif len(here) > DEEPEST:
                found.others.append((path, f"more than {DEEPEST} folders deep"))
            else:
                found.folders.append(_scan(path, but, here))
        elif reason := _no_picture(entry):
            found.others.append((folder / entry.name, reason))
        else:
            found.names.append(entry.name)
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _lies_in(folder: Path, above: Identities) -> bool:
    with contextlib.suppress(OSError):  # said when it is read
        return _identity(folder) in above
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_picture(entry: os.DirEntry[str]) -> str | None:
    """Why a file is none, by its name and else by its content; None for a picture."""
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    extension = os.path.splitext(entry.name)[1]
    if not is_file and not entry.is_symlink():
        return "not a file"  # a pipe would be waited for
    if extension.lower() in EXTENSIONS:  # a link that leads nowhere is said to be unreadable
        return None
    if not is_file:
        return "a link to no file"
    if _is_picture(entry.path):
        return None
    return f"no image by its extension, '{text_of(extension)}', nor by its content"


def _is_picture(path: str) -> bool:
    """Whether a file begins as a picture does; it is not decoded."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            large = os.fstat(file.fileno()).st_size > MOST_METADATA
            if large and file.read(4) in SLOW:
                return True
            file.seek(0)
            Image.open(file, formats=_formats()).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # what is none makes Pillow raise nearly anything
        return False
    return True


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in CONTENTS if name in Image.OPEN]
