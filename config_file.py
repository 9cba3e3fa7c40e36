"""From config.yaml and overrides to a Config: the only reader of YAML.

Every fault of a file is reported at once, each with its key and what would be right.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import reprlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from config import OF_THE_WEIGHTS, SECTIONS, Config, ConfigError
from config_rules import advice, combinations
from filing.yaml_files import NotYaml, names_of, pairs, plain, read_node, short
from overrides import apply, is_switch, takes, typed
from system.filenames import is_table
from system.text_files import NoText

# The two flags of this project's first version, still understood.
LEGACY_FLAGS = ("finetuning", "freeze_model")
MOST_FAULTS = 30  # that are listed
SHORT = reprlib.Repr()  # an alias may stand for billions of elements
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 2, 4, 4, 60, 60


@dataclass
class Written:
    """What a file says: its sections, the line of each key, and what is wrong with its keys."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_config(path: str | Path, overrides: list[str] | None = None) -> tuple[Config, list[str]]:
    """Read a YAML file and `key.sub=value` overrides into a Config.

    Returns the config and the notes (one line each) that the user should see about it. Raises
    ConfigError with every fault of the file and of the overrides together.
    """
    if not str(path).strip():
        raise ConfigError("no settings are named: --config takes a file; without it, config.yaml")
    given, path = Path(path), _settings_file(Path(path))
    written = _read(path)
    raw, problems = written.values, written.problems
    raw = {key: value for key, value in raw.items() if value is not None or key not in SECTIONS}
    in_file = len(problems)
    apply(raw, overrides or [], problems)
    in_words = len(problems) - in_file
    notes = _translate_legacy(raw, problems)
    config, faults = _validate(raw)
    named = {override.partition("=")[0] for override in overrides or []}
    lines = {key: line for key, line in written.lines.items() if key not in named}
    problems += [_with_line(fault, lines) for fault in faults]
    if problems:
        in_words += sum(fault.partition(": ")[0] in named for fault in faults)
        places = [str(path)] * (in_words < len(problems)) + ["the command line"] * (in_words > 0)
        raise _listed(" and ".join(places), problems)
    assert config is not None
    stray = given == Path("config.yaml") and Path.cwd() != ROOT
    if path != given or stray:  # another project's file has that name, too
        notes.insert(0, f"settings: {path.absolute()}")
    return _located(config, path.parent, named), [*notes, *advice(config.train)]


ROOT = Path(__file__).parent
# What a run reads, and where it writes.
READ = ("base_dir", "checkpoint", "split", "labels", "groups", "from_checkpoint")
WRITTEN = ("data", "save_path", "log_path")


def _settings_file(path: Path) -> Path:
    """The file itself, or the one of that name beside the programs."""
    if os.path.exists(path) or not os.path.isfile(ROOT / path):
        return path
    return ROOT / path


def _located(config: Config, beside: Path, named: set[str]) -> Config:
    """The config with its relative paths as they are in the working directory where there is such
    a thing; else as they are beside the config file, and for what is read beside the programs."""
    found: dict[str, str] = {}
    for keys, places in ((READ, (beside, ROOT)), (WRITTEN, (beside,))):
        for key in keys:
            value = getattr(config.train, key)
            if not isinstance(value, str) or not value or os.path.exists(value):
                continue
            if keys is WRITTEN and f"train.{key}" in named:
                continue
            if key == "groups" and not is_table(value):  # a pattern
                continue
            there = [place / value for place in places if os.path.exists(place / value)]
            found |= {key: str(there[0])} if there else {}
    if not found:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update=found)})


def _with_line(fault: str, lines: dict[str, int]) -> str:
    """A fault with the line of its key, where a file has it."""
    line = lines.get(fault.partition(": ")[0])
    return f"{fault} (line {line})" if line else fault


def check_config(config: Config) -> tuple[Config, list[str]]:
    """A config that was made in Python as `load_config` returns one that was read.

    Raises ConfigError with every fault, as `load_config` does for a file: `model_copy` checks no
    types.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"a {type(config).__name__} is no Config: Config(train=TrainConfig(...))")
    checked, faults = _validate({n: _as_given(getattr(config, n)) for n in config.model_fields_set})
    if checked is None or faults:
        raise _listed("the config", faults)
    return checked, advice(checked.train)


def _as_given(section: Any) -> Any:
    """A section's keys as they were given, those that a copy put in unasked too."""
    fields = section.model_fields_set if isinstance(section, BaseModel) else None
    return section if fields is None else {name: vars(section)[name] for name in fields}


def _listed(where: str, problems: list[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    shown = problems[:MOST_FAULTS]
    rest = [f"and {len(problems) - len(shown)} more"] if len(shown) < len(problems) else []
    return ConfigError("\n  ".join([f"{where}: {count}", *shown, *rest]))


def dump_config(config: Config) -> str:
    """The config as YAML that `load_config` reads back to an equal one."""
    values = json.loads(json.dumps(config.model_dump()))  # names that are not UTF-8 pass
    left_out = set(OF_THE_WEIGHTS) - config.vit.model_fields_set
    values["vit"] |= {key: "auto" for key in values["vit"] if key in left_out}
    return yaml.safe_dump(values, sort_keys=False, width=100)


def _read(path: Path) -> Written:
    """What a file says; ConfigError where it is no YAML at all."""
    try:
        root = read_node(path)
        if root is None or root.tag.endswith(":null"):
            return Written()
        if isinstance(root, yaml.MappingNode):
            return _sections(root)
        found = SHORT.repr(plain(root))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name your settings with --config FILE") from None
    except (OSError, NoText) as error:
        why = "it is a folder" if isinstance(error, IsADirectoryError) else error
        why = getattr(error, "strerror", None) or why
        raise ConfigError(f"{path}: can't be read: {why}") from None
    except NotYaml as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error}") from None
    raise ConfigError(f"{path}: expected sections ({', '.join(SECTIONS)}), found {found}")


def _sections(root: yaml.MappingNode) -> Written:
    """The sections with their values; keys, and what stands under a key that takes text, as they
    are written: YAML reads `on` as true, and 2024 as a number."""
    found = Written()
    given = pairs(root, found.problems)
    taken = {name for name, (_, node) in given.items() if not node.tag.endswith(":null")}
    for written, (line, node) in given.items():
        section = _spelled_right(written, taken) if isinstance(node, yaml.MappingNode) else written
        taken.add(section)
        if section in found.values and node.tag.endswith(":null"):
            continue
        found.lines[section] = line
        if section != written:  # its keys' faults are said, too
            found.problems.append(_no_such_key(written, section) + f" (line {line})")
        if section not in SECTIONS or not isinstance(node, yaml.MappingNode):
            found.values[section] = _value(section, "", node)
            continue
        keys = found.values[section] = {}
        for key, (line, value) in pairs(node, found.problems, f"{section}.").items():
            found.lines[f"{section}.{key}"] = line
            keys[key] = _value(section, key, value)
    return found


def _spelled_right(section: str, given: Collection[str]) -> str:
    """A section's name: the one that it is nearly spelled as, where that is not there itself."""
    near = difflib.get_close_matches(section, SECTIONS, 1, 0.75)
    return near[0] if near and section not in SECTIONS and near[0] not in given else section


def _no_such_key(name: str, wanted: str | None) -> str:
    return f"{short(name)}: no such key" + (f"; did you mean {wanted}?" if wanted else "")


def _value(section: str, key: str, node: yaml.Node) -> Any:
    """What a key is given; what can't be read is its own complaint, which no key takes."""
    kinds = takes(section, key)
    try:
        if isinstance(node, yaml.SequenceNode) and {list, str} <= kinds:
            return names_of(node)
        found = plain(node)
        bare = isinstance(node, yaml.ScalarNode) and node.style is None
        if not bare or found is None or str not in kinds:
            return found
        switch = isinstance(found, bool) and is_switch(section, key, found)
        return found if switch else typed(section, key, node.value)
    except NotYaml as error:
        return error


def _translate_legacy(raw: dict[str, Any], problems: list[str]) -> list[str]:
    """finetuning and freeze_model become train.mode: False -> scratch; True -> pretrained,
    with freeze_model finetune."""
    train = raw.get("train")
    if not isinstance(train, dict) or not any(flag in train for flag in LEGACY_FLAGS):
        return []
    train = raw["train"] = dict(train)
    flags = {flag: train.pop(flag, False) for flag in LEGACY_FLAGS}
    wrong = [
        f"train.{k}: {SHORT.repr(v)} is not true or false"
        for k, v in flags.items()
        if v not in (0, 1)
    ]
    problems += wrong
    if wrong:
        return []
    mode = "scratch"
    if flags["finetuning"]:
        mode = "finetune" if flags["freeze_model"] else "pretrained"
    if train.get("mode", mode) != mode:
        problems.append(
            f"train.mode: '{train['mode']}' contradicts finetuning/freeze_model, which mean "
            f"'{mode}'; keep only mode"
        )
        return []
    train |= {"mode": mode, "head": train.get("head", "class")}  # there was no other then
    old = ", ".join(f"{flag}: {value}" for flag, value in flags.items())
    return [f"{old} is the old way to write train.mode: {mode}"]


def _validate(raw: dict[str, Any]) -> tuple[Config | None, list[str]]:
    """Types first, then the combinations, those of the keys whose own value is right."""
    try:
        config = Config.model_validate(raw)
        return config, [message for _, message in combinations(config)]
    except ValidationError as error:
        faults = _describe(error, raw)
    repaired = {
        section: {k: v for k, v in values.items() if (section, k) not in faults}
        for section, values in raw.items()
        if section in SECTIONS and isinstance(values, dict) and (section,) not in faults
    }
    problems = list(faults.values())
    for keys, message in combinations(Config.model_validate(repaired)):
        if not keys & {".".join(key) for key in faults}:
            problems.append(message)
    return None, problems


def _describe(error: ValidationError, raw: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """One message a key, in our words; a union's several complaints become one."""
    messages: dict[tuple[str, ...], str] = {}
    for item in error.errors():
        key = tuple(str(part) for part in item["loc"][:2])
        if key in messages:
            continue
        dotted = ".".join(key)
        section = SECTIONS.get(key[0])
        if item["type"] == "extra_forbidden":
            known = list(section.model_fields) if section and len(key) > 1 else list(SECTIONS)
            wanted = _suggest(key[-1], known) if len(messages) < MOST_FAULTS else None
            messages[key] = _no_such_key(dotted, wanted)
        elif section is None or len(key) == 1:
            keys = (
                f"a section with keys such as {next(iter(section.model_fields))}" if section else ""
            )
            value = raw.get(key[0])
            is_not = f"{_given(value)} is not {keys or 'understood'}"
            messages[key] = f"{dotted}: {value if isinstance(value, NotYaml) else is_not}"
        else:
            value = raw[key[0]][key[1]]
            messages[key] = f"{dotted}: {_complaint(value, item, section.model_fields[key[1]])}"
    return messages


def _complaint(value: Any, item: Any, field: FieldInfo) -> str:
    context = item.get("ctx", {})
    bounds = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    if isinstance(value, NotYaml):
        return str(value)
    for name, words in bounds.items():
        if name in context and _is_number(value):
            given = short(value) if isinstance(value, str) else _given(value)
            return f"{given} should be {words} {context[name]:,}"
    wanted = _wanted(field.annotation)
    if item["loc"][0] == "vit" and item["loc"][1] in OF_THE_WEIGHTS:
        wanted += " or auto"
    if isinstance(value, str) and not value.strip():
        return f"nothing is named; it takes {wanted}"
    near = difflib.get_close_matches(str(value).lower(), _choices(field.annotation), 1, 0.7)
    return f"{_given(value)} is not {wanted}" + (f"; did you mean {near[0]}?" if near else "")


def _given(value: Any) -> str:
    return f"{SHORT.repr(value):.60}"


def _is_number(value: Any) -> bool:
    """Whether it is a number, or the text of one: YAML reads 1e-3 as text."""
    try:
        return isinstance(value, (int, float, str)) and not math.isnan(float(value))
    except (ValueError, OverflowError):
        return isinstance(value, int)


def _wanted(annotation: Any) -> str:
    """What a key takes, in words, read off its type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _wanted(args[0])
    if origin is Literal:
        return " or ".join(str(arg) for arg in args)
    if origin is tuple:
        if Ellipsis in args:
            return "a list of 2 or more names such as [cat, 'no']"
        return f"[{', '.join(_wanted(arg) for arg in args)}]"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_wanted(arg) for arg in args))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return "null" if annotation is type(None) else words.get(annotation, str(annotation))


def _choices(annotation: Any) -> list[str]:
    """The words that a key takes, by its type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [arg for arg in args if isinstance(arg, str)]
    inner = args[:1] if origin is Annotated else args if origin in (Union, UnionType) else ()
    return [choice for arg in inner for choice in _choices(arg)]


def _suggest(name: str, known: list[str]) -> str | None:
    close = [key for key in known if key.startswith(f"{name}_")]
    close += difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    elsewhere = [f"{s}.{name}" for s, section in SECTIONS.items() if name in section.model_fields]
    return next(iter([*close, *elsewhere]), None)
