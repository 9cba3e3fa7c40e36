"""tools.export --to web: the page in a real browser, served from below a host's root."""

from __future__ import annotations

import argparse
import csv
import functools
import http.server
import io
import json
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from certainty.certainty import Certainty
from classifier import Classifier
from pretrained.build import load_model
from pretrained.write import save_model
from tests.helpers import picture, random_weights
from tests.tools.conftest import CHROMIUM
from tools.export import web
from tools.export.given import Given
from utils import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    path = random_weights(tmp_path_factory.mktemp("w") / "w.safetensors", num_classes=3)
    net = load_model(path)
    net.certainty = Certainty(0)
    net.certainty.set_level.fill_(0.2)
    net.certainty.temperature.fill_(6.0)
    save_model(path, net)
    return Classifier(path, device="cpu")


def made(classifier: Classifier, folder: Path, runtime: Path) -> Path:
    options = argparse.Namespace(precision="fp32", runtime=runtime)
    web.write(Given(classifier, None, options), folder)
    return folder


@pytest.fixture
def no_runtime(tmp_path: Path) -> Path:
    """A folder with files of the right names."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in web.RUNTIME:
        (folder / name).write_text(name)
    return folder


def test_what_is_written(classifier: Classifier, tmp_path: Path, no_runtime: Path) -> None:
    folder = made(classifier, tmp_path / "a page", no_runtime)
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.html",
        "model.json",
        "model.onnx",
        "page.css",
        "page.js",
        "runtime",
        "worker.js",
    ]
    page = (folder / "index.html").read_text()
    assert "<title>Class 0, class 1 or class 2?</title>" in page and "{{" not in page
    known = json.loads((folder / "model.json").read_text())
    assert known["bytes"] == (folder / "model.onnx").stat().st_size
    assert known["classes"] == list(classifier.classes) and not known["knows_unlike"]
    assert known["set_level"] == pytest.approx(0.2)


def test_nothing_names_another_host() -> None:
    for file in web.FILES.iterdir():
        text = file.read_text().replace("http://localhost:8000", "")
        assert "http://" not in text and "https://" not in text, file.name


def test_a_runtime_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--runtime .*are not in it"):
        web.write_runtime(tmp_path / "o", tmp_path)
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match="there is no npm to fetch it: install Node.js, or name .*--runtime"
    ):
        web.write_runtime(tmp_path / "o", None)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm ERR! network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(web.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match=r"can't fetch .*npm ERR! network"):
        web.write_runtime(tmp_path / "o", None)


# ------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def page(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page, in a folder with a space in its name below a host's root."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    root = tmp_path_factory.mktemp("host")
    try:  # of npm's own cache: nothing is fetched
        done = subprocess.run(
            ["npm", "pack", web.PACKAGE, "--offline", "--silent"], cwd=root, timeout=120
        )
    except FileNotFoundError:
        pytest.skip("no npm on this machine")
    if done.returncode:
        pytest.skip(f"{web.PACKAGE} is not in npm's cache")
    subprocess.run(["tar", "xzf", *(p.name for p in root.glob("*.tgz"))], cwd=root, check=True)
    made(classifier, root / "my site" / "page", root / "package")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/my%20site/page/"
    server.shutdown()


@pytest.fixture
def opened(browser: Any, page: str) -> Iterator[Any]:
    """The page, ready; at its end nothing but its own host was asked for anything."""
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    asked: list[str] = []
    faults: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page)
    tab.wait_for_selector("body[data-ready]", timeout=60_000)
    yield tab
    host = page.split("/my%20site")[0]
    assert not [url for url in asked if not url.startswith((host, f"blob:{host}", "data:,"))]
    assert not faults
    tab.close()


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG file that says this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def upload(tab: Any, *files: Path) -> None:
    tab.set_input_files("#files", [str(file) for file in files])


@pytest.mark.slow
def test_a_picture_and_a_csv(opened: Any, classifier: Classifier, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    upright = picture("green", 2, (90, 60))
    upright.save(tmp_path / "a.png")
    upright.save(tmp_path / "turned, by EXIF.jpg", exif=exif)
    Image.fromarray(np.dstack([upright, np.full((60, 90), 255, np.uint8)])).save(tmp_path / "b.png")
    upload(opened, tmp_path / "a.png")
    opened.wait_for_selector("#one:not([hidden])", timeout=30_000)
    (answer,) = classifier(tmp_path / "a.png")
    assert opened.inner_text("#verdict") == ("Unsure" if answer.unsure else answer.label)
    assert opened.inner_text("#bars li:first-child .name") == answer.label
    assert len(answer.could_be) > 1
    assert opened.inner_text("#could") == f"Could be: {', '.join(answer.could_be)}"
    paths = sorted(p for p in tmp_path.iterdir())
    upload(opened, *paths)
    opened.wait_for_selector('#status:text-is("Done.")', timeout=60_000, state="attached")
    with opened.expect_download() as download:
        opened.click("#download")
    text = Path(download.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == [path.name for path in paths]
    for row, wanted in zip(rows, classifier(paths), strict=True):
        found = {name: float(row[f"p({name})"]) for name in classifier.classes}
        assert found == pytest.approx(wanted.probabilities, abs=1e-4), row["path"]
        assert row["answer"] == wanted.said
        assert row["could_be"].split(" | ") == list(wanted.could_be)
    remarks = opened.locator("td .remark").all_inner_texts()
    several = [a for a in classifier(paths) if len(a.could_be) > 1]
    assert remarks == [f"could be: {', '.join(a.could_be)}" for a in several]


@pytest.mark.slow
def test_what_can_not_be_read_is_said_in_a_sentence(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "huge.png").write_bytes(png_of(50_000, 50_000))
    with open(tmp_path / "heavy.png", "wb") as file:
        file.truncate(200_000_000)
    sentences = {
        "text.jpg": "text.jpg is no picture that this browser can read.",
        "empty.png": "empty.png is empty.",
        "huge.png": "huge.png is 50,000 × 50,000 pixels: more than the 100 million",
        "heavy.png": "heavy.png is 200 MB: more than the 100 MB that are read here.",
    }
    for name, sentence in sentences.items():
        # 200 MB are more than the driver takes by itself: by their path, as a user's are.
        upload(opened, tmp_path / name)
        opened.wait_for_selector(f"#status.problem:has-text({json.dumps(name)})", timeout=30_000)
        assert sentence in opened.inner_text("#status")


@pytest.mark.slow
def test_without_a_network_it_goes_on_and_nothing_can_leave(opened: Any, tmp_path: Path) -> None:
    (worker,) = opened.workers
    for place in (opened, worker):
        went = "fetch('https://example.com/').then(() => 'went', (error) => error.name)"
        assert place.evaluate(went) == "TypeError"
    opened.context.set_offline(True)
    picture("red", 1).save(tmp_path / "a.png")
    upload(opened, tmp_path / "a.png")
    opened.wait_for_selector("#one:not([hidden])", timeout=30_000)
    opened.context.set_offline(False)


@pytest.mark.slow
def test_opened_as_a_file_it_says_what_to_type(
    browser: Any, classifier: Classifier, tmp_path: Path, no_runtime: Path
) -> None:
    folder = made(classifier, tmp_path / "page", no_runtime)
    tab = browser.new_page()
    tab.goto(f"file://{folder}/index.html")
    tab.wait_for_timeout(1000)
    assert "python3 -m http.server" in tab.inner_text("#status")
    assert tab.is_visible("#status") and not tab.is_visible("#choose")
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_goes_by_keyboard(opened: Any, width: int, tmp_path: Path) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.id") == "files"
    picture("red", 1).save(tmp_path / f"{'long' * 30}.png")
    picture("red", 2).save(tmp_path / "b.png")
    upload(opened, *sorted(tmp_path.iterdir()))
    opened.wait_for_selector('#status:text-is("Done.")', timeout=60_000, state="attached")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
