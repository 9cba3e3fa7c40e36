"""What learns and how: optimiser, schedule, averages, mixtures, jobs side by side."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import utils
from config import TrainConfig, ViTConfig
from config_file import load_config
from dataset import load_split
from engine.job import Job, build_criterion, build_mix, build_optimizer, build_scheduler
from engine.side import branch
from model import VisionTransformer
from pretrained.build import build_for
from tests.helpers import TINY_VIT


def net_with_head(**vit: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ViTConfig(**{**TINY_VIT, **vit}, num_classes=3))


def settled(**options: Any) -> TrainConfig:
    return TrainConfig(**{"mode": "scratch", **options}).settled(images=6)


def job(net: VisionTransformer, **options: Any) -> Job:
    return Job(net, net, settled(**options), [0, 1, 2] * 2)


# Seeded: of random pictures, one draw in many can't be learned at such a rate.
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2] * 2)
NO_MIX = {"mixup": 0.0, "cutmix": 0.0}


def test_weight_decay_is_for_matrices_only() -> None:
    net = net_with_head()
    optimizer = build_optimizer(net, settled(weight_decay=0.1))
    names = {id(p): name for name, p in net.named_parameters()}
    rest, decayed = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert decayed | rest == set(names.values()) and not decayed & rest
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= rest
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.1]


def rates(**options: Any) -> list[float]:
    settings = settled(**{"lr": 1.0, "max_epochs": 10, "warmup_epochs": 2, **options})
    optimizer = build_optimizer(net_with_head(), settings)
    scheduler = build_scheduler(optimizer, settings, steps=50)
    found = []
    for _ in range(50):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_warmup_cosine_is_stepped_per_batch() -> None:
    lr = rates()
    assert lr[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert lr[10] == 1 and lr[30] == pytest.approx(0.5) and lr[50] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in zip(lr[10:], lr[11:], strict=False))


def test_wsd_is_stable_then_decays() -> None:
    lr = rates(scheduler_type="wsd", decay_epochs=4)
    assert set(lr[10:31]) == {1.0} and lr[40] == pytest.approx(0.5) and lr[50] == 0
    assert rates(scheduler_type="wsd")[40] == 1 and rates(scheduler_type="wsd")[45] == 0.5


@pytest.mark.parametrize(("name", "cls"), [("adamw", "AdamW8bit"), ("sgd", "SGD8bit")])
def test_8_bit_optimisers_learn(name: str, cls: str) -> None:
    options = {
        "optim": name,
        "use_bitsandbytes": True,
        "lr": 1e-2,
        "label_smoothing": 0.0,
        "warmup_epochs": 0,
    }
    learning = job(net_with_head(hidden_dim=128), **options, **NO_MIX)
    optimizer = learning.optimizer
    assert type(optimizer).__name__ == cls
    losses = []
    for _ in range(25):
        losses.append(learning.gradients(IMAGES, LABELS)[0])
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    states = {
        s.dtype for v in optimizer.state.values() for s in v.values() if isinstance(s, Tensor)
    }
    assert torch.uint8 in states, "the large matrices' moments are in 8 bits"


def test_without_bitsandbytes_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    utils.setup_log()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    optimizer = build_optimizer(net_with_head(), settled(use_bitsandbytes=True))
    assert type(optimizer) is torch.optim.AdamW
    assert "using the 32-bit optimiser" in capsys.readouterr().out


def test_clipping_bounds_the_step() -> None:
    net = net_with_head()
    _, _, norm = job(net, clip_grad=0.01).gradients(IMAGES, LABELS)
    total = math.sqrt(
        sum(float(p.grad.norm()) ** 2 for p in net.parameters() if p.grad is not None)
    )
    assert norm > 0.01 and total == pytest.approx(0.01, rel=1e-3)


def test_side_jobs_leave_the_network_alone(untuned: Path) -> None:
    config, _ = load_config(untuned)
    net = build_for(config, load_split(config.train).classes)
    twin = branch(net)
    shared = {n for n, p in net.named_parameters() if p is twin.get_parameter(n)}
    assert shared == {n for n, p in net.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        twin.head.bias += 1  # type: ignore[operator]
    assert not net.head.bias.any()  # type: ignore[union-attr,operator]


def net_and_job(**options: Any) -> Job:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    settled = TrainConfig(**{"mode": "pretrained", **options}).settled(images=6)
    return Job(net, net, settled, [0, 1, 2] * 2)


def test_the_average_is_that_of_the_steps() -> None:
    job = net_and_job(ema=0.9, lr=1e-2)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
    seen = []
    for _ in range(12):
        job.step(images, labels)
        seen.append(job.net.norm.weight.detach().clone())
    expected = torch.zeros_like(seen[0])
    for step, weight in enumerate(seen, 1):
        expected = torch.lerp(expected, weight, max(0.1, 1 / step))
    with job.average.in_place():
        torch.testing.assert_close(job.net.norm.weight.detach(), expected)
    assert torch.equal(job.net.norm.weight, seen[-1]), "training goes on from the weights"


def test_layers_decay_towards_the_patches() -> None:
    job = net_and_job(layer_decay=0.5, lr=1.0)
    names = {id(p): n for n, p in job.net.named_parameters()}
    rates = {
        names[id(p)]: group["initial_lr"]
        for group in job.optimizer.param_groups
        for p in group["params"]
    }
    assert rates["head.weight"] == rates["norm.bias"] == 1
    assert rates["blocks.1.attn.qkv.weight"] == 0.5 and rates["blocks.0.norm1.bias"] == 0.25
    assert {rates[n] for n in ("pos_embed", "cls_token", "patch_embed.proj.weight")} == {0.125}
    assert job.optimizer.param_groups[0]["initial_lr"] == 1, "the one that is logged"


def test_mixtures_have_the_shares_of_their_images() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2] * 2)
    mix = build_mix(TrainConfig(mode="scratch", mixup=0.2, cutmix=0.5), 3)
    assert mix is not None
    mixed, shares = mix(images, labels)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    assert torch.allclose(shares.sum(1), torch.ones(6)) and shares.max() < 1
    assert build_mix(TrainConfig(mode="scratch", mixup=0.0, cutmix=0.0), 3) is None
    loss, right, _ = net_and_job(mode="scratch").gradients(images, labels)
    assert math.isfinite(loss) and 0 <= right <= 6


def test_balanced_classes_count_the_same_in_the_loss() -> None:
    settled = TrainConfig(class_weights="balanced", label_smoothing=0.0).settled(6)
    criterion = build_criterion(settled, [0, 0, 0, 0, 0, 1], 2)
    logits = torch.zeros(6, 2, requires_grad=True)
    criterion(logits, torch.tensor([0, 0, 0, 0, 0, 1])).backward()
    by_class = logits.grad[:, 0]  # type: ignore[index]
    assert by_class[:5].sum().item() == pytest.approx(-by_class[5].item())
