"""A user's code by its name: what is hashed is what runs, whoever imported it before, and when."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import own_code
from own_code import NotUsable, load
from tests.helpers import REPO


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in ("mine", "helpers_of_mine")]:
        del sys.modules[name]
    for name in ("mine", "mine.f"):
        own_code.RECORDER.also.pop(name, None)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def value(name: str = "mine:f") -> Any:
    return load(name).value()


F = "\ndef f():\n    return LEVEL\n"


def test_an_edit_in_the_same_second_runs_and_is_told_apart(here: Path) -> None:
    """Of the same length too: Python's own .pyc files would not see it."""
    digests = set()
    for level in (2, 3, 2):
        write(here / "mine.py", f"LEVEL = {level}{F}")
        os.utime(here / "mine.py", (10**9, 10**9))
        assert value() == level
        digests.add(load("mine:f").digest)
    assert len(digests) == 2


@pytest.mark.parametrize("imported", ["mine", "helpers_of_mine"])
def test_what_a_notebook_imported_and_edited_before(here: Path, imported: str) -> None:
    write(here / "helpers_of_mine.py", "LEVEL = 2\n")
    write(here / "mine.py", f"from helpers_of_mine import LEVEL{F}")
    sys.path.append(str(here))
    importlib.import_module(imported)
    file = here / f"{imported}.py"
    before = load("mine:f").digest
    file.write_text(file.read_text().replace("LEVEL", "LEVEL", 1).replace("= 2", "= 3") + "#\n")
    assert value() == (3 if imported == "helpers_of_mine" else 2)
    assert load("mine:f").digest != before


def test_it_is_run_once_while_nothing_changes(here: Path) -> None:
    """Some code may run once only: what registers itself somewhere, say."""
    write(here / "helpers_of_mine.py", "RUNS = []\n")
    write(here / "mine.py", "import sys\nsys.runs_of_mine = getattr(sys, 'runs_of_mine', 0) + 1\n")
    (here / "mine.py").open("a").write("import helpers_of_mine\nf = sys.runs_of_mine\n")
    assert [load("mine:f").value for _ in range(3)] == [1, 1, 1]
    write(here / "helpers_of_mine.py", "RUNS = {}\n")
    assert load("mine:f").value == 2
    del sys.runs_of_mine  # type: ignore[attr-defined]


CHANGES = {
    "a module beside it": ("mine/levels.py", "from .levels import LEVEL"),
    "one above it": ("helpers_of_mine.py", "from helpers_of_mine import LEVEL"),
    "the package's own file": ("mine/__init__.py", "from mine import LEVEL"),
    "a name in a package": ("mine/levels.py", "from . import levels; LEVEL = levels.LEVEL"),
    "everything of another": ("mine/levels.py", "from mine.levels import *"),
    "a folder in a folder": ("mine/deep/deeper/levels.py", "from .deep.deeper.levels import LEVEL"),
    "by a function": (
        "mine/levels.py",
        "import importlib as i; LEVEL = i.import_module('mine.levels').LEVEL",
    ),
    "under a name made up": (
        "mine/levels.py",
        "n = 'lev'; LEVEL = __import__(f'mine.{n}els', fromlist='x').LEVEL",
    ),
}


@pytest.mark.parametrize("with_init", [True, False])
@pytest.mark.parametrize("kind", CHANGES)
def test_what_it_imports_is_part_of_it(here: Path, kind: str, with_init: bool) -> None:
    name, line = CHANGES[kind]
    if with_init:
        write(here / "mine/__init__.py", "")
    write(here / "mine/unused.py", "")
    write(here / "mine/f.py", f"import json, torch\n{line}{F}")
    write(here / name, "LEVEL = 2\n")
    first = load("mine.f:f")
    assert first.value() == 2 and load("mine.f:f").digest == first.digest
    write(here / "mine/unused.py", "LEVEL = 5\n")
    assert load("mine.f:f").digest == first.digest
    write(here / name, "LEVEL = 3\n")
    then = load("mine.f:f")
    assert then.value() == 3 and then.digest != first.digest


def test_what_a_function_imports_is_part_of_it_and_not_run_before(here: Path) -> None:
    write(here / "mine.py", "def f():\n    from helpers_of_mine import LEVEL\n    return LEVEL\n")
    write(here / "helpers_of_mine.py", "LEVEL = 2\n")
    first = load("mine:f")
    assert "helpers_of_mine" not in sys.modules and first.value() == 2
    write(here / "helpers_of_mine.py", "LEVEL = 3\n")
    then = load("mine:f")
    assert then.value() == 3 and then.digest != first.digest


def test_a_package_that_its_function_imports_is_not_run_to_find_it(here: Path) -> None:
    write(here / "mine.py", "def f():\n    import helpers_of_mine.levels\n    return 1\n")
    write(here / "helpers_of_mine/__init__.py", "1 / 0\n")
    write(here / "helpers_of_mine/levels.py", "")
    assert load("mine:f").digest and "helpers_of_mine" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        "# -*- coding: latin-1 -*-\nNAME = 'é'\n".encode("latin-1"),
        b"\xef\xbb\xbfNAME = '\xc3\xa9'\n",
        b"NAME = '\xc3\xa9'\r\n",
    ],
)
def test_whatever_python_can_read(here: Path, content: bytes) -> None:
    (here / "helpers_of_mine.py").write_bytes(content)
    (here / "mine.py").write_bytes(content + b"from helpers_of_mine import NAME\nf = NAME\n")
    assert load("mine:f").value == "é"


def test_what_is_installed_is_known_by_its_version(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here / "mine.py", "import numpy\nimport json\nf = 1\n")
    found = {load(name).digest for name in ("numpy.linalg:norm", "mine:f")}
    assert found == {load(name).digest for name in ("numpy.linalg:norm", "mine:f")}
    monkeypatch.setattr(own_code, "version", lambda package: f"{package} 99")
    found |= {load(name).digest for name in ("numpy.linalg:norm", "mine:f")}
    assert len(found) == 4


def test_a_package_in_any_environment_is_installed() -> None:
    for place in ("/a/.venv/lib/python3.9/site-packages/p.py", "/usr/lib/python3/dist-packages/p"):
        assert own_code._is_installed(Path(place), "p")
    assert own_code._is_installed(Path(importlib.__file__), "importlib")
    assert not own_code._is_installed(REPO / "my_transforms.py", "my_transforms")


def test_a_package_that_pip_put_into_a_folder_is_installed(here: Path) -> None:
    """`pip install --target libs`; one's own package beside it is not."""
    write(here / "libs/helpers_of_mine/__init__.py", "LEVEL = 2\n")
    write(here / "libs/mine.py", "import helpers_of_mine, numpy\nf = helpers_of_mine\n")
    record = "helpers_of_mine/__init__.py,sha256=x,10\n"
    write(here / "libs/helpers_of_mine-1.0.dist-info/RECORD", record)
    sys.path.append(str(here / "libs"))
    first = load("mine:f").value
    write(here / "libs/helpers_of_mine/__init__.py", "LEVEL = 3\n")
    assert load("mine:f").value is first


def test_libraries_that_load_once_are_never_run_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they lie."""
    import numpy

    monkeypatch.setattr(own_code, "_is_installed", lambda place, top: False)
    write(here / "mine.py", "import numpy\nf = numpy\n")
    assert load("mine:f").value is numpy


def test_a_module_that_was_taken_away_is_not_run_from_memory(here: Path) -> None:
    write(here / "mine.py", "try:\n    import helpers_of_mine\n    f = 5\n")
    (here / "mine.py").open("a").write("except ImportError:\n    f = 1\n")
    write(here / "helpers_of_mine.py", "")
    first = load("mine:f")
    (here / "helpers_of_mine.py").unlink()
    then = load("mine:f")
    assert (first.value, then.value) == (5, 1) and first.digest != then.digest


def test_what_is_no_longer_imported_is_no_longer_part_of_it(here: Path) -> None:
    write(here / "mine.py", "f = 1\n")
    wanted = load("mine:f").digest
    write(here / "mine.py", "import helpers_of_mine\nf = 1\n")
    write(here / "helpers_of_mine.py", "")
    assert load("mine:f").digest != wanted
    write(here / "mine.py", "f = 1\n")
    assert load("mine:f").digest == wanted


@pytest.mark.parametrize("name", ["transforms:f", "tools.mine:f", "tests.helpers:picture"])
def test_this_project_s_own_files_are_not_for_it(here: Path, name: str) -> None:
    """They ran before the first look, so an edit of theirs would be hashed and not run."""
    with pytest.raises(NotUsable, match="is this project's own; put .* into a file of your own"):
        load(name)


def test_this_project_is_never_run_again(here: Path) -> None:
    import utils

    write(here / "mine.py", "from utils import UserError\nf = UserError\n")
    assert load("mine:f").value is utils.UserError
    write(here / "mine.py", "from utils import UserError\nf = UserError\n#")
    assert load("mine:f").value is utils.UserError and sys.modules["utils"] is utils


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys\nsys.exit('no')\n", r"mine can't be imported \(SystemExit: no\)"),
        ("raise ValueError('a\\nb')\n", r"mine can't be imported \(ValueError: a\)$"),
        ("def f(:\n", r"mine can't be imported \(SyntaxError: "),
        ("f = '\0'\n", r"mine can't be imported \((SyntaxError|ValueError): "),
        ("from ... import x\n", r"mine can't be imported \(ImportError: "),
        ("import mine.helpers\n", r"mine can't be imported \(ModuleNotFoundError: "),
        ("g = 1\n", r"mine \(.*mine.py\) has no f"),
    ],
)
def test_what_fails_is_one_sentence_and_leaves_all_as_it_was(
    here: Path, source: str, words: str
) -> None:
    write(here / "mine.py", f"LEVEL = 2{F}")
    load("mine:f")
    before = sys.modules["mine"]
    write(here / "mine.py", source)
    with pytest.raises(NotUsable, match=words) as caught:
        load("mine:f")
    assert "\n" not in str(caught.value)
    assert source == "g = 1\n" or sys.modules["mine"] is before


def test_nothing_is_written(here: Path) -> None:
    write(here / "mine/__init__.py", "")
    write(here / "mine/f.py", f"LEVEL = 2{F}")
    assert value("mine.f:f") == 2 and not list(here.rglob("*.pyc"))


PROGRAM = """
import sys
sys.path.insert(0, {repo!r})
import own_code
from pathlib import Path
from helpers_of_mine import LEVEL

def f():
    return LEVEL

if __name__ == "__main__":
    print(own_code.load("__main__:f").value())
    Path("helpers_of_mine.py").write_text("LEVEL = 3")
    own_code.load("__main__:f")
"""


def test_a_program_that_hands_in_its_own_function(here: Path) -> None:
    write(here / "helpers_of_mine.py", "LEVEL = 2\n")
    write(here / "program.py", PROGRAM.format(repo=str(REPO)))
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True)
    assert done.stdout == "2\n" and "helpers_of_mine.py was changed since" in done.stderr


def test_a_program_that_names_itself_by_its_file_runs_once(here: Path) -> None:
    write(here / "program.py", PROGRAM.format(repo=str(REPO)).partition("if __name__")[0])
    (here / "program.py").open("a").write("print(own_code.load('program:f').value())\n")
    write(here / "helpers_of_mine.py", "LEVEL = 2\n")
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_program_in_a_package_is_known_by_its_relative_imports(here: Path) -> None:
    program = f"import sys\nsys.path.insert(0, {str(REPO)!r})\nimport own_code\n"
    program += "from .levels import LEVEL\nf = LEVEL\nprint(own_code.load('__main__:f').digest)\n"
    write(here / "mine/program.py", program)
    digests = set()
    for level in (2, 3):
        write(here / "mine/levels.py", f"LEVEL = {level}\n#{'x' * level}")
        command = [sys.executable, "-m", "mine.program"]
        digests.add(subprocess.run(command, capture_output=True, text=True).stdout)
    assert len(digests) == 2


def test_a_notebook_s_own_function_has_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(NotUsable, match="write it to a file, such as my_transforms.py"):
        load("__main__:f")
