"""What a network knows of its own answers, measured on pictures that it had not learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certainty.likeness import Likeness, Sizes

PREFIX = "certainty."  # of its arrays' names in a state dict


@dataclass(frozen=True)
class Meant:
    """What thresholds would have meant on the held-out pictures: of `images`, so many answered, so
    many of them right."""

    images: int
    answered: int
    right: int

    def __str__(self) -> str:
        of = f"{self.answered} of {self.images} held-out pictures answered"
        return f"{of}, {self.right} of them right" if self.answered else of


class Certainty(nn.Module):
    """A temperature, the probability from which a class belongs to a set, and the answers to
    held-out pictures: `held_out` (n, 3) is the answer's probability, 1 where it is right, and the
    share of known pictures that lie nearer (`Likeness`), or -1 where that is not known."""

    temperature: Tensor
    set_level: Tensor
    held_out: Tensor

    def __init__(self, held_out: int, likeness: Likeness | None = None) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("set_level", torch.zeros(()))
        self.register_buffer("held_out", torch.zeros(held_out, 3))
        self.likeness = likeness

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated (B, C), of a network's logits."""
        return (logits.float() / self.temperature.to(logits.device)).softmax(1)

    def meant(self, min_confidence: float, unlike: float | None) -> Meant:
        """What answering only from `min_confidence` on, and only pictures that are less `unlike`
        the training ones than that, would have meant for the held-out ones."""
        sure, right, far = self.held_out.unbind(1)
        answered = sure >= min_confidence
        if unlike is not None:
            answered &= far < unlike
        return Meant(len(right), int(answered.sum()), int((right.bool() & answered).sum()))


def sureness(certainty: Certainty | None, logits: Tensor) -> Tensor:
    """Probabilities (B, C) of a network's logits: calibrated, where it knows how."""
    return logits.float().softmax(1) if certainty is None else certainty.probabilities(logits)


def faults_of(state: Mapping[str, Tensor], blocks: int, width: int) -> list[str]:
    """What of a state's arrays of a certainty can't be used, for a network of so many blocks of a
    width; nothing where there are none. Their shapes fit one another."""
    own = {n.removeprefix(PREFIX): a for n, a in state.items() if n.startswith(PREFIX)}
    if "held_out" not in own:
        return []
    wrong = []
    if own["temperature"].item() <= 0:
        wrong.append(f"the temperature is {own['temperature'].item():g}, which is not above 0")
    if not 0 <= own["set_level"].item() <= 1:
        wrong.append(f"set_level is {own['set_level'].item():g}, which is no probability")
    if not ((own["held_out"] >= -1) & (own["held_out"] <= 1)).all():
        wrong.append("held_out holds what is no probability")
    like = {n.removeprefix("likeness."): a for n, a in own.items() if n.startswith("likeness.")}
    if not like:
        return wrong
    depths = like["depths"].tolist()
    if not depths or not all(1 <= depth < blocks and depth == int(depth) for depth in depths):
        wrong.append(f"likeness.depths is no list of the numbers of {blocks} blocks")
    elif like["centre"].numel() != 2 * len(depths) * width:
        wrong.append("likeness.centre is of another width than the network")
    spreads = {"spread": like["spread"], "ground": like["ground"], "usual": like["usual"][1]}
    wrong += [f"likeness.{n} is 0 or less in places" for n, a in spreads.items() if (a <= 0).any()]
    if not all(len(like[name]) for name in ("means", "examples", "known")):
        wrong.append("likeness knows no pictures")
    elif (like["known"].diff() < 0).any():
        wrong.append("likeness.known is not in order")
    return wrong


def certainty_in(state: Mapping[str, Tensor]) -> Certainty | None:
    """The module that a state has arrays for, without their values; None without any."""
    held_out = state.get(f"{PREFIX}held_out")
    if held_out is None:
        return None
    likeness, of = None, f"{PREFIX}likeness."
    if f"{of}basis" in state:
        Q, P = state[f"{of}basis"].shape
        rows = (len(state[f"{of}{name}"]) for name in ("depths", "means", "examples", "known"))
        blocks, C, examples, known = rows
        likeness = Likeness(Sizes(blocks, P, Q, C, examples, known))
    return Certainty(len(held_out), likeness)
