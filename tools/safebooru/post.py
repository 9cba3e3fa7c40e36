"""One post of a board, as its JSON tells it. Nothing of it is trusted: what is odd is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# Stills, and what may be one; a board also has videos, Flash, and archives of frames.
PICTURES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "avif"}
_PATH = re.compile(r"images(/\w[\w-]*)+/\w[\w-]*\.(\w+)", re.ASCII)
_MOST_DIGITS = 18  # of an id: what a file's name and a 64-bit integer hold


class OddPost(ValueError):
    """A post that can't be taken; `id` is None where not even that can be read."""

    def __init__(self, id: int | None, reason: str) -> None:
        super().__init__(reason)
        self.id, self.reason = id, reason


@dataclass(frozen=True)
class Post:
    """A post: its id, where its file lies, the file's md5 as published, and what is said of it."""

    id: int
    path: str  # below the board's address
    md5: str
    tags: tuple[str, ...]
    rating: str
    source: str  # where its artist showed it, if anybody wrote that down

    @property
    def file_name(self) -> str:
        """The name of its file in a set."""
        return f"{self.id}.{self.path.rpartition('.')[2].lower()}"


def id_of(raw: object) -> int | None:
    """A post's id, where it has one."""
    text = str(raw.get("id", "")) if isinstance(raw, dict) else ""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def read_post(raw: object) -> Post:
    """A post from its JSON. Raises OddPost, with a reason whose first words are its kind."""
    id = id_of(raw)
    if id is None or not isinstance(raw, dict):
        raise OddPost(None, "odd post: it has no id")
    md5 = _text(raw, "hash") or _text(raw, "md5")
    given = {"directory": _text(raw, "directory"), "image": _text(raw, "image"), "hash": md5}
    given["tags"] = _text(raw, "tags")
    if lacking := [key for key, value in given.items() if not value]:
        raise OddPost(id, f"odd post: it lacks {' and '.join(lacking)}")
    path = f"images/{given['directory']}/{given['image']}"
    kind = kind_of(path)
    if not kind or "/" in given["image"]:
        raise OddPost(id, f"odd post: its file is called {path.removeprefix('images/')}"[:200])
    if kind not in PICTURES:
        raise OddPost(id, f"no still picture: .{kind}")
    if not re.fullmatch(r"[0-9a-f]{32}", md5.lower()):
        raise OddPost(id, f"odd post: its hash is {md5}"[:200])
    tags = tuple(given["tags"].split())
    return Post(id, path, md5.lower(), tags, _text(raw, "rating").lower(), _text(raw, "source"))


def kind_of(path: str) -> str | None:
    """The extension of a file's path below a board's address; None where it is no such path."""
    found = _PATH.fullmatch(path)
    return found[2].lower() if found else None


def _text(raw: dict[str, Any], key: str) -> str:
    """A key's value in one line; nothing where it is neither text nor a number."""
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
