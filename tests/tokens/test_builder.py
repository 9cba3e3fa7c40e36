"""Making a cache: never stale, never half, never twice."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pretrained
from config_file import load_config
from dataset import load_split
from images import FileIndex
from model import Tokens
from pretrained.build import build_for
from tests.helpers import CPU, flip, logits, picture, plan, prepared, train
from tokens.builder import Builder, open_cache, waiting_for
from tokens.cache import TokenCache
from tokens.plan import Plan, damage
from tokens.trunk import Trunk
from utils import UserError, command_line, setup_log

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def test_a_second_run_computes_and_decodes_nothing(
    finetune: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(finetune, "train.run_name=a")
    assert sum(seen) == 36
    monkeypatch.setattr("images.read_image", lambda path: pytest.fail(f"{path} was decoded"))
    train(finetune, "train.run_name=b", "train.seed=1")
    assert sum(seen) == 36


@pytest.mark.parametrize("how", ["changed", "added", "moved"])
def test_only_what_is_new_is_computed(finetune: Path, seen: list[int], how: str) -> None:
    train(finetune, "train.run_name=first")
    red = finetune.parent / "images" / "red"
    if how == "moved":
        (red / "03.png").rename(red.parent / "blue" / "99.png")
    else:
        picture("red", 99).save(red / ("03.png" if how == "changed" else "99.png"))
    train(finetune, "train.run_name=second")
    assert sum(seen) == 36 + (how != "moved")
    shutil.rmtree(finetune.parent / "data")
    train(finetune, "train.run_name=fresh")
    torch.testing.assert_close(logits(finetune, "second"), logits(finetune, "fresh"))


def cut_short(cache: Path) -> None:
    with open(cache / "tokens.bin", "r+b") as file:
        file.truncate(1000)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "no tokens": lambda cache: (cache / "tokens.bin").unlink(),
    "no header": lambda cache: (cache / "header.json").unlink(),
    "empty header": lambda cache: (cache / "header.json").write_text(""),
    "no records": lambda cache: (cache / "records.txt").unlink(),
    "a record's name": lambda cache: flip(cache / "records.txt", 5),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_cache_is_found_and_made_anew(
    finetune: Path, seen: list[int], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "train.run_name=a")
    path = plan(finetune).path
    whole = (path / "tokens.bin").read_bytes()
    DAMAGES[fault](path)
    capsys.readouterr()
    train(finetune, "train.run_name=b")
    assert "is damaged" in capsys.readouterr().out and sum(seen) == 2 * 36
    assert (path / "tokens.bin").read_bytes() == whole


def stopping_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Trunk.__call__, iter(range(10**6))

    def stop(self: Trunk, images: Tensor) -> Tokens:
        if next(calls) == batches:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(Trunk, "__call__", stop)


def test_a_stopped_build_goes_on_where_it_was(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tokens.trunk.HIDDEN_BYTES", 4 * 17 * 96 * 5)  # batches of 5
    with monkeypatch.context() as patch:
        stopping_after(3, patch)
        with pytest.raises(KeyboardInterrupt, match="go on with: python training.py"):
            train(finetune)
    path = plan(finetune).path
    assert not path.exists() and (path.parent / f"{path.name}.partial" / "progress").exists()
    computed: list[int] = []
    original = Trunk.__call__

    def counting(self: Trunk, images: Tensor) -> Tokens:
        computed.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Trunk, "__call__", counting)
    capsys.readouterr()
    train(finetune.parent / "logs/tiny/config.yaml", "train.from_checkpoint=true")
    assert "15 are there already" in capsys.readouterr().out and sum(computed) == 36 - 15
    stopped = (path / "tokens.bin").read_bytes()
    shutil.rmtree(finetune.parent / "data")
    train(finetune, "train.run_name=whole")
    assert (path / "tokens.bin").read_bytes() == stopped
    left = {p.name for p in path.parent.iterdir()}
    assert left == {path.name, f"{path.name}.lock", "files.npy"}


def test_a_build_that_was_killed_goes_on_too(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    """What the disk holds beyond the last note of the progress is not trusted."""
    train(finetune, "train.run_name=a")
    path = plan(finetune).path
    whole = (path / "tokens.bin").read_bytes()
    size = plan(finetune).record.itemsize
    partial = path.with_suffix(".partial")
    path.rename(partial)
    (partial / "progress").write_text("20")
    (partial / "tokens.bin").write_bytes(whole[: 20 * size] + b"\0" * 3 * size)
    del seen[:]
    train(finetune, "train.run_name=b")
    assert sum(seen) == 16 and (path / "tokens.bin").read_bytes() == whole


def test_a_picture_that_changes_meanwhile_is_not_cached_as_what_it_was(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = load_config(finetune)
    index = FileIndex(finetune.parent / "files.json")
    index.update(load_split(config.train, known=index).samples)
    split = load_split(config.train, known=FileIndex(index.path))  # nothing is decoded
    net = build_for(config, split.classes)
    picture("red", 99).save(finetune.parent / "images" / "red" / "03.png")
    with pytest.raises(UserError, match="03.png was changed while it was in use"):
        open_cache(Plan(net, split, config.train), net, config.train, CPU)
    (finetune.parent / "images" / "red" / "03.png").unlink()
    with pytest.raises(UserError, match="03.png was changed while it was in use"):
        open_cache(Plan(net, split, config.train), net, config.train, CPU)
    # A worker process' error arrives with that process' traceback.
    with_workers = config.train.model_copy(update={"num_workers": 1})

    def opened() -> None:
        open_cache(Plan(net, split, with_workers), net, with_workers, CPU)

    capsys.readouterr()
    assert command_line(opened) == 2
    error = capsys.readouterr().err
    assert re.search(r"^error: \S+03.png was changed while it was in use; run again\n", error)
    assert "Traceback" not in error


def test_a_build_whose_last_step_fails_is_not_lost(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    """On Windows a program that reads a file keeps its folder from being renamed."""
    original = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).suffix == ".partial":
            raise PermissionError(13, "in use", str(source))
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("tokens.builder.os.replace", replace)
        with pytest.raises(PermissionError):
            train(finetune, "train.run_name=a")
    assert sum(seen) == 36
    train(finetune, "train.run_name=b")
    assert sum(seen) == 36 and damage(plan(finetune).path) is None


@pytest.mark.slow
def test_a_build_that_goes_on_copies_what_was_made_meanwhile(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    monkeypatch.setattr("tokens.trunk.HIDDEN_BYTES", 4 * 17 * 96 * 5)  # batches of 5
    folder = finetune.parent / "images"
    extra = [folder / name / f"{name}{i}.png" for name in ("red", "green") for i in range(6)]
    for i, path in enumerate(extra):
        picture(path.parent.name, 100 + i).save(path)
    wanted = plan(finetune).path
    with monkeypatch.context() as patch:
        stopping_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(finetune, "train.run_name=a")
    for path in extra[::2]:  # another cache gets some of it, scattered
        path.rename(finetune.parent / path.name)
    train(finetune, "train.run_name=b")
    for path in extra[::2]:
        (finetune.parent / path.name).rename(path)
    del seen[:]
    train(finetune, "train.run_name=c")
    assert sum(seen) <= 12 and all(size == 5 for size in seen[:-1]), "in whole batches"
    stopped = TokenCache(wanted, plan(finetune).record)
    shutil.rmtree(finetune.parent / "data")
    train(finetune, "train.run_name=whole")
    whole = TokenCache(wanted, plan(finetune).record)
    assert stopped.rows.keys() == whole.rows.keys()
    for id_ in stopped.rows:
        mine, other = (c.read(np.array([c.rows[id_]])) for c in (stopped, whole))
        torch.testing.assert_close(mine.tokens, other.tokens)


def test_two_runs_do_not_make_the_same_cache_at_once(
    finetune: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    config, split, net = prepared(finetune)
    wanted = Plan(net, split, config.train)
    setup_log()
    with waiting_for(wanted.folder / f"{wanted.key}.lock"):
        other = threading.Thread(
            target=open_cache, args=(wanted, net, config.train, CPU), daemon=True
        )
        other.start()
        other.join(0.5)
        assert other.is_alive() and not seen
        Builder(wanted, net, config.train, CPU).build()
        assert sum(seen) == 36
    other.join(30)
    assert not other.is_alive() and sum(seen) == 36
    assert "another run is making this token cache" in capsys.readouterr().out


@pytest.mark.parametrize("has", [True, False])
def test_a_trunk_in_bfloat16_says_where_it_is_slow(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, has: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tokens.builder.has_bfloat16", lambda: has)
    train(finetune, "train.trunk_dtype=bfloat16", "train.run_name=half")
    assert ("train.trunk_dtype=float32 would be faster" in capsys.readouterr().out) is not has
    train(finetune, "train.run_name=whole")
    half, whole = logits(finetune, "half"), logits(finetune, "whole")
    assert not torch.equal(half, whole)
    torch.testing.assert_close(half, whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("has", "seconds", "asked"),
    [(True, 0, "float32"), (True, 0, "bfloat16"), (True, 60, "float32")] + [(False, 0, "float32")],
)
def test_a_pass_that_is_waited_for_says_what_would_halve_it(
    finetune: Path,
    monkeypatch: pytest.MonkeyPatch,
    has: bool,
    seconds: int,
    asked: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tokens.trunk.has_bfloat16", lambda: has)
    monkeypatch.setattr("tokens.trunk.LONG", seconds)
    expected = has and not seconds and asked == "float32"
    for more in (["--check"], []) if expected else (["--check"],):
        train(finetune, f"train.trunk_dtype={asked}", "train.lr=1e-3", *more)
        said = capsys.readouterr().out
        told = re.search(r"train.trunk_dtype=bfloat16: about \d+ s here", said)
        assert bool(told) is expected, more


def test_tokens_that_do_not_fit_half_precision(finetune: Path) -> None:
    path = finetune.parent / "random.safetensors"
    net = pretrained.load_model(path)
    with torch.no_grad():
        net.blocks[0].mlp.fc2.bias[3] = 1e5
    pretrained.save_model(path, net)
    options = ["train.cache_dtype=float16", "train.finetune_blocks=2"]
    with pytest.raises(UserError, match="set train.cache_dtype=float32"):
        train(finetune, *options)
    train(finetune, *options, "train.cache_dtype=float32", "train.run_name=b")
    train(finetune, *options, "train.finetune_blocks=1", "train.run_name=c")


@pytest.mark.parametrize(("blocks", "size"), [(0, 29), (0, 20), (1, 5)])
def test_a_pass_that_was_stopped_ends_with_the_same_bytes_on_several_cores(
    finetune: Path,
    cores: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    size: int,
) -> None:
    """Wherever it was stopped: the last batch is a short one, of whose few class tokens a product's
    last bits would be others by the number of threads."""
    monkeypatch.setattr("tokens.trunk.trunk_batch", lambda *_: size)
    monkeypatch.setattr("tokens.builder.trunk_batch", lambda *_: size)
    original, found = Builder._computed, []

    def stopped(*args: Any) -> Any:
        yield next(original(*args))
        raise KeyboardInterrupt

    cores(2)
    for stop in (False, True):
        options = (f"train.finetune_blocks={blocks}", "train.lr=1e-3")
        own = f"train.data={finetune.parent}/data-{stop}"
        config, split, net = prepared(finetune, *options, own)
        settled = config.train.settled(len(split.part("train")))
        wanted = Plan(net, split, settled)
        if stop:
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(Builder, "_computed", stopped)
                Builder(wanted, net, settled, CPU).build()
        open_cache(wanted, net, settled, CPU)
        files = ("tokens.bin", "layers.bin", "sums.bin")
        found.append([(wanted.path / name).read_bytes() for name in files])
    assert found[0] == found[1]
