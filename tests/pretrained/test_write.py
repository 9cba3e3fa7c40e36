"""Our own files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

import pretrained
from config import ViTConfig
from model import VisionTransformer
from pretrained import load_model
from pretrained.read import convert
from pretrained.write import metadata_of, save_model, save_weights
from tests.helpers import TINY_VIT
from tests.pretrained.helpers import images, randomise
from tests.pretrained.test_layouts import timm_model


def test_our_checkpoint_carries_everything(tmp_path: Path) -> None:
    vit = ViTConfig(**TINY_VIT, num_classes=2, gelu="tanh", eps=1e-5)
    net = randomise(VisionTransformer(vit, classes=("a", "b")))
    net.preprocessing = net.preprocessing.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    pretrained.save_model(tmp_path / "best.safetensors", net)
    back = pretrained.load_model(tmp_path / "best.safetensors")
    assert back.vit == net.vit and back.preprocessing == net.preprocessing
    assert back.classes == ("a", "b")
    assert torch.equal(back(images(32)), net(images(32)))
    other = pretrained.load_model(tmp_path / "best.safetensors", num_classes=9)
    assert other.classes is None and other.vit.num_classes == 9


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    """The library writes its metadata in an order of its own each time."""
    net = VisionTransformer(
        ViTConfig(**TINY_VIT, num_classes=3), classes=("Katze", "Hündin", '"quoted" \\ 犬\n')
    )
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        save_model(file, net, config="a: 1\n", epoch="3", provenance="here")
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as stored:
        found = stored.metadata()
        assert torch.equal(stored.get_tensor("cls_token"), net.cls_token)
    assert found == metadata_of(net, config="a: 1\n", epoch="3", provenance="here")
    assert load_model(files[0]).classes == net.classes


def test_the_size_for_use_can_differ_from_the_tables(tmp_path: Path) -> None:
    """DINOv2's table is for 518 pixels, its use for 224."""
    arrays = timm_model(num_classes=0).state_dict()
    metadata = {"preprocessing": {"image_size": 32}}
    weights = convert(arrays, metadata)
    save_weights(tmp_path / "w.safetensors", weights, "here")
    again = pretrained.read(tmp_path / "w.safetensors")
    assert again.vit.dim == 64 and again.preprocessing.image_size == 32
