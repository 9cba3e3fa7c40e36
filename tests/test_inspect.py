"""test.py: its numbers, against gradients and activations taken by hand."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import FIXTURES, REPO, TINY_VIT
from PIL import Image

from config import ViTConfig
from model import VisionTransformer
from utils import UserError


@pytest.fixture(scope="module")
def look() -> ModuleType:
    """The program, under a name that is not the standard library's `test`."""
    spec = importlib.util.spec_from_file_location("look_inside", REPO / "test.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["look_inside"] = module
    spec.loader.exec_module(module)
    return module


def network() -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3, dropout=0.5))
    torch.nn.init.normal_(net.head.weight)  # type: ignore[arg-type]
    return net


def test_the_numbers_are_those_of_the_pass(look: Any) -> None:
    net = network().eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    layers, loss = look.inspect(net, images, labels)
    assert [layer.name for layer in layers] == look.layer_names(net)
    assert all(parameter.grad is None for parameter in net.parameters()), "left as it was found"

    logits = net(images)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    by_name = {layer.name: layer for layer in layers}
    head = by_name["head"]
    assert head.activation.mean == pytest.approx(logits.mean().item(), rel=1e-5)
    assert head.activation.norm == pytest.approx(logits.norm().item(), rel=1e-5)
    gradient = torch.cat([p.grad.flatten() for p in net.blocks[1].mlp.parameters()])
    found = by_name["blocks.1.mlp"].gradient
    assert found.std == pytest.approx(gradient.std(correction=0).item(), rel=1e-4)
    assert found.norm == pytest.approx(gradient.norm().item(), rel=1e-4)
    assert sum(found.counts) == pytest.approx(0.999 * gradient.numel(), rel=2e-3)


def test_a_frozen_layer_has_no_gradient(look: Any) -> None:
    net = network()
    net.freeze_trunk(1)
    layers, _ = look.inspect(net, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    frozen = {layer.name for layer in layers if layer.gradient is None}
    assert frozen == {"patch_embed", "blocks.0.attn", "blocks.0.mlp"}


def test_the_hooks_are_gone_afterwards(look: Any) -> None:
    net = network()
    with pytest.raises(RuntimeError), look.recorded(net, ["norm"]):
        net(torch.randn(1, 3, 5, 5))
    assert not net.norm._forward_hooks


def test_the_program(look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look.main(["--config", str(config_file), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert f"loss {math.log(3):.4f} over 6 val images" in out and "the head is fresh" in out
    folder = config_file.parent / "logs" / "inspect"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(rows) == 7 and float(rows[0]["activation_std"]) > 0
    for name in ("activations.png", "gradients.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300


def test_a_runs_checkpoint_is_shown_in_its_folder(
    look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import training

    training.main(["--config", str(config_file), "train.max_epochs=1"])
    best = config_file.parent / "weights/tiny/best.safetensors"
    capsys.readouterr()
    assert look.main(["--config", str(config_file), "--checkpoint", str(best)]) == 0
    assert "the head is kept" in capsys.readouterr().out, "also of a run from scratch"
    assert (config_file.parent / "logs/tiny/inspect/table.csv").exists()


def test_a_part_that_is_not_there(look: Any, config_file: Path) -> None:
    with pytest.raises(UserError, match="has no test images"):
        look.main(["--config", str(config_file), "--split", "test"])
    assert FIXTURES.exists()
