"""A healthy network passes, and what is broken is named."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config import TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split
from inspection.checks import examine, mark, said_of_lr
from inspection.layers import Layer, summarise
from model import Attention, Block, Mlp, VisionTransformer
from pretrained.build import build_for
from tests.helpers import REPO, TINY_VIT

SMALL = REPO / "weights/vit-s14.safetensors"  # of the quick start, where it was made


@pytest.mark.parametrize("mode", ["finetune", "pretrained", "scratch"])
@pytest.mark.parametrize("kind", ["tiny", "real"])
def test_a_healthy_network_passes(
    look: Any, config_file: Path, weights: Path, mode: str, kind: str
) -> None:
    overrides = [f"train.mode={mode}", "train.lr=auto"]
    if kind == "real":
        if mode == "scratch" or not SMALL.exists():
            pytest.skip("no weights of the quick start")
        config_file.write_text(config_file.read_text().partition("vit:")[0] + "vit: {dim: 56}\n")
        weights = SMALL
    overrides += [f"train.checkpoint={weights}"] if mode != "scratch" else []
    config, _ = load_config(config_file, overrides)
    split = load_split(config.train)
    net = build_for(config, split.classes)
    images, labels = look.real_batch(split, config, net, "train", 6)
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    report = examine(net, images, labels, config.train.settled(27), 3)
    assert [check for check in report.checks if check.passed is not True] == []
    assert [(x.name, x.marks) for x in report.layers if x.marks] == []
    assert report.losses[0] == pytest.approx(math.log(3), rel=1e-5)
    assert report.gradient_step == 3, "a fresh head passes nothing on in the first"


class MixingMlp(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class MixingAttention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        """The axes of batch and tokens confused: attention over the batch."""
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class MixingShortCut(Block):
    def forward_cls(self, normalised: Tensor, cls: Tensor) -> Tensor:
        return super().forward_cls(normalised, cls + cls.mean(0))


class BatchNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(
            1, 2
        )


def zero_norm(net: Any) -> None:
    net.norm.weight.data.zero_()


def freeze_blocks(net: Any) -> None:
    net.blocks.requires_grad_(False)


def thaw_patches(net: Any) -> None:
    net.patch_embed.requires_grad_(True)


def put_nan(net: Any) -> None:
    net.blocks[0].mlp.fc2.weight.data[0, 0] = math.nan


def mix_mlp(net: Any) -> None:
    net.blocks[0].mlp.__class__ = MixingMlp


def mix_attention(net: Any) -> None:
    net.blocks[0].attn.__class__ = MixingAttention


def mix_short_cut(net: Any) -> None:
    net.blocks[1].__class__ = MixingShortCut


def batch_norm(net: Any) -> None:
    net.blocks[0].norm2 = BatchNorm()


def nothing(net: Any) -> None:
    pass


def dropout_at_validation(net: Any) -> None:
    net.pos_drop.__class__ = AlwaysDropout


class AlwaysDropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.1, training=True)


def large_head(net: Any) -> None:
    nn.init.normal_(net.head.weight)


@pytest.mark.parametrize(
    ("mode", "breaks", "overrides", "said"),
    [
        ("finetune", zero_norm, (), "norm's weight (norm.weight) is all zero"),
        ("pretrained", zero_norm, (), "norm's weight (norm.weight) is all zero"),
        ("finetune", freeze_blocks, (), "frozen by mistake: blocks.1.norm1.weight"),
        ("pretrained", freeze_blocks, (), "frozen by mistake: blocks.0.norm1.weight"),
        ("finetune", thaw_patches, (), "not meant to train: patch_embed.proj.weight"),
        ("finetune", nothing, ("train.lr=0.2",), "the learning rate 0.2 (adamw) is too high"),
        ("pretrained", nothing, ("train.lr=0.1",), "the learning rate 0.1 (adamw) is too high"),
        ("pretrained", nothing, ("train.lr=1e-10",), "1e-10 (adamw) is too low"),
        ("scratch", mix_mlp, (), "blocks.0.mlp mixes them"),
        ("finetune", mix_mlp, (), "blocks.0.mlp mixes them"),
        ("finetune", mix_short_cut, (), "blocks.1.forward_cls mixes them"),
        ("pretrained", mix_attention, (), "blocks.0.attn mixes them"),
        ("finetune", batch_norm, (), "blocks.0.norm2 mixes them"),
        ("finetune", dropout_at_validation, (), "is dropout on in eval mode?"),
        ("finetune", put_nan, (), "in blocks.0.mlp.fc2.weight"),
        ("scratch", large_head, (), "ln 3 is 1.0986"),
    ],
)
def test_what_is_broken_is_named(
    look: Any,
    config_file: Path,
    weights: Path,
    mode: str,
    breaks: Callable[[VisionTransformer], None],
    overrides: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(*args: Any) -> VisionTransformer:
        net = build_for(*args)
        breaks(net)
        return net

    monkeypatch.setattr(look, "build_for", build)
    monkeypatch.setattr(look, "save", lambda *args: [])
    own = [] if mode == "scratch" else [f"train.checkpoint={weights}"]
    lr = [] if mode == "scratch" else ["train.lr=auto"]
    given = [f"train.mode={mode}", *own, *lr, *overrides]
    assert look.main(["--config", str(config_file), "--batch", "6", *given]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert any(said in line for line in failed), failed


def converged(config_file: Path, weights: Path, sure: float) -> Any:
    """A finetuned network whose head knows a batch by heart, and is sure of it."""
    options = [f"train.checkpoint={weights}", "train.mode=finetune", "train.lr=1e-6"]
    config, _ = load_config(config_file, options)
    split = load_split(config.train)
    net = build_for(config, split.classes)
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32)
    labels = torch.arange(6) % 3
    with torch.no_grad():
        tokens = net.forward_trunk(images, len(net.blocks))
        features = net.norm(tokens)[:, 0]
        targets = sure * torch.nn.functional.one_hot(labels, 3).double()
        solved = torch.linalg.lstsq(features.double(), targets).solution
        net.head.weight.copy_(solved.T)
    return net, images, labels, config.train.settled(27)


@pytest.mark.parametrize("sure", [8.0, 60.0, 400.0])
def test_a_network_that_has_learned_is_not_broken(
    config_file: Path, weights: Path, sure: float
) -> None:
    """Its gradients are next to nothing, down to none at all, and that of its head is large by the
    head's small weights."""
    net, images, labels, train = converged(config_file, weights, sure)
    report = examine(net, images, labels, train, 3)
    assert report.losses[0] < 0.01
    assert [(x.name, x.marks) for x in report.layers if x.marks] == []
    assert [str(check) for check in report.checks if check.passed is False] == []


def test_a_trained_heads_gradient_is_measured_by_itself_as_well() -> None:
    """What a finished run showed: 2.3 of a head whose weights are 0.16, beside norms' 0.0066."""
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    net.freeze_trunk(1)
    train = TrainConfig(lr=1e-3).settled(27)
    plain = summarise(torch.linspace(-1, 1, 100))

    def marks(head: float, ratio: float, known: bool = False) -> list[str]:
        def layer(name: str, norm: float, by_weights: float) -> Layer:
            return Layer(name, plain, replace(plain, norm=norm), by_weights)

        layers = [layer("blocks.1.attn", 0.37, 4.8e-3), layer("norm", 6.6e-3, 9.9e-5)]
        layers += [layer("blocks.1.norm2", 5e-3, 9e-5), layer("head", head, ratio)]
        mark(layers, net, train, False, known)
        return layers[-1].marks

    assert marks(2.3, 14.0) == []
    assert marks(900.0, 5600.0) == ["exploding"] == marks(900.0, 5600.0, known=True)
    assert marks(1e-7, 1e-9) == ["vanishing"] and marks(1e-7, 1e-9, known=True) == []


@pytest.mark.parametrize(("factor", "size"), [(1.0, "high"), (1.0, "low"), (10.0, "high")])
def test_a_rate_is_not_told_to_be_what_it_is(factor: float, size: str) -> None:
    """It said: 0.006 is too high; mode finetune trains well with 0.006."""
    train = TrainConfig(mode="finetune", optim="sgd")
    train = train.model_copy(update={"lr": factor * train.recipe_lr})
    said = said_of_lr(train, size)
    numbers = re.findall(r"\d[\d.]*(?:e-\d+)?", said)
    assert len(set(numbers)) == 2 and f"is too {size}" in said
    if factor == 1:
        assert "mode finetune's own" in said
        assert (float(numbers[1]) < float(numbers[0])) == (size == "high")
