"""The audit's page on this machine alone: decisions are kept at once, and a training can be begun.

Whatever a browser can reach, other pages in it can, too: so each request needs a token that only
the address on the terminal has, a Host that is this machine (against DNS rebinding), and posts are
small JSON.
"""

from __future__ import annotations

import hmac
import json
import secrets
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from config import ConfigError
from layout.decisions import RELABEL, Decision, fault_of, write_decisions
from system.filenames import shown
from tools.audit.about import DECISIONS, PAGE, held, is_there, read_about, read_own
from tools.audit.again import Training
from utils import UserError

HOST = "127.0.0.1"
LARGEST = 64 << 10  # bytes of a post
WAIT = 30  # seconds for a client that sends nothing
SLOT = '<meta name="audit-server" content="">'  # where the page finds its token


class Refused(Exception):
    """A request that is not answered, with its status."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Desk:
    """An audit's folder, at which somebody decides."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, read_about(folder)
        self.page = folder / PAGE
        if not self.page.is_file():
            raise UserError(f"{self.page} is not there; audit again")
        self.file = folder / DECISIONS
        self.decisions = read_own(folder)
        self.training = Training(folder, self.about)
        self.lock = threading.Lock()

    def decide(self, path: str, decision: str | None, label: str) -> None:
        """Keep a decision, or take it back where it is None; decisions.csv has it at once."""
        wanted = None if decision is None else Decision(decision, label)
        if wanted is not None:
            if not _is_text(path + label):
                raise Refused(HTTPStatus.BAD_REQUEST, "that is no text")
            if fault := fault_of(path, wanted):
                raise Refused(HTTPStatus.BAD_REQUEST, fault)
            if wanted.what == RELABEL and label not in self.about.classes:
                raise Refused(HTTPStatus.BAD_REQUEST, f"'{label}' is no class of this audit")
            if not is_there(self.about.root, path):
                raise Refused(HTTPStatus.BAD_REQUEST, f"{path} is not in {self.about.root}")
        with self.lock:
            others = {p: d for p, d in self.decisions.items() if p != path}
            changed = others if wanted is None else others | {path: wanted}
            write_decisions(self.file, changed)
            self.decisions = changed

    def listed(self) -> list[tuple[str, dict[str, str]]]:
        return [(p, {"decision": d.what, "label": d.label}) for p, d in self.decisions.items()]

    def train(self) -> None:
        with self.lock:
            self.training.start(self.decisions)

    def status(self) -> dict[str, Any]:
        with self.lock:
            return self.training.status()


def _is_text(value: str) -> bool:
    """Whether it can be written down: JSON can hold halves of letters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Server(ThreadingHTTPServer):
    """Answers for one desk, under a token."""

    daemon_threads = True

    def __init__(self, desk: Desk, port: int = 0) -> None:
        self.desk, self.token = desk, secrets.token_urlsafe(24)
        super().__init__((HOST, port), Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle of a request is none of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/?token={self.token}"


class Answer(BaseHTTPRequestHandler):
    server: Server
    timeout = WAIT
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "audit", ""

    def do_GET(self) -> None:
        self._answer({"/": self._page, "/decisions": self._decisions, "/status": self._status})

    def do_POST(self) -> None:
        self._answer({"/decide": self._decide, "/train": self._train})

    def _answer(self, ways: dict[str, Any]) -> None:
        try:
            url = self._url()
            self._see_that_it_is_ours(url.path, parse_qs(url.query))
            way = ways.get(url.path)
            if way is None:
                raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
            way()
        except Refused as refused:
            self._send_json({"error": str(refused)}, refused.status)
        except ConnectionError:
            raise  # who asked has gone; `handle_error` says nothing of it
        except (UserError, ConfigError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            self._send_json({"error": shown(str(said))}, HTTPStatus.CONFLICT)

    def _url(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "that is no address") from None

    def _see_that_it_is_ours(self, path: str, query: dict[str, list[str]]) -> None:
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            raise Refused(HTTPStatus.FORBIDDEN, "this is not the address that the terminal shows")
        origin = self.headers.get("Origin")
        if origin not in (None, f"http://{HOST}:{port}", f"http://localhost:{port}"):
            raise Refused(HTTPStatus.FORBIDDEN, "another page may not ask")
        given = self.headers.get("X-Audit-Token", "")
        if path == "/" and self.command == "GET":
            given = query.get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "open the whole address that the terminal shows")

    def _body(self) -> dict[str, Any]:
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        length = self.headers.get("Content-Length", "")
        if kind != "application/json" or not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.BAD_REQUEST, "a post is JSON, and says how long it is")
        if int(length) > LARGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST} bytes")
        try:
            found = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "a post is a JSON object")
        return found

    def _page(self) -> None:
        page = self.server.desk.page.read_text(encoding="utf-8")
        own = SLOT.replace('""', f'"{self.server.token}"')
        self._send(page.replace(SLOT, own, 1).encode(), "text/html; charset=utf-8")

    def _decisions(self) -> None:
        self._send_json({"decisions": self.server.desk.listed()})

    def _status(self) -> None:
        self._send_json(self.server.desk.status())

    def _decide(self) -> None:
        body = self._body()
        path, decision, label = (body.get(name) for name in ("path", "decision", "label"))
        if not (isinstance(path, str) and isinstance(label, str)):
            raise Refused(HTTPStatus.BAD_REQUEST, "a decision has a path, a decision and a label")
        if not (decision is None or isinstance(decision, str)):
            raise Refused(HTTPStatus.BAD_REQUEST, "the decision is a text, or null to take it back")
        self.server.desk.decide(path, decision, label)
        self._send_json({"decided": len(self.server.desk.decisions)})

    def _train(self) -> None:
        self._body()
        self.server.desk.train()
        self._send_json({"begun": True})

    def _send_json(self, values: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(values).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        if status != HTTPStatus.OK:
            self.close_connection = True  # what it still sends is not read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal has the address, and should keep it in sight."""


def serve(folder: Path, port: int = 0) -> None:
    """Serve an audit's page on 127.0.0.1 until Ctrl-C, which ends a training that runs, too.

    `port` 0 is any that is free. Raises UserError where there is no audit, another
    serves it, or the port is taken.
    """
    read_about(folder)  # what is no audit's folder gets no lock
    with held(folder):
        _serve(Desk(folder), port)


def _serve(desk: Desk, port: int) -> None:
    try:
        server = Server(desk, port)
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port} can't be had ({error}); name another, --port N") from None
    print(f"the audit: {server.address}\ndecisions: {desk.file}\nCtrl-C ends it", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a training must not outlive this
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
        if stopped := desk.training.stop():
            print(stopped)
        print(f"{len(desk.decisions)} decided: {desk.file}")
