"""--push, against a local server that speaks as much of the hub's protocol as an upload takes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools.export.push import check_name, files_of, push
from utils import UserError


class Hub:
    """What was asked of the server: repositories that were made, and files by their place."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.status = 200
        self.address = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return {"url": f"{self.address}/me/bees"}
        if path == "/api/models/me/bees/preupload/main":
            asked = json.loads(body)["files"]
            known = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": file["path"], **known} for file in asked]}
        if path == "/api/models/me/bees/commit/main":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = content
            oid = "0" * 40
            return {"commitOid": oid, "commitUrl": f"{self.address}/me/bees/commit/{oid}"}
        return {"errors": [], "warnings": []}  # /api/validate-yaml


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            text = json.dumps(found.answer(self.path, body)).encode()
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield found
    server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "o/golden").mkdir(parents=True)
    (tmp_path / "o/README.md").write_text("---\npipeline_tag: image-classification\n---\n# bees\n")
    (tmp_path / "o/model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "o/golden/a.png").write_bytes(b"png")
    return tmp_path / "o"


def test_a_folder_goes_there_whole(hub: Hub, folder: Path) -> None:
    assert push(folder, "me/bees", public=False) == f"{hub.address}/me/bees"
    wanted = {name: (folder / name).read_bytes() for name, _ in files_of(folder)}
    assert hub.files == wanted
    (made,) = hub.made
    assert made["name"] == "bees" and made["organization"] == "me"
    assert made.get("private") or made.get("visibility") == "private"


def test_public_where_asked(hub: Hub, folder: Path) -> None:
    push(folder, "me/bees", public=True)
    assert not hub.made[0].get("private") and hub.made[0].get("visibility") != "private"


def test_a_refusal_is_one_sentence(hub: Hub, folder: Path) -> None:
    hub.status = 401
    with pytest.raises(UserError, match=r"me/bees could not be pushed .* run hf upload me/bees"):
        push(folder, "me/bees", public=False)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["bees", "me/", "/bees", "me/be es", "me/bees/too"])
def test_names(name: str) -> None:
    with pytest.raises(UserError, match="give owner/name"):
        check_name(name, "hf")
