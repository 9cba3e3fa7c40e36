"""Signals that end a program: each is heard once, none breaks what must not be broken."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from system.stopping import ENDING, pool_worker, quiet_worker, stopping, unbroken
from tests.helpers import REPO
from utils import command_line


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    """Whatever the tests were started from: under nohup, and behind a &, some are ignored."""
    given = {number: signal.getsignal(number) for number in ENDING}
    for number, how in given.items():
        if how is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    after = {number: signal.getsignal(number) for number in ENDING}
    for number, how in given.items():
        signal.signal(number, how)
    assert after == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_each_signal_stops_a_program_with_its_status_and_its_sentence(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        try:
            send(number)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped with 3 epochs done") from None
        return 0

    assert command_line(main) == status
    assert capsys.readouterr().err == "\nstopped with 3 epochs done\n"


def test_a_second_signal_while_the_first_is_obeyed_changes_nothing() -> None:
    done = []

    def main() -> int:
        try:
            send(signal.SIGTERM)
        finally:
            for number in ENDING:
                send(number)
            done.append("saved")
        return 0

    assert command_line(main) == 143 and done == ["saved"]


def test_some_time_later_it_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("system.stopping.PATIENCE", 0.0)
    with stopping():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGTERM)


def test_what_comes_in_an_object_s_last_rites_is_heard_after_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Bar:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    def main() -> int:
        bar = Bar()
        del bar  # which swallows what is raised in it
        time.sleep(5)
        return 0

    assert command_line(main) == 143
    assert "ignored" not in capsys.readouterr().err


@pytest.mark.parametrize("number", ENDING)
def test_unbroken_puts_each_off_to_the_end(number: int) -> None:
    steps = []
    with stopping(), pytest.raises(KeyboardInterrupt):
        with unbroken():
            with unbroken():
                send(number)
                steps.append("inner")
            steps.append("outer")
        steps.append("never")
    assert steps == ["inner", "outer"]


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stopping(), unbroken():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def child(code: str, number: int) -> tuple[int, str]:
    """The exit status and the errors of a process that gets a signal when it says ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors.decode()


def test_without_a_program_around_it_unbroken_still_ends_by_sigterm() -> None:
    code = "import time; from system.stopping import unbroken\n"
    code += "with unbroken():\n print('ready', flush=True); time.sleep(0.3)\n"
    code += "print('never', flush=True); time.sleep(9)"
    assert child(code, signal.SIGTERM) == (-signal.SIGTERM, "")


def test_a_process_that_was_forked_off_dies_of_it_in_silence() -> None:
    code = "import os, time; from system.stopping import stopping\n"
    code += "with stopping():\n if os.fork() == 0:\n  print('ready', flush=True); time.sleep(9)\n"
    code += " os._exit(os.waitstatus_to_exitcode(os.wait()[1]) + 100)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPO,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    inner = int(subprocess.check_output(["ps", "--ppid", str(process.pid), "-o", "pid="]))
    os.kill(inner, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (100 - signal.SIGTERM, b"")


@pytest.mark.parametrize("number", ENDING)
def test_a_loader_s_process_leaves_the_answer_to_the_first(number: int) -> None:
    code = f"import time; from system.stopping import {quiet_worker.__name__} as quiet\n"
    code += "quiet(0); print('ready', flush=True); time.sleep(0.5)"
    assert child(code, number) == (0, "")


def test_a_signal_while_the_program_is_imported_is_one_word() -> None:
    code = (
        "import os, signal; from system import stopping\n"
        "stopping.while_importing()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('not reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (143, "", "stopped")


@pytest.mark.parametrize("program", ["training.py", "test.py"])
def test_the_programs_hear_signals_before_they_import_pytorch(program: str) -> None:
    tree = ast.parse((REPO / program).read_text(encoding="utf-8"))
    first = [node for node in tree.body if not isinstance(node, (ast.Expr, ast.ImportFrom))][0]
    assert "stopping.while_importing()" in ast.unparse(first)


@pytest.mark.parametrize("program", ["tools.cache", "tools.predict", "benchmarks.cost"])
def test_what_is_started_by_its_module_does_so_too(program: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nos.kill(os.getpid(), 2)\nimport nothing")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", program, "--help"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped\n")


def test_importing_a_package_of_programs_changes_no_signal() -> None:
    code = "import signal; before = signal.getsignal(2); import tools, benchmarks\n"
    code += "assert signal.getsignal(2) == before"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


class Told:
    """A lock whose taker gets a signal between two of Python's steps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acquire, self.release = self.lock.acquire, self.lock.release
        self.tell: Any = lambda frame: None

    def __enter__(self) -> bool:
        found = self.lock.__enter__()
        self.tell(sys._getframe(1))
        return found

    def __exit__(self, *reason: Any) -> None:
        self.lock.__exit__(*reason)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="it can't be sent again")
def test_a_signal_leaves_no_lock_taken() -> None:
    """`tools.predict` hung for ever at one Ctrl-C in some thousand: its pool's threads waited for a
    lock that had been taken, and was not yet given."""
    told: Any = Told()
    condition = threading.Condition(told)
    with stopping() as found:
        told.tell = lambda frame: found(signal.SIGINT, frame)
        with pytest.raises(KeyboardInterrupt), condition:
            told.tell = lambda frame: None
            time.sleep(10)
    assert found.status == 130 and told.lock.acquire(blocking=False)


def test_a_signal_is_not_put_off_for_ever() -> None:
    """As where a lock is not to be had."""
    told: Any = Told()
    condition = threading.Condition(told)
    with stopping() as found:
        found.asked = time.monotonic() - 2
        told.tell = lambda frame: found(signal.SIGINT, frame)
        with pytest.raises(KeyboardInterrupt):
            condition.__enter__()
    assert told.lock.locked()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked off on Linux alone")
def test_a_pool_can_end_its_processes() -> None:
    """By the system: Python's handler for SIGTERM is not called in one that waits for work, where
    the signal came right before it waited."""
    with stopping(), multiprocessing.get_context("fork").Pool(1, pool_worker) as pool:
        found = [pool.apply(signal.getsignal, (number,)) for number in ENDING]
    ignored, ends = signal.SIG_IGN, signal.SIG_DFL
    assert found == [ends if number == signal.SIGTERM else ignored for number in ENDING]
