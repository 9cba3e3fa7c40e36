"""How many of a CPU's cores small products take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Pictures whose features are decomposed: 600 take 0.5 s on one core, 0.25 on two, and 2.6 to 5 on
# two of which another program has one.
SMALL = 1000


@contextmanager
def one_core(small: bool) -> Iterator[None]:
    """In the block PyTorch's products take one core of a CPU where they are `small`, else all.

    Small ones gain little from more cores, which wait for one another at each of them: next to
    nothing is done while another program has one of the cores (EXPERIMENTS.md, 2026-11-27).
    """
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
