"""Our own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import pretrained
from config import ViTConfig
from config_file import load_config
from model import VisionTransformer
from pretrained import load_model
from pretrained.read import convert
from pretrained.write import metadata_of, save_model, save_weights
from tests.helpers import TINY_VIT, random_weights, train
from tests.pretrained.helpers import images, randomise
from tests.pretrained.test_layouts import timm_model
from utils import UserError


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
    assert found.pop("checksums")
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


# ------------------------------------------------------------------ what was trained alone


@pytest.mark.parametrize("head", ["class", "both", "layers"])
def test_a_file_of_what_was_trained_is_put_together_again(finetune: Path, head: str) -> None:
    options = [f"train.head={head}", "train.lr=1e-3", "vit.dim=48", "train.refit=auto"]
    train(finetune, *options)
    train(finetune, *options, "train.save=trained", "train.run_name=small")
    best, small = (finetune.parent / f"weights/{r}/best.safetensors" for r in ("tiny", "small"))
    whole, again = load_model(best), load_model(small)
    assert small.stat().st_size < 0.75 * best.stat().st_size
    assert whole.state_dict().keys() == again.state_dict().keys()
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    assert (again.vit, again.classes, again.preprocessing) == (
        whole.vit,
        whole.classes,
        whole.preprocessing,
    )
    assert train(finetune, *options, f"train.checkpoint={small}", "train.run_name=more") == 0


def test_without_what_it_was_trained_from_a_sentence_says_so(finetune: Path) -> None:
    train(finetune, "train.save=trained", "train.lr=1e-3", "train.head=class")
    small = finetune.parent / "weights/tiny/best.safetensors"
    base = Path(load_config(finetune)[0].train.checkpoint or "")
    with pytest.raises(UserError, match="holds only what was trained from"):
        pretrained.read(small)
    random_weights(base, seed=5)
    with pytest.raises(UserError, match="is not what it was then; put the right file there"):
        load_model(small)
    base.unlink()
    with pytest.raises(UserError, match=f"trained from {base}, which is needed as well: "):
        load_model(small)


def test_a_stopped_run_of_it_ends_alike(finetune: Path) -> None:
    options = ["train.save=trained", "train.lr=1e-3", "train.head=both", "train.refit=auto"]
    train(finetune, *options)
    best = finetune.parent / "weights/tiny/best.safetensors"
    before = best.read_bytes()
    train(finetune, *options, "train.from_checkpoint=true")
    assert best.read_bytes() == before
