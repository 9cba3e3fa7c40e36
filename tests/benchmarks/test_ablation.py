"""benchmarks/ablation.py: each defect is what it says, and without one the network is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.ablation import (
    ALL,
    EPOCHS,
    LR,
    RIGHT,
    ROWS,
    WRONG_LR,
    Defects,
    TokenNorm,
    break_network,
    enter_last_block,
    logits_of,
    over_tokens,
    schedule,
    transform_with,
)
from config import Preprocessing, ViTConfig
from model import VisionTransformer
from tests.helpers import TINY_VIT

NONE: Defects = frozenset()
IN_NETWORK = ("token norm", "second GELU", "other GELU", "bare norm")


def whole() -> VisionTransformer:
    """The same random network each time, its norms unlike their initialisation."""
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.eval()


def tiny(*defects: str) -> VisionTransformer:
    return break_network(whole(), frozenset(defects))


def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def in_parts(net: VisionTransformer) -> torch.Tensor:
    return logits_of(net, enter_last_block(net, images(), net.blocks[:-1]))


def test_without_a_defect_it_is_the_model() -> None:
    assert torch.allclose(in_parts(tiny()), whole()(images()), atol=1e-5)


@pytest.mark.parametrize("defect", IN_NETWORK)
def test_a_defect_changes_the_output_and_the_parts_are_the_whole(defect: str) -> None:
    net = tiny(defect)
    found = in_parts(net)
    assert not torch.allclose(found, in_parts(tiny()), atol=1e-4)
    # The whole network's own forward pass, with all of the last block's tokens.
    net.full_last_block = True
    assert torch.allclose(found, net(images()), atol=1e-4)


def test_defects_in_the_blocks_are_in_all_of_them() -> None:
    net = tiny("token norm", "second GELU", "other GELU")
    for block in net.blocks:
        assert isinstance(block.norm1, TokenNorm) and isinstance(block.norm2, TokenNorm)
        assert block.mlp.act.approximate == block.mlp.drop2[0].approximate == "tanh"
    assert type(net.norm) is nn.LayerNorm


def test_the_wrong_norm_is_over_the_tokens() -> None:
    x = 3 + 2 * torch.randn(4, 17, 48)
    found = over_tokens(nn.LayerNorm(48))(x)  # weight 1, bias 0
    assert found.mean(1).abs().max() < 1e-5
    assert torch.allclose(found.std(1), torch.ones(4, 48), atol=1e-4)
    assert found.mean(2).abs().max() > 0.01


def test_the_wrong_norm_keeps_the_weights() -> None:
    norm = nn.LayerNorm(48)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    wrong = over_tokens(norm)
    assert torch.equal(wrong.weight, norm.weight) and torch.equal(wrong.bias, norm.bias)


def test_a_bare_norm_is_at_its_initialisation() -> None:
    net = tiny("bare norm")
    assert torch.equal(net.norm.weight, torch.ones(48))
    assert torch.equal(net.norm.bias, torch.zeros(48))
    assert not torch.equal(net.blocks[0].norm1.weight, torch.ones(48))


def test_dropout_acts_in_training_mode_alone() -> None:
    net = tiny("dropout")
    assert torch.allclose(in_parts(net), in_parts(tiny()), atol=1e-6)
    assert not torch.allclose(in_parts(net.train()), in_parts(tiny()), atol=1e-4)


def test_the_schedule_by_epoch_is_constant_within_one() -> None:
    steps = 7
    wrong = torch.tensor(schedule(steps, frozenset({"learning rate"}))).view(EPOCHS, steps)
    assert (wrong == wrong[:, :1]).all()
    assert wrong.max() == pytest.approx(WRONG_LR)
    assert len(set(wrong[:, 0].tolist())) == EPOCHS
    right = torch.tensor(schedule(steps, NONE)).view(EPOCHS, steps)
    assert (right[:, 1:] != right[:, :-1]).all()
    assert right.max() == pytest.approx(LR)


def test_the_wrong_preparation_of_a_picture() -> None:
    wide = torch.zeros(3, 100, 200, dtype=torch.uint8)
    wide[:, :, 160:] = 255
    weights = Preprocessing(image_size=32, crop=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    # The crop shows the middle, columns 50 to 150, which are all black; squashed, all are there.
    assert transform_with(weights, NONE)(wide).max() < -0.9
    squashed = transform_with(weights, frozenset({"squashed"}))(wide)
    assert squashed.shape == (3, 32, 32)
    assert squashed[:, :, -4:].min() > 0.9 and squashed[:, :, :20].max() < -0.9
    other = transform_with(weights, frozenset({"other normalisation"}))(wide)
    assert other[0].max() == pytest.approx(-0.485 / 0.229, abs=1e-4)


def test_the_last_row_has_every_defect() -> None:
    assert not ROWS[RIGHT]
    assert all(defects <= ROWS[ALL] for defects in ROWS.values())
    assert set(IN_NETWORK) <= ROWS[ALL]
