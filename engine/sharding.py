"""A network whose weights, gradients and moments are shared out among the processes (FSDP2), for
those that are too large for one device."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from config import TrainConfig
from model import VisionTransformer
from system.parallel import world_size


def shared_out(net: VisionTransformer, train: TrainConfig) -> VisionTransformer | None:
    """Where the config asks for that, let each process hold its part of every array; a block's are
    put together when it is used. Returns a copy of the network for what follows the training.

    https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """
    if train.parallel != "fsdp" or world_size() == 1:
        return None
    plain = copy.deepcopy(net).cpu()
    mesh = init_device_mesh(net.device.type, (world_size(),))
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    register_fsdp_forward_method(net.blocks[-1], "forward_cls")
    # After each forward, also without a gradient: what is evaluated may be another average.
    fully_shard(net, mesh=mesh, reshard_after_forward=True)
    return plain


def is_shared_out(net: VisionTransformer) -> bool:
    return isinstance(net, FSDPModule)


def local(values: Tensor) -> Tensor:
    """This process's part of an array, in the same memory; an ordinary one as it is."""
    return values.to_local().detach() if isinstance(values, DTensor) else values


def whole(state: Any) -> Any:
    """A state dict with its arrays put together, which all processes do in the same order; ordinary
    ones as they are."""
    if isinstance(state, DTensor):
        return state.full_tensor().detach()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


def as_part_of(values: Tensor, given: Tensor) -> Tensor:
    """A whole array, shared out as `values` of the same shape is."""
    if not isinstance(values, DTensor) or given.shape != values.shape:
        return given
    given = given.detach().to(values.device)
    return distribute_tensor(given, values.device_mesh, values.placements)


@torch.no_grad()
def take(values: Tensor, given: Tensor) -> None:
    """Write a whole array into one that may be shared out."""
    local(values).copy_(local(as_part_of(values, given)))


def moments_of(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's saved state, its arrays shared out as the weights are."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    if any(number >= len(weights) for number in state["state"]):
        raise ValueError("it trains other parameters")
    shared = {
        number: {
            name: as_part_of(weights[number], value) if isinstance(value, Tensor) else value
            for name, value in kept.items()
        }
        for number, kept in state["state"].items()
    }
    return {**state, "state": shared}
