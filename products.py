"""Matrix products on CPUs: a linear layer by the library that is quick there."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST = 1 << 22  # multiplications: of smaller products the copies cost more than they gain
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # 2.6 has none


class Linear(nn.Linear):
    """PyTorch's linear layer; of large float32 products on an AMD CPU, forward and backward, by
    oneDNN, where PyTorch takes MKL, which is slow there: 190 instead of 100 GFLOP/s of one Zen 5
    core, and a training step of an S/16 in 0.62 of the time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.quicker = prefers_onednn()

    def forward(self, x: Tensor) -> Tensor:
        if self.quicker and fits(x, self.weight):
            return OneDNN.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class OneDNN(torch.autograd.Function):
    """x (..., K), weight (N, K) and bias (N,) to (..., N), and their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        for_x, for_w, for_b = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            product(grad, weight.t().contiguous()) if for_x else None,
            product(rows.t().contiguous(), x.flatten(0, -2).t().contiguous()) if for_w else None,
            rows.sum(0) if for_b else None,
        )


@torch.library.custom_op("products::product", mutates_args=())
def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) by the transpose of weight (N, K); torch.compile takes it as it is."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is a large one of float32 on a CPU, and is not being exported."""
    if is_exporting() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and x.shape[:-1].numel() * weight.numel() >= LEAST


@cache
def prefers_onednn() -> bool:
    """Whether this is an AMD CPU, PyTorch takes MKL, and oneDNN is there, too."""
    known = Path("/proc/cpuinfo")
    name = known.read_text("utf-8", "replace")[:4096] if known.exists() else platform.processor()
    mkl, onednn = torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available()
    if "AuthenticAMD" not in name or not (mkl and onednn):
        return False
    try:
        x, weight = torch.ones(2, 3), torch.ones(4, 3)
        return torch.equal(product(x, weight), F.linear(x, weight))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
