"""Less memory for more time: what a block makes of a batch is made again for the gradient."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from model import VisionTransformer


def recompute(net: VisionTransformer) -> None:
    """Keep of each block that trains its input alone, until the gradient needs the rest.

    Chen et al. 2016, arXiv:1604.06174.
    """
    for block in net.blocks:
        if any(p.requires_grad for p in block.parameters()):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
