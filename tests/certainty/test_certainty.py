"""What a weights file knows of its network's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from certainty.certainty import PREFIX, Certainty, certainty_in
from certainty.likeness import fit_likeness
from config import ViTConfig
from model import VisionTransformer
from pretrained.build import load_model
from pretrained.write import export, save_model
from tests.helpers import DEEP
from utils import UserError


def known(net: VisionTransformer) -> Certainty:
    depths = [1, 2, 3]
    x, labels = torch.randn(30, 6 * net.vit.hidden_dim), torch.arange(30) % 3
    likeness, scores = fit_likeness(x, labels, depths)
    likeness.known = scores.sort().values
    found = Certainty(4, likeness)
    found.temperature.fill_(1.7)
    found.set_level.fill_(0.2)
    found.held_out = torch.tensor(
        [[0.9, 1, 0.1], [0.8, 0, 0.2], [0.6, 1, 0.97], [0.4, 0, 0.5]], dtype=torch.float32
    )
    return found


@pytest.fixture
def net() -> VisionTransformer:
    net = VisionTransformer(ViTConfig(**{**DEEP, "num_classes": 3}), classes=("a", "b", "c"))
    net.certainty = known(net)
    return net.eval()


def test_it_travels_with_the_weights(net: VisionTransformer, tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", net)
    again = load_model(tmp_path / "net.safetensors")
    assert again.certainty is not None and again.certainty.likeness is not None
    mine, theirs = net.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name].float(), theirs[name].float()) for name in mine)
    x = torch.randn(5, 6 * net.vit.hidden_dim)
    assert net.certainty is not None and net.certainty.likeness is not None
    assert torch.equal(again.certainty.likeness(x), net.certainty.likeness(x))


def test_another_head_is_not_known(net: VisionTransformer, tmp_path: Path) -> None:
    save_model(tmp_path / "net.safetensors", net)
    assert load_model(tmp_path / "net.safetensors", num_classes=5).certainty is None


def test_another_layout_has_the_network_alone(net: VisionTransformer) -> None:
    assert not any(name.startswith(PREFIX) for name in export(net, "timm"))


def test_a_network_that_knows_nothing_of_itself(net: VisionTransformer, tmp_path: Path) -> None:
    net.certainty = None
    save_model(tmp_path / "net.safetensors", net)
    assert load_model(tmp_path / "net.safetensors").certainty is None


def test_without_a_likeness(net: VisionTransformer, tmp_path: Path) -> None:
    net.certainty = Certainty(7)
    save_model(tmp_path / "net.safetensors", net)
    again = load_model(tmp_path / "net.safetensors").certainty
    assert again is not None and again.likeness is None and len(again.held_out) == 7


def test_arrays_without_a_module() -> None:
    assert certainty_in({}) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temperature", torch.tensor(0.0), "the temperature is 0, which is not above 0"),
        ("temperature", torch.tensor(-1.5), "the temperature is -1.5"),
        ("temperature", torch.tensor(float("nan")), "certainty.temperature holds 1 NaN"),
        ("temperature", torch.ones(4), "certainty.temperature is"),
        ("set_level", torch.tensor(9.0), "set_level is 9, which is no probability"),
        ("held_out", torch.full((4, 3), 7.0), "held_out holds what is no probability"),
        ("held_out", torch.zeros(4), "certainty.held_out is"),
        ("likeness.depths", torch.tensor([1, 2, 4]), "no list of the numbers of 4 blocks"),
        ("likeness.depths", torch.tensor([0, 1, 2]), "no list of the numbers of 4 blocks"),
        ("likeness.depths", torch.tensor([1, 2]), "of another width than the network"),
        ("likeness.ground", torch.tensor(0.0), "likeness.ground is 0 or less"),
        ("likeness.usual", torch.zeros(2, 2), "likeness.usual is 0 or less"),
        ("likeness.known", torch.tensor([2.0, 1.0]), "likeness.known is not in order"),
        ("likeness.known", torch.zeros(0), "likeness knows no pictures"),
        ("likeness.basis", torch.zeros(4), "not a ViT of a kind that is understood"),
    ],
)
def test_what_can_not_be_known_is_refused(
    net: VisionTransformer, tmp_path: Path, name: str, value: torch.Tensor, said: str
) -> None:
    save_model(tmp_path / "net.safetensors", net, {f"{PREFIX}{name}": value})
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "net.safetensors")
    assert said in str(caught.value)


def test_calibrated_probabilities(net: VisionTransformer) -> None:
    assert net.certainty is not None
    logits = torch.tensor([[1.7, 0.0, -1.7]])
    wanted = torch.tensor([[1.0, 0.0, -1.0]]).softmax(1)
    assert torch.allclose(net.certainty.probabilities(logits), wanted)


@pytest.mark.parametrize(
    ("min_confidence", "unlike", "said"),
    [
        (0.0, None, "4 of 4 held-out pictures answered, 2 of them right"),
        (0.5, None, "3 of 4 held-out pictures answered, 2 of them right"),
        (0.5, 0.95, "2 of 4 held-out pictures answered, 1 of them right"),
        (0.95, None, "0 of 4 held-out pictures answered"),
    ],
)
def test_what_thresholds_would_have_meant(
    min_confidence: float, unlike: float | None, said: str, net: VisionTransformer
) -> None:
    assert net.certainty is not None
    assert str(net.certainty.meant(min_confidence, unlike)) == said
