"""The server: the page, and an endpoint that answers in JSON.

Every answer tells the browser to ask no other machine for anything (Content-Security-Policy); a
page on this machine alone is not served under another host's name, so that no other page that is
open in the browser can read it (DNS rebinding), and what another page sends is not taken: its
uploads would fill the disk.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from answers import record
from tools.app.answering import MOST_BYTES, Answering
from tools.app.known import Known
from tools.app.page import STYLE, THEME, page
from tools.app.uploads import forget_old

OWN = ["127.0.0.1", "localhost", "[::1]"]
# Gradio's page compiles its own parts, and shows pictures that it holds.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'"
)


def served(answering: Answering, known: Known, folder: Path, url: str, own: bool) -> FastAPI:
    """The application; uploads pass through `folder`, and with `own` only this machine is asked
    for it by name."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Policy)
    app.add_middleware(OwnPages, folder=folder)
    if own:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=OWN)

    @app.post("/answer")
    async def answer(request: Request) -> JSONResponse:
        content = await body_of(request)
        if content is None:
            return problem(413, f"a picture may have {MOST_BYTES >> 20} MB; this has more")
        if not content:
            return problem(400, "send a picture's file as the body: curl --data-binary @FILE")
        path = folder / secrets.token_hex(16)
        return await run_in_threadpool(answered, answering, content, path)

    return gr.mount_gradio_app(
        app,
        page(answering, known, folder, url),
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        theme=THEME,
        css=STYLE,
    )


async def body_of(request: Request) -> bytes | None:
    """A request's body; None where it has more than MOST_BYTES, of which the rest is not read."""
    content = bytearray()
    async for block in request.stream():
        content += block
        if len(content) > MOST_BYTES:
            return None
    return bytes(content)


def answered(answering: Answering, content: bytes, path: Path) -> JSONResponse:
    """The answer to a picture's file, which is at `path` meanwhile."""
    try:
        path.write_bytes(content)
        told = answering.one(path, "", looks=False)
    finally:
        path.unlink(missing_ok=True)
    if told.said is None:
        return problem(400, f"the picture can't be read: {told.row.problem}")
    found = record(told.row, truth=False, cells=False)
    del found["path"], found["problem"]
    return JSONResponse(found | {"meaning": told.said.meaning})


def problem(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"problem": sentence}, status)


class Policy:
    """Puts POLICY on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


class OwnPages:
    """Takes what this page sends, and what no page does, such as curl; uploads that nobody asked
    about any more go when another comes."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            if is_of_another(Headers(scope=scope)):
                refused = problem(403, "another page may not send anything")
                await refused(scope, receive, send)
                return
            if scope["path"].endswith("/upload"):
                await run_in_threadpool(forget_old, self.folder)
        await self.app(scope, receive, send)


def is_of_another(headers: Headers) -> bool:
    """Whether another page sends it, by what browsers say of that; older ones by its origin."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("cross-site", "same-site")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


class Server(uvicorn.Server):
    """One that says when it was asked to end: work under way would be waited for."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end()
        super().handle_exit(sig, frame)


def serve(app: FastAPI, place: socket.socket, end: Callable[[], None]) -> None:
    """Serve until Ctrl-C, when `end` is called and open connections have a second."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    Server(config, end).run(sockets=[place])
