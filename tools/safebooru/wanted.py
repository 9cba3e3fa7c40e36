"""Which posts a set is made of: its classes and their tags, from a small YAML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from system.filenames import nearest
from tools.safebooru.post import Post
from utils import UserError

PILOTS = Path(__file__).parent / "pilots.yaml"
KEYS = ("classes", "want", "refuse", "ratings")
MOST_BYTES = 100  # of a folder's name


@dataclass(frozen=True)
class Wanted:
    """The classes, each with the tags that make it; the tags that all posts must have, and that
    none may; the ratings that are taken, all where there are none."""

    classes: dict[str, tuple[str, ...]]
    want: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()
    ratings: tuple[str, ...] = ()

    def query(self, name: str) -> str:
        """What to ask a board for. It only saves requests: `refusal` judges each post."""
        wanted = dict.fromkeys((*self.classes[name], *self.want))
        return " ".join((*wanted, *(f"-{tag}" for tag in self.refuse)))

    def refusal(self, name: str, post: Post) -> str | None:
        """Why a post is none for this class: the kind, a colon, and more; None where it is one."""
        has = set(post.tags)
        if lacking := [tag for tag in (*self.classes[name], *self.want) if tag not in has]:
            return f"lacks a tag: {' '.join(lacking)}"
        if refused := [tag for tag in self.refuse if tag in has]:
            return f"refused tag: {' '.join(refused)}"
        others = [n for n, tags in self.classes.items() if n != name and has.issuperset(tags)]
        if others:
            return f"another class as well: {' '.join(others)}"
        if self.ratings and post.rating not in self.ratings:
            return f"rating: {post.rating or 'none'}"
        return None


def read_wanted(path: Path) -> Wanted:
    """Read the YAML. Raises UserError with every fault of it."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)
        # All words stay text: YAML takes the tag `no` for false, and 2024 for a number.
        loader = yaml.BaseLoader("")
        raw = None if root is None else loader.construct_document(root)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {PILOTS} is one to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it can't be parsed"
        raise UserError(f"{path}{line}: not valid YAML: {what}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected the keys {', '.join(KEYS)}; {PILOTS} is one to copy")
    problems = [f"{key} stands there twice" for key in _twice(root)]
    wanted = _wanted(raw, problems)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError("\n  ".join([f"{path}: {count}", *problems[:30]]))
    return wanted


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys that a mapping has twice; the parser would take the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    names = [str(key.value) for key, _ in node.value]
    yield from (name for name in dict.fromkeys(names) if names.count(name) > 1)
    for _, value in node.value:
        yield from _twice(value)


def _wanted(raw: dict[Any, Any], problems: list[str]) -> Wanted:
    for key in raw:
        if key not in KEYS:
            near = nearest(str(key), KEYS)
            problems.append(f"{key}: no such key" + (f"; did you mean {near}?" if near else ""))
    given = raw.get("classes")
    if isinstance(given, list):
        given = {name: name for name in _tags(given, "classes", problems)}
    if not isinstance(given, dict) or not given:
        given = {}
        problems.append("classes: a list of tags, or of lines `folder: tag`, is needed")
    classes: dict[str, tuple[str, ...]] = {}
    for name, tags in given.items():
        problems += faults_of_a_folder(str(name))
        classes[str(name)] = _tags(tags, f"classes.{name}", problems)
        problems += [] if tags else [f"classes.{name}: a class needs a tag"]
    for name, tags in classes.items():
        same = [other for other in classes if other < name and set(classes[other]) == set(tags)]
        problems += [f"classes.{name}: the same tags as {other}" for other in same if tags]
    lists = {key: _tags(raw.get(key) or [], key, problems) for key in KEYS[1:]}
    both = [tag for tag in lists["refuse"] if tag in {*lists["want"], *sum(classes.values(), ())}]
    problems += [f"refuse: {tag} is wanted, too" for tag in both]
    lists["ratings"] = tuple(rating.lower() for rating in lists["ratings"])
    return Wanted(classes, **lists)


def faults_of_a_folder(name: str) -> list[str]:
    """What keeps a class's name from being a folder's, on any system."""
    odd = sorted(set(name) & set('/\\:*?"<>|')) + [c for c in name if not c.isprintable()]
    fault = f"it has {' '.join(map(repr, odd))} in it" if odd else ""
    fault = fault or (
        "it begins or ends with a point or a blank" if name.strip(". ") != name else ""
    )
    fault = fault or ("it is too long" if len(name.encode()) > MOST_BYTES else "")
    fault = fault or ("it is empty" if not name else "")
    return [f"classes.{name}: no name for a folder, {fault}: write `folder: tag`"] if fault else []


def _tags(given: Any, key: str, problems: list[str]) -> tuple[str, ...]:
    """One tag or several, as a board writes them."""
    tags = given if isinstance(given, list) else [given]
    for tag in tags if given else ():
        if not isinstance(tag, str) or not tag:
            problems.append(f"{key}: tags are words")
        elif len(tag.split()) != 1:
            problems.append(f"{key}: {tag!r} has blanks; boards write {'_'.join(tag.split())}")
        elif tag[0] in "-~" or tag.startswith(("id:", "sort:")):
            problems.append(f"{key}: {tag} is a search, not a tag")
    return tuple(dict.fromkeys(tag for tag in tags if isinstance(tag, str)))
