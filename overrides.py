"""The words of a command line -> values of the config, each typed by its key."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from config import SECTIONS, ConfigError
from config_types import false_is_none
from filing.yaml_files import NotYaml, names_of, node_of, short, value_of
from system.filenames import shown

KEYS = [f"{section}.{key}" for section, part in SECTIONS.items() for key in part.model_fields]


def arguments(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a program that takes `overrides`.

    Raises ConfigError for an option that it has not, with the override that was meant.
    """
    words = sys.argv[1:] if argv is None else argv
    args, unknown = parser.parse_known_intermixed_args(words)
    for option in (word for word in unknown if word.startswith("-")):
        name, equals, value = option.lstrip("-").partition("=")
        wanted = meant(name.replace("-", "_"))
        if wanted is None:
            parser.error(f"unrecognized argument: {option}")
        if not equals:
            value = "".join(words[words.index(option) + 1 :][:1]) or "..."
        raise ConfigError(
            f"{option}: no such option; a setting is written section.key=value: {wanted}={value}"
        )
    if unknown:
        parser.error(f"unrecognized arguments: {short(' '.join(unknown))}")
    return args


def apply(raw: dict[str, Any], overrides: list[str], problems: list[str]) -> None:
    """Put `section.key=value` words into what a file says."""
    words = list(overrides)
    rest_of: str | None = None  # the last word, where its value is a text that may go on
    while words:
        word = words.pop(0)
        key, equals, text = shown(word).partition("=")
        section, _, name = key.partition(".")
        alone = words[0] if words and "=" not in words[0].lstrip("=") else None
        if equals and section and name and (text or alone is None):
            try:
                value = typed(section, name, text)
            except NotYaml as error:
                problems.append(f"{short(key)}: '{short(text)}' is not valid YAML: {error}")
                continue
            if raw.get(section) is None:
                raw[section] = {}
            if isinstance(raw[section], dict):
                raw[section][name] = value
            rest_of = word if str in takes(section, name) else None
            continue
        wanted = meant(key)
        if wanted is None:
            problem = f"'{short(word)}': an override is written section.key=value"
            if not equals and rest_of is not None:  # train.base_dir=my photos
                rest_of = f"{rest_of} {word}"
                problem += f"; one with a space in quotes: {shlex.quote(rest_of)}"
            problems.append(problem)
            continue
        how = "section.key=value"
        if not text and alone is not None:  # train.lr 1e-3, train.lr = 1e-3
            how += ", without spaces"
            word, text = f"{word} {words[0]}", words.pop(0).lstrip("=")
            if not text and words:
                word, text = f"{word} {words[0]}", words.pop(0)
        meaning = f"; did you mean {shlex.quote(f'{wanted}={short(text)}')}?"
        problems.append(f"'{short(word)}': an override is written {how}{meaning}")


def names(overrides: Sequence[str], key: str) -> bool:
    """Whether words of a command line give a key its value."""
    return any(override.startswith(f"{key}=") for override in overrides)


def typed(section: str, key: str, text: str) -> Any:
    """What a text stands for: itself where the key takes text, else what YAML makes of it."""
    kinds = takes(section, key)
    if str not in kinds:
        return value_of(text)
    if list in kinds:
        listed = names_of(node_of(text))
        return None if listed == "null" else listed
    if text == "null" and type(None) in kinds:
        return None
    if text in ("true", "True", "false", "False") and is_switch(section, key, text[0] in "tT"):
        return text[0] in "tT"
    return text


def is_switch(section: str, key: str, value: bool) -> bool:
    """Whether a key that takes text takes true or false, too: false may mean off."""
    more = SECTIONS[section].model_fields[key].metadata
    may_be_off = any(getattr(m, "func", None) is false_is_none for m in more)
    return bool in takes(section, key) or (may_be_off and not value)


def takes(section: str, key: str) -> set[Any]:
    """The kinds of values that a key takes: str, float, bool, list ..."""
    part = SECTIONS.get(section)
    field = part.model_fields.get(key) if part else None
    return set() if field is None else set(_kinds(field.annotation))


def _kinds(annotation: Any) -> list[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(args[0])
    if origin in (Union, types.UnionType):
        return [kind for arg in args for kind in _kinds(arg)]
    if origin in (list, tuple):
        return [list, *(kind for arg in args if arg is not ... for kind in _kinds(arg))]
    return [annotation]


def meant(name: str) -> str | None:
    """The key that a word stands for: itself, its last part, or one that is spelled nearly so."""
    tail = name.rpartition(".")[2]
    same = [key for key in KEYS if key == name or key.rpartition(".")[2] == tail]
    if same:
        return next((key for key in same if key == name), same[0])
    near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.7)
    if not near:
        tails = {key.rpartition(".")[2]: key for key in reversed(KEYS)}
        near = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1, cutoff=0.7)]
    return near[0] if near else None
