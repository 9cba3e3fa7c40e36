"""How a page is made of its template: names and paths from outside never become markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# After _ and /, and after . and -, but not in a number.
BREAKS = r"(?<=[_/])(?=\w)|(?<=[.-])(?=[^\W\d])|(?<=[^\d][.-])(?<!\de-)(?=\d)"
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
UNITS = "%|s|min|h|MB|GB|px|points|pictures?|images?|epochs?|steps?|classes|bins|train|val|test"
TOGETHER = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d"
    rf"|(?:p [<=] |[<±] )?{NUMBER}(?: (?:to|of|±) {NUMBER})*(?: (?:{UNITS})(?!\w))?"
)
LONGEST = 22  # characters held together
SHARED = Path(__file__).parent / "templates"  # what pages have in common


def render(template: Path, **values: Any) -> str:
    """A page from a template, which may build on the shared ones; every value is escaped."""
    pages = Environment(
        loader=FileSystemLoader((template.parent, SHARED)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "score": score,
        "percent": percent,
        "whole": whole,
        "soft": soft,
        "firm": firm,
    }
    return pages.get_template(template.name).render(**values)


def soft(name: str) -> Markup:
    """A name that may be broken after _ - . and /, where a line is too short for it; a number in it
    (0.006, 1e-05) may not, nor what `firm` holds together."""
    return Markup("<wbr>").join(re.split(BREAKS, firm(name)))


def firm(text: str) -> str:
    """A sentence whose numbers stay with their units, and intervals in one line; what is too long
    for a phone's line may be broken between its numbers, or it would be within one."""

    def held(found: re.Match[str]) -> str:
        return found[0].replace(" ", "\N{NO-BREAK SPACE}") if len(found[0]) <= LONGEST else found[0]

    return re.sub(TOGETHER, held, text)


def score(value: float | None) -> str:
    """Three digits; a dash for what was not measured."""
    return "–" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def whole(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
