"""Weights on this machine by a name: without the ending, by a run, and what was meant."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrained
from config import Config, TrainConfig, ViTConfig
from filing import fetching
from model import VisionTransformer
from pretrained import names
from pretrained.build import build_for
from pretrained.names import resolve
from tests.helpers import TINY_VIT
from tests.pretrained.helpers import randomise
from tests.pretrained.test_layouts import timm_model
from utils import UserError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with weights/vit-s14.safetensors, a run `tiny`, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    net = randomise(VisionTransformer(ViTConfig(**TINY_VIT, num_classes=2), classes=("a", "b")))
    pretrained.save_model(Path("weights/vit-s14.safetensors"), net)
    pretrained.save_model(Path("kept/tiny/best.safetensors"), net)
    Path("logs/tiny").mkdir(parents=True)
    Path("logs/tiny/config.yaml").write_text("train: {save_path: kept}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("weights/vit-s14", "weights/vit-s14.safetensors"),
        ("./weights/vit-s14", "weights/vit-s14.safetensors"),
        ("vit-s14", "weights/vit-s14.safetensors"),
        ("vit-s14.safetensors", "weights/vit-s14.safetensors"),
        ("tiny", "kept/tiny/best.safetensors"),
        ("logs/tiny", "kept/tiny/best.safetensors"),
        ("logs/tiny/", "kept/tiny/best.safetensors"),
        ("kept/tiny", "kept/tiny"),
        ("kept/tiny/best", "kept/tiny/best.safetensors"),
    ],
)
def test_what_is_found(here: Path, name: str, file: str) -> None:
    assert resolve(name) == Path(file) and pretrained.load_model(name).num_classes == 2


@pytest.mark.parametrize("ending", [".npz", ".pth", ".pt", ".bin", ".ckpt"])
def test_every_ending(here: Path, ending: str) -> None:
    Path(f"weights/other{ending}").write_bytes(b"")
    assert resolve("weights/other") == Path(f"weights/other{ending}")


def test_a_folder_of_the_same_name_without_weights(here: Path) -> None:
    Path("weights/vit-s14").mkdir()
    assert resolve("weights/vit-s14") == Path("weights/vit-s14.safetensors")


def test_a_run_by_its_name_where_a_config_keeps_runs(here: Path) -> None:
    """Whatever the folder's name: train.save_path and train.log_path say where runs are."""
    Path("logs/tiny/config.yaml").unlink()
    train = TrainConfig(mode="finetune", checkpoint="tiny", save_path="kept", log_path="none")
    assert build_for(Config(train=train), ("a", "b")).num_classes == 2


def test_what_was_downloaded_is_found_wherever_runs_are_kept(here: Path) -> None:
    assert resolve("vit-s14", "elsewhere") == Path("weights/vit-s14.safetensors")
    with pytest.raises(UserError, match="did you mean weights/vit-s14.safetensors"):
        resolve("vit-s41", "elsewhere")


def test_a_run_that_has_kept_nothing(here: Path) -> None:
    Path("logs/new").mkdir()
    Path("logs/new/config.yaml").write_text("train: [")
    for name in ("new", "logs/new"):
        with pytest.raises(UserError, match=r"a run that has kept no network: .*best.safetensors"):
            resolve(name)


def test_a_runs_last_checkpoint_where_there_is_no_other(here: Path) -> None:
    Path("kept/tiny/best.safetensors").unlink()
    torch.save(timm_model().state_dict(), "kept/tiny/last.pt")
    assert pretrained.load_model("tiny").vit.num_layers == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weights/vit-s41", "did you mean weights/vit-s14.safetensors?"),
        ("weights/vit-s41.safetensors", "did you mean weights/vit-s14.safetensors?"),
        ("weights/vits14.pth", "did you mean weights/vit-s14.safetensors?"),
        ("wieghts/vit-s14.safetensors", "did you mean weights/vit-s14.safetensors?"),
        ("tinny", "did you mean logs/tiny?"),
        ("google-in21k-augregg", "did you mean google-in21k-augreg"),
        ("weights/zzz", "there are weights/vit-s14.safetensors, logs/tiny (for"),
        ("last", "did you mean the newest run's, kept/tiny?"),
        ("x" * 5000, "there are weights/vit-s14.safetensors"),
        ("a\0b", "there are weights/vit-s14.safetensors"),
    ],
)
def test_what_was_meant(here: Path, name: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(name)
    assert "no such weights" in str(caught.value) and meant in str(caught.value)


def test_what_is_offered_holds_weights_and_is_named_once(here: Path) -> None:
    Path("logs/stopped").mkdir()
    Path("logs/stopped/config.yaml").write_text("train: {save_path: weights}\n")
    Path("kept/tiny").rename("weights/tiny")
    with pytest.raises(UserError, match=r"there are weights/tiny, weights/vit-s14.safetensors \("):
        resolve("zzz")


def test_places_of_others_and_the_newest_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By when it was begun: each start touches a folder of weights."""
    shutil.copytree("logs/tiny", "logs/later")
    shutil.copytree("kept/tiny", "kept/later")
    os.utime("logs/tiny/config.yaml", (1, 1))
    os.utime("kept/later", (1, 1))
    Path("logs/other").mkdir()
    Path("logs/other/config.yaml").write_text("train: {save_path: closed}\n")
    is_dir = Path.is_dir

    def closed(path: Path) -> bool:
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", closed)
    with pytest.raises(UserError, match="did you mean the newest run's, kept/later\\?"):
        resolve("last")
    there = "there are weights/vit-s14.safetensors, logs/later, logs/tiny \\("
    with pytest.raises(UserError, match=there):
        resolve("zzz")


def test_nothing_is_there_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there are no weights in weights"):
        resolve("zzz")


def test_a_local_folder_is_not_asked_for_on_the_hub(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(names.requests, "head", lambda url, **more: asked.append(url))
    with pytest.raises(UserError, match=r"no such weights in the folder weights; .*write https:"):
        resolve("weights/vit-b16")
    assert asked == []


def test_without_a_network_the_hub_is_given_up_at_once(here: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        resolve("wights/vit-s14")
    assert time.monotonic() - started < 4
    assert "can't be reached" in str(caught.value)
    assert "did you mean weights/vit-s14.safetensors?" in str(caught.value)


def test_where_no_weights_are_at_all_the_small_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "HOME", tmp_path / "weights")
    monkeypatch.setattr(fetching, "DOWNLOAD_TRIES", 1)
    with pytest.raises(UserError, match="or take the small ones .* tools.quickstart_weights"):
        resolve("http://127.0.0.1:9/w.npz")
    with pytest.raises(UserError, match="no such weights; python -m tools.quickstart_weights make"):
        resolve("weights/vit-s14.safetensors")


def test_a_hub_that_does_not_answer_is_given_up(here: Path, monkeypatch: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(names, "REACH_TIMEOUT_S", 0.2)
        with pytest.raises(UserError, match="can't be reached"):
            resolve("someone/vit")


@pytest.mark.parametrize(
    "name",
    ["hf-hub:someone/vit", "https://huggingface.co/someone/vit", "https://hf.co/someone/vit/"],
)
def test_other_ways_to_write_owner_and_name(here: Path, name: str) -> None:
    torch.save(timm_model().state_dict(), "w.pth")
    folder = Path("weights/someone--vit")
    folder.mkdir()
    Path("w.pth").rename(folder / "pytorch_model.bin")
    assert resolve(name) == folder
