"""The web page: a folder that answers in a browser, and needs no server that does anything."""

from __future__ import annotations

import html
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from answers import listed, title
from tools.export.given import Given, Written
from tools.export.graph import NEEDS
from tools.export.onnx_folder import HOW, MODEL, write_model
from utils import UserError, replacing, write_json, write_text

ORDINARY = False
__all__ = ["NEEDS", "ORDINARY", "write"]
FILES = Path(__file__).with_name("web_files")
PACKAGE = "onnxruntime-web@1.30.0"  # the version that the page was tested with
# Of the package's `dist`, and what they are called here: some servers give .mjs no script's type.
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "ort.js",
    "ort-wasm-simd-threaded.wasm": "ort.wasm",
}
SECONDS = 600  # for the package, 33 MB

LOAD = """
# In this folder; then open http://localhost:8000
python3 -m http.server
"""


def write(given: Given, folder: Path) -> Written:
    """The page, its model (int8 without a `--precision`) and what runs it in a browser."""
    runtime = getattr(given.options, "runtime", None)
    precision = getattr(given.options, "precision", None) or "int8"
    write_runtime(folder / "runtime", None if runtime is None else Path(runtime))
    written = write_model(given, folder, precision)
    classes = list(given.classifier.classes)
    for source in sorted(FILES.iterdir()):
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".html":
            text = text.replace("{{ title }}", html.escape(title(classes)))
            text = text.replace("{{ classes }}", html.escape(listed(classes, "and")))
        write_text(folder / source.name, text)
    write_json(folder / "model.json", described(given, folder / MODEL))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    page = f"web page: {size / 1e6:.0f} MB; see it with python3 -m http.server -d FOLDER"
    deep = (
        "greys of 16 bits: a browser shows the upper 8 bits of them, whatever the training's black "
        "and white are; make 8 bits of them first, by the lines in README.md"
    )
    notes = [*written.notes, page, deep]
    if not getattr(given.options, "no_pictures", False):
        notes.append(
            "golden/ holds pictures of the run: before the folder goes public, leave it out"
        )
    return Written("onnxruntime", HOW, written.tolerance, tuple(notes), LOAD.strip())


def described(given: Given, model: Path) -> dict[str, Any]:
    """What the page has to know of the model."""
    classifier = given.classifier
    certainty = classifier.certainty
    return {
        "classes": list(classifier.classes),
        "min_confidence": classifier.min_confidence,
        "unlike": classifier.unlike,
        "set_level": 1.0 if certainty is None else float(certainty.set_level),
        "knows_unlike": certainty is not None and certainty.likeness is not None,
        "bytes": model.stat().st_size,
    }


def write_runtime(folder: Path, given: Path | None) -> None:
    """onnxruntime-web's files, from a folder that has them or from npm. Raises UserError, with what
    to do, where they are not to be had."""
    if given is None:
        with tempfile.TemporaryDirectory() as temporary:
            _copy(_packed(Path(temporary)), folder)
        return
    places = (given, given / "dist", given / "package" / "dist")
    found = [place for place in places if all((place / name).is_file() for name in RUNTIME)]
    if not found:
        raise UserError(
            f"--runtime {given}: {' and '.join(RUNTIME)} are not in it; name the folder `dist` of "
            f"the npm package {PACKAGE}"
        )
    _copy(found[0], folder)


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in RUNTIME.items():
        with replacing(folder / own) as temporary:
            shutil.copyfile(source / name, temporary)


def _packed(folder: Path) -> Path:
    """The package's `dist`, fetched with npm into a folder."""
    otherwise = f"install Node.js, or name the folder `dist` of {PACKAGE} with --runtime"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"the web page needs {PACKAGE}, and there is no npm to fetch it: {otherwise}"
        )
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as packed:
            members = [packed.getmember(f"package/dist/{name}") for name in RUNTIME]
            for member in members:
                member.name = Path(member.name).name
                packed.extract(member, folder, filter="data")
    except (OSError, ValueError, KeyError, tarfile.TarError, subprocess.TimeoutExpired) as error:
        reason = str(error)
        if isinstance(error, ValueError):  # no archive
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm can't fetch {PACKAGE} ({reason}): {otherwise}") from None
    return folder
