"""Names of files as text and back, under any locale."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import unicodedata

import pytest

from system.filenames import (
    columns_of,
    cut_to,
    fitting,
    name_of,
    nearest,
    padded,
    shown,
    text_of,
)
from tests.helpers import REPO

LOCALE_C = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"cat", "cat"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", r"caf\xe9"),
        (b"two\nlines\t\x7f", r"two\x0alines\x09\x7f"),
        (rb"caf\xe9", r"caf\\xe9"),  # spelled so
        (rb"C:\xylophone", r"C:\xylophone"),
        (b"\\\xe9", r"\\\xe9"),
        ("a\u202egpj.exe".encode(), r"a\xe2\x80\xaegpj.exe"),  # reads "aexe.jpg"
        ("\x9b2J".encode(), r"\xc2\x9b2J"),  # clears some terminals
        ("a\u2028b".encode(), r"a\xe2\x80\xa8b"),
        ("\u05d0\u200f".encode(), "\u05d0\u200f"),  # Hebrew's own marks stay
        (b"100%_$, \"'", "100%_$, \"'"),
    ],
)
def test_a_name_as_text(name: bytes, text: str) -> None:
    assert text_of(os.fsdecode(name)) == text
    assert os.fsencode(name_of(text)) == name


def test_a_sentence_is_not_turned_round() -> None:
    assert shown("error: a\u202egpj.exe\n\x85") == "error: a\\xe2\\x80\\xaegpj.exe\n\\xc2\\x85"


def test_each_name_has_a_text_of_its_own() -> None:
    draw = random.Random(0)
    names = {
        bytes(draw.choices(rb"\x9e0" + b"\xe9\xc3\xa9\n\xe2\x80\xae", k=draw.randrange(9)))
        for _ in range(5000)
    }
    texts = {text_of(os.fsdecode(name)) for name in names}
    assert len(texts) == len(names)
    assert {os.fsencode(name_of(text)) for text in texts} == names
    assert not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for t in texts for c in t
    )


def test_the_text_does_not_depend_on_the_locale() -> None:
    code = "import os; from system import filenames as f; n = os.fsdecode(b'\\xc3\\xa9\\xe9'); "
    code += "t = f.text_of(n); "
    code += "print(ascii(t), f.name_of(t) == n, ascii(f.shown(n)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=LOCALE_C, capture_output=True, text=True
    )
    assert done.stdout.split() == [r"'\xe9\\xe9'", "True", r"'\xe9\\xe9'"], done.stderr


def test_a_sentence_keeps_all_that_is_proper_text() -> None:
    assert shown("a\nb \\xe9 é \udce9") == "a\nb \\xe9 é \\xe9"
    assert shown("\ud800").isascii()


def test_the_name_that_may_be_meant() -> None:
    assert nearest("cats", ["dog", "cat"]) == "cat"
    assert nearest("CAT ", ["cats", "Cat"]) == "Cat"
    assert nearest("zebra", ["cat", "dog"]) is None


@pytest.mark.parametrize(
    ("stem", "fits"),
    [("a", "a"), ("n" * 251, "n" * 251), ("n" * 255, "n" * 251), ("é" * 200, "é" * 125)],
)
def test_a_name_that_a_disk_takes(stem: str, fits: str) -> None:
    assert fitting(stem, ".png") == fits + ".png"


def test_a_sentence_commands_no_terminal() -> None:
    assert shown("a\x1b[2J\x07b\tc\nd é") == "a\\x1b[2J\\x07b\tc\nd é"


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("rei", 3, "rei"),
        ("綾波レイ", 8, "綾波レイ"),
        ("惣流・アスカ・ラングレー", 24, "惣流・..."),
        ("e\u0301te\u0301", 3, "e\u0301te\u0301"),
        ("a" * 12, 12, "aaaaaaa..."),
    ],
)
def test_columns_of_a_terminal(text: str, columns: int, cut: str) -> None:
    assert columns_of(text) == columns and cut_to(text, 10) == cut
    assert columns_of(padded(text, 30)) == 30 and cut_to(text, 40) == text
