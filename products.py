"""Matrix products on CPUs: a linear layer by the library that is quick there."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Of smaller products, or fewer rows, the copies of the weight cost more than they gain: of 16 class
# tokens a layer of 384 x 1536 takes 2.1 ms instead of 0.9, forward and back (one Zen 4 core).
LEAST, FEWEST_ROWS = 1 << 22, 256  # multiplications, rows
# AMD's first with 512 bits at a time (Zen 5), which MKL leaves unused there. Zen 4 takes AVX-512 in
# halves: 104 GFLOP/s by oneDNN, 89 by MKL, and a whole layer as quick by either.
FAMILY = 26
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # 2.6 has none


class Linear(nn.Linear):
    """PyTorch's linear layer; of large float32 products on AMD's newer CPUs, forward and backward,
    by oneDNN, where PyTorch takes MKL, which is slow there: 190 instead of 100 GFLOP/s of one Zen 5
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
    rows = x.shape[:-1].numel()
    return plain and rows >= FEWEST_ROWS and rows * weight.numel() >= LEAST


@cache
def prefers_onednn() -> bool:
    """Whether this is such a CPU, PyTorch takes MKL, and oneDNN is there, too.

    By the CPU's name, not by a race: a run that goes on takes the products that it began with.
    """
    mkl, onednn = torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available()
    if not (is_new_amd(cpu_name()) and mkl and onednn):
        return False
    x, weight = torch.ones(2, 3, device="cpu"), torch.ones(4, 3, device="cpu")  # not on "meta"
    try:
        return torch.equal(product(x, weight), F.linear(x, weight))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False


def cpu_name() -> str:
    """What the system says of the CPU."""
    known = Path("/proc/cpuinfo")
    return known.read_text("utf-8", "replace")[:4096] if known.exists() else platform.processor()


def is_new_amd(name: str) -> bool:
    """Of Linux's "cpu family : 26", and Windows's "AMD64 Family 26 Model 68 Stepping 0"."""
    family = re.search(r"family\s*:?\s*(\d+)", name, re.IGNORECASE)
    return "AuthenticAMD" in name and family is not None and int(family[1]) >= FAMILY
