"""Every array's fate, and files that are damaged."""

from __future__ import annotations

import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import pretrained
from model import VisionTransformer
from pretrained.read import convert
from tests.helpers import FIXTURES, random_weights
from tests.pretrained.helpers import SMALL
from tests.pretrained.test_layouts import timm_model
from utils import UserError


def test_a_weights_file_may_be_overwritten_meanwhile(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors")
    net = pretrained.load_model(path)
    before = net.blocks[0].mlp.fc1.weight.clone()
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(net.blocks[0].mlp.fc1.weight, before)


def good() -> dict[str, Tensor]:
    return dict(timm_model().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("norm.weight"), "missing norm.weight"),
        (lambda a: a.pop("blocks.1.attn.qkv.bias"), "missing blocks.1.attn.qkv.bias"),
        (lambda a: a.update(fc_norm=torch.zeros(3)), "not understood fc_norm"),
        (lambda a: a.update(register_tokens=torch.zeros(3)), "not understood register_tokens"),
        (lambda a: a.update({"head.bias": torch.zeros(3)}), "head.bias is (3,) instead of (7,)"),
        (lambda a: a.pop("cls_token"), "lacks cls_token"),
        (lambda a: a.update({"blocks.0.ls1.gammo": torch.zeros(1)}), "blocks.0.ls1.gammo"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: Any, message: str) -> None:
    arrays = good()
    change(arrays)
    with pytest.raises(UserError) as caught:
        convert(arrays)
    assert message in str(caught.value)


@pytest.mark.parametrize("number", ["7", "300000", "999999999", "9" * 40, "9" * 5000])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_block_of_a_number_without_those_before(prefix: str, number: str) -> None:
    """No network is built of a number in a name: 300,000 would take a minute and gigabytes."""
    arrays = {prefix + name: array for name, array in good().items()}
    stray = f"{prefix}blocks.{number}.norm1.weight"
    started = time.process_time()
    with pytest.raises(UserError, match=r"none of block 2|not understood blocks.9999999999"):
        convert({**arrays, stray: torch.zeros(128)})
    assert time.process_time() - started < 1


@pytest.mark.parametrize("layout", ["google", "huggingface-vit", "torchvision"])
def test_a_block_that_is_left_out(layout: str) -> None:
    vit = SMALL.model_copy(update={"num_layers": 3})
    arrays = pretrained.export(VisionTransformer(vit), layout)
    kept = {n: a for n, a in arrays.items() if not re.search(r"(_|layer\.)1[./]", n)}
    assert len(kept) < len(arrays)
    with pytest.raises(UserError, match="it has an array .*2.*, but none of block 1"):
        convert(kept)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fc_norm.weight", "it reads the mean of the patch tokens through fc_norm"),
        ("dist_token", "it has a second token, for distillation"),
        ("reg_token", "it has register tokens"),
        ("norm_pre.weight", "it normalises before its first block"),
        ("blocks.0.mlp.w12.weight", "its MLP is a SwiGLU"),
        ("blocks.0.attn.q_norm.weight", "its blocks have parts that"),
    ],
)
def test_variants_that_are_not_computed_here(name: str, reason: str) -> None:
    for arrays in (good(), {f"model.{n}": a for n, a in good().items()}):
        prefix = "model." if "model.norm.weight" in arrays else ""
        with pytest.raises(UserError) as caught:
            convert({**arrays, prefix + name: torch.zeros(128)})
        assert reason in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_network_of_timms_with_mean_pooling(prefix: str) -> None:
    theirs = timm_model(global_pool="avg")
    assert "fc_norm.weight" in theirs.state_dict()
    with pytest.raises(UserError, match="mean of the patch tokens through fc_norm"):
        convert({prefix + name: array for name, array in theirs.state_dict().items()})


def test_a_head_of_which_half_is_there() -> None:
    arrays = good()
    arrays.pop("head.weight")
    with pytest.raises(UserError, match="not understood head.bias"):
        convert(arrays)


def test_unknown_arrays() -> None:
    with pytest.raises(UserError, match="no Vision Transformer in a known layout.*conv1.weight"):
        convert({"conv1.weight": torch.zeros(1)})


def test_heads_that_nothing_says() -> None:
    theirs = timm_model(embed_dim=96, num_heads=3)
    with pytest.raises(UserError, match="how many heads a width of 96 has"):
        convert(theirs.state_dict())
    assert convert(theirs.state_dict(), {"num_heads": 3}).vit.num_heads == 3


def test_rules_are_named_in_the_notes() -> None:
    notes = " ".join(convert(good()).notes)
    for word in ("num_heads 2 by the rule", "gelu exact", "eps 1e-06", "preprocessing"):
        assert word in notes


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "flipped":
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("Transformer/encoder_norm/scale.npy")
        content[info.header_offset + 200] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_npz(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes((FIXTURES / "google_tiny.npz").read_bytes())
    damage(path, kind)
    with pytest.raises(UserError, match="damaged or cut short"):
        pretrained.read(path)


def test_other_damaged_files(tmp_path: Path) -> None:
    save_file(good(), tmp_path / "w.safetensors")
    torch.save(good(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        damage(tmp_path / name, "truncated")
        with pytest.raises(UserError, match="damaged|can't be read"):
            pretrained.read(tmp_path / name)
    (tmp_path / "page.npz").write_text("<!DOCTYPE html> not found")
    with pytest.raises(UserError, match="is not a weights file"):
        pretrained.read(tmp_path / "page.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="is not a weights file"):
        pretrained.read(tmp_path / "empty.npz")


class Sly:
    """Unpickling this would run code."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, capsys: Any) -> None:
    torch.save({"model": good(), "args": Sly()}, tmp_path / "sly.pth")
    with pytest.raises(UserError, match="nothing else is ever unpickled"):
        pretrained.read(tmp_path / "sly.pth")
    assert "unpickled" not in capsys.readouterr().out
