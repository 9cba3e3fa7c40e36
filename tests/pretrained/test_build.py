"""From weights to the network that a config asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pretrained
from config import Config, TrainConfig, ViTConfig
from model import VisionTransformer
from pretrained.build import build_for
from tests.helpers import FIXTURES, TINY_VIT, random_weights, train
from tests.pretrained.helpers import images, randomise, relative
from tests.pretrained.test_layouts import timm_model
from tests.pretrained.test_read import good
from utils import UserError


def test_more_blocks_than_the_weights_have(finetune: Path) -> None:
    with pytest.raises(UserError, match="finetune_blocks is 9, but .* has 4 blocks"):
        train(finetune, "train.finetune_blocks=9")


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 0), ("image_size", "224"), ("image_size", 2.5), ("num_classes", -1),
     ("num_classes", True)],
)  # fmt: skip
def test_numbers_that_are_none_are_one_sentence(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "w.safetensors"  # not read before
    with pytest.raises(UserError, match=rf"^{key}=.*: a whole number from [01] to 10,000"):
        pretrained.load_model(path, **{key: value})


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=0)
    net = pretrained.load_model(path, num_classes=np.int64(3), image_size=np.int32(64))  # type: ignore[arg-type]
    assert net.num_classes == 3 and net.vit.dim == 64


def test_a_fresh_head_drops_the_pre_logits() -> None:
    net = pretrained.load_model(FIXTURES / "google_tiny_prelogits.npz", num_classes=3)
    assert net.vit.representation_size is None and not net.head.weight.any()  # type: ignore[union-attr]
    assert net(images(64)).shape == (2, 3)


def test_another_image_size_equals_timms(tmp_path: Path) -> None:
    theirs = timm_model()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours = pretrained.load_model(tmp_path / "w.safetensors", image_size=96)
    theirs.set_input_size(96)
    with torch.inference_mode():
        assert relative(ours(images(96)), theirs(images(96))) <= 1e-6
    assert ours.vit.dim == ours.preprocessing.image_size == 96


def config_with(path: Path, vit: dict[str, Any], mode: str = "finetune") -> Config:
    train = TrainConfig(mode=mode, checkpoint=str(path))  # type: ignore[arg-type]
    return Config(vit=ViTConfig(**vit), train=train)


def test_a_mismatch_lists_every_key(tmp_path: Path) -> None:
    save_file(good(), tmp_path / "w.safetensors")
    config = config_with(tmp_path / "w.safetensors", {"hidden_dim": 768, "num_layers": 12})
    with pytest.raises(UserError) as caught:
        build_for(config, ("a", "b"))
    for part in ("hidden_dim: 768 in the config, 128", "num_layers: 12 in the config, 2"):
        assert part in str(caught.value)
    assert "patch_dim" not in str(caught.value)


def test_classes_unlike_the_folders(tmp_path: Path) -> None:
    config = config_with(tmp_path / "none", {"num_classes": 5})
    with pytest.raises(UserError, match="num_classes is 5, but .* has 2 classes"):
        build_for(config, ("a", "b"))


def test_the_weights_own_gelu_and_eps_win(tmp_path: Path) -> None:
    config = config_with(FIXTURES / "google_tiny.npz", {"eps": 1e-5, "gelu": "exact"})
    net = build_for(config, ("a", "b", "c"))
    assert (net.vit.eps, net.vit.gelu) == (1e-6, "tanh")
    assert net.blocks[0].mlp.act.approximate == "tanh"
    assert net.blocks[0].norm1.eps == net.norm.eps == 1e-6


def test_a_head_for_the_same_classes_is_kept(tmp_path: Path) -> None:
    vit = ViTConfig(**TINY_VIT, num_classes=2)
    net = randomise(VisionTransformer(vit, classes=("a", "b")))
    pretrained.save_model(tmp_path / "best.safetensors", net)
    config = config_with(tmp_path / "best.safetensors", {})
    again = build_for(config, ("a", "b"))
    assert torch.equal(again(images(32)), net(images(32)))
    for classes in (("a", "c"), ("b", "a"), ("a", "b", "c")):
        fresh = build_for(config, classes)
        assert not fresh.head.weight.any() and fresh.classes == classes  # type: ignore[union-attr]


def test_vit_keys_left_out_come_from_the_weights() -> None:
    net = build_for(config_with(FIXTURES / "google_tiny.npz", {"dim": 32}), ("a", "b"))
    assert (net.vit.hidden_dim, net.vit.dim, net.pos_embed.shape[1]) == (48, 32, 5)
