"""What the pages say is so: the tree, the tour's names, and the recipes run."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest

from tests.helpers import REPO, random_weights
from tests.test_architecture import HOUSE

TOUR = (REPO / "docs/tour.md").read_text(encoding="utf-8")
RECIPES = (REPO / "docs/recipes.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py): ([\w.]+)`", TOUR)))


def defined(file: Path) -> set[str]:
    """The names that a file defines, `Class.method` for what a class does."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef))
            names |= {f"{node.name}.{n.name}" for n in inner}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_name_of_the_tour_exists(file: str, name: str) -> None:
    assert name in defined(REPO / file)


def test_the_tour_passes_through_every_room_of_the_core() -> None:
    seen = {file.split("/")[0].removesuffix(".py") for file, _ in NAMED}
    rooms = {"training", "config", "config_file", "dataset", "images", "transforms", "model"}
    assert rooms | {"metrics", "tokens", "engine", "inspection", "tools"} <= seen
    assert len(NAMED) > 40


def test_a_name_that_does_not_exist_would_be_found() -> None:
    assert "main" in defined(REPO / "training.py")
    assert not {"mian", "Job.step"} & defined(REPO / "training.py")
    assert {"Job.step", "SEARCH"} <= defined(REPO / "engine/job.py")


@pytest.mark.parametrize(
    "page", ["docs/tour.md", "docs/recipes.md", "CONTRIBUTING.md", "README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    file = REPO / page
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"https?:", link)]
    assert local and not [link for link in local if not (file.parent / link).exists()]


def test_the_tree_is_the_house() -> None:
    """CONTRIBUTING names every file, in its room, and none that is not there."""
    page = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = page.split("```")[1]
    listed: set[str] = set()
    rooms: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        rooms = rooms[:depth]
        words = re.split(r"\s{2,}", line.strip())
        if words[0].endswith("/"):
            rooms.append(words[0])
        files = list(takewhile(lambda word: re.fullmatch(r"\w+\.py", word), words))
        listed |= {"".join(rooms) + name for name in files}
    there = {
        str(path.relative_to(REPO))
        for path in REPO.rglob("*.py")
        if path.name != "__init__.py" and module_name(path) in HOUSE
    }
    assert listed == there


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPO).with_suffix("").parts)


# ------------------------------------------------------------------------------------- the recipes


def blocks(heading: str) -> list[str]:
    """The Python of a section."""
    section = RECIPES.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def run(
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], str]:
    """What a recipe prints, on small pictures and weights in the place of the quick start's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    weights = random_weights(tmp_path / "w.safetensors", dim=32)

    def printed(code: str) -> str:
        code = code.replace("data/pilots", str(image_folder)).replace("140", "32")
        code = code.replace("weights/vit-s14.safetensors", str(weights))
        more = 'device="cpu", max_epochs=2, ' + ("lr=1e-3, " if "lr=" not in code else "")
        more += "" if "report=" in code else "report=False, "
        exec(compile(code.replace("base_dir=", f"{more}base_dir="), "recipe", "exec"), {})
        return capsys.readouterr().out

    return printed


HEADINGS = ["Train from a notebook or a script", "Try several settings", "Use a part of it"]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_recipe_runs_and_is_short(
    heading: str, run: Callable[[str], str], tmp_path: Path
) -> None:
    (code,) = blocks(heading)
    assert code.count("\n") < 15
    out = run(code)
    assert ("results: logs/" in out) == ("fit" in code)
    if "export" in code:
        assert (tmp_path / "for-timm.pth").stat().st_size > 10_000


@pytest.mark.slow
def test_the_recipe_of_a_transform_runs(run: Callable[[str], str], tmp_path: Path) -> None:
    (code,) = blocks("Hand in a transform of your own")
    assert code.count("\n") < 15
    (tmp_path / "my_transforms.py").write_text(code)
    commands = re.findall(r"```\n(python training.*?)```", RECIPES, flags=re.DOTALL)[0]
    (script,) = blocks("Train from a notebook or a script")
    for number, name in enumerate(re.findall(r"train\.transform=(\S+)", commands)):
        option = f'transform="{name}", run_name="mine-{number}"'
        out = run(script.replace('run_name="mine"', option))
        assert f"augmentation: {name}, source " in out
    sys.modules.pop("my_transforms", None)


PROGRAMS = sorted(
    path.parent.name if path.name == "__main__.py" else path.stem
    for path in [*REPO.glob("tools/*.py"), *REPO.glob("tools/*/__main__.py")]
    if path.stem != "__init__"
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_called_as_it_is_started(name: str) -> None:
    file = REPO / "tools" / name
    source = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
    assert f'prog="python -m tools.{name}"' in source
