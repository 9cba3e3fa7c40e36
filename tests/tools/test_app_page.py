"""tools.app in a real browser: what it answers, what it keeps, and that it asks nobody else."""

from __future__ import annotations

import csv
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from classifier import Classifier
from tests.helpers import COLOURS, REPO, pictures_of, small_run
from tests.tools.helpers import PREDICTED, write_rows

pytest.importorskip("gradio")
from tools.app.uploads import forget_old  # noqa: E402

# The program, with a line in a file for each place that it takes, connects to, or asks the name of.
WATCHED = """
import runpy, sys

def noted(event, arguments):
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo"):
        place = arguments if event == "socket.getaddrinfo" else arguments[1]
        with open(CONNECTED, "a") as file:
            print(place[0] if isinstance(place, tuple) else place, file=file)

sys.addaudithook(noted)
runpy.run_module("tools.app", run_name="__main__", alter_sys=True)
"""


@dataclass
class Served:
    """The program at work: its address, the folder of its run, what it writes below, and the places
    that it connected to."""

    url: str
    home: Path
    temporary: Path
    connected: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    small_run(home, pictures_of(home / "images"), "tiny", head="both")
    rows = [["val", f"{name}/0{i}.png", name, "red", 0.7, 0.2] for name in COLOURS for i in (1, 2)]
    write_rows(home / "logs/tiny/predictions.csv", PREDICTED, rows)
    (home / "temporary").mkdir()
    connected = home / "connected.txt"
    code = f"CONNECTED = {str(connected)!r}\n{WATCHED}"
    words = ["--checkpoint", "tiny", "--device", "cpu", "--unlike", "off", "--min-confidence", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(REPO), "TMPDIR": str(home / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    served = Served("", home, home / "temporary", connected, process)
    assert process.stdout is not None
    for line in process.stdout:
        served.said.append(line)
        if line.startswith("open http"):
            served.url = line.split()[1]
            break
    assert served.url, "".join(served.said)
    yield served
    process.kill()
    process.wait()


@dataclass
class Page:
    """A page that is open, and the hosts that it asked."""

    page: Any
    hosts: set[str]
    errors: list[str]

    def upload(self, *files: Path) -> str:
        """What stands in the answer's place, when a picture was answered."""
        before = self.page.inner_html(".answer")
        self.page.set_input_files("#picture input[type=file]", [str(f) for f in files])
        self.wait_for_another(before)
        return self.page.inner_text(".answer")

    def wait_for_another(self, before: str) -> None:
        changed = "before => document.querySelector('.answer').innerHTML !== before"
        self.page.wait_for_function(changed, arg=before)


def opened(browser: Any, url: str, width: int = 1440, scheme: str = "light") -> Page:
    """The page; the browser's own rule against other hosts is off, so that all are seen."""
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    found = Page(context.new_page(), set(), [])
    schemes = ("http", "https", "ws", "wss")
    found.page.on(
        "request",
        lambda request: (
            found.hosts.add(urlsplit(request.url).netloc)
            if urlsplit(request.url).scheme in schemes
            else None
        ),
    )
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.goto(url)
    found.page.wait_for_selector("#known .caption-label")
    return found


def test_what_it_says_at_the_start(app: Served) -> None:
    text = "".join(app.said)
    assert "by " in app.said[0] and "tiny" in app.said[0]
    assert f"curl --data-binary @picture.jpg {app.url}/answer" in text
    assert "6 examples, 4 mistakes" in text and "Ctrl-C ends it" in text


def test_a_picture_an_example_and_many(app: Served, browser: Any, tmp_path: Path) -> None:
    odd = tmp_path / "<b>a & ü.png"
    odd.write_bytes((app.home / "images/green/03.png").read_bytes())
    wanted = Classifier(app.home / "weights/tiny/best.safetensors", device="cpu")(odd)[0]
    view = opened(browser, app.url)
    page = view.page
    text = view.upload(odd)
    assert text.split()[0] == wanted.label and f"{100 * wanted.probability:.1f} %" in text
    assert "<b>a & ü.png" in text and page.locator(".answer b").count() == 0
    assert page.locator(".answer .bars li").count() == 3
    widths = page.eval_on_selector_all(".answer img", "images => images.map(i => i.naturalWidth)")
    assert widths == [50, 50]

    before = page.inner_html(".answer")
    page.locator("#known .thumbnail-item").nth(7).click()
    view.wait_for_another(before)
    assert "02.png" in page.inner_text(".answer")

    page.get_by_role("tab", name="Many").click()
    (tmp_path / "text.jpg").write_text("none")
    files = [app.home / f"images/{name}/04.png" for name in COLOURS] + [tmp_path / "text.jpg"]
    page.set_input_files("input[type=file][multiple]", [str(file) for file in files])
    page.wait_for_selector(".many")
    assert "4 pictures: " in page.inner_text(".many") and "1 can't be read" in page.inner_text(
        ".many"
    )
    with page.expect_download() as download:
        page.get_by_text("Download all as CSV").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["path", "answer", "label", "probability", "unlike", "could_be", "problem"]
    assert list(rows[0]) == columns and rows[3]["problem"] == "not an image"
    again = Classifier(app.home / "weights/tiny/best.safetensors", device="cpu", unlike=None)
    assert [row["label"] for row in rows[:3]] == [one.label for one in again(files[:3])]

    assert view.hosts == {urlsplit(app.url).netloc} and not view.errors
    originals = {file.read_bytes() for file in (odd, *files)}
    kept = [file for file in app.temporary.rglob("*") if file.is_file()]
    assert not [file for file in kept if file.read_bytes() in originals], "an upload is kept"


def huge_png(path: Path, side: int) -> Path:
    """A PNG that says that it is so large."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    with open(path, "ab") as file:
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
            crc = zlib.crc32(kind + data)
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc))
    return path


def test_bad_files_are_a_sentence_each(app: Served, browser: Any, tmp_path: Path) -> None:
    view = opened(browser, app.url)
    (tmp_path / "text.jpg").write_text("I am text")
    assert view.upload(tmp_path / "text.jpg") == "text.jpg can't be read: not an image."
    assert view.upload(huge_png(tmp_path / "huge.png", 50_000)) == (
        "huge.png can't be read: 50,000 x 50,000 are 2,500,000,000 pixels, more than 200,000,000."
    )
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(200_000_000)
    view.page.set_input_files("#picture input[type=file]", str(tmp_path / "large.jpg"))
    toast = view.page.get_by_text("exceed the maximum allowed size of 50")
    toast.wait_for()
    assert "large.jpg" in toast.inner_text()
    assert view.upload(app.home / "images/red/05.png"), "the next one is answered"
    assert view.hosts == {urlsplit(app.url).netloc}


@pytest.mark.parametrize("width", [390, 1440])
def test_light_and_dark_at_any_width(app: Served, browser: Any, width: int) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        view = opened(browser, app.url, width, scheme)
        view.upload(app.home / "images/red/03.png")
        for tab in ("One picture", "Many", "About"):
            view.page.get_by_role("tab", name=tab).click()
            assert view.page.evaluate("document.documentElement.scrollWidth") <= width
        look = "getComputedStyle(document.body).backgroundColor"
        grounds.append(view.page.evaluate(look))
    light, dark = (sum(map(int, ground[4:-1].split(","))) for ground in grounds)
    assert light > 600 and dark < 150


def test_the_endpoint(app: Served) -> None:
    path = app.home / "images/blue/04.png"
    answer = requests.post(f"{app.url}/answer", data=path.read_bytes(), timeout=60)
    assert answer.status_code == 200
    found = answer.json()
    network = Classifier(
        app.home / "weights/tiny/best.safetensors", device="cpu", unlike=None, min_confidence=0
    )
    wanted = network(path)[0]
    assert found["answer"] == found["label"] == wanted.label
    assert found["probability"] == pytest.approx(wanted.probability, abs=1e-5)
    assert found["could_be"] == list(wanted.could_be)
    given = {one["label"]: one["probability"] for one in found["top"]}
    assert given == pytest.approx(wanted.probabilities, abs=1e-5)
    assert set(found) == {
        "answer", "label", "probability", "unlike", "could_be", "top", "meaning"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"text", 400, "the picture can't be read: not an image"),
        (b"", 400, "send a picture's file as the body: curl --data-binary @FILE"),
        (bytes(51 << 20), 413, "a picture may have 50 MB; this has more"),
    ],
)
def test_what_the_endpoint_can_t_answer(
    app: Served, body: bytes, status: int, sentence: str
) -> None:
    answer = requests.post(f"{app.url}/answer", data=body, timeout=60)
    assert answer.status_code == status and answer.json() == {"problem": sentence}


def test_the_page_is_for_this_machine(app: Served) -> None:
    """Also under another host's name, by which another page in the browser could read it."""
    policy = requests.get(app.url, timeout=60).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    other = requests.get(app.url, headers={"Host": "example.org"}, timeout=60)
    assert other.status_code == 400 and "gradio" not in other.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_no_other_page_can_fill_the_disk(app: Served, headers: Any, status: int) -> None:
    sent = {"files": ("a.png", b"something", "image/png")}
    where = f"{app.url}/gradio_api/upload"
    answer = requests.post(where, files=sent, headers=headers, timeout=60)
    assert answer.status_code == status


def test_what_nobody_asked_about_goes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, age in (("a/old.png", 4_000), ("a/new.png", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    forget_old(tmp_path)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["new.png"]


@pytest.mark.parametrize("many", [False, True])
def test_a_request_can_t_name_a_file_of_this_machine_or_an_address(
    app: Served, tmp_path: Path, many: bool
) -> None:
    """A mounted Gradio copies the one, and fetches the other."""
    mine = [app.home / "images/red/06.png", tmp_path / "a.png"]
    mine[1].write_bytes(mine[0].read_bytes())
    functions = requests.get(f"{app.url}/config", timeout=60).json()["dependencies"]
    uploads = [one["id"] for one in functions if one["api_name"].startswith("uploaded")]
    for place in (*map(str, mine), f"{app.url}/theme.css", "http://example.invalid/a.png"):
        file = {"path": place, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        data = [[file] if many else file]
        asked = {"fn_index": uploads[many], "session_hash": place, "data": data}
        queue = f"{app.url}/gradio_api/queue"
        assert requests.post(f"{queue}/join", json=asked, timeout=60).ok
        said = requests.get(f"{queue}/data", {"session_hash": place}, timeout=60).text
        assert "that is no upload" in said and "headline" not in said
    assert mine[0].exists() and mine[1].exists()
    assert mine[0].read_bytes() not in [f.read_bytes() for f in app.temporary.rglob("a.png")]


@pytest.mark.parametrize("place", ["images/red/06.png", "logs/tiny/summary.json"])
def test_the_server_hands_out_no_file_of_its_folder(app: Served, place: str) -> None:
    for name in (place, app.home / place):
        assert requests.get(f"{app.url}/gradio_api/file={name}", timeout=60).status_code == 403


def test_ctrl_c_ends_it_with_a_line_and_leaves_nothing(app: Served) -> None:
    """The last of this file: it ends what the others use."""
    app.process.send_signal(signal.SIGINT)
    rest, _ = app.process.communicate(timeout=60)
    assert (app.process.returncode, rest.strip()) == (130, "stopped")
    assert not list(app.temporary.glob("vit-app-*"))
    assert not list((REPO / "tools/app").glob("*.pyi")), "Gradio writes one beside a subclass"
    places = set(app.connected.read_text().split())
    assert "127.0.0.1" in places and places <= {"127.0.0.1", "::1"}, "it asked another machine"
