"""The house's rules: which file may import which, how long it may be, and that importing is idle.

FLOORS is the only table; everything else is read from the code. A file imports from its own package
and from lower floors; no tool imports another; nothing goes round in a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import own_code

REPO = Path(__file__).resolve().parents[1]
FLOORS = (  # from the ground up
    "system",
    "config_types products",
    "utils config own_code",
    "config_rules filing decoding certainty drawing",
    "overrides metrics",
    "config_file model transforms",
    "images",
    "layout",
    "shards",
    "dataset pretrained",
    "tokens",
    "engine",
    "classifier",
    "answers",
    "inspection",
    "audit",
    "training test tools",
    "benchmarks",
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms.split()}
NO_ROOMS = ("tests", "data", "logs", "weights")  # the last three are a user's
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60


def the_house() -> dict[str, str]:
    """Every file but the tests, by its module's name: what it says."""
    files = [*REPO.glob("*.py")]
    for folder in REPO.iterdir():
        if folder.is_dir() and folder.name not in NO_ROOMS and folder.name[0] != ".":
            files += folder.rglob("*.py")
    return {name_of(file.relative_to(REPO)): file.read_text(encoding="utf-8") for file in files}


@cache
def tree(source: str) -> ast.Module:
    return ast.parse(source)


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


HOUSE = the_house()


def room(module: str) -> str:
    """What a file may import from freely: the top-level file, the package, or the one tool."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "tools" else parts[0]


def imported(module: str, house: dict[str, str]) -> dict[str, set[str]]:
    """The modules of the house, and tests, that a file imports, anywhere in it, and the names that
    it takes of each, as an attribute too."""
    found: dict[str, set[str]] = {}
    called: dict[str, str] = {}  # what the file calls a module
    for node in ast.walk(tree(house[module])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set())
                called[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            for alias in node.names:
                found.setdefault(str(node.module), set()).add(alias.name)
                found.setdefault(f"{node.module}.{alias.name}", set())
                called[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            found |= {a.value: set() for a in node.args[:1] if isinstance(a, ast.Constant)}
    for node in ast.walk(tree(house[module])):
        if isinstance(node, ast.Attribute) and (of := called.get(ast.unparse(node.value))) in found:
            found[str(of)].add(node.attr)
    return {
        name: taken
        for name, taken in found.items()
        if name != module and (name in house or str(name).split(".")[0] == "tests")
    }


def faults(module: str, house: dict[str, str]) -> list[str]:
    """What is wrong with a file's imports."""
    own = module.split(".")[0]
    if own not in FLOOR:
        return [f"{module} has no place in the house"]
    wrong = []
    for other, names in imported(module, house).items():
        theirs = other.split(".")[0]
        if room(other) == room(module):
            pass
        elif own == theirs == "tools" and other != "tools":
            wrong.append(f"{module} imports {other}: tools don't import one another")
        elif own != theirs and FLOOR.get(theirs, 99) >= FLOOR[own]:
            wrong.append(f"{module} imports {other}, which is not below it")
        hidden = sorted(n for n in names if n.startswith("_") and not n.startswith("__"))
        wrong += [f"{module} imports {other}.{name}, which is that file's own" for name in hidden]
    return wrong


def circle(house: dict[str, str]) -> list[str]:
    """Files that import each other, in turn; none where there is no such circle."""
    try:
        TopologicalSorter({module: imported(module, house) for module in house}).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # each imports the next
    return []


@pytest.mark.parametrize("module", sorted(HOUSE))
def test_imports_run_one_way(module: str) -> None:
    wrong = faults(module, HOUSE)
    assert not wrong, "; ".join(wrong)


def test_no_two_files_import_each_other() -> None:
    found = circle(HOUSE)
    assert not found, " imports ".join(found)


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("tokens.plan", "from engine.job import Job", "tokens.plan imports engine.job, which is"),
        ("tokens.plan", "import engine.job", "tokens.plan imports engine.job, which is not below"),
        ("dataset", "from pretrained import load_model", "dataset imports pretrained, which is"),
        ("training", "import test", "training imports test, which is not below it"),
        ("model", "def f():\n    from training import main", "model imports training, which"),
        ("engine.run", "from tools.repeat import spread", "engine.run imports tools.repeat"),
        ("tools.compare", "from tools.report.pictures import looks", "don't import one another"),
        ("tools.report.pictures", "import tools.cache", "tools don't import one another"),
        ("tools.cache", "from tools import repeat", "tools don't import one another"),
        ("engine.job", "from utils import _BarFriendlyHandler", "which is that file's own"),
        ("tools.cache", "from benchmarks.cost import main", "which is not below it"),
        ("engine.job", "from tests.helpers import picture", "imports tests.helpers, which is not"),
        ("engine.job", "import utils\nutils._BarFriendlyHandler()", "which is that file's own"),
        ("engine.job", "from engine import run as r\nr._made(1)", "engine.run._made, which is"),
        ("engine.job", "import engine.run\nengine.run._made(1)", "engine.run._made, which is"),
        ("tokens.plan", "import importlib as i\ni.import_module('engine.job')", "not below it"),
        ("tokens.plan", "__import__('engine.job')", "not below it"),
        ("tokens.plan", "from engine.job import *", "not below it"),
    ],
)
def test_an_import_that_breaks_a_rule_is_found(module: str, line: str, fault: str) -> None:
    house = {**HOUSE, module: f"{HOUSE[module]}\n\n{line}\n"}
    assert any(fault in found for found in faults(module, house))


def test_every_room_is_a_package() -> None:
    for module in HOUSE:
        for room in [module.rpartition(".")[0]] if "." in module else []:
            assert room in HOUSE, f"{room} has no __init__.py"


def test_a_file_without_a_place_is_found() -> None:
    assert faults("helpers", {**HOUSE, "helpers": ""}) == ["helpers has no place in the house"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tokens.plan", "tokens.cache"),
        ("pretrained.layouts", "pretrained.write"),
        ("engine.plots", "engine.run"),
    ],
)
def test_a_circle_is_found(one: str, other: str) -> None:
    """Also one that is closed inside a function; `other` imports `one` already, in turn or not."""
    package = {m: source for m, source in HOUSE.items() if room(m) == room(one)}
    house = {**package, one: f"{HOUSE[one]}\n\ndef f():\n    import {other}\n"}
    assert {one, other} <= set(circle(house))


def test_a_file_does_not_import_its_own_package() -> None:
    """The package imports the file: that, too, is a circle."""
    package = {m: source for m, source in HOUSE.items() if room(m) == "pretrained"}
    source = f"from pretrained import export\n{HOUSE['pretrained.read']}"
    house = {**package, "pretrained.read": source}
    assert {"pretrained", "pretrained.read"} <= set(circle(house))


@pytest.mark.parametrize("module", sorted(HOUSE))
def test_nothing_is_too_long_to_be_read(module: str) -> None:
    source = HOUSE[module]
    assert source.count("\n") <= MOST_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(source)):
        if isinstance(node, functions):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MOST_OF_A_FUNCTION, f"{node.name} has {lines} lines"


def test_the_loop_is_a_page() -> None:
    assert HOUSE["training"].count("\n") <= 300


def test_a_user_s_own_code_is_told_from_the_house_s() -> None:
    assert {*FLOOR, "tests"} == own_code.PROJECT


def test_config_needs_no_torch() -> None:
    code = "import sys, config_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_importing_the_core_prints_and_writes_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import training, pretrained\n"
    code += "sys.exit(bool({'wandb', 'mlflow', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())
