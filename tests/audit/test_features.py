from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audit import features
from audit.features import features_of
from engine.ridge import Basis
from model import CELLS
from tokens.cache import TokenLoader

DEPTHS, WIDTH, N = [2, 3], 6, 90
ROWS = 2 * 3 + CELLS**2


@pytest.fixture
def loaders() -> tuple[list[TokenLoader], torch.Tensor]:
    """Two parts of one cache, whose second begins where the first ends."""
    generator = torch.Generator().manual_seed(0)
    layers = torch.randn(N, ROWS, WIDTH, generator=generator)
    labels = torch.arange(N) % 3
    layers += 1.5 * torch.eye(3, WIDTH)[labels][:, None]
    cache: Any = SimpleNamespace(layers=layers.half())
    rows = np.arange(N)[:, None]
    found = [TokenLoader(cache, rows[s], labels[s], 10) for s in (slice(0, 50), slice(50, N))]
    return found, labels


def answers(x: torch.Tensor, labels: torch.Tensor, whole: bool) -> torch.Tensor:
    basis = Basis(x, whole)
    y = F.one_hot(labels, 3).double()
    return y - basis.left_out_errors(y - y.mean(0), 0.01 * basis.total, ())


def test_features_of_all_parts_are_in_their_order(
    loaders: tuple[list[TokenLoader], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, labels = loaders
    whole, tokens = features_of(parts, labels, DEPTHS)
    monkeypatch.setattr(features, "CHUNK", 7)
    again, _ = features_of(parts, labels, DEPTHS)
    assert torch.equal(whole, again)
    cached = parts[0].cache.layers
    assert cached is not None
    assert torch.equal(whole[60, :WIDTH], cached[60, 2].float())
    assert torch.allclose(tokens.norm(dim=1), torch.ones(N), atol=1e-5)


def test_directions_of_many_pictures_answer_as_the_features_do(
    loaders: tuple[list[TokenLoader], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, labels = loaders
    whole, _ = features_of(parts, labels, DEPTHS)
    monkeypatch.setattr(features, "MOST_FITTED", 50)
    reduced, _ = features_of(parts, labels, DEPTHS)
    assert reduced.shape[1] <= whole.shape[1]
    difference = answers(whole, labels, True) - answers(reduced, labels, False)
    assert difference.abs().max() < 2e-3


def test_the_largest_directions_tell_most(
    loaders: tuple[list[TokenLoader], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, labels = loaders
    monkeypatch.setattr(features, "MOST_FITTED", 50)
    monkeypatch.setattr(features, "LOOKED_AT", 60)
    monkeypatch.setattr(features, "DIRECTIONS", 12)
    reduced, _ = features_of(parts, labels, DEPTHS)
    assert reduced.shape == (N, 12)
    assert (answers(reduced, labels, False).argmax(1) == labels).float().mean() > 0.8
