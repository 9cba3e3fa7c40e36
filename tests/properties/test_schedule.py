"""The learning rate: within its bounds, and the same after any stop."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from config import Config, TrainConfig
from config_rules import combinations
from engine.job import build_scheduler
from tests.properties.helpers import holds


@st.composite
def plans(draw: st.DrawFn) -> tuple[TrainConfig, int]:
    epochs, a_epoch = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["warmup-cosine", "wsd"]))
    warmup = draw(st.floats(0, epochs))
    decay = draw(st.one_of(st.none(), st.floats(0, epochs - warmup))) if kind == "wsd" else None
    train = TrainConfig(
        mode="scratch",
        lr=draw(st.floats(1e-6, 1)),
        max_epochs=epochs,
        warmup_epochs=warmup,
        decay_epochs=decay,
        scheduler_type=kind,
    )
    return train, epochs * a_epoch


def built(train: TrainConfig, steps: int) -> tuple[torch.optim.Optimizer, object]:
    assert not combinations(Config(train=train))
    assert train.lr != "auto"
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], train.lr)
    return optimizer, build_scheduler(optimizer, train, steps)


def rates(optimizer: torch.optim.Optimizer, scheduler: object, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    return found


@holds(60, 3000, plan=plans())
def test_the_rate_rises_falls_and_stays_in_its_bounds(plan: tuple[TrainConfig, int]) -> None:
    train, steps = plan
    found = rates(*built(train, steps), steps)
    assert train.lr != "auto" and train.max_epochs != "auto" and train.warmup_epochs != "auto"
    assert all(0 < rate <= train.lr for rate in found)
    warmup = round(train.warmup_epochs * steps / train.max_epochs)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)


@holds(60, 3000, plan=plans(), data=st.data())
def test_a_schedule_that_was_stopped_goes_on_as_it_would_have(
    plan: tuple[TrainConfig, int], data: st.DataObject
) -> None:
    train, steps = plan
    whole = rates(*built(train, steps), steps)
    stop = data.draw(st.integers(0, steps))
    optimizer, scheduler = built(train, steps)
    begun = rates(optimizer, scheduler, stop)
    saved = optimizer.state_dict(), scheduler.state_dict()  # type: ignore[attr-defined]
    again, after = built(train, steps)
    again.load_state_dict(saved[0])
    after.load_state_dict(saved[1])  # type: ignore[attr-defined]
    assert begun + rates(again, after, steps - stop) == whole
