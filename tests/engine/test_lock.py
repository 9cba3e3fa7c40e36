"""One run, one process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import lock as locks
from engine.lock import LOCK, Holder, Lock, Taken
from engine.run import Run
from tests.helpers import REPO, fail, train
from utils import UserError

HOLDS = "import sys, time; from pathlib import Path; from engine.lock import Lock\n"
HOLDS += "lock = Lock(Path(sys.argv[1])); lock.take(); print('held', flush=True); time.sleep(60)"


def no_system_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)


@pytest.mark.parametrize("by_system", [True, False])
def test_the_second_is_told_who_holds_it(
    tmp_path: Path, by_system: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_system:
        no_system_locks(monkeypatch)
    first, second = Lock(tmp_path / "a" / "run"), Lock(tmp_path / "a" / "run")
    first.take()
    with pytest.raises(Taken) as caught:
        second.take()
    said = str(caught.value)
    assert f"host {socket.gethostname()}, pid {os.getpid()}, since 20" in said
    assert f"kill {os.getpid()}" in said
    assert ("if that process is gone, remove" in said) is not by_system
    second.release()
    assert (tmp_path / "a" / "run" / LOCK).exists(), "what one has refused, the other keeps"
    first.release()
    assert not (tmp_path / "a").exists(), "where nothing was written, nothing is left"
    second.take()
    second.release()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    lock = Lock(tmp_path)
    with pytest.raises(Taken, match=f"pid {process.pid}, since"):
        lock.take()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / LOCK).exists()
    lock.take()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_child_does_not_keep_it(tmp_path: Path) -> None:
    """A DataLoader's worker lives on for some seconds when its parent is killed."""
    lock = Lock(tmp_path)
    lock.take()
    (read, write), (there, tell) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        os.close(write)
        os.write(tell, b".")
        os.read(read, 1)
        os._exit(0)
    assert os.read(there, 1) == b"."
    assert lock.handle is not None
    os.close(lock.handle)  # as a kill does
    locks.HELD.discard(lock.handle)
    other = Lock(tmp_path)
    other.take()
    os.close(write)
    os.waitpid(child, 0)
    other.release()


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({"pid": 2**22 + 1}, True),
        ({"ticks": "1"}, True),
        ({}, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, False),
    ],
)
def test_without_the_system_a_dead_process_s_lock_is_taken_over(
    tmp_path: Path, changes: dict[str, Any], free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_system_locks(monkeypatch)
    (tmp_path / LOCK).write_text(json.dumps({**vars(Holder.me()), **changes}))
    lock = Lock(tmp_path)
    if free:
        lock.take()
        assert Holder.of(tmp_path / LOCK) is not None
        lock.release()
        assert not list(tmp_path.iterdir())
    else:
        with pytest.raises(Taken, match=r"if that process is gone, remove .*\.lock"):
            lock.take()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}'])
def test_a_lock_that_says_nothing_is_one_all_the_same(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(Taken, match="begun this moment"):
        second.take()


def test_a_folder_that_can_not_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long a name; choose a shorter one"):
        Lock(tmp_path / ("x" * 300)).take()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(UserError, match="can't be made; choose another place"):
        Lock(tmp_path / "link").take()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is no folder"):
        Lock(tmp_path / "file").take()


# ------------------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("shared", ["logs", "weights"])
def test_two_runs_of_one_name_are_one_too_many(tmp_path: Path, shared: str) -> None:
    """Also where they share one of the two folders alone."""
    places = {"logs": str(tmp_path / "logs"), "weights": str(tmp_path / "weights")}
    others = {kind: place if kind == shared else f"{place}-2" for kind, place in places.items()}
    with Run.create("a", *places.values(), "pictures"):
        with pytest.raises(Taken, match=rf"{shared}/a is .* or choose another train.run_name"):
            Run.create("a", *others.values(), "pictures")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "weights"]
    assert not list(tmp_path.iterdir())


def test_a_run_that_runs_is_neither_begun_nor_gone_on_with(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def meanwhile(*args: Any) -> Any:
        said.extend(fail(config_file, *more) for more in ([], ["train.from_checkpoint=true"]))
        return original(*args)

    import training

    original = training.learn
    monkeypatch.setattr(training, "learn", meanwhile)
    before = train(config_file, "train.max_epochs=1")
    assert before == 0 and all(f"pid {os.getpid()}" in sentence for sentence in said)
    assert len(said) == 2


def test_a_start_that_fails_leaves_the_name_free(config_file: Path) -> None:
    nowhere = config_file.parent / "nowhere"
    fail(config_file, f"train.base_dir={nowhere}")
    assert not (config_file.parent / "logs").exists()
    assert not (config_file.parent / "weights").exists()
    assert train(config_file, "train.max_epochs=1") == 0
    assert not list(config_file.parent.rglob(LOCK))


def test_what_a_killed_writer_left_is_removed(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    logs, weights = config_file.parent / "logs/tiny", config_file.parent / "weights/tiny"
    dead, living, own = 2**22 + 1, os.getppid(), os.getpid()
    left = [logs / f".report.html.{n}.tmp" for n in (dead, living, own)]
    left += [weights / f".last.pt.{n}.tmp" for n in (dead, living, own)]
    for path in left:
        path.write_text("half")
    train(config_file, "train.max_epochs=2", "train.from_checkpoint=true")
    assert [path for path in left if path.exists()] == [left[1]], "a report may be being written"
