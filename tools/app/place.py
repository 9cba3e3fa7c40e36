"""Where the page is: a host and a port of this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket

from utils import UserError

PORT = 7860  # Gradio's own
TRIED = 100  # ports from there on


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens at a port, or where none is asked for at the first free one from PORT
    on. Raises UserError where that can't be had, naming one that can."""
    if port is None:
        return _first_free(host, PORT)
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            with _first_free(host, port + 1) as free:
                other = free.getsockname()[1]
            raise UserError(f"port {port} is in use; {other} is free: --port {other}") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is the system's; take one from 1024 on") from None
        raise


def _first_free(host: str, first: int) -> socket.socket:
    for port in range(first, min(first + TRIED, 65536)):
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise UserError(f"no port from {first} on is free: give --port another")


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: no such host; 127.0.0.1 is this machine") from None
    found = socket.socket(family, kind)
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # not on Windows, where it would share a used port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--host {host} is no address of this machine; 0.0.0.0 is all of them"
            ) from None
        raise
    return found


def is_own(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(place: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = place.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
