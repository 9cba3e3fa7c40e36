"""A board on this machine that speaks the API, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

API = "/index.php"
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


def scene(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture that is like no other: large blots of colour."""
    blots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, {"jpg": "jpeg"}.get(kind, kind), **options)
    return content.getvalue()


def send(
    request: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(content)


def status(code: int, **headers: str) -> Fault:
    return lambda request, content: send(request, b"no", code, **headers)


def says(text: str | bytes) -> Fault:
    body = text.encode() if isinstance(text, str) else text
    return lambda request, content: send(request, body)


def to(url: str) -> Fault:
    return status(302, Location=url)


def cut(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Break off in the middle of what was announced."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[: len(content) // 2])
    request.wfile.flush()
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


def stall(request: BaseHTTPRequestHandler, content: bytes) -> None:
    time.sleep(0.6)
    request.close_connection = True


def halved(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """A whole answer with half of a file, as a disk that was full keeps it."""
    send(request, content[: len(content) // 2])


HTML = says("<!DOCTYPE html><html><body>checking your browser</body></html>")


class FakeBoard:
    """Posts, the newest first, and files by path. `faults` are used up one by one, by path; the
    last of `always` never. `asked` has each request's path and search."""

    def __init__(self, page: int = 4, most_pid: int = 0) -> None:
        self.page, self.most_pid = page, most_pid
        self.posts: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.asked: list[tuple[str, str]] = []
        self.agents: set[str | None] = set()
        self.key: dict[str, str] = {}
        self.deaf = False  # to all tags, and all posts on one page
        self.searches: list[dict[str, str]] = []
        self.delay_s = 0.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # killed while it listened
                    owner.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def add(
        self,
        id: int,
        *tags: str,
        image: Image.Image | None = None,
        content: bytes | None = None,
        kind: str = "png",
        **keys: Any,
    ) -> str:
        """Put up a post of a class's tags; the path of its file."""
        if content is None:
            content = encoded(scene(id) if image is None else image, kind)
        name, width, height = f"{id:040x}.{kind}", *(image or scene(id)).size
        post = {"directory": 4000 + id, "hash": hashlib.md5(content).hexdigest(), "id": id}
        post |= {"image": name, "width": width, "height": height, "rating": "general"}
        post |= {"tags": " ".join((*tags, "solo", "1girl")), "sample": False, "source": "", **keys}
        self.posts = sorted([*self.posts, post], key=lambda p: -p["id"])
        path = f"/images/{post['directory']}/{post['image']}"
        self.files[path] = content
        return path

    def files_asked(self) -> list[str]:
        return [path for path, _ in self.asked if path != API]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append((parts.path, query.get("tags", "")))
        self.agents.add(request.headers.get("User-Agent"))
        time.sleep(self.delay_s)
        content = self.files.get(parts.path, b"")
        if parts.path == API:
            content = self.found(query)
        if waiting := self.faults.get(parts.path):
            waiting.pop(0)(request, content)
        elif fault := self.always.get(parts.path):
            fault(request, content)
        elif parts.path == API or parts.path in self.files:
            send(request, content)
        else:
            send(request, b"<h1>Not Found</h1>", 404)

    def found(self, query: dict[str, str]) -> bytes:
        """The posts of a search, as the software answers: an empty body where there are none."""
        self.searches.append(query)
        if self.deaf:
            return b"" if "id:<" in query["tags"] else json.dumps(self.posts).encode()
        if query.get("page") != "dapi" or query.get("json") != "1":
            return b"<html>a page for people</html>"
        if any(query.get(name) != value for name, value in self.key.items()):
            return b'"Missing authentication. Go to the board for more information"'
        if int(query["pid"]) > self.most_pid:
            return b'{"success":"false","message":"Too deep!"}'
        words = query["tags"].split()
        below = min((int(w[4:]) for w in words if w.startswith("id:<")), default=1 << 60)
        want = {w for w in words if w[0] != "-" and not w.startswith("id:<")}
        refused = {w[1:] for w in words if w[0] == "-"}
        hits = [
            post
            for post in self.posts
            if want <= (tags := {*str(post.get("tags", "")).split()}) and not refused & tags
            if post["id"] < below
        ]
        size = min(self.page, int(query["limit"]))
        start = int(query["pid"]) * size
        hits = hits[start : start + size]
        return json.dumps(hits).encode() if hits else b""

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
