"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

import utils
from tests.engine.test_checkpoint import Stop


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), utils.replacing(path) as temporary:
        temporary.write_text("half")
        raise Stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251 + ".png", "あ" * 85])
def test_the_longest_name_is_written(tmp_path: Path, name: str) -> None:
    with utils.replacing(tmp_path / name) as temporary:
        assert temporary.name.startswith(".") and temporary.name.endswith(f".{os.getpid()}.tmp")
        temporary.write_text("whole")
    assert (tmp_path / name).read_text() == "whole" and os.listdir(tmp_path) == [name]


def test_a_name_that_no_disk_takes_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert utils.command_line(lambda: utils.write_text(tmp_path / ("n" * 300) / "a", "x")) == 2
    assert capsys.readouterr().err.endswith("nnn: File name too long\n")


def test_an_error_of_a_worker_process_is_one_sentence_too() -> None:
    """PyTorch raises it anew with that process's traceback before it."""
    from torch._utils import ExceptionWrapper

    try:
        raise utils.UserError("a.png: not an image; remove it")
    except utils.UserError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(utils.UserError) as caught:
        wrapped.reraise()
    assert "Traceback" in caught.value.args[0]
    assert str(caught.value) == "a.png: not an image; remove it"


def test_a_bar_is_for_those_who_look(capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for file, drawn in ((io.StringIO(), False), (Terminal(), True)):
        assert list(utils.progress_bar(range(3), "counting", file=file)) == [0, 1, 2]
        assert ("counting" in file.getvalue()) is drawn


def test_a_writer_that_words_a_full_disk_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's and safetensors' writers raise their own errors."""
    with pytest.raises(RuntimeError, match="of another kind"), utils.replacing(tmp_path / "a"):
        raise RuntimeError("of another kind")
    monkeypatch.setattr(utils, "free_bytes", lambda folder: 100)
    with pytest.raises(OSError, match="No space left") as caught, utils.replacing(tmp_path / "a"):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert caught.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_what_is_replaced_may_stay_under_another_name(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        with utils.replacing(tmp_path / "a", earlier=tmp_path / "b") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "a").read_text() == "three" and (tmp_path / "b").read_text() == "two"


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    synced, renamed = utils.flush, os.replace
    monkeypatch.setattr(utils, "flush", lambda p: (done.append(f"flush {p.name}"), synced(p)))
    monkeypatch.setattr(os, "replace", lambda *p: (done.append("rename"), renamed(*p)))
    with utils.replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert done == [f"flush {temporary.name}", "rename", f"flush {tmp_path.name}"]
    done.clear()
    with utils.replacing(tmp_path / "a", durable=False) as temporary:
        temporary.write_text("x")
    assert done == ["rename"]


def test_what_may_not_be_read_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "logs/a")

    assert utils.command_line(main) == 2
    said = capsys.readouterr().err
    assert "error: logs/a: Permission denied; give yourself the right to it (chmod)" in said


def test_a_disk_that_can_not_be_told_to_flush_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(error: int) -> Any:
        def fail(handle: int) -> None:
            raise OSError(error, os.strerror(error))

        return fail

    monkeypatch.setattr(os, "fsync", refused(errno.EINVAL))
    with utils.replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    monkeypatch.setattr(os, "fsync", refused(errno.ENOSPC))
    with (
        pytest.raises(OSError, match="No space left"),
        utils.replacing(tmp_path / "a") as temporary,
    ):
        temporary.write_text("y")
    assert (tmp_path / "a").read_text() == "x" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_log_on_a_full_disk_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    utils.setup_log()
    utils.log.info("before")
    utils.log_to(Path("/dev/full"))
    utils.log.info("behind")
    utils.end_log()
    printed = capsys.readouterr()
    full = "/dev/full takes no more (No space left on device)"
    assert (printed.out.splitlines(), printed.err) == (["before", full, "behind"], "")


def test_a_disk_lacks_what_it_lacks_in_whole_megabytes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that 1 MB is needed and 1 MB is free."""
    monkeypatch.setattr("utils.free_bytes", lambda folder: 700_000)
    with pytest.raises(utils.UserError, match="needs 1 MB and 0 MB are free"):
        utils.check_disk(tmp_path, 900_000, "it")
    with pytest.raises(utils.UserError, match="needs 1,235 MB and 0 MB are free"):
        utils.check_disk(tmp_path, 1_234_000_001, "it")
