"""The numbers of each layer."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from engine.job import Job, build_optimizer
from inspection.checks import examine
from inspection.layers import (
    attention_distance,
    attention_entropy,
    first_pass,
    layer_names,
    recorded,
    summarise,
    take_steps,
)
from model import attention_kept
from tests.inspection.helpers import batch, network, settled


def test_the_numbers_are_those_of_the_pass() -> None:
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

    build_optimizer(net, train).step()
    change = torch.cat([p.detach().flatten() for p in mlp]) - weights
    wanted = math.log10((change.norm() / weights.norm()).item())
    assert found.updates == [pytest.approx(wanted, abs=1e-3)]


def test_outliers_are_counted() -> None:
    values = torch.ones(1000) * torch.tensor([1.0, -1.0]).repeat(500)
    values[:5] = 100.0
    assert summarise(values).outliers == pytest.approx(0.005)
    assert summarise(values).largest == 100


def test_the_network_is_left_as_it_was() -> None:
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


def test_a_frozen_layer_has_no_gradient() -> None:
    net = network()
    net.freeze_trunk(1)
    layers = examine(net, *batch(), settled(mode="finetune", lr=1e-4), 2).layers
    frozen = {layer.name for layer in layers if layer.gradient is None}
    inner = {f"blocks.0.{part}" for part in ("norm1", "attn", "norm2", "mlp")}
    assert frozen == {"patch_embed", *inner}
    assert not any(layer.marks for layer in layers), "it is frozen as meant"


def test_the_hooks_are_gone_afterwards() -> None:
    net = network()
    keep = lambda name, output: output  # noqa: E731
    with pytest.raises(RuntimeError), recorded(net, ["norm"], keep):
        net(torch.randn(1, 3, 5, 5))
    assert not net.norm._forward_hooks


def test_attention_by_a_loop() -> None:
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


def test_dead_and_linear_units() -> None:
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
def test_the_optimiser_is_trainings(optim: str) -> None:
    """Two steps here leave the weights that two steps of a training's job leave."""
    net, (images, labels) = network().eval(), batch()
    train = settled(optim=optim, label_smoothing=0.0, ema=None, warmup_epochs=0)
    twin = copy.deepcopy(net)
    take_steps(net, images, labels, first_pass(net, images, labels), train, 2)
    job = Job(twin, twin, train, labels.tolist())
    for _ in range(2):
        job.gradients(images, labels)
        job.optimizer.step()
    before = network().state_dict()
    for name, value in twin.state_dict().items():
        assert not torch.equal(value, before[name]), f"{name} was not trained"
        torch.testing.assert_close(
            net.state_dict()[name], value, rtol=1e-5, atol=1e-6
        )  # a step is 3e-5
