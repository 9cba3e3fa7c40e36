"""The token cache: the same numbers as without it, never stale, never half."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import REPO, TINY_VIT, picture
from torch import Tensor

import images
import pretrained
import training
from config import Config, ConfigError, ViTConfig
from config_file import load_config
from dataset import load_split, make_loaders
from engine.job import Job
from engine.preview import checkpoint_bytes
from engine.run import read_metrics
from images import FileIndex
from metrics import evaluate
from model import Tail, Tokens, VisionTransformer
from pretrained.build import build_for
from pretrained.read import read_arrays
from tokens.builder import Builder, open_cache, waiting_for
from tokens.cache import TokenCache, TokenLoader
from tokens.plan import Plan, damage, plan_cache
from tokens.trunk import PackedBlock, Trunk, packed
from tools import cache as cache_tool
from utils import UserError, command_line, setup_log

CPU = torch.device("cpu")
DEEP = {**TINY_VIT, "num_layers": 4}


def random_weights(path: Path, seed: int = 0, **vit: Any) -> Path:
    """A file of ours with a small network whose tokens differ from image to image."""
    torch.manual_seed(seed)
    net = VisionTransformer(ViTConfig(**{**DEEP, "num_classes": 7, **vit}))
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    pretrained.save_model(path, net)
    return path


pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.fixture
def finetune(config_file: Path) -> Path:
    """A config that fine-tunes the last block of a small network on three classes of pictures."""
    folder = config_file.parent
    train = yaml.safe_load(config_file.read_text())["train"] | {
        "mode": "finetune",
        "checkpoint": str(random_weights(folder / "random.safetensors")),
        "data": str(folder / "data"),
        "cache_dtype": "float32",
        "views": 1,
        "verdict": False,
    }
    config_file.write_text(yaml.safe_dump({"train": train}))
    return config_file


def train(config_file: Path, *overrides: str) -> int:
    return training.main(["--config", str(config_file), *overrides])


def prepared(config_file: Path, *overrides: str) -> tuple[Config, Any, Any]:
    config, _ = load_config(config_file, list(overrides))
    split = load_split(config.train)
    return config, split, build_for(config, split.classes)


def plan(config_file: Path, *overrides: str) -> Plan:
    config, split, net = prepared(config_file, *overrides)
    return Plan(net, split, config.train)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through a trunk."""
    sizes: list[int] = []
    original = Trunk.__call__

    def counting(self: Trunk, images: Tensor) -> Tokens:
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Trunk, "__call__", counting)
    return sizes


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every training step."""
    found: list[float] = []
    original = Job.step

    def noting(*args: Any) -> Any:
        result = original(*args)
        found.append(result[0])
        return result

    monkeypatch.setattr(Job, "step", noting)
    return found


def logits(config_file: Path, run: str, *overrides: str) -> Tensor:
    """What a run's best network, loaded as an ordinary one, answers for the validation images."""
    config, _ = load_config(config_file, list(overrides))
    split = load_split(config.train)
    net = pretrained.load_model(config_file.parent / f"weights/{run}/best.safetensors").eval()
    loader = make_loaders(split, config.train, net.preprocessing, 3, CPU)["val"]
    with torch.no_grad():
        return torch.cat([net(images) for images, _ in loader])


# -------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["train.views=2"],
        ["train.finetune_blocks=0"],
        ["train.finetune_blocks=2", "train.views=3"],
        ["train.finetune_blocks=4"],
        ["vit.dropout=0.2", "vit.attention_dropout=0.2"],
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_cached_and_uncached_training_are_the_same(
    finetune: Path, losses: list[float], options: list[str]
) -> None:
    for cache in ("on", "off"):
        train(finetune, f"train.cache={cache}", f"train.run_name=cache-{cache}", *options)
    cached, plain = losses[: len(losses) // 2], losses[len(losses) // 2 :]
    assert len(cached) == 3 * 4
    assert cached == pytest.approx(plain, rel=1e-5)
    assert max(plain) - min(plain) > 0.01, "it did train"
    torch.testing.assert_close(
        logits(finetune, "cache-on"), logits(finetune, "cache-off"), rtol=1e-4, atol=1e-4
    )
    both = [
        read_metrics(finetune.parent / f"logs/{x}/metrics.csv") for x in ("cache-on", "cache-off")
    ]
    for name in ("val_loss", "train_loss", "grad_norm_mean"):
        expected = pytest.approx([row[name] for row in both[1]], rel=1e-4)
        assert [row[name] for row in both[0]] == expected


@pytest.mark.slow
def test_cached_and_uncached_b16_give_the_same_logits(
    finetune: Path, image_folder: Path, losses: list[float]
) -> None:
    for path in [p for p in image_folder.glob("*/*.png") if int(p.stem) > 3]:
        path.unlink()
    torch.manual_seed(0)
    weights = finetune.parent / "b16.safetensors"
    pretrained.save_model(weights, VisionTransformer(ViTConfig(num_classes=7, gelu="tanh")))
    options = [f"train.checkpoint={weights}", "train.max_epochs=2", "train.val_fraction=0.5"]
    for cache in ("on", "off"):
        train(finetune, *options, f"train.cache={cache}", f"train.run_name=cache-{cache}")
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-5)
    cached, plain = (logits(finetune, f"cache-{x}", *options[2:]) for x in ("on", "off"))
    assert cached.shape == (6, 3) and plain.abs().max() > 0.01
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-4)


def test_half_precision_changes_little(finetune: Path, losses: list[float]) -> None:
    for dtype in ("float16", "float32"):
        train(finetune, f"train.cache_dtype={dtype}", f"train.run_name={dtype}")
    half, single = losses[:12], losses[12:]
    assert half == pytest.approx(single, rel=5e-3) and half != single


def test_the_cached_run_is_an_ordinary_one(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune)
    logs, weights = finetune.parent / "logs" / "tiny", finetune.parent / "weights" / "tiny"
    assert {"metrics.csv", "curves.png", "summary.json", "split.csv", "config.yaml"} <= {
        path.name for path in logs.iterdir()
    }
    result = json.loads((logs / "summary.json").read_text())
    assert result["cache_seconds"] > 0 and result["best_epoch"] > 0
    before = pretrained.read(finetune.parent / "random.safetensors").state
    after, _ = read_arrays(weights / "best.safetensors")
    changed = {n for n in after if n not in before or not torch.equal(after[n], before[n])}
    assert changed == {n for n in after if n.startswith(("blocks.3.", "norm.", "head."))}
    config, split, _ = prepared(finetune)
    net = pretrained.load_model(weights / "best.safetensors")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    scores = evaluate(net, loaders["val"], CPU)
    assert scores["accuracy"] == result["val_accuracy"]
    assert scores["loss"] == pytest.approx(result["val_loss"], rel=1e-4)


def test_dropout_and_a_test_part(finetune: Path, image_folder: Path) -> None:
    for part, numbers in (("train", range(12)), ("test", range(20, 24))):
        for name in ("blue", "green", "red"):
            (image_folder / part / name).mkdir(parents=True)
            for i in numbers:
                picture(name, i).save(image_folder / part / name / f"{i}.png")
    for name in ("blue", "green", "red"):
        shutil.rmtree(image_folder / name)
    train(finetune, "vit.dropout=0.1", "vit.attention_dropout=0.1")
    result = json.loads((finetune.parent / "logs/tiny/summary.json").read_text())
    assert result["images"]["test"] == 12 and 0 <= result["test_accuracy"] <= 1


def test_stopped_and_resumed(finetune: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["train.max_epochs=5", "train.views=2", "vit.dropout=0.1"]
    train(finetune, "train.run_name=whole", *options)
    original, calls = Job.step, iter(range(1000))

    def stop_in_epoch_4(*args: Any) -> Any:
        if next(calls) == 3 * 4 + 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Job, "step", stop_in_epoch_4)
    with pytest.raises(KeyboardInterrupt, match="stopped with 3 epochs done; go on with"):
        train(finetune, "train.run_name=stopped", *options)
    # Less than half a minute has gone by, so this was written because of the stop alone.
    last = torch.load(finetune.parent / "weights/stopped/last.pt", weights_only=True)
    assert last["progress"]["epoch"] == 3
    monkeypatch.setattr(Job, "step", original)
    train(finetune.parent / "logs/stopped/config.yaml", "train.from_checkpoint=true")
    for file in ("best.safetensors", "last.pt"):
        whole, stopped = (
            read_arrays(finetune.parent / "weights" / r / file)[0] for r in ("whole", "stopped")
        )
        assert whole.keys() == stopped.keys()
        assert all(torch.equal(whole[n], stopped[n]) for n in whole)


def test_overfitting_one_batch_needs_no_cache(finetune: Path, seen: list[int]) -> None:
    assert train(finetune, "overfit_one_batch.overfit=true", "train.lr=3e-3") == 0
    assert seen == [8] and not (finetune.parent / "data").exists()


def test_the_best_network_is_that_of_the_best_epoch(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is written later: at the end, or with a later epoch."""
    for save in ("auto", "2", "3"):
        accuracies = iter((0.2, 0.9, 0.5, 0.4, 0.3))
        rows: list[dict[str, float]] = []

        def scored(*args: Any, accuracies: Any = accuracies, rows: Any = rows) -> dict[str, float]:
            rows.append(evaluate(*args) | {"accuracy": next(accuracies)})
            return rows[-1]

        monkeypatch.setattr(training, "evaluate", scored)
        run = f"save-{save}"
        train(
            finetune,
            "train.max_epochs=5",
            f"train.save_epoch={save}",
            f"train.run_name={run}",
            "train.keep=best",
        )
        config, split, _ = prepared(finetune)
        net = pretrained.load_model(finetune.parent / f"weights/{run}/best.safetensors")
        loader = make_loaders(split, config.train, net.preprocessing, 3, CPU)["val"]
        loss = evaluate(net, loader, CPU)["loss"]
        assert loss == pytest.approx(rows[1]["loss"], rel=1e-4)
        assert loss != pytest.approx(rows[4]["loss"], rel=1e-2)


def frozen(depth: int) -> tuple[VisionTransformer, Tensor]:
    """A small network whose first blocks are frozen, and images for it."""
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**DEEP, num_classes=3)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    net.freeze_trunk(depth)
    images = torch.randn(5, 3, 32, 32)
    return net, images


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_bfloat16_is_the_same_from_the_cache(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        single, half = (Trunk(net, CPU, bf16)(images) for bf16 in (False, True))
        with torch.autocast("cpu", torch.bfloat16):
            plain, cached = net(images), Tail(net)(half)
    assert plain.dtype == torch.bfloat16 and not torch.equal(single.tokens, half.tokens)
    torch.testing.assert_close(cached, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_a_compiled_tail_trains_the_same(finetune: Path) -> None:
    train(finetune, "train.run_name=plain", "train.max_epochs=1")
    # In a process of its own: inductor refuses to start once anything has imported distutils.
    command = [sys.executable, str(REPO / "training.py"), "--config", str(finetune)]
    options = ["train.run_name=compiled", "train.max_epochs=1", "train.compile=true"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = finetune.parent / "logs"
    plain, compiled = (
        json.loads((logs / run / "summary.json").read_text()) for run in ("plain", "compiled")
    )
    assert compiled["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-3)


# --------------------------------------------------------------------------------- the trunk pass


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_packed_blocks_equal_the_plain_ones(gelu: str) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(num_classes=3, hidden_dim=192, num_heads=3, num_layers=3, ff_dim=768, gelu=gelu)
    blocks: list[Any] = list(VisionTransformer(vit).blocks)
    quick = packed(blocks, 4, 197, CPU)
    if torch.backends.mkldnn.is_available():
        assert all(isinstance(block, PackedBlock) for block in quick)
    x = y = torch.randn(3, 197, 192)
    with torch.no_grad():
        for plain, block in zip(blocks, quick, strict=True):
            x, y = plain(x), block(y)
    assert (x - y).norm() < 2e-6 * x.norm()


@pytest.mark.parametrize("fault", ["absent", "wrong"])
def test_without_packed_products_the_plain_blocks_are_used(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def call(self: Any, x: Tensor) -> Tensor:
        if fault == "absent":
            raise NotImplementedError("no such operator")
        return 1.001 * self.block(x)

    monkeypatch.setattr(PackedBlock, "__call__", call)
    blocks: list[Any] = list(VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3)).blocks)
    assert packed(blocks, 4, 17, CPU) is blocks


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_the_tail_of_the_trunk_is_the_network(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        torch.testing.assert_close(
            Tail(net)(Trunk(net, CPU)(images)), net(images), rtol=1e-5, atol=1e-5
        )


# ------------------------------------------------------------------------------- what makes a key


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


# ------------------------------------------------------------------------- never stale, never half


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


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


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
    assert left == {path.name, f"{path.name}.lock", "files.json"}


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
    assert re.search(r"\rerror: \S+03.png was changed while it was in use; run again\n", error)
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
    for id_, row in stopped.rows.items():
        torch.testing.assert_close(stopped.tokens[row], whole.tokens[whole.rows[id_]])


def test_no_more_views_than_epochs(finetune: Path, seen: list[int]) -> None:
    train(finetune, "train.views=4", "train.max_epochs=2")
    assert sum(seen) == 2 * 30 + 6
    train(finetune, "train.from_checkpoint=true", "train.views=4", "train.max_epochs=3")
    assert sum(seen) == 3 * 30 + 6, "the rest is copied"


def test_new_pictures_leave_the_validation_part_nearly_as_it_was(finetune: Path) -> None:
    before = {s.sha256 for s in prepared(finetune)[1].part("val")}
    for i in range(12, 17):
        picture("red", i).save(finetune.parent / "images" / "red" / f"{i}.png")
    after = {s.sha256 for s in prepared(finetune)[1].part("val")}
    assert len(before) == 6 and len(after) == 7 and len(before - after) <= 1
    assert {s.sha256 for s in prepared(finetune, "train.seed=1")[1].part("val")} != after


def test_another_trunk_is_not_trained_on(finetune: Path) -> None:
    train(finetune, "train.max_epochs=1")
    other = random_weights(finetune.parent / "other.safetensors", seed=1)
    options = [f"train.checkpoint={other}", "train.from_checkpoint=true", "train.max_epochs=2"]
    with pytest.raises(UserError, match="has other frozen weights than train.checkpoint"):
        train(finetune, *options)


def test_a_weights_file_may_be_overwritten_meanwhile(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors")
    net = pretrained.load_model(path)
    before = net.blocks[0].mlp.fc1.weight.clone()
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(net.blocks[0].mlp.fc1.weight, before)


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


# ------------------------------------------------------------------------------------ disk, memory


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("utils.shutil.disk_usage", lambda path: type("Usage", (), {"free": size}))


def test_the_size_is_said_and_checked_before_a_byte_is_written(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = plan(finetune).bytes
    assert size == 36 * (17 * 48 * 4 + 48 * 4)
    config, split, net = prepared(finetune, "train.cache=on")
    wanted = plan_cache(net, split, config.train)
    assert wanted is not None
    free(monkeypatch, size - 1)
    with pytest.raises(UserError, match="no disk space for the token cache in .*train.cache=off"):
        train(finetune, "train.cache=on")
    assert not wanted.folder.exists() and not (finetune.parent / "logs").exists()
    setup_log()
    assert plan_cache(net, split, config.train.model_copy(update={"cache": "auto"})) is None
    assert "no token cache: it would take 0 MB of 0 MB free" in capsys.readouterr().out
    free(monkeypatch, 10**9)
    open_cache(wanted, net, config.train, CPU)
    assert (wanted.path / "tokens.bin").stat().st_size == size


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


def test_without_room_the_pictures_are_decoded_once(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = load_config(finetune)
    index = FileIndex(finetune.parent / "data/cache/files.json")
    index.update(load_split(config.train, known=index).samples)
    reads: list[Any] = []
    original = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: reads.append(path) or original(path))
    monkeypatch.setattr("tokens.plan.MOST_OF_FREE", 0)
    train(finetune)
    assert len(reads) == 36


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


def resident() -> tuple[int, int]:
    """This process's bytes in memory: pages of files, and its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}
    return sizes["RssFile:"], sizes["RssAnon:"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 MB of records (a sparse file: no disk is needed) pass through a few megabytes."""
    monkeypatch.setattr("tokens.cache.LARGE_SHARE", 0)
    record = np.dtype([("tokens", "float16", (197, 768)), ("cls", "float32", (768,))])
    (tmp_path / "records.txt").write_text("".join(f"{i}\n" for i in range(2000)))
    with open(tmp_path / "tokens.bin", "wb") as file:
        file.truncate(2000 * record.itemsize)
    cache = TokenCache(tmp_path, record)
    rows = np.arange(2000)[:, None]
    loader = TokenLoader(cache, rows, torch.zeros(2000, dtype=torch.long), 20)
    sizes = []
    for tokens, labels in loader:
        assert (
            tokens.tokens.shape == (20, 197, 768) and tokens.cls is not None and len(labels) == 20
        )
        sizes.append(resident())
    # The first batches warm the allocator up; 490 MB of the file, 970 MB of batches pass by after
    # that. The C library's heap grows by some batches of 12 MB (seen: 5) before it finds its size.
    (files, own), later = sizes[20], sizes[20:]
    assert max(f for f, _ in later) - files < 30e6
    assert max(o for _, o in later) - own < 120e6


def test_batches_are_those_of_the_images(finetune: Path) -> None:
    config, split, net = prepared(finetune, "train.views=3")
    wanted = Plan(net, split, config.train)
    cache = open_cache(wanted, net, config.train, CPU)
    tokens = cache.loaders(wanted, split, config.train, CPU)
    images = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    for epoch in (1, 2, 5):
        for loader in (tokens["train"], images["train"]):
            loader.sampler.epoch = epoch  # type: ignore[union-attr]
        for (cached, labels), (pixels, plain) in zip(tokens["train"], images["train"], strict=True):
            again = Trunk(net, CPU)(pixels).tokens
            torch.testing.assert_close(cached.tokens, again, rtol=1e-4, atol=1e-4)
            assert torch.equal(labels, plain)


# ---------------------------------------------------------------------------------------- settings


def test_a_bare_on_or_off_is_understood(finetune: Path) -> None:
    for word, value in (("on", "on"), ("off", "off"), ("auto", "auto")):
        finetune.write_text(f"train: {{cache: {word}, mode: finetune}}\n")
        assert load_config(finetune)[0].train.cache == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["train.mode=pretrained", "train.cache=on"],
            "train.cache: on works in mode finetune only",
        ),
        (["vit.num_layers=4", "train.finetune_blocks=5"], "5 is more than num_layers"),
        (["train.cache=maybe"], "'maybe' is not auto or on or off"),
        (["train.views=0"], "train.views: 0 should be at least 1"),
    ],
)
def test_settings_that_can_not_be(finetune: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(finetune, options)


def test_more_blocks_than_the_weights_have(finetune: Path) -> None:
    with pytest.raises(UserError, match="finetune_blocks is 9, but .* has 4 blocks"):
        train(finetune, "train.finetune_blocks=9")


def test_check_says_how_large_the_cache_will_be(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(finetune, "--check") == 0
    assert "token cache: 36 records, 0 MB in" in capsys.readouterr().out
    assert not (finetune.parent / "data").exists()
    train(finetune, "--check", "overfit_one_batch.overfit=true")
    assert "token cache" not in capsys.readouterr().out, "none is made"


# --------------------------------------------------------------------------- files that are known


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, image_folder: Path) -> None:
    config = load_config_of(image_folder)
    index = FileIndex(tmp_path / "files.json")
    first = load_split(config, known=index)
    index.update(first.samples)
    picture("red", 77).save(image_folder / "red" / "03.png")
    (image_folder / "red" / "05.png").write_bytes(b"no image")
    index = FileIndex(tmp_path / "files.json")
    with pytest.raises(UserError, match="05.png"):
        load_split(config, known=index)
    (image_folder / "red" / "05.png").unlink()
    second = load_split(config, known=FileIndex(tmp_path / "files.json"))
    assert set(second.decoded) == {image_folder / "red" / "03.png"}
    hashes = [
        {s.path.name: s.sha256 for s in x.samples if x.classes[s.label] == "red"}
        for x in (first, second)
    ]
    assert {n for n in hashes[1] if hashes[0][n] != hashes[1][n]} == {"03.png"}


def load_config_of(folder: Path) -> Any:
    return Config().train.model_copy(update={"base_dir": str(folder)})


def test_a_file_that_was_just_changed_is_read_again(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileIndex, "TICK_NS", 60 * 10**9)
    index = FileIndex(tmp_path / "files.json")
    index.update(load_split(load_config_of(image_folder), known=index).samples)
    second = load_split(load_config_of(image_folder), known=FileIndex(tmp_path / "files.json"))
    assert len(second.decoded) == 36


def test_a_damaged_index_is_no_trouble(tmp_path: Path, image_folder: Path) -> None:
    known = str(next(image_folder.glob("red/*")))
    for content in ("", "[1]", json.dumps({known: 1}), json.dumps({known: [1, 2]}), "\0"):
        (tmp_path / "files.json").write_text(content)
        split = load_split(load_config_of(image_folder), known=FileIndex(tmp_path / "files.json"))
        assert len(split.samples) == 36


# ------------------------------------------------------------------------------------------- tools


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
