"""Each layout against its own library, in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from torch import Tensor

import pretrained
from model import VisionTransformer
from pretrained.build import build
from pretrained.read import convert
from tests.helpers import FIXTURES
from tests.pretrained.helpers import SMALL, images, randomise, relative


@pytest.mark.parametrize(
    ("weights", "reference"),
    [
        ("google_tiny", "google_tiny_io"),
        ("google_tiny_prelogits", "google_tiny_prelogits_io"),
        ("google_tiny_linen", "google_tiny_io"),
    ],
)
def test_logits_are_googles(weights: str, reference: str) -> None:
    net = pretrained.load_model(FIXTURES / f"{weights}.npz")
    data = np.load(FIXTURES / f"{reference}.npz")
    x = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert relative(net(x), torch.from_numpy(data["logits"])) <= 2e-6
    assert (net.vit.num_heads, net.vit.gelu, net.vit.eps, net.vit.dim) == (4, "tanh", 1e-6, 64)
    assert net.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("layout", "name"),
    [("google", "google_tiny_prelogits"), ("big_vision", "google_tiny_linen")],
)
def test_google_files_round_trip(layout: str, name: str) -> None:
    net = pretrained.load_model(FIXTURES / f"{name}.npz")
    written = pretrained.export(net, layout)
    original = np.load(FIXTURES / f"{name}.npz")
    assert set(written) == set(original.files)
    for key, array in written.items():
        assert np.array_equal(array.numpy(), original[key]), key


def timm_model(**changes: Any) -> Any:
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 2}
    options = {**sizes, "mlp_ratio": 2, "num_classes": 7, **changes}
    return randomise(timm.models.vision_transformer.VisionTransformer(**options))


def test_timm_in_and_out(tmp_path: Path) -> None:
    theirs = timm_model()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours = pretrained.load_model(tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64))) <= 1e-6
    timm_model().load_state_dict(pretrained.export(ours, "timm"))


def test_dinov2_original_with_layer_scale(tmp_path: Path) -> None:
    theirs = timm_model(init_values=1.0, num_classes=0)
    state = {**theirs.state_dict(), "mask_token": torch.zeros(1, 128)}
    torch.save(state, tmp_path / "dinov2.pth")
    ours = pretrained.load_model(tmp_path / "dinov2.pth")
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64))) <= 1e-6
    assert ours.preprocessing.mean[0] == 0.485


def test_mae_and_deit_wrap_their_arrays(tmp_path: Path) -> None:
    theirs = timm_model(num_classes=0)
    decoder = {"decoder_pos_embed": torch.zeros(1, 17, 8), "mask_token": torch.zeros(1, 1, 8)}
    torch.save({"model": {**theirs.state_dict(), **decoder}}, tmp_path / "mae.pth")
    weights = pretrained.read(tmp_path / "mae.pth")
    assert weights.vit.num_classes == 0 and "decoder_pos_embed" in weights.notes[0]


def torchvision_model(**changes: Any) -> Any:
    sizes = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 128}
    options = {**sizes, "mlp_dim": 256, "num_classes": 7, **changes}
    return randomise(torchvision.models.VisionTransformer(**options))


@pytest.mark.parametrize("size", [None, 48])
def test_torchvision_in_and_out(tmp_path: Path, size: int | None) -> None:
    theirs = torchvision_model(representation_size=size)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = pretrained.load_model(tmp_path / "w.pth")
    assert ours.vit.representation_size == size and ours.vit.gelu == "exact"
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64))) <= 1e-6
    torchvision_model(representation_size=size).load_state_dict(
        pretrained.export(ours, "torchvision")
    )


def test_torchvisions_older_names() -> None:
    """Those of its files until 2022; its own code renames them, too."""
    theirs = torchvision_model()
    older = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): array
        for name, array in theirs.state_dict().items()
    }
    assert len(older) == len(theirs.state_dict()) and "conv_proj.weight" in older
    ours = build(convert(older))
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64))) <= 1e-6


def test_huggingfaces_mae_without_its_decoder(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(
        **HF_SIZES, decoder_hidden_size=32, decoder_num_hidden_layers=1, mask_ratio=0.0
    )
    theirs = randomise(transformers.ViTMAEForPreTraining(config))
    theirs.save_pretrained(tmp_path)
    ours = pretrained.load_model(tmp_path)
    theirs.vit.embeddings.random_masking = lambda x, noise=None: (x, None, None)  # it shuffles
    with torch.inference_mode():
        expected = theirs.vit(images(64)).last_hidden_state[:, 0]
        assert relative(ours(images(64)), expected) <= 1e-6


@pytest.mark.slow
def test_b16_in_timm_and_huggingface() -> None:
    theirs = randomise(timm.create_model("vit_base_patch16_224", num_classes=10))
    ours = build(convert(theirs.state_dict()))
    x = images(224, 1)
    hf = transformers.ViTForImageClassification(
        transformers.ViTConfig(num_labels=10, layer_norm_eps=1e-6)
    ).eval()
    hf.load_state_dict(_in_memory_names(pretrained.export(ours, "huggingface-vit"), hf))
    with torch.inference_mode():
        logits = ours(x)
        assert relative(logits, theirs(x)) <= 1e-6
        assert relative(logits, hf(x).logits) <= 1e-6
    back = build(convert(hf.state_dict(), {"eps": 1e-6, "num_heads": 12}))
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in ours.state_dict().items())


def test_s16_in_timm_both_ways() -> None:
    theirs = randomise(timm.create_model("vit_small_patch16_224", num_classes=10))
    ours = build(convert(theirs.state_dict()))
    assert ours.vit.num_heads == 6
    with torch.inference_mode():
        assert relative(ours(images(224, 1)), theirs(images(224, 1))) <= 1e-6
    exported = pretrained.export(ours, "timm")
    assert all(torch.equal(v, exported[k]) for k, v in theirs.state_dict().items())


HF_SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,  # not width / 64: config.json has to be read
    "intermediate_size": 256,
    "image_size": 64,
}


def _in_memory_names(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The hub's names as this version of transformers keeps them, by its own loading."""
    directory = model.config.to_dict()
    renamed = type(model).from_pretrained(
        None, config=type(model.config).from_dict(directory), state_dict=state
    )
    return renamed.state_dict()


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_huggingface_vit_in(tmp_path: Path, file: str, act: str) -> None:
    config = transformers.ViTConfig(**HF_SIZES, num_labels=7, hidden_act=act)
    theirs = randomise(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path)
    if file == "bin":  # under the names that it has in memory, which differ from the saved ones
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours = pretrained.load_model(tmp_path)
    assert ours.vit.num_heads == 4 and ours.vit.eps == 1e-12
    assert ours.vit.gelu == ("exact" if act == "gelu" else "tanh")
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64)).logits) <= 1e-6


def test_huggingface_vit_out(tmp_path: Path) -> None:
    ours = randomise(VisionTransformer(SMALL.model_copy(update={"eps": 1e-12})))
    config = transformers.ViTConfig(**{**HF_SIZES, "num_attention_heads": 2}, num_labels=7)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.load_state_dict(_in_memory_names(pretrained.export(ours, "huggingface-vit"), theirs))
    with torch.inference_mode():
        assert relative(ours(images(64)), theirs(images(64)).logits) <= 1e-6


def test_huggingface_vit_model_without_a_head(tmp_path: Path) -> None:
    theirs = randomise(transformers.ViTModel(transformers.ViTConfig(**HF_SIZES)))
    theirs.save_pretrained(tmp_path)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"height": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 3}))
    ours = pretrained.load_model(tmp_path / "model.safetensors")
    with torch.inference_mode():
        expected = theirs(images(64)).last_hidden_state[:, 0]
        assert relative(ours(images(64)), expected) <= 1e-6
    assert ours.preprocessing.mean == (0.1, 0.2, 0.3)
    assert ours.preprocessing.interpolation == "bicubic"


def test_dinov2_model_folds_its_layer_scale_and_back(tmp_path: Path) -> None:
    sizes = {k: v for k, v in HF_SIZES.items() if k != "intermediate_size"}
    config = transformers.Dinov2Config(**sizes, mlp_ratio=2, patch_size=16)
    theirs = randomise(transformers.Dinov2Model(config))
    theirs.save_pretrained(tmp_path)
    ours = pretrained.load_model(tmp_path)
    with torch.inference_mode():
        expected = theirs(images(64)).last_hidden_state[:, 0]
        assert relative(ours(images(64)), expected) <= 1e-6
        assert ours.preprocessing.mean[0] == 0.485
        exported = pretrained.export(ours, "huggingface-dinov2")
        exported["embeddings.mask_token"] = torch.zeros(1, 128)
        again = transformers.Dinov2Model(config).eval()
        again.load_state_dict(_in_memory_names(exported, again))
        assert relative(again(images(64)).last_hidden_state[:, 0], expected) <= 1e-6
