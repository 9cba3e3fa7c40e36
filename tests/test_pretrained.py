"""Weights in and out, against Google's Flax model, timm and Hugging Face."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from conftest import FIXTURES, TINY_VIT
from safetensors.torch import save_file
from torch import Tensor, nn

import pretrained
from config import Config, TrainConfig, ViTConfig
from model import VisionTransformer
from pretrained.build import build, build_for
from pretrained.read import convert
from pretrained.write import save_weights
from utils import UserError

SMALL = ViTConfig(
    patch_dim=16, hidden_dim=128, num_heads=2, num_layers=2, ff_dim=256, dim=64, num_classes=7
)


def randomise(net: nn.Module, seed: int = 0) -> Any:
    """Every parameter random, none left where it could hide an array that was not loaded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net.eval()


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


# -------------------------------------------------------------------------------- Google's Flax


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


def test_a_fresh_head_drops_the_pre_logits() -> None:
    net = pretrained.load_model(FIXTURES / "google_tiny_prelogits.npz", num_classes=3)
    assert net.vit.representation_size is None and not net.head.weight.any()  # type: ignore[union-attr]
    assert net(images(64)).shape == (2, 3)


# ----------------------------------------------------------------------------------------- timm


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


def test_another_image_size_equals_timms(tmp_path: Path) -> None:
    theirs = timm_model()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours = pretrained.load_model(tmp_path / "w.safetensors", image_size=96)
    theirs.set_input_size(96)
    with torch.inference_mode():
        assert relative(ours(images(96)), theirs(images(96))) <= 1e-6
    assert ours.vit.dim == ours.preprocessing.image_size == 96


# --------------------------------------------------------------------------------- Hugging Face

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


# ------------------------------------------------------------------------------------- our own


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


def test_the_size_for_use_can_differ_from_the_tables(tmp_path: Path) -> None:
    """DINOv2's table is for 518 pixels, its use for 224."""
    arrays = timm_model(num_classes=0).state_dict()
    metadata = {"preprocessing": {"image_size": 32}}
    weights = convert(arrays, metadata)
    save_weights(tmp_path / "w.safetensors", weights, "here")
    again = pretrained.read(tmp_path / "w.safetensors")
    assert again.vit.dim == 64 and again.preprocessing.image_size == 32


# --------------------------------------------------------------------------- every array's fate


def good() -> dict[str, Tensor]:
    return dict(timm_model().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("norm.weight"), "missing norm.weight"),
        (lambda a: a.pop("blocks.1.attn.qkv.bias"), "missing blocks.1.attn.qkv.bias"),
        (lambda a: a.update(fc_norm=torch.zeros(3)), "not understood fc_norm"),
        (lambda a: a.update(register_tokens=torch.zeros(3)), "not understood register_tokens"),
        (lambda a: a.update({"head.bias": torch.zeros(3)}), "head.bias is (3,) instead of (7,)"),
        (lambda a: a.pop("cls_token"), "lacks cls_token"),
        (lambda a: a.update({"blocks.0.ls1.gammo": torch.zeros(1)}), "blocks.0.ls1.gammo"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: Any, message: str) -> None:
    arrays = good()
    change(arrays)
    with pytest.raises(UserError) as caught:
        convert(arrays)
    assert message in str(caught.value)


def test_unknown_arrays() -> None:
    with pytest.raises(UserError, match="no Vision Transformer in a known layout.*conv1.weight"):
        convert({"conv1.weight": torch.zeros(1)})


def test_heads_that_nothing_says() -> None:
    theirs = timm_model(embed_dim=96, num_heads=3)
    with pytest.raises(UserError, match="how many heads a width of 96 has"):
        convert(theirs.state_dict())
    assert convert(theirs.state_dict(), {"num_heads": 3}).vit.num_heads == 3


def test_rules_are_named_in_the_notes() -> None:
    notes = " ".join(convert(good()).notes)
    for word in ("num_heads 2 by the rule", "gelu exact", "eps 1e-06", "preprocessing"):
        assert word in notes


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "flipped":
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("Transformer/encoder_norm/scale.npy")
        content[info.header_offset + 200] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_a_damaged_npz(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes((FIXTURES / "google_tiny.npz").read_bytes())
    damage(path, kind)
    with pytest.raises(UserError, match="damaged or cut short"):
        pretrained.read(path)


def test_other_damaged_files(tmp_path: Path) -> None:
    save_file(good(), tmp_path / "w.safetensors")
    torch.save(good(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        damage(tmp_path / name, "truncated")
        with pytest.raises(UserError, match="damaged|can't be read"):
            pretrained.read(tmp_path / name)
    (tmp_path / "page.npz").write_text("<!DOCTYPE html> not found")
    with pytest.raises(UserError, match="is not a weights file"):
        pretrained.read(tmp_path / "page.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(UserError, match="is not a weights file"):
        pretrained.read(tmp_path / "empty.npz")


class Sly:
    """Unpickling this would run code."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, capsys: Any) -> None:
    torch.save({"model": good(), "args": Sly()}, tmp_path / "sly.pth")
    with pytest.raises(UserError, match="nothing else is ever unpickled"):
        pretrained.read(tmp_path / "sly.pth")
    assert "unpickled" not in capsys.readouterr().out


# --------------------------------------------------------------------------- a config's model


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
