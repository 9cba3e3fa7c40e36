"""tools.cache shows and cleans."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import flip, plan, train
from tokens.builder import waiting_for
from tools import cache as cache_tool
from utils import UserError

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.fixture
def tool(finetune: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python -m tools.cache ...` on the config's data: what it prints."""

    def call(*args: str) -> str:
        capsys.readouterr()
        assert cache_tool.main([*args, "--data", str(finetune.parent / "data")]) == 0
        return capsys.readouterr().out

    return call


def test_the_tool_shows_and_cleans(finetune: Path, tool: Callable[..., str]) -> None:
    data = finetune.parent / "data"
    assert tool("ls") == f"0 token caches in {data}/cache, 0 MB\n"
    train(finetune, "train.run_name=a")
    train(finetune, "train.run_name=b", "train.finetune_blocks=2")
    keys = [plan(finetune).key, plan(finetune, "train.finetune_blocks=2").key]
    text = tool("ls")
    assert all(key in text for key in keys)
    assert "36 x 17 x 48 float32  ready, used just now" in text and "random.safetensors" in text
    assert tool("prune") == "nothing to remove\n"
    with pytest.raises(UserError, match="no cache in .* begins with zz; it has"):
        tool("rm", "zz")
    assert f"removed {keys[1]}" in tool("rm", keys[1][:6])
    assert not (data / "cache" / keys[1]).exists() and (data / "cache" / keys[0]).exists()


def test_a_cache_and_what_is_left_of_its_making_go_together(
    finetune: Path, tool: Callable[..., str]
) -> None:
    train(finetune, "train.max_epochs=1")
    ready = plan(finetune).path
    shutil.copytree(ready, ready.with_suffix(".partial"))
    assert tool("rm", plan(finetune).key).count("removed") == 2
    assert not ready.exists() and not ready.with_suffix(".partial").exists()


def test_a_cache_that_may_not_be_removed_is_whole(
    finetune: Path, tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    train(finetune, "train.max_epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(PermissionError):
            tool("rm", plan(finetune).key)
    assert "ready" in tool("ls") and "damaged" not in tool("ls")


def test_the_tool_touches_caches_only(finetune: Path, tool: Callable[..., str]) -> None:
    other = finetune.parent / "data" / "cache" / "holidays"
    other.mkdir(parents=True)
    (other / "1.jpg").write_bytes(b"1")
    half = other.parent / f"{'0' * 16}.partial"
    train(finetune)
    shutil.copytree(plan(finetune).path, half)
    (half / "tokens.bin").unlink()
    assert tool("ls").startswith(plan(finetune).key) and half.name[:16] in tool("prune")
    assert (other / "1.jpg").exists() and not half.exists()
    with pytest.raises(UserError, match="no cache in"):
        tool("rm", "holidays")


def test_the_tool_prunes_what_is_of_no_use(
    finetune: Path, tool: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "train.run_name=a")
    path = plan(finetune).path
    partial = path.with_suffix(".partial")
    shutil.copytree(path, partial)
    text = tool("prune", "--dry-run")
    assert "would remove" in text and "unfinished, 100%" in text and partial.exists()
    with waiting_for(path.with_suffix(".lock")):
        assert "being made, 100%" in tool("ls") and tool("prune") == "nothing to remove\n"
        with pytest.raises(UserError, match="is being made by a run"):
            tool("rm", path.name)
        found = list(cache_tool.entries(path.parent))
        capsys.readouterr()
        cache_tool.remove([e for e in found if e.path == partial], dry_run=False)
        assert "a run is making it" in capsys.readouterr().out and partial.exists()
    tool("prune")
    assert path.exists() and not partial.exists()
    flip(path / "header.json", 40)
    assert "damaged: its header" in tool("prune") and not path.exists()
    train(finetune, "train.run_name=b")
    for file in path.iterdir():
        os.utime(file, (1, 1))
    assert "removed" in tool("prune", "--days", "30") and not path.exists()


def test_the_tool_reads_every_record(finetune: Path, tool: Callable[..., str]) -> None:
    train(finetune)
    path = plan(finetune).path
    assert "ready, every record is what was written, used" in tool("ls", "--verify")
    flip(path / "tokens.bin", 40_000)
    flip(path / "layers.bin", (path / "layers.bin").stat().st_size - 1)
    assert "float32  ready, used" in tool("ls")
    found = tool("ls", "--verify")
    assert "damaged: 2 of 36 records are not what was written (number 11, 35); the next" in found
    assert tool("prune") == "nothing to remove\n", "a run mends it"
    train(finetune, "train.run_name=b")
    assert "ready, every record is what was written" in tool("ls", "--verify")
    os.truncate(path / "sums.bin", 8)
    assert "damaged: sums.bin has 8 bytes instead of 288" in tool("ls", "--verify")


@pytest.mark.parametrize("days", ["nan", "-1", "inf"])
def test_days_that_are_none(tool: Callable[..., str], days: str) -> None:
    with pytest.raises(UserError, match="it takes a number of days, 0 or more"):
        tool("prune", f"--days={days}", "--dry-run")
    with pytest.raises(UserError, match="an empty key names no cache"):
        tool("rm", "")
