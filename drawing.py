"""Names in pictures: drawn as they are written, in fonts that have their letters; and nothing that
is drawn fails a run."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, ParamSpec

from utils import log

P = ParamSpec("P")
OWN_FONT = "DejaVu Sans"  # comes with matplotlib
# It has every character, as a box; colours can't be drawn in a font's own.
USELESS = ("Last Resort", "Color Emoji", "Apple Color")
PREFERRED: tuple[str, ...] = ("Noto Sans CJK", "Noto Sans", "Source Han Sans", "WenQuanYi")
PREFERRED += ("Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang", "Hiragino")
PREFERRED += ("Yu Gothic", "Meiryo", "Malgun", "Nanum", "Arial", "Noto Emoji", "Segoe", "Symbola")
LONGEST = 40  # characters of a name in a picture


def legible(text: str, longest: int | None = LONGEST) -> str:
    """A name as it can be drawn: in one line, its middle left out where it is very long, and a
    letter that no font here has by its code, \\u732b, so that two names are not the same boxes."""
    line = " ".join(text.split())
    drawn = "".join(_drawable(character) for character in line) or repr(text)
    if longest is None or len(drawn) <= longest:
        return drawn
    half = (longest - 1) // 2
    return f"{drawn[: longest - 1 - half]}…{drawn[-half:]}"


def style(texts: Iterable[str]) -> dict[str, Any]:
    """How matplotlib is to draw some names: no formulas, in fonts that have their letters."""
    needed = {_font_of(character) for text in texts for character in text} - {None, OWN_FONT}
    return {"parse_math": False, "fontfamily": [OWN_FONT, *sorted(map(str, needed))]}


def _drawable(character: str) -> str:
    if _font_of(character) is not None:
        return character
    if unicodedata.category(character) in ("Cf", "Mn", "Me"):  # joins or varies its neighbours
        return ""
    return character.encode("ascii", "backslashreplace").decode()


@cache
def _font_of(character: str) -> str | None:
    """The family of a font that has a character: matplotlib's own, or one that is installed."""
    from matplotlib import font_manager

    code = ord(character)
    if unicodedata.category(character) in ("Cc", "Cs"):
        return None
    if code in _characters(font_manager.findfont(OWN_FONT)):
        return OWN_FONT
    for family, path in _installed():
        if code in _characters(path):
            return family
    return None


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """The fonts of this machine, a plain one a family, the preferred ones first."""
    from matplotlib import font_manager

    plain = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular")
    }
    known = [name for name in plain if not any(word in name for word in USELESS)]

    def rank(name: str) -> tuple[int, str]:
        found = (i for i, start in enumerate(PREFERRED) if name.startswith(start))
        return next(found, len(PREFERRED)), name

    return tuple((name, plain[name]) for name in sorted(known, key=rank))


@cache
def _characters(path: str) -> frozenset[int]:
    """The codes that a font file has; none where matplotlib can't draw with it."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # fonts come from everywhere
        return frozenset()


@contextlib.contextmanager
def may_fail(what: str) -> Iterator[None]:
    """Say in one line where something can't be drawn, and go on."""
    try:
        yield
    except Exception as error:  # no drawing is worth a run
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        level = log.debug if what in _failed else log.info  # a curve fails with every epoch
        level("%s is not drawn (%s); the run goes on without it", what, reason)
        _failed.add(what)


_failed: set[str] = set()


def drawn(what: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A function that draws `what`, made one that `may_fail`."""

    def wrap(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **options: P.kwargs) -> None:
            with may_fail(what):
                function(*args, **options)

        return guarded

    return wrap
