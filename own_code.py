"""A user's own code by its name, `package.module:name`: found, run from its files as they are now,
and told apart by them, so that what is remembered of it can't outlive it.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

# This project's own top-level names: they run already, and are not a user's to change meanwhile.
ROOMS = """
system config_types products utils config own_code config_rules filing decoding certainty drawing
overrides metrics config_file model transforms images layout shards dataset pretrained tokens engine
classifier answers inspection audit training test tools benchmarks tests
"""
PROJECT = set(ROOMS.split())
LIBRARIES = {"torch", "torchvision", "numpy", "PIL"}  # loaded already, and only once a process


class NotUsable(Exception):
    """A name that can't be had; the message is one sentence that says why."""


@dataclass(frozen=True)
class Found:
    """What a name stands for, what tells its code from other code (16 hex digits), and where it
    was read."""

    value: Any
    digest: str
    place: str


def load(name: str) -> Found:
    """What `package.module:name` is, as the files say it now.

    The digest is of the module's source and of every other module of one's own that it imports, in
    a function too, and of the versions of the installed packages that those name. What was imported
    before from other text, or by somebody else, is run again. Raises NotUsable.
    """
    where, _, attribute = name.partition(":")
    if _is_ours(where):
        raise NotUsable(f"{where} is this project's own; put {attribute} into a file of your own")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    if _is_the_program(where):
        where = "__main__"
    module = _module(where, _closure(where)[0])
    files, packages = _closure(where)  # with what was imported under names that are made up
    RECORDER.known.update(files)
    place = getattr(module, "__file__", None) or where
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except Exception:  # AttributeError, or what a module's own __getattr__ raises
            near = difflib.get_close_matches(part, dir(value), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise NotUsable(f"{where} ({place}) has no {attribute}{hint}") from None
    return Found(value, _digest(name, module, files, packages), str(place))


def reason(error: BaseException) -> str:
    """An error's kind and its first line."""
    first = ""
    with contextlib.suppress(Exception):  # some can't even be said
        first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


# --------------------------------------------------------------------------------- what it imports


@dataclass(frozen=True)
class _File:
    place: str
    content: bytes


def _closure(where: str) -> tuple[dict[str, _File], set[str]]:
    """The files of a module and of those of one's own that it imports, directly or by way of
    others, by their names; and the installed packages that these name."""
    files: dict[str, _File] = {}
    packages: set[str] = set()
    waiting, done = [where, *RECORDER.also.get(where, ())], set()
    while waiting:
        name = waiting.pop()
        if name in done or _is_ours(name):
            continue
        done.add(name)
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # a package's __init__.py runs first
        spec = _locate(name)
        if spec is not None and not _is_own(spec):
            packages.add(name.partition(".")[0])
        if spec is None or spec.origin is None or not _is_own(spec):
            continue
        with contextlib.suppress(OSError):
            files[name] = _File(spec.origin, Path(spec.origin).read_bytes())
            package = name if Path(spec.origin).stem == "__init__" else name.rpartition(".")[0]
            if name == "__main__":
                package = sys.modules[name].__package__ or ""
            waiting += _imports(files[name].content, package)
    return files, packages


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The names that a file imports, wherever in it; some are not modules, but names in one."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):  # importing it will say so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:  # beyond the top: importing it will say so
                    continue
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def _locate(name: str) -> ModuleSpec | None:
    """Where a module lies, without running anything; `importlib.util.find_spec` runs the packages
    above it."""
    if name == "__main__":
        file = getattr(sys.modules[name], "__file__", None)
        return importlib.util.spec_from_file_location(name, file) if file else None
    parts, path, spec = name.split("."), None, None
    for level, part in enumerate(parts, 1):
        spec = _find(".".join(parts[:level]), path)
        if spec is None and path is not None:  # a folder without __init__.py in another such folder
            inside = [str(Path(place) / part) for place in path]
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [p for p in inside if Path(p).is_dir()]
        if spec is None or (level < len(parts) and not spec.submodule_search_locations):
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _find(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """What Python's own finders, and those of packages that are installed for editing, know of a
    module."""
    for finder in sys.meta_path:
        if finder is not RECORDER:
            with contextlib.suppress(Exception):  # whatever a finder raises of a broken package
                if spec := finder.find_spec(name, None if path is None else list(path)):
                    return spec
    return None


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in PROJECT


def _is_own(spec: ModuleSpec) -> bool:
    """Whether a module is somebody's own files: neither Python's nor an installed package's."""
    top = spec.name.partition(".")[0]
    places = [spec.origin] if spec.has_location or spec.origin else []
    places += list(spec.submodule_search_locations or ())
    if top in LIBRARIES or not places:
        return False
    return not any(_is_installed(Path(str(place)), top) for place in places)


@functools.cache
def _is_installed(place: Path, top: str) -> bool:
    """Whether a file belongs to Python or to a package that was installed, anywhere."""
    python = {str(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    if (
        not place.is_absolute()  # "built-in", "frozen"
        or {"site-packages", "dist-packages"} & set(place.parts)
        or any(place.is_relative_to(folder) for folder in python)
    ):
        return True
    homes = [up for up in place.parents if (up / top).is_dir() or (up / f"{top}.py").is_file()]
    records = homes[-1].glob("*.dist-info/RECORD") if homes else ()  # pip install --target
    starts = (f"{top}/", f"{top}.py,")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = [line for record in records for line in record.read_text("utf-8").splitlines()]
        return any(line.startswith(starts) for line in lines)
    return False


def _is_the_program(where: str) -> bool:
    """Whether a module is the program that runs: it must not be run a second time."""
    spec, main = _locate(where), getattr(sys.modules["__main__"], "__file__", None)
    origin = spec.origin if spec else None
    return bool(origin and main) and Path(str(origin)) == Path(str(main)).absolute()


# --------------------------------------------------------------------------------- how it is run


class _Loader(SourceFileLoader):
    """Runs a file's text, and remembers it. A .pyc knows a change by the second: too coarse."""

    ran: bytes | None = None

    def get_code(self, fullname: str) -> Any:
        self.ran = self.get_data(self.path)
        return self.source_to_code(self.ran, self.path)


class _Recorder(importlib.abc.MetaPathFinder):
    """Gives that loader to the modules that are one's own, once `load` has named them."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.also: dict[str, set[str]] = {}  # what else ran as a module was imported
        self.running: str | None = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if _is_ours(name) or (self.running is None and name not in self.known):
            return None
        spec = _find(name, path)
        if spec is None or not _is_own(spec) or not str(spec.origin).endswith(".py"):
            return None
        if self.running is not None:
            self.also.setdefault(self.running, set()).add(name)
        spec.loader = _Loader(name, str(spec.origin))
        return spec

    @contextlib.contextmanager
    def importing(self, where: str, files: Iterable[str]) -> Iterator[None]:
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self.known.update(files)
        self.running = where
        if where not in sys.modules:
            self.also[where] = set()
        try:
            yield
        finally:
            self.running = None


RECORDER = _Recorder()


def _module(where: str, files: dict[str, _File]) -> ModuleType:
    """A module as its files are now; if it can't be had, all is as before."""
    if where == "__main__":
        return _main(files)
    aside: dict[str, ModuleType] = {}
    gone = {name for name in RECORDER.also.get(where, ()) if name not in files}
    tops = {name.partition(".")[0] for name in {*files, *gone}}
    changed = {n for n, file in files.items() if n in sys.modules and _ran(n) != file.content}
    if changed or gone:
        of_those = [m for m in sys.modules if m.partition(".")[0] in tops and m != "__main__"]
        aside = {name: sys.modules.pop(name) for name in of_those}
    try:
        with RECORDER.importing(where, files):
            return importlib.import_module(where)
    except BaseException as error:
        for name in [m for m in sys.modules if aside and m.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(aside)
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            raise NotUsable(f"no module {where} in {os.getcwd()} or beside training.py") from None
        if isinstance(error, (Exception, SystemExit)):
            raise NotUsable(f"{where} can't be imported ({reason(error)})") from error
        raise


def _main(files: dict[str, _File]) -> ModuleType:
    """The program itself can't be run again: what it imported must still be what the files say."""
    if "__main__" not in files:
        raise NotUsable(
            "what a notebook defines has no source to know it by; write it to a file, such as "
            "my_transforms.py, and name it my_transforms:function"
        )
    for name, file in files.items():
        if STARTED.setdefault(name, file.content) != file.content:
            raise NotUsable(f"{file.place} was changed since it was imported; start Python anew")
    return sys.modules["__main__"]


STARTED: dict[str, bytes] = {}  # of a program's own modules: their text when it was first asked for


def _ran(name: str) -> bytes | None:
    """The text that a module was run from, where that is known."""
    spec = getattr(sys.modules[name], "__spec__", None)
    return getattr(getattr(spec, "loader", None), "ran", None)


def _digest(name: str, module: ModuleType, files: dict[str, _File], packages: set[str]) -> str:
    """Of the text that ran, or will; of an installed module, of its package's version."""
    parts = [f"{package} {version(package)}".encode() for package in sorted(packages)]
    for other, file in sorted(files.items()):
        ran = _ran(other) if other in sys.modules else None
        parts += [other.encode(), file.content if ran is None else ran]
    if not files and module.__name__.partition(".")[0] in sys.stdlib_module_names:
        parts.append(sys.version.encode())
    elif not files and not version(module.__name__.partition(".")[0]):
        try:
            parts.append(inspect.getsource(module).encode())
        except (OSError, TypeError):
            raise NotUsable(f"the source of {name} can't be read; put it into a file") from None
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@functools.cache
def version(package: str) -> str:
    """Of the distributions that hold an installed package; empty where none says so."""
    if package in sys.stdlib_module_names:
        return ""
    names = _distributions().get(package, [])
    return " ".join(sorted({f"{name} {metadata.version(name)}" for name in names}))


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(held) for name, held in metadata.packages_distributions().items()}
