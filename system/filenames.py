"""Names of files as text that any file and any terminal takes, and back.

A name is bytes to the system. `text_of` reads them as UTF-8, whatever the locale; a byte that is
none, a control character, and what turns the text behind it round (U+202E: a name that ends in
"gpj.exe" reads as one in "exe.jpg"), becomes \\xNN, byte by byte. `name_of` is its inverse: what
split.csv lists is found again, under another locale, too.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MOST_BYTES = 255  # of a name: NAME_MAX of every usual disk
_HEX = r"[01][0-9a-f]|7f|[89a-f][0-9a-f]"  # a control character, or a byte beyond ASCII
_TURNING = "\x80-\x9f\u2028-\u202e\u2066-\u2069"  # C1 controls, line separators, directions
# Backslashes before what could be read as an escape are doubled, so that each text has one name.
_ODD = re.compile(rf"(\\*)(?:([\x00-\x1f\x7f\udc80-\udcff{_TURNING}])|x({_HEX}))")
# A terminal obeys some of them; line breaks and tabs are a sentence's own.
_UNFIT = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f\udc80-\udcff{_TURNING}]")
_ESCAPED = re.compile(rf"(\\+)x({_HEX})")


def text_of(name: str) -> str:
    """A file's name, or a path, as the system gave it, as text."""
    if name.isascii() and name.isprintable() and "\\" not in name:  # nearly always, and quicker
        return name

    def escaped(found: re.Match[str]) -> str:
        slashes, odd, digits = found.groups()
        if odd is None:
            return f"{2 * slashes}x{digits}"
        return 2 * slashes + _in_hex(odd)

    return _ODD.sub(escaped, _decoded(name))


def name_of(text: str) -> str:
    """The name, or the path, that `text_of` gave this text, as the system takes it."""

    def plain(found: re.Match[str]) -> str:
        slashes, digits = found.groups()
        half, byte = slashes[: len(slashes) // 2], int(digits, 16)
        if len(slashes) % 2 == 0:
            return f"{half}x{digits}"
        return half + (chr(byte) if byte < 0x80 else chr(0xDC00 + byte))

    return _encoded(_ESCAPED.sub(plain, text))


def shown(text: str) -> str:
    """A sentence with names in it, as any file and any terminal takes it; all that is proper text
    stays as it is, line breaks, too."""
    return _UNFIT.sub(lambda found: _in_hex(found[0]), _decoded(text))


def _in_hex(character: str) -> str:
    """Its bytes, each as \\xNN."""
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _decoded(name: str) -> str:
    """With its bytes read as UTF-8: under LC_ALL=C Python reads no letter beyond ASCII."""
    if name.isascii() or os.name == "nt":
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
    raw = name.encode("utf-8", "surrogateescape" if not _lone(name) else "backslashreplace")
    return raw.decode("utf-8", "surrogateescape")


def _lone(name: str) -> bool:
    """Whether it has surrogates that stand for no byte: JSON can hold them, a file's name can't."""
    return re.search(r"[\ud800-\udc7f\udd00-\udfff]", name) is not None


def _encoded(name: str) -> str:
    """As Python passes it to the system under this locale."""
    if name.isascii() or os.name == "nt":
        return name
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def home(path: str) -> str:
    """With `~` as the shell reads it, unless a file has that very name."""
    return path if os.path.lexists(path) else os.path.expanduser(path)


def a_path(text: str) -> Path:
    """The path that an argument names, for argparse. "" is none: a variable of the shell that is
    not set would be the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("nothing is named: the path is empty")
    return Path(home(text))


def fitting(stem: str, ending: str) -> str:
    """A name of both that a disk takes, 255 bytes at most: of the first as much as fits."""
    room = MOST_BYTES - len(os.fsencode(ending))
    raw = os.fsencode(stem)
    if len(raw) <= room:
        return stem + ending
    whole = raw[:room].decode("utf-8", "ignore")  # no letter cut in two
    return os.fsdecode(whole.encode()) + ending


def is_table(name: str) -> bool:
    """Whether it is the name of a CSV, where a pattern may stand as well."""
    return name.lower().endswith(".csv")


def same_name(name: str) -> str:
    """What two spellings of a name share that look the same: in NFC and NFD."""
    return unicodedata.normalize("NFC", name)


def looks_like(name: str) -> str:
    """What names share that can't be told apart by eye: blanks and invisible characters aside."""
    visible = "".join(c for c in same_name(name) if unicodedata.category(c) != "Cf")
    return " ".join(visible.split())


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that may be meant: the same to the eye, but for its case, or a close one."""
    folded = {looks_like(other).casefold(): other for other in names}
    wanted = looks_like(name).casefold()
    close = [wanted] if wanted in folded else difflib.get_close_matches(wanted, folded, 1)
    return folded[close[0]] if close else None


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes: two a letter of Chinese, Japanese and Korean,
    none an accent of its own."""
    return sum(
        0
        if unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def padded(text: str, columns: int) -> str:
    """A text with blanks behind it, so many columns wide."""
    return text + " " * (columns - columns_of(text))


def cut_to(text: str, columns: int) -> str:
    """A text of so many columns at most; of a longer one its beginning, and three dots."""
    if columns_of(text) <= columns:
        return text
    while columns_of(text) > columns - 3:
        text = text[:-1]
    return text + "..."
