"""Standard output and error of any kind: a status and a sentence, never a traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import utils
from tests.helpers import REPO

PROGRAM = """
import contextlib, os, sys
sys.path.insert(0, {repo!r})
from system.streams import any_streams

def program():
    with open("data", "w", encoding="utf-8") as file:
        print("größe 日本")
        with contextlib.suppress(OSError):
            os.write(1, b"from a library")
        {then}
        file.write("kept")
    return 0

sys.exit(any_streams(program)())
"""


def status(
    folder: Path, streams: str, then: str = "", **environment: str
) -> tuple[int, str, bytes]:
    """What a small program ends with, what it says on standard error, and what it has written."""
    code = PROGRAM.format(repo=str(REPO), then=then)
    (folder / "program.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} program.py {streams}"],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stderr, (folder / "data").read_bytes()


@pytest.mark.parametrize(
    ("streams", "ends", "says"),
    [
        (">/dev/full", 2, "error: standard output can't be written: No space left on device\n"),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("2>/dev/full >/dev/full", 2, ""),
    ],
)
def test_what_a_program_ends_with(tmp_path: Path, streams: str, ends: int, says: str) -> None:
    assert status(tmp_path, streams) == (ends, says, b"kept")


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    ends, says, _ = status(tmp_path, "| true", "sys.stdout.write('x' * 100_000)")
    assert (ends, says) == (0, "")
    assert status(tmp_path, "| true") == (0, "", b"kept")
    assert status(tmp_path, "| true", PYTHONUNBUFFERED="1")[:2] == (0, "")


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1", "cp1252"])
def test_letters_that_a_terminal_does_not_know(tmp_path: Path, encoding: str) -> None:
    assert status(tmp_path, "", PYTHONIOENCODING=encoding) == (0, "", b"kept")


def test_a_name_that_the_locale_can_not_read(tmp_path: Path) -> None:
    then = "print(os.fsdecode(b'\\xc3\\xb6 \\xff'), file=sys.stderr)"
    said = {
        status(tmp_path, "", then, PYTHONUTF8=mode, LC_ALL="C", PYTHONCOERCECLOCALE="0")[1]
        for mode in "01"
    }
    assert said == {"ö \\xff\n", "\\xf6 \\xff\n"}


def test_an_error_of_another_file_is_none_of_the_streams(tmp_path: Path) -> None:
    ends, says, _ = status(tmp_path, "", "raise OSError(5, 'broken disk')")
    assert ends == 1 and "broken disk" in says


def test_a_run_goes_on_when_its_terminal_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        utils.setup_log()
        utils.log_to(tmp_path / "run.log")
        for i in range(3):
            utils.log.info("epoch %d of größe", i)
        utils.end_log()
    said = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "epoch 2 of größe" in said
    assert "standard output takes no more (No space left on device); the log goes on" in said


def test_a_thread_that_fails_says_a_line(tmp_path: Path) -> None:
    """TensorBoard's own, of a disk that is full: it was a traceback at the end of a good run."""
    code = (
        "import threading\nfrom utils import command_line, setup_log\n"
        "def work():\n    raise OSError(28, 'No space left on device')\n"
        "def main():\n    setup_log()\n    thread = threading.Thread(target=work)\n"
        "    thread.start()\n    thread.join()\n    return 0\n"
        "raise SystemExit(command_line(main))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said
    said_of_it = "work in the background (__main__) ended early: [Errno 28] No space left on device"
    assert said_of_it in said
