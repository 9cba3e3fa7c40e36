"""Settings of any kind: one sentence a fault, with its key and line, in bounded time and memory."""

from __future__ import annotations

import codecs
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from config import ConfigError
from config_file import load_config
from filing.yaml_files import section_of
from system.text_files import NoText, opened
from tests.helpers import no_files


def said(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value).replace(str(path), "FILE")
    assert len(message) < 3000
    return message


def said_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return said(path)


TAGS = (
    "train:\n  seed: !!python/object/apply:os.mkdir [ran]\n  lr: !!binary aGk=\n  ema: !own x\n"
    "  classes: !!python/tuple [a, b]\n  mixup: !!int x\nvit: !a {dim: 16}\n"
)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            TAGS,
            "vit: the tag !a is not understood; leave it out (line 7)\n"
            "train.classes: the tag !!python/tuple is not understood; leave it out (line 5)\n"
            "train.mixup: 'x' is not a number or auto (line 6)\n"
            "train.lr: the tag !!binary is not understood; leave it out (line 3)\n"
            "train.ema: the tag !own is not understood; leave it out (line 4)\n"
            "train.seed: the tag !!python/object/apply:os.mkdir is not understood; leave it out",
        ),
        (
            "train:\n  lr: 1\n  seed: 2\n  lr: 3\nvit: {dim: 1, 'dim': 2}\ntrain: {lr: 4}\na: 1",
            "train: it is given twice, on lines 1 and 6; keep one\n"
            "train.lr: it is given twice, on lines 2 and 4; keep one\n"
            "vit.dim: it is given twice, on lines 5 and 5; keep one\n"
            "a: no such key (line 7)",
        ),
        (
            "on: 1\ntrain:\n  3: 4\n  yes: 1\n  null: 2\n  [a]: 3\n  '': 1",
            "train.[...]: a key is a word (line 6)\ntrain.3: no such key (line 3)\n"
            "train.yes: no such key (line 4)\ntrain.null: no such key (line 5)\n"
            "train.: no such key (line 7)\non: no such key (line 1)",
        ),
        (
            "train:\n  lr: -1e-3\n  seed: 2024-13-45\n  ema: .inf\n  views: -5\n  batch_size: 1e30",
            "train.batch_size: '1e30' is not a whole number (line 6)\n"
            "train.views: -5 should be at least 1 (line 5)\n"
            "train.lr: -1e-3 should be more than 0 (line 2)\n"
            "train.ema: inf is not a number or auto or null (line 4)\n"
            "train.seed: '2024-13-45' is not a whole number (line 3)",
        ),
        (
            f"train:\n  seed: {'9' * 9000}\n  max_epochs: 0x{'F' * 9000}\nvit: {{dim: {10**15}}}",
            "'9999\n'0xFFF\nvit.dim: 1000000000000000 should be at most 10,000 (line 4)",
        ),
        ('vit: {"\\ud800": 1, "\\a": 2}', "vit.\\ud800: no such key\nvit.\\x07: no such key"),
        ("train: {lr: &a [*a]}", "train.lr: [[...]] is not a number"),
        ("train: {<<: 3}", "train.<<: 3 has no keys (line 1)"),
        ("train: [a]", "train: ['a'] is not a section with keys such as mode (line 1)"),
        (f"train: {{'{'k' * 900}': 1}}", "kkk...: no such key"),
    ],
)
def test_every_fault_at_once_with_its_line(tmp_path: Path, text: str, lines: str) -> None:
    message = said_of(tmp_path, text)
    for line in lines.splitlines():
        assert line in message
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train:\n\tlr: 1", "FILE, line 2: not valid YAML: a line is indented by a tab; indent by"),
        ("a: 1\n---\na: 2", "FILE, line 2: not valid YAML: a second document begins after ---"),
        ("train: {lr: 'x}", "line 1: not valid YAML: a quote is left open"),
        ("train: {lr: [x", "line 1: not valid YAML: a bracket is left open"),
        ("train: {lr: *a}", "line 1: not valid YAML: *name stands for what &name marked before"),
        ("train:\nlr: 1\n  seed: 2", "line 3: not valid YAML: a colon where none can be; indent"),
        ('train: {data: "C:\\pics"}', "line 1: not valid YAML: a backslash in double quotes"),
        ('a: "\\U00110000"', "not valid YAML: a character or number in it can't be"),
        (f"%YAML 1.{'9' * 9000}\n---\na: 1", "not valid YAML: a character or number in it can't"),
        ("train: " + "[" * 500_000, "line 1: not valid YAML: more than 20 levels of brackets"),
        ("- " * 300_000, "line 1: not valid YAML: more than 20 levels"),
        ("? " * 300_000, "line 1: not valid YAML: more than 20 levels"),
        ("a: 1\nb: \0", "FILE, line 2: not valid YAML: the character U+0000 is no text; write UTF"),
        ("train: {lr: 1}".encode("utf-16-le"), "the character U+0000 is no text; write UTF-8"),
        ("a: 1\nb: é".encode("latin-1"), "FILE: can't be read: line 2 has the byte 0xE9, which is"),
        ("a: 1".encode("utf-16")[:-1], "which is none of UTF-16; save it as text in UTF-8"),
        (b"x" * 1_000_001, "FILE: can't be read: it has 1.0 MB, and 1 MB are the most"),
    ],
)
def test_what_is_no_yaml_is_one_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    message = said_of(tmp_path, text)
    assert sentence in message and "\n" not in message


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for path, why in (
        *no_files(tmp_path),
        (tmp_path / "huge", "it has 100,000.0 MB, and 1 MB are the most"),
        (tmp_path / ("x" * 5000), "File name too long"),
    ):
        with pytest.raises(ConfigError, match=f"can't be read: {why}"):
            load_config(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_windows_saves_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(end.join(["train:", "  seed: 3", "  run_name: é", ""]).encode(encoding))
    train = load_config(path)[0].train
    assert (train.seed, train.run_name) == (3, "é")


def test_no_alias_and_no_merge_is_multiplied_out(tmp_path: Path) -> None:
    letters = "abcdefghijklmn"
    lists = "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in pairwise(letters))
    merges = "".join(
        f"{c}: &{c} {{<<: [{','.join(['*' + p] * 9)}]}}\n" for p, c in pairwise(letters)
    )
    for text in (f"a: &a [x]\n{lists}train: {{lr: *n}}", f"a: &a {{x: 1}}\n{merges}train: *n"):
        tracemalloc.start()
        message = said_of(tmp_path, text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "15 problems" in message and peak < 20e6
    path = tmp_path / "good.yaml"
    path.write_text("train: {<<: [&a {lr: 1, seed: 2}, {seed: 3, views: 4}], lr: 5}")
    train = load_config(path)[0].train
    assert (train.lr, train.seed, train.views) == (5, 2, 4), "as YAML's merge keys have it"


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("train.lr=" + "[" * 100_000, "[...' is not valid YAML: more than 20 levels of brackets"),
        ("train.lr=*a", "train.lr: '*a' is not valid YAML: *name stands for what &name marked"),
        ("train.classes=!x [a, b]", "the tag !x is not understood"),
        ("train.seed=" + "9" * 5000, "9' is not a whole number"),
        ("train.lr=1e400", "train.lr: '1e400' is not a number or auto"),
        ("train.lr=1=2", "train.lr: '1=2' is not a number"),
        ("train.lr=a: b: c", "is not valid YAML: a colon where none can be"),
        ("train.groups=" + "(" * 5000, "' is neither a .csv"),
        ("train.groups=(a{99999999999})", "' is neither a .csv"),
        ("train.data=a\0b", "is not text"),
        ("=", "'=': an override is written section.key=value"),
        (".=", "'.=': an override is written section.key=value"),
        ("a=b=c", "'a=b=c': an override is written section.key=value"),
        ("x" * 9000, "xxx...': an override is written section.key=value"),
    ],
)
def test_a_word_of_any_kind_is_one_sentence(tmp_path: Path, word: str, fault: str) -> None:
    (tmp_path / "a.yaml").write_text("")
    message = said(tmp_path / "a.yaml", [word])
    assert fault in message and message.count("\n") == 1 and len(message) < 400


@pytest.mark.parametrize("word", ["x=1", "train.key{}=1"])
def test_thousands_of_words_are_counted(tmp_path: Path, word: str) -> None:
    (tmp_path / "a.yaml").write_text("")
    message = said(tmp_path / "a.yaml", [word.format(i) for i in range(3000)])
    assert "3000 problems" in message and message.endswith("and 2970 more")


def test_a_section_of_a_text() -> None:
    text = "train: {log_path: logs, lr: [1], seed: &a 3, views: *a, ema: !!set {}}\nvit: 3"
    found = {"log_path": "logs", "lr": [1], "seed": 3, "views": 3, "ema": None}
    assert section_of(text, "train") == found
    for other, section in ((text, "vit"), (text, "x"), ("[" * 9000, "a"), ("", "a"), ("- a", "a")):
        assert section_of(other, section) == {}


def test_a_file_is_open_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(codecs.BOM_UTF8 + b"a\r\nb")
    with opened(path, 10) as file:
        assert file.read() == "a\r\nb"
    with pytest.raises(NoText, match="it has 0.0 MB"), opened(path, 6):
        pass
