"""A linear layer by another library is PyTorch's linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import products
from pretrained.build import load_model
from products import Linear, fits, prefers_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN's")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Each layer takes oneDNN, whatever the CPU and the size; the products that it made."""
    found: list[torch.Size] = []
    original = products.product

    def product(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        found.append(x.shape)
        return original(x, *more)

    monkeypatch.setattr(products, "product", product)
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(products, "LEAST", 1)
    monkeypatch.setattr(products, "FEWEST_ROWS", 1)
    return found


@pytest.mark.parametrize("shape", [(5, 7, 6), (9, 6), (3, 2, 4, 6)])
def test_values_and_gradients_are_those_of_torch(
    counted: list[torch.Size], shape: tuple[int, ...]
) -> None:
    ours, plain = Linear(6, 8), nn.Linear(6, 8)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape)
    grad = torch.randn(*shape[:-1], 8).transpose(0, 1).contiguous().transpose(0, 1)
    found = []
    for layer in (ours, plain):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.backward(grad)
        found.append((y, given.grad, layer.weight.grad, layer.bias.grad))
    assert len(counted) == 3, "forward, and the gradients of input and weight"
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_what_needs_no_gradient_gets_none(counted: list[torch.Size]) -> None:
    layer = Linear(6, 8).requires_grad_(False)
    layer.bias.requires_grad_(True)
    layer(torch.randn(5, 6)).sum().backward()
    assert len(counted) == 1 and layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((8,), 5.0))
    with torch.inference_mode():
        assert layer(torch.randn(5, 6)).shape == (5, 8)


def test_an_exported_program_has_none_of_it(counted: list[torch.Size]) -> None:
    layer, x = Linear(6, 8).eval(), torch.randn(5, 6)
    program = torch.export.export(layer, (x,))
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert not counted and "products" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), layer(x))
    torch.testing.assert_close(traced(x), layer(x))


def test_what_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.empty(3072, 768)
    assert fits(torch.empty(2, 197, 768), weight)
    assert not fits(torch.empty(1, 768), weight), "small"
    assert not fits(torch.empty(255, 768), weight), "few rows: a copy of the weight costs more"
    assert not fits(torch.empty(394, 768, dtype=torch.float64), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not fits(torch.empty(394, 768), weight)


ZEN_5 = "vendor_id : AuthenticAMD\ncpu family\t: 26\nmodel\t: 2\nmodel name : AMD EPYC\n"
NAMES = {
    ZEN_5: True,
    ZEN_5.replace("26", "25"): False,
    ZEN_5.replace("AuthenticAMD", "GenuineIntel"): False,
    "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD": True,
    "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD": False,
    "arm": False,
    "": False,
}


@pytest.fixture
def on_zen_5(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(products, "cpu_name", lambda: ZEN_5)
    prefers_onednn.cache_clear()
    yield
    prefers_onednn.cache_clear()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_which_cpus(name: str) -> None:
    assert products.is_new_amd(name) == NAMES[name]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch has oneDNN alone")
def test_a_network_out_of_a_file_takes_it_too(on_zen_5: None, weights: Path) -> None:
    """Such a one is made on the meta device, where nothing can be tried."""
    prefers_onednn.cache_clear()  # it was asked when the file was made
    net = load_model(weights, num_classes=3)
    assert net.blocks[0].mlp.fc1.quicker


def test_without_mkl(on_zen_5: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("products.torch.backends.mkl.is_available", lambda: False)
    assert not prefers_onednn(), "PyTorch takes oneDNN itself, or what there is"
