"""From config.yaml and overrides to a Config: the only reader of YAML.

Every fault of a file is reported at once, each with its key and what would be right.
"""

from __future__ import annotations

import difflib
import json
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from config import OF_THE_WEIGHTS, SECTIONS, Config, ConfigError
from config_rules import advice, combinations
from filenames import is_table
from overrides import apply, is_switch, takes, typed

# The two flags of this project's first version, still understood.
LEGACY_FLAGS = ("finetuning", "freeze_model")
MOST_FAULTS = 30  # that are listed
SHORT = reprlib.Repr()  # an alias may stand for billions of elements
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 2, 4, 4, 60, 60


def load_config(path: str | Path, overrides: list[str] | None = None) -> tuple[Config, list[str]]:
    """Read a YAML file and `key.sub=value` overrides into a Config.

    Returns the config and the notes (one line each) that the user should see about it. Raises
    ConfigError with every fault of the file and of the overrides together.
    """
    given, path = Path(path), _settings_file(Path(path))
    raw = _read_yaml(path)
    raw = {key: value for key, value in raw.items() if value is not None or key not in SECTIONS}
    problems: list[str] = []
    apply(raw, overrides or [], problems)
    notes = _translate_legacy(raw, problems)
    config, faults = _validate(raw)
    problems += faults
    if problems:
        raise _listed(str(path), problems)
    assert config is not None
    stray = given == Path("config.yaml") and Path.cwd() != ROOT
    if path != given or stray:  # another project's file has that name, too
        notes.insert(0, f"settings: {path.absolute()}")
    named = {override.partition("=")[0] for override in overrides or []}
    return _located(config, path.parent, named), [*notes, *advice(config.train)]


ROOT = Path(__file__).parent
# What a run reads, and where it writes.
READ = ("base_dir", "checkpoint", "split", "labels", "groups", "from_checkpoint")
WRITTEN = ("data", "save_path", "log_path")


def _settings_file(path: Path) -> Path:
    """The file itself, or the one of that name beside the programs."""
    if path.exists() or not (ROOT / path).is_file():
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
            there = [place / value for place in places if (place / value).exists()]
            found |= {key: str(there[0])} if there else {}
    if not found:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update=found)})


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


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if isinstance(root, yaml.MappingNode):
            return _sections(loader, root)
        raw = loader.construct_document(root)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name your settings with --config FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "not valid YAML"
        raise ConfigError(f"{path}{line}: not valid YAML: {what}") from None
    # `!!int x`; a thousand brackets; `!!timestamp x`
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error):.80}") from None
    raise ConfigError(f"{path}: expected sections ({', '.join(SECTIONS)}), found {SHORT.repr(raw)}")


def _sections(loader: yaml.SafeLoader, root: yaml.MappingNode) -> dict[str, Any]:
    """The sections with their values; keys, and what stands under a key that takes text, as they
    are written: YAML reads `on` as true, and 2024 as a number."""
    raw: dict[str, Any] = {}
    for name, node in _pairs(loader, root, ""):
        if name not in SECTIONS or not isinstance(node, yaml.MappingNode):
            raw[name] = loader.construct_object(node, deep=True)
            continue
        raw[name] = {}
        for key, value in _pairs(loader, node, f"{name}."):
            found = loader.construct_object(value, deep=True)
            if isinstance(value, yaml.SequenceNode) and {list, str} <= takes(name, key):
                found = [getattr(item, "value", item) for item in value.value]  # names
            bare = isinstance(value, yaml.ScalarNode) and value.style is None
            if bare and found is not None and str in takes(name, key):
                switch = isinstance(found, bool) and is_switch(name, key, found)
                found = found if switch else typed(name, key, value.value)
            raw[name][key] = found
    return raw


def _pairs(
    loader: yaml.SafeLoader, node: yaml.MappingNode, section: str
) -> Iterator[tuple[str, yaml.Node]]:
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    loader.flatten_mapping(node)
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key is a word", problem_mark=key.start_mark)
        name, line = str(key.value), key.start_mark.line + 1
        if key in own and name in lines:
            raise yaml.MarkedYAMLError(
                problem=f"{section}{name} stands on line {lines[name]} as well",
                problem_mark=key.start_mark,
            )
        if key in own:
            lines[name] = line
        yield name, value


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
        if section in SECTIONS and isinstance(values, dict)
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
            hint = _suggest(key[-1], known) if len(messages) < MOST_FAULTS else ""
            messages[key] = f"{dotted}: no such key{hint}"
        elif section is None or len(key) == 1:
            keys = (
                f"a section with keys such as {next(iter(section.model_fields))}" if section else ""
            )
            messages[key] = (
                f"{dotted}: {SHORT.repr(raw.get(key[0])):.40} is not {keys or 'understood'}"
            )
        else:
            value = raw[key[0]][key[1]]
            messages[key] = f"{dotted}: {_complaint(value, item, section.model_fields[key[1]])}"
    return messages


def _complaint(value: Any, item: Any, field: FieldInfo) -> str:
    context = item.get("ctx", {})
    bounds = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    for name, words in bounds.items():
        if name in context and not isinstance(value, (str, list, dict)):
            return f"{value} should be {words} {context[name]}"
    wanted = _wanted(field.annotation)
    if item["loc"][0] == "vit" and item["loc"][1] in OF_THE_WEIGHTS:
        wanted += " or auto"
    return f"{SHORT.repr(value):.60} is not {wanted}"


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


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    elsewhere = [f"{s}.{name}" for s, section in SECTIONS.items() if name in section.model_fields]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else ""
