"""How a page is made of its template: names and paths from outside never become markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

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
    pages.filters |= {"score": score, "percent": percent, "whole": whole, "soft": soft}
    return pages.get_template(template.name).render(**values)


def soft(name: str) -> Markup:
    """A name that may be broken after _ - . and /, where a line is too short for it."""
    return Markup("<wbr>").join(re.split(r"(?<=[_./-])(?=\w)", name))


def score(value: float | None) -> str:
    """Three digits; a dash for what was not measured."""
    return "–" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def whole(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
