"""The machine that a benchmark runs on: its name, its peak, what a process took."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filing.csv_files import read_csv
from utils import write_csv

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


def matrix_peak(device: str, bf16: bool, images: int = 8) -> float:
    """GFLOP/s of the best of `sgemm_peak`'s products."""
    return max(sgemm_peak(device, bf16, images).values())


def sgemm_peak(device: str, bf16: bool, images: int = 8) -> dict[str, float]:
    """GFLOP/s of the best matrix products to be had here, at the sizes of a B/16's layers and so
    many images.

    `torch.mm` is what the peers get; oneDNN's packed products are what our trunk pass calls.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    M, peak = images * 197, {"torch.mm": 0.0}
    for K, N in ((768, 768), (768, 2304), (768, 3072), (3072, 768), (2048, 2048)):
        a = torch.randn(M, K, device=device, dtype=dtype)
        w = torch.randn(N, K, device=device, dtype=dtype)
        b = torch.zeros(N, device=device, dtype=dtype)
        out = torch.empty(M, N, device=device, dtype=dtype)

        def product(a: Tensor = a, w: Tensor = w, out: Tensor = out) -> object:
            return torch.mm(a, w.t(), out=out)

        peak["torch.mm"] = max(peak["torch.mm"], gflops(product, 2 * M * K * N, device))
        if device == "cpu" and torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(w, M)

            def fused(a: Tensor = a, packed: Tensor = packed, b: Tensor = b) -> object:
                return torch.ops.mkldnn._linear_pointwise(a, packed, b, "none", [], "")

            found = gflops(fused, 2 * M * K * N, device)
            peak["oneDNN"] = max(peak.get("oneDNN", 0.0), found)
    return peak


def clock(device: str = "cpu") -> float:
    """Seconds; of one thread on a CPU its own, as other programs' don't count there."""
    own = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if own else time.perf_counter()


def gflops(product: Callable[[], object], flops: float, device: str) -> float:
    """The median of 15 calls after 3."""
    times = []
    with torch.inference_mode():
        for _ in range(18):
            if device == "cuda":
                torch.cuda.synchronize()
            started = clock(device)
            product()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(clock(device) - started)
    return flops / sorted(times[3:])[7] / 1e9


def timed(command: list[str]) -> tuple[str, float, int]:
    """A process's output, wall seconds, and its largest resident memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{out[-2000:]}")
    return out, wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """The processor and its cores, or the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    known = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    name = processor(known) or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} cores"


def processor(cpuinfo: str) -> str:
    """A processor's name in Linux's words; with its family and model where a rented machine's name
    hides which it is: "AMD EPYC" was one of half the speed on another day."""
    said = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", cpuinfo, re.MULTILINE))
    name = said.get("model name", "")
    if name and not re.search(r"\d", name) and "cpu family" in said:
        return f"{name} (family {said['cpu family']}, model {said.get('model', '?')})"
    return name


def keep_others(
    path: Path, rows: list[dict[str, Any]], kind: Sequence[str], fields: Sequence[str]
) -> None:
    """Write rows to a table in the place of those of the same kind, which these columns tell."""
    old = read_csv(path, fields) if path.exists() else []
    new = [[str(row[name]) for name in kind] for row in rows]
    kept = [row for row in old if [row[name] for name in kind] not in new]
    write_csv(path, [*kept, *rows], fields)
