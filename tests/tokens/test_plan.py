"""What makes a key, and what is said before a byte is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pretrained
from engine.preview import checkpoint_bytes
from pretrained.read import read_arrays
from tests.helpers import CPU, flip, picture, plan, prepared, train
from tokens.builder import open_cache
from tokens.plan import damage, plan_cache
from utils import UserError, setup_log

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def other_weights(config_file: Path) -> list[str]:
    path = config_file.parent / "random.safetensors"
    state, metadata = read_arrays(path)
    net = pretrained.load_model(path)
    with torch.no_grad():
        net.blocks[1].mlp.fc1.bias[3] += 1e-3
    pretrained.save_model(path, net)
    return []


def other_image(config_file: Path) -> list[str]:
    picture("red", 99).save(config_file.parent / "images" / "red" / "03.png")
    return []


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        other_image,
        ["vit.dim=40"],
        ["train.cache_dtype=float16"],
        ["train.finetune_blocks=2"],
        ["train.views=2"],
        ["train.bf16=true"],
        ["train.trunk_dtype=bfloat16"],
    ],
    ids=lambda c: c.__name__ if callable(c) else c[0],
)
def test_whatever_changes_the_tokens_makes_a_new_key(
    finetune: Path, change: list[str] | Callable[[Path], list[str]]
) -> None:
    before = plan(finetune).key
    assert plan(finetune).key == before
    assert plan(finetune, *(change(finetune) if callable(change) else change)).key != before


@pytest.mark.parametrize("option", ["train.seed=1", "train.crop_scale=0.4", "train.flip=0"])
def test_the_augmentation_is_in_the_key_where_there_is_one(finetune: Path, option: str) -> None:
    assert plan(finetune, "train.views=2").key != plan(finetune, "train.views=2", option).key
    assert plan(finetune).key == plan(finetune, option).key, "the evaluation transform has no draws"


def test_what_does_not_change_the_tokens_makes_no_new_key(finetune: Path) -> None:
    before = plan(finetune).key
    images = finetune.parent / "images"
    os.utime(images / "red" / "03.png", (1, 1))
    (images / "red" / "04.png").rename(images / "blue" / "now_blue.png")
    assert (
        plan(finetune, "train.lr=1", "train.batch_size=5", "train.val_fraction=0.5").key == before
    )


def test_bf16_has_the_trunk_that_trunk_dtype_asks_for(finetune: Path) -> None:
    keys = {plan(finetune, o).key for o in ("train.bf16=true", "train.trunk_dtype=bfloat16")}
    assert len(keys) == 1


def test_every_flipped_byte_of_the_header_is_found(finetune: Path) -> None:
    train(finetune, "train.max_epochs=1")
    path = plan(finetune).path
    assert damage(path) is None
    header = (path / "header.json").read_bytes()
    for position in range(len(header)):
        flip(path / "header.json", position)
        assert damage(path), f"byte {position} of {header!r}"
        (path / "header.json").write_bytes(header)
    assert damage(path) is None


def test_no_more_views_than_epochs(finetune: Path, seen: list[int]) -> None:
    train(finetune, "train.views=4", "train.max_epochs=2")
    assert sum(seen) == 2 * 30 + 6
    train(finetune, "train.from_checkpoint=true", "train.views=4", "train.max_epochs=3")
    assert sum(seen) == 3 * 30 + 6, "the rest is copied"


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("utils.shutil.disk_usage", lambda path: type("Usage", (), {"free": size}))


def test_the_size_is_said_and_checked_before_a_byte_is_written(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = plan(finetune).bytes
    records = 36 * (17 * 48 * 4 + 48 * 4)
    layers = 36 * (3 * 2 + 9) * 48 * 4  # what three frozen blocks made of them
    assert size == records + layers + 36 * 8  # and the checksums of both
    config, split, net = prepared(finetune, "train.cache=on")
    wanted = plan_cache(net, split, config.train)
    assert wanted is not None
    free(monkeypatch, size - 1)
    with pytest.raises(UserError, match="no disk space for the token cache in .*train.cache=off"):
        train(finetune, "train.cache=on")
    assert not wanted.folder.exists() and not (finetune.parent / "logs").exists()
    setup_log()
    assert plan_cache(net, split, config.train.model_copy(update={"cache": "auto"})) is None
    said = capsys.readouterr().out
    assert "no token cache: it would take 0 MB of 0 MB free" in said
    assert "prune" not in said, "there is nothing to free"
    wanted.reserved = 3_000_000
    assert wanted.lacks_room().endswith("/cache, beside 3 MB for checkpoints")
    free(monkeypatch, 10**9)
    open_cache(wanted, net, config.train, CPU)
    assert (wanted.path / "tokens.bin").stat().st_size == records


def test_the_checkpoints_need_room_beside_the_cache(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _, net = prepared(finetune)
    both = plan(finetune).bytes + checkpoint_bytes(config.train.settled(30), net)
    free(monkeypatch, both - 1)
    with pytest.raises(UserError, match="no disk space for the token cache"):
        train(finetune, "train.cache=on")
    train(finetune, "train.run_name=a")
    assert "no token cache: it would take" in capsys.readouterr().out
    free(monkeypatch, both)
    train(finetune, "train.cache=on", "train.run_name=b")


@pytest.mark.slow
def test_a_folder_that_can_not_be_written_to(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(self: Path) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tokens.plan.os.access", lambda path, mode: False)
        train(finetune)
        assert "no token cache: " in capsys.readouterr().out
        assert not (finetune.parent / "data").exists()
    train(finetune, "train.run_name=b")
    monkeypatch.setattr("tokens.plan.os.access", lambda path, mode: False)
    monkeypatch.setattr(Path, "touch", denied)
    train(finetune, "train.run_name=c")
    assert "no token cache" not in capsys.readouterr().out, "a finished one is still read"
