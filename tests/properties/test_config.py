"""Every config that is valid is read back from what it is written as; all else is a ConfigError."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from hypothesis import assume
from hypothesis import strategies as st

from config import SECTIONS, Config, ConfigError
from config_file import check_config, dump_config, load_config
from overrides import KEYS
from tests.properties.helpers import holds

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAMES = st.one_of(
    TEXT,
    st.sampled_from(["no", "on", "null", "1e3", "007", "2024-01-01", "~", "<<", "=", "a: b", "'"]),
    st.text("[]{}*&!|>%@`#-?:, \"'\\xd8\n\t\x85\u2028", max_size=8),
)


def values_of(annotation: Any) -> st.SearchStrategy:
    """Values of a key's type, within its bounds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bounded(args[0], args[1:])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if Ellipsis in args:
            return st.lists(values_of(args[0]), min_size=2, max_size=4).map(tuple)
        return st.tuples(*map(values_of, args))
    if origin in (Union, UnionType):
        return st.one_of(*map(values_of, args))
    simple = {NoneType: st.none(), bool: st.booleans(), str: NAMES}
    numbers = {int: st.integers(), float: st.floats(allow_nan=False, allow_infinity=False)}
    return (simple | numbers)[annotation]


def bounded(inner: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy:
    while get_origin(inner) is Annotated:
        metadata, inner = (*metadata, *get_args(inner)[1:]), get_args(inner)[0]
    ends = [end for of in metadata for end in getattr(of, "metadata", [])]
    low = [getattr(e, "ge", getattr(e, "gt", None)) for e in ends]
    high = [getattr(e, "le", getattr(e, "lt", None)) for e in ends]
    least = max((x for x in low if x is not None), default=None)
    most = min((x for x in high if x is not None), default=None)
    if inner is int:
        return st.integers(least, most)
    if inner is float:
        finite = {"allow_nan": False, "allow_infinity": False}
        return st.floats(least, most, **finite)
    return values_of(inner)


FIELDS = {
    f"{section}.{name}": values_of(field.rebuild_annotation())
    for section, part in SECTIONS.items()
    for name, field in part.model_fields.items()
}
SOME = st.lists(st.sampled_from(KEYS), max_size=6, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: FIELDS[key] for key in keys})
)


def loaded(text: str | bytes, overrides: list[str] | None = None) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load_config(path, overrides)[0]


def sections(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        found.setdefault(section, {})[name] = value
    return found


@holds(50, 5000, values=SOME)
def test_a_config_is_what_it_is_written_as(values: dict[str, Any]) -> None:
    try:
        config, _ = check_config(Config.model_validate(sections(values)))
    except (ConfigError, ValueError):
        assume(False)
        return
    again = loaded(dump_config(config))
    assert again == config
    assert dump_config(again) == dump_config(config)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    NAMES,
    st.dates(),
    st.binary(max_size=4),
    st.just(10**400),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=8,
)


@holds(60, 5000, values=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_values_of_any_kind_are_taken_or_named(values: dict[str, Any]) -> None:
    try:
        loaded(yaml.safe_dump(sections(values)))
    except ConfigError as error:
        assert len(str(error)) < 3000


MARKS = st.sampled_from(list(" \n\t:-?,[]{}#&*!|>'\"%@`~=<.0_e") + ["train:", "lr", "\n  ", "---"])


@holds(100, 20_000, parts=st.lists(MARKS | TEXT, max_size=24))
def test_a_text_of_any_kind_is_settings_or_a_config_error(parts: list[str]) -> None:
    for text in ("".join(parts), "train: {lr: " + "".join(parts)):
        try:
            loaded(text)
        except ConfigError as error:
            assert len(str(error)) < 3000


@holds(60, 5000, content=st.binary(max_size=60))
def test_bytes_of_any_kind_are_settings_or_a_config_error(content: bytes) -> None:
    try:
        loaded(content)
    except ConfigError as error:
        assert len(str(error)) < 3000


WORDS = st.builds(
    lambda key, equals, parts: f"{key}{equals}{''.join(parts)}",
    st.sampled_from([*KEYS, "train", "lr", ".", ""]),
    st.sampled_from(["=", "=", "=", "", "==", ".="]),
    st.lists(MARKS | st.text(max_size=8), max_size=8),
)


@holds(50, 10_000, words=st.lists(WORDS, max_size=4))
def test_words_of_any_kind_are_taken_or_named(words: list[str]) -> None:
    try:
        loaded("", words)
    except ConfigError as error:
        assert len(str(error)) < 3000
