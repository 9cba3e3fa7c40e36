"""A running average of the weights, by step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from engine.sharding import local, take
from system.stopping import unbroken


class Average:
    """A running average of weights by step; without a decay, the weights themselves.

    It begins as the plain mean of the steps so far: the first weights would weigh too much.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float | Any) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.values = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        if self.values:
            share = max(1 - self.decay, 1 / self.steps)
            values, weights = map(local, self.values), map(local, self.parameters)
            torch._foreach_lerp_(list(values), list(weights), share)

    @torch.no_grad()
    def settle(self) -> None:
        """The average becomes the weights, and nothing is averaged any more."""
        for parameter, value in zip(self.parameters, self.values or self.parameters, strict=True):
            local(parameter).copy_(local(value))
        self.decay, self.values = None, []

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the place of the weights."""
        if self.values and isinstance(self.values[0], DTensor):  # whose memory is FSDP's
            self._swap()
            try:
                yield
            finally:
                self._swap()
            return
        weights = [p.data for p in self.parameters]
        try:
            self._put(self.values or weights)
            yield
        finally:
            self._put(weights)

    def _put(self, values: list[Tensor]) -> None:
        with unbroken():  # what is saved is the one or the other
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.data = value

    @torch.no_grad()
    def _swap(self) -> None:
        with unbroken():
            for parameter, value in zip(self.parameters, self.values, strict=True):
                weights = local(parameter).clone()
                local(parameter).copy_(local(value))
                local(value).copy_(weights)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is None:  # of a run before there were averages
            return
        self.steps = state["steps"]
        for value, saved in zip(self.values, state["values"], strict=True):
            take(value, saved)
