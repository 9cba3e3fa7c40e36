"""YAML of any kind as keys, values and lines, in time and memory that grow with its length.

PyYAML composes the nodes. What they stand for is read off them here: no object is made of a tag, no
alias and no merge is multiplied out, and nothing is looked at below the items of a list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from system.text_files import opened

MOST_BYTES = 1_000_000  # the names of 20,000 classes are 300 kB
MOST_LEVELS = 20
LONGEST_NUMBER = 400  # characters: the least that is written out in full is 1e-323
CORE = "tag:yaml.org,2002:"
AS_TEXT = ("timestamp", "value", "merge", "str")  # no setting is a date
ADVICE = {
    "'\\t'": "a line is indented by a tab; indent by blanks",
    "unknown escape": "a backslash in double quotes; put paths in single ones",
    "unexpected end of stream": "a quote is left open",
    "unexpected document separator": "a quote is left open",
    "<stream end>": "a bracket is left open",
    "undefined alias": "*name stands for what &name marked before; put text that begins with "
    "* in quotes",
    "but found another document": "a second document begins after ---; settings are one",
    "mapping values are not allowed": "a colon where none can be; indent the keys of a section "
    "alike, and put text with ': ' in quotes",
}


class NotYaml(ValueError):
    """What is wrong with a text, or a value in it; `line` counts from 1, where it is known."""

    def __init__(self, problem: str, line: int | None = None):
        super().__init__(problem)
        self.line = line


class Nested:
    """What is not looked at: a list or keys where none can be meant."""

    def __init__(self, shape: str):
        self.shape = shape

    def __repr__(self) -> str:
        return self.shape


class _Loader(yaml.SafeLoader):
    """SafeLoader, which goes down so many levels and no more."""

    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.levels += 1
        if self.levels > MOST_LEVELS:
            line = self.peek_event().start_mark.line + 1
            raise NotYaml(f"more than {MOST_LEVELS} levels of brackets, lists and keys", line)
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1


def read_node(path: Path) -> yaml.Node | None:
    """A file's node, None where it is empty. Raises NotYaml, and text_files.NoText or OSError for
    what can't be read."""
    with opened(path, MOST_BYTES) as file:
        return node_of(file.read())


def node_of(text: str) -> yaml.Node | None:
    """A text's node, None where it is empty; NotYaml where it is no YAML."""
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise NotYaml(f"the character U+{ord(odd[0]):04X} is no text; write UTF-8", line)
    try:
        return _Loader(text).get_single_node()
    except NotYaml:
        raise
    except yaml.MarkedYAMLError as error:
        said = f"{error.context or ''} {error.problem or ''}"
        advice = next((a for words, a in ADVICE.items() if words in said), error.problem)
        mark = error.problem_mark or error.context_mark
        raise NotYaml(f"{advice}"[:200], mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "\U00110000"
        raise NotYaml(f"a character or number in it can't be ({error})"[:120]) from None


def pairs(
    node: yaml.MappingNode, problems: list[str], of: str = ""
) -> dict[str, tuple[int, yaml.Node]]:
    """The keys as they are written, those that are merged in too: each with its line and its
    value's node. A key that is given twice, and one that is no word, join the problems."""
    try:
        _known(node, "map")
    except NotYaml as error:
        problems.append(f"{of.rstrip('.') or 'the file'}: {error} (line {error.line})")
    found: dict[str, tuple[int, yaml.Node]] = {}
    again: dict[str, list[int]] = {}
    for key, value in _own(node):
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.append(f"{of}{_shape(key)}: a key is a word (line {line})")
        elif (name := _proper(key)) in found:
            again.setdefault(name, [found[name][0]]).append(line)
        else:
            found[name] = (line, value)
    for name, lines in again.items():
        both = f"{lines[0]}, {lines[1]} and more" if lines[2:] else f"{lines[0]} and {lines[1]}"
        problems.append(f"{of}{short(name)}: it is given twice, on lines {both}; keep one")
    for key, value in _merged(node, problems, of):
        if isinstance(key, yaml.ScalarNode):
            found.setdefault(_proper(key), (key.start_mark.line + 1, value))
    return found


def _proper(key: yaml.ScalarNode) -> str:
    """A key as text that can be written: a \\ud800 is none."""
    return key.value.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_merge(key: yaml.Node) -> bool:
    return key.tag == f"{CORE}merge"


def _own(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    return ((key, value) for key, value in node.value if not _is_merge(key))


def _merged(
    node: yaml.MappingNode, problems: list[str], of: str
) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """What `<<: *name` brings, in the order in which it counts; a mapping once."""
    seen, waiting = {id(node)}, [node]
    while waiting:
        at = waiting.pop(0)
        for source in [value for key, value in at.value if _is_merge(key)]:
            several = source.value if isinstance(source, yaml.SequenceNode) else [source]
            for mapping in several:
                if not isinstance(mapping, yaml.MappingNode):
                    line = mapping.start_mark.line + 1
                    problems.append(f"{of}<<: {_shape(mapping)} has no keys (line {line})")
                elif id(mapping) not in seen:
                    seen.add(id(mapping))
                    waiting.append(mapping)
                    yield from _own(mapping)


def plain(node: yaml.Node) -> Any:
    """What a node stands for: text, a number, true, false, null, or a list of these. Raises
    NotYaml for a tag that is none of YAML's own for them."""
    if isinstance(node, yaml.SequenceNode):
        _known(node, "seq")
        return [_flat(item) for item in node.value]
    return _flat(node)


def _flat(node: yaml.Node) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        _known(node, "seq", "map")
        return Nested(_shape(node))
    kind = _known(node, *AS_TEXT, "int", "float", "bool", "null")
    if kind in AS_TEXT or len(node.value) > LONGEST_NUMBER:
        return node.value
    construct = getattr(yaml.constructor.SafeConstructor, f"construct_yaml_{kind}")
    try:
        return construct(yaml.constructor.SafeConstructor(), node)
    except (ValueError, OverflowError, KeyError, IndexError):  # !!int x; 0x_
        return node.value


def _shape(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return short(node.value)
    return "[...]" if isinstance(node, yaml.SequenceNode) else "{...}"


def _known(node: yaml.Node, *tags: str) -> str:
    """A node's tag, if it is one of these of YAML's own."""
    kind = node.tag.removeprefix(CORE)
    if node.tag == kind or kind not in tags:
        tag = f"!!{kind}" if node.tag != kind else kind
        line = node.start_mark.line + 1
        raise NotYaml(f"the tag {short(tag)} is not understood; leave it out", line)
    return kind


def value_of(text: str) -> Any:
    """What a text stands for, as `plain`; NotYaml where it is no YAML."""
    node = node_of(text)
    return None if node is None else plain(node)


def names_of(node: yaml.Node | None) -> Any:
    """As `plain`, but words are text, alone or in a list, whatever YAML would make of them."""
    if isinstance(node, yaml.SequenceNode):
        _known(node, "seq")
        return [_word(item) for item in node.value]
    return None if node is None else _word(node)


def _word(node: yaml.Node) -> Any:
    return node.value if isinstance(node, yaml.ScalarNode) else _flat(node)


def section_of(text: str, section: str) -> dict[str, Any]:
    """The values of a section of a text, those that are understood; none where it is no YAML."""
    with contextlib.suppress(NotYaml):
        root = node_of(text)
        found = pairs(root, []) if isinstance(root, yaml.MappingNode) else {}
        _, node = found.get(section, (0, None))
        if isinstance(node, yaml.MappingNode):
            return {name: _plain_or_none(value) for name, (_, value) in pairs(node, []).items()}
    return {}


def _plain_or_none(node: yaml.Node) -> Any:
    try:
        return plain(node)
    except NotYaml:
        return None


def short(word: str) -> str:
    """A key or a word in a sentence, none of it hidden or endless."""
    cut = word if len(word) <= 60 else f"{word[:50]}..."
    return cut if cut.isprintable() else repr(cut)[1:-1]
