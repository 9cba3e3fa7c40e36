"""A local server of files that breaks off, resumes, refuses and lies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from filing import fetching


class Server:
    """Files by path, and how to misbehave; `asked` remembers each request's path and range."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.break_after: list[int] = []
        self.ranges = True
        self.tags = self.heeds = True
        self.asked: list[tuple[str, str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                owner.answer(self, body=False)

            def do_GET(self) -> None:
                owner.answer(self, body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.lstrip("/")
        wanted = request.headers.get("Range")
        tag = f'"{hashlib.sha256(self.files.get(path, b"")).hexdigest()}"'
        if self.heeds and request.headers.get("If-Range", tag) != tag:
            wanted = None
        if body:
            self.asked.append((path, wanted))
        content = self.files.get(path)
        if content is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(wanted.split("=")[1].split("-")[0]) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if wanted and self.ranges else 200)
        request.send_header("Content-Length", str(len(content) - start))
        if self.tags:
            request.send_header("ETag", tag)
        request.send_header("X-Repo-Commit", "0" * 40)
        if wanted and self.ranges:
            last = len(content) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        request.end_headers()
        if body:
            end = start + self.break_after.pop(0) if self.break_after else len(content)
            request.wfile.write(content[start:end])
            request.close_connection = True


def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One that is there while a test runs; tries are few, and nothing is waited for."""
    monkeypatch.setattr(fetching, "DOWNLOAD_TRIES", 3)
    monkeypatch.setattr(fetching, "DOWNLOAD_TIMEOUT_S", 5)
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
