"""Signals that end a program, Ctrl-C, SIGTERM and SIGHUP alike, and work that none may break."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import _base, thread
from types import FrameType
from typing import Any

# docker stop, SLURM, systemd and a shutdown send SIGTERM; a terminal that is closed SIGHUP.
ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
PATIENCE = 10  # seconds in which a second signal changes nothing: the first is being obeyed


MOST_PUT_OFF = 1  # seconds: a frame may be stuck in the midst of taking a lock


class Stopping:
    """What a program does on such a signal: it raises KeyboardInterrupt, once; `status` is then the
    program's exit status, 130, 143 or 129."""

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self.since = self.asked = -float("inf")
        self.process = os.getpid()

    @property
    def status(self) -> int:
        return 128 + self.number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process and number != signal.SIGINT:  # a child that was forked off
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now < self.since + PATIENCE:
            return
        if now > self.asked + PATIENCE:
            self.asked = now
        if now < self.asked + MOST_PUT_OFF and _takes_a_lock(frame):
            _thread.start_new_thread(_send_again, (number,))
            return
        self.number, self.since = number, now
        raise KeyboardInterrupt

    def not_raised(self, what: Any) -> None:
        """`sys.unraisablehook`: an object's last rites swallow what is raised in them; again, then,
        when they are over."""
        if what.exc_type is not KeyboardInterrupt or os.getpid() != self.process:
            sys.__unraisablehook__(what)
            return
        self.since = -float("inf")
        threading.Timer(0.01, os.kill, (self.process, self.number)).start()


# Python's own locks are taken in several steps: an exception between two of them leaves one locked,
# and a pool's threads wait for it for ever. A wait itself may be broken.
LOCKS = {module.__file__ for module in (threading, queue, logging, _base, thread)}
WAITS = {"wait", "_wait_for_tstate_lock", "join", "_shutdown", "emit", "flush", "write"}


def _takes_a_lock(frame: FrameType | None) -> bool:
    """Whether a signal came in the midst of that, and can be sent again."""
    if frame is None or not hasattr(signal, "pthread_kill"):
        return False
    return frame.f_code.co_filename in LOCKS and frame.f_code.co_name not in WAITS


def _send_again(number: int) -> None:
    time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def while_importing() -> None:
    """Let the signals that end a program end it at once, with one word: nothing is begun yet."""
    for number in _heard():
        signal.signal(number, _end)


def while_found() -> None:
    """The same from the first line of a package, where one of its modules is started by `python -m`
    (which calls the program so until it has found the module); nothing where it is imported."""
    if sys.argv[:1] == ["-m"]:
        while_importing()


def _end(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first speaks
        print("\nstopped", file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """Let the signals that end a program raise KeyboardInterrupt in the block; one that is ignored,
    as SIGHUP is under nohup, stays so."""
    found = Stopping()
    before = _heard()
    for number in before:
        signal.signal(number, found)
    hook, sys.unraisablehook = sys.unraisablehook, found.not_raised
    try:
        yield found
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Put the signals that end a program off to the end of the block."""
    came: list[int] = []
    before = _heard()
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came[:1]:
        handler = before[number]
        if callable(handler):
            handler(number, None)
        else:
            os.kill(os.getpid(), number)


def _heard() -> dict[int, signal._HANDLER]:
    """What is done on each of the signals that is not ignored; nothing beside the main thread,
    where they never arrive."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in ENDING}
    return {n: how for n, how in handlers.items() if how not in (None, signal.SIG_IGN)}


def quiet_worker(number: int) -> None:
    """For a loader's process number so and so: as a pool's, but that it leaves a second after the
    first process has ended it, or when that one has gone."""
    pool_worker()
    signal.signal(signal.SIGTERM, _leave)


def pool_worker() -> None:
    """For a pool's process: what is sent to all of a program is for the first to obey; SIGTERM
    ends this one, by the system's own hand. A handler in Python runs between two of its steps, so
    one that came right before a wait would not be heard, and the pool waits for ever for its end.
    """
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    time.sleep(1)  # the first process is to hear its own signal before PyTorch misses this one
    os._exit(0)
