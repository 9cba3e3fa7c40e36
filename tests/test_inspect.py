"""test.py: its numbers by hand, and what it says of networks that were broken on purpose."""

from __future__ import annotations

import copy
import csv
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import REPO, TINY_VIT
from PIL import Image
from torch import Tensor, nn

from config import TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split
from engine.job import build_optimizer
from inspection.checks import examine
from inspection.layers import (
    attention_distance,
    attention_entropy,
    layer_names,
    recorded,
    summarise,
)
from inspection.layers import build_optimizer as inspectors_optimizer
from model import Attention, Block, Mlp, VisionTransformer, attention_kept
from pretrained.build import build_for
from pretrained.write import save_model
from utils import UserError

SMALL = REPO / "weights/vit-s14.safetensors"  # of the quick start, where it was made


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


def settled(**train: Any) -> TrainConfig:
    return TrainConfig(**{"mode": "pretrained", "checkpoint": "x", **train}).settled(100)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])


# -------------------------------------------------------------------------------------- the numbers


def test_the_numbers_are_those_of_the_pass(look: Any) -> None:
    net = network().eval()
    images, labels = batch()
    train = settled(clip_grad=None)
    report = examine(net, images, labels, train, 1)
    assert [layer.name for layer in report.layers] == layer_names(net)
    layers = {layer.name: layer for layer in report.layers}

    logits = net(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    assert report.losses[0] == pytest.approx(loss.item(), rel=1e-5)
    head = layers["head"].activation
    assert head.mean == pytest.approx(logits.mean().item(), rel=1e-4)
    assert head.norm == pytest.approx(logits.norm().item(), rel=1e-4)
    assert head.largest == pytest.approx(logits.abs().max().item(), rel=1e-4)
    mlp = list(net.blocks[1].mlp.parameters())  # type: ignore[union-attr]
    gradient = torch.cat([p.grad.flatten() for p in mlp])
    weights = torch.cat([p.detach().flatten() for p in mlp])
    found = layers["blocks.1.mlp"]
    assert found.gradient.std == pytest.approx(gradient.std(correction=0).item(), rel=1e-3)
    assert found.gradient.norm == pytest.approx(gradient.norm().item(), rel=1e-3)
    ratio = (gradient.norm() / weights.norm()).item()
    assert found.gradient_ratio == pytest.approx(ratio, rel=1e-3)
    assert sum(found.gradient.counts) == pytest.approx(0.999 * gradient.numel(), rel=2e-3)

    inspectors_optimizer(net, train).step()
    change = torch.cat([p.detach().flatten() for p in mlp]) - weights
    wanted = math.log10((change.norm() / weights.norm()).item())
    assert found.updates == [pytest.approx(wanted, abs=1e-3)]


def test_outliers_are_counted(look: Any) -> None:
    values = torch.ones(1000) * torch.tensor([1.0, -1.0]).repeat(500)
    values[:5] = 100.0
    assert summarise(values).outliers == pytest.approx(0.005)
    assert summarise(values).largest == 100


def test_the_network_is_left_as_it_was(look: Any) -> None:
    net = network().train()
    net.freeze_trunk(1)
    net.head.weight.grad = torch.ones_like(net.head.weight)  # type: ignore[assignment,arg-type]
    before = copy.deepcopy(net.state_dict())
    training = [module.training for module in net.modules()]
    examine(net, *batch(), settled(mode="finetune"), 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == training
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["head.weight"]
    assert net.head.weight.grad.eq(1).all()  # type: ignore[union-attr,operator]
    assert not any(module._forward_hooks for module in net.modules())
    assert not net.full_last_block


def test_a_frozen_layer_has_no_gradient(look: Any) -> None:
    net = network()
    net.freeze_trunk(1)
    layers = examine(net, *batch(), settled(mode="finetune", lr=1e-4), 2).layers
    frozen = {layer.name for layer in layers if layer.gradient is None}
    inner = {f"blocks.0.{part}" for part in ("norm1", "attn", "norm2", "mlp")}
    assert frozen == {"patch_embed", *inner}
    assert not any(layer.marks for layer in layers), "it is frozen as meant"


def test_the_hooks_are_gone_afterwards(look: Any) -> None:
    net = network()
    keep = lambda name, output: output  # noqa: E731
    with pytest.raises(RuntimeError), recorded(net, ["norm"], keep):
        net(torch.randn(1, 3, 5, 5))
    assert not net.norm._forward_hooks


def test_attention_by_a_loop(look: Any) -> None:
    """Entropy and distance of every head, pair by pair."""
    net, patch, grid, N = network().eval(), 8, 4, 17
    with attention_kept(net) as kept, torch.no_grad():
        net(batch()[0][:2])
    a = (kept[0] * 40).softmax(-1)  # sharper than that of random weights
    for head in range(4):
        entropies, distances = [], []
        for image in range(2):
            for i in range(N):
                row = a[image, head, i].tolist()
                entropies.append(-sum(p * math.log(p) for p in row) / math.log(N))
                if i == 0:
                    continue
                far = [
                    math.dist(divmod(i - 1, grid), divmod(j, grid)) * patch for j in range(N - 1)
                ]
                mean = sum(p * d for p, d in zip(row[1:], far, strict=True)) / sum(row[1:])
                distances.append(mean)
        entropy = sum(entropies) / len(entropies)
        distance = sum(distances) / len(distances)
        assert attention_entropy(a)[head].item() == pytest.approx(entropy, rel=1e-4)
        assert attention_distance(a, patch)[head].item() == pytest.approx(distance, rel=1e-4)
    uniform = torch.full((1, 1, N, N), 1 / N)
    assert attention_entropy(uniform).item() == pytest.approx(1)
    itself = torch.eye(N)[None, None]
    assert attention_entropy(itself).item() == 0
    assert attention_distance(itself, patch).item() == 0


def test_dead_and_linear_units(look: Any) -> None:
    net = network()
    with torch.no_grad():
        net.blocks[0].mlp.fc1.bias[:24] = -50.0  # type: ignore[union-attr,operator,index]
        net.blocks[0].mlp.fc1.bias[24:36] = 50.0  # type: ignore[union-attr,operator,index]
        net.blocks[1].mlp.fc1.bias[:] = -50.0  # type: ignore[union-attr,operator,index]
    layers = {x.name: x for x in examine(net, *batch(), settled(), 1).layers}
    assert (layers["blocks.0.mlp"].dead, layers["blocks.0.mlp"].linear) == (0.25, 0.125)
    assert layers["blocks.0.mlp"].marks == []
    assert layers["blocks.1.mlp"].dead == 1 and "dead" in layers["blocks.1.mlp"].marks


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_the_optimiser_is_trainings(look: Any, optim: str) -> None:

    net, train = network(), settled(optim=optim)

    def by_name(optimizer: torch.optim.Optimizer) -> dict[str, list[float]]:
        names = {p: name for name, p in net.named_parameters()}
        found = {}
        for g in optimizer.param_groups:
            more = g["betas"] if optim == "adamw" else (g["momentum"],)
            found |= {names[p]: [g["lr"], g["weight_decay"], *more] for p in g["params"]}
        return found

    wanted = by_name(build_optimizer(net, train))
    found = by_name(inspectors_optimizer(net, train))
    assert found == {name: pytest.approx(values) for name, values in wanted.items()}
    assert len(wanted) == len(list(net.parameters()))


# ------------------------------------------------------------------------------------------ healthy


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network's weights, without classes: the head will be a fresh one."""
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_model(path, VisionTransformer(ViTConfig(**TINY_VIT, num_classes=0)))
    return path


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


def test_the_program(look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look.main(["--config", str(config_file), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert f"loss by step: {math.log(3):.4f}, " in out and "(6 val images; adamw, lr 0.001" in out
    assert out.count("PASS") == 10 and "FAIL" not in out
    folder = config_file.parent / "logs" / "inspect"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(rows) == 11 and float(rows[0]["activation_std"]) > 0
    assert 0 < float(rows[2]["entropy_mean"]) <= 1 and rows[4]["dead"] == "0.0"
    plots = ("activations", "gradients", "updates", "attention_distance", "positions", "filters")
    for name in plots:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 300


def test_a_runs_checkpoint_is_shown_in_its_folder(
    look: Any, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import training

    training.main(["--config", str(config_file), "train.max_epochs=1"])
    best = config_file.parent / "weights/tiny/best.safetensors"
    for folder in (best.parents[1] / "older", config_file.parent / "logs/older"):
        folder.mkdir()
    (best.parents[1] / "older/best.safetensors").write_bytes(b"not the newest")
    older = config_file.parent / "logs/older/config.yaml"
    older.write_text(config_file.read_text())
    os.utime(older, (1, 1))
    capsys.readouterr()
    look.main(["--config", str(config_file), "--checkpoint", "last"])
    out = capsys.readouterr().out
    assert str(best) in out and "the head is kept" in out, "also of a run from scratch"
    assert "skip  the loss starts at chance: not a fresh head" in out
    assert (config_file.parent / "logs/tiny/inspect/table.csv").exists()


def test_a_runs_own_choice_of_the_learning_rate_counts(look: Any, config_file: Path) -> None:
    config, _ = load_config(config_file, ["train.lr=auto"])
    folder = config_file.parent / "logs/tiny"
    folder.mkdir(parents=True)
    rows = ["part,optim,lr,weight_decay,chosen", "block,adamw,1.0,0,0", "head,sgd,0.25,0.5,1"]
    (folder / "search.csv").write_text("\n".join(rows) + "\n")
    net = network()
    train = look.with_choice(config.train.settled(27), config, "tiny", net)
    assert (train.optim, train.lr, train.weight_decay) == ("sgd", 0.25, 0.5)
    assert train.finetune_blocks == 0
    assert not any(p.requires_grad for p in net.blocks.parameters()), "the head alone"


def test_what_is_not_there(look: Any, config_file: Path) -> None:
    with pytest.raises(UserError, match="has no test images; --split takes train, val"):
        look.main(["--config", str(config_file), "--split", "test"])
    with pytest.raises(UserError, match="holds no run with weights"):
        look.main(["--config", str(config_file), "--checkpoint", "last"])


# ------------------------------------------------------------------------------------------- broken


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
    monkeypatch.setattr(look, "save", lambda *args: None)
    own = [] if mode == "scratch" else [f"train.checkpoint={weights}"]
    lr = [] if mode == "scratch" else ["train.lr=auto"]
    given = [f"train.mode={mode}", *own, *lr, *overrides]
    assert look.main(["--config", str(config_file), "--batch", "6", *given]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert any(said in line for line in failed), failed
