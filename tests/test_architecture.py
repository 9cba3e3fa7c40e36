"""The house's rules: which file may import which, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPO

LEAVES = {"config", "utils"}
MIDDLE = LEAVES | {"config_file", "images"}
INNER = MIDDLE | {"model", "dataset", "metrics"}
CORE = INNER | {"pretrained", "tokens"}
ALLOWED = {
    "config": set(),
    "utils": set(),
    "config_file": LEAVES,
    "images": LEAVES,
    "model": LEAVES,
    "dataset": MIDDLE,
    "metrics": LEAVES,
    "pretrained": MIDDLE | {"model", "dataset"},
    "training": CORE | {"engine"},
    "test": CORE | {"engine"},
}
TOP = [*sorted(REPO.glob("*.py")), *sorted((REPO / "tools").glob("*.py"))]


def imported(path: Path) -> set[str]:
    """The first names of every module that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", TOP, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_run_one_way(path: Path) -> None:
    names = imported(path)
    ours = {name.split(".")[0] for name in names} & (set(ALLOWED) | {"tools"})
    if path.parent.name == "tools":
        others = {n for n in names if n.startswith("tools.") and not n.startswith("tools._")}
        assert not others, f"tools don't import one another: {others}"
        assert ours <= CORE | {"engine", "tools"}
    else:
        assert path.stem in ALLOWED, f"{path.name} has no place in the house"
        assert ours <= ALLOWED[path.stem], f"{path.name} imports {ours - ALLOWED[path.stem]}"


def test_config_needs_no_torch() -> None:
    code = "import sys, config_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_importing_the_core_prints_and_writes_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); import training, pretrained"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())
