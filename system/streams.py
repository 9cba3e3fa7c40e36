"""Standard output and error as they may be: closed, a full disk, a pipe that nobody reads any more,
a terminal that knows few letters; and the log's file on such a disk."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from system.filenames import shown


def any_streams(program: Callable[..., int]) -> Callable[..., int]:
    """A program that ends with a sentence and a status whatever its streams are like: 0 where the
    reader has seen enough, such as `head`, and 2 where what it says can't be written."""

    @functools.wraps(program)
    def run(*args: Any) -> int:
        _open_closed_ones()
        threading.excepthook = _thread_ended
        try:
            status = program(*args)
        except OSError as error:
            fault = _fault_of(sys.stdout)
            if fault is None and _fault_of(sys.stderr) is None and error.errno != errno.EPIPE:
                raise  # of another file
            status = _said(fault or error, error)
        if (fault := _fault_of(sys.stdout)) is not None:
            status = _said(fault, fault) or status
        if _fault_of(sys.stderr) is not None:
            silence(sys.stderr)
        return status

    return run


def _thread_ended(end: threading.ExceptHookArgs) -> None:
    """A line on a thread in the background that failed, TensorBoard's on a full disk, say; what
    waits for it fails with its own sentence."""
    if end.exc_type is not SystemExit:
        log = logging.getLogger("vit")
        log.debug("%s", "".join(traceback.format_exception(end.exc_value)))
        why = end.exc_value or end.exc_type
        log.warning("work in the background (%s) ended early: %s", _whose(end.exc_traceback), why)


def _whose(trace: TracebackType | None) -> str:
    """The package that a failed thread ran for: the first that is not Python's own threading."""
    frames = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace))
    found = (name.partition(".")[0] for name in frames)
    return next((name for name in found if name != "threading"), "unknown")


def silence(stream: TextIO | None) -> None:
    """Let all that goes to a stream go nowhere from now on, what it still holds too."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _open_closed_ones() -> None:
    """Files that are opened later must not take a stream's number: what is printed would be in
    them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
            setattr(sys, name, nowhere)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know a name's letters
            stream.reconfigure(errors=KNOWN_LETTERS)


def _in_known_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a stream's encoding lacks as escapes, and a name that the locale could not read, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    odd = shown(error.object[error.start : error.end])
    return odd.encode(error.encoding, "backslashreplace"), error.end


KNOWN_LETTERS = "vit.known_letters"
codecs.register_error(KNOWN_LETTERS, _in_known_letters)


def _fault_of(stream: TextIO) -> OSError | None:
    """Why a stream takes nothing; None where it does."""
    try:
        stream.flush()
        return None
    except OSError as error:
        return error
    except ValueError:  # closed meanwhile
        return None


def _said(fault: OSError, error: OSError) -> int:
    """The status of a program whose output failed, and a sentence on standard error."""
    if errno.EPIPE in (fault.errno, error.errno):
        silence(sys.stdout)
        return 0
    if _fault_of(sys.stdout) is not None:
        silence(sys.stdout)
        with contextlib.suppress(OSError):
            print(f"error: standard output can't be written: {fault.strerror}", file=sys.stderr)
    return 2


class LogFile(logging.FileHandler):
    """The log as a file; of a disk that takes no more, one line is said on the terminal."""

    full = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.full:
            self.full = True
            logging.getLogger(record.name).warning(
                "%s takes no more (%s)", self.baseFilename, error.strerror
            )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()
