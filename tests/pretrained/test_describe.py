"""What a file, or a description beside it, says of the network: followed, or refused by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import pretrained
from config import ViTConfig
from model import VisionTransformer
from pretrained.build import build_for
from pretrained.read import Weights
from pretrained.write import metadata_of
from tests.helpers import TINY_VIT
from tests.pretrained.helpers import SMALL
from tests.pretrained.test_build import config_with
from utils import UserError

NET = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=2), classes=("a", "b"))
ARCHITECTURE = json.loads(metadata_of(NET)["architecture"])
PREPROCESSING = json.loads(metadata_of(NET)["preprocessing"])
WITHOUT = object()


def own_file(path: Path, **changes: Any) -> Path:
    """One of our own files, with other texts in its metadata."""
    metadata = metadata_of(NET)
    for key, value in changes.items():
        if value is WITHOUT:
            del metadata[key]
        else:
            metadata[key] = value if isinstance(value, str) else json.dumps(value)
    state = {name: array.contiguous() for name, array in NET.state_dict().items()}
    save_file(state, path, metadata)
    return path


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("architecture is a list", {"architecture": []}),
    ("architecture is a int", {"architecture": 3}),
    ("architecture is a NoneType", {"architecture": "null"}),
    ("architecture lacks num_heads, gelu, eps", {"architecture": {}}),
    ("architecture is no JSON", {"architecture": "[" * 200_000}),
    ("architecture is no JSON", {"architecture": ""}),
    *[
        (f"architecture.{key} is ", {"architecture": {**ARCHITECTURE, key: value}})
        for key, value in (
            ("num_heads", 0),
            ("num_heads", -4),
            ("num_heads", None),
            ("num_heads", 1.5),
            ("num_heads", [2]),
            ("eps", -1),
            ("eps", "x"),
            ("gelu", "relu"),
        )
    ],
    ("num_heads is 7, which does not divide", {"architecture": {**ARCHITECTURE, "num_heads": 7}}),
    ("num_heads is 1000000000,", {"architecture": {**ARCHITECTURE, "num_heads": 10**9}}),
    ("has no preprocessing", {"preprocessing": WITHOUT}),
    ("preprocessing is a list", {"preprocessing": []}),
    ("preprocessing is no JSON", {"preprocessing": "{" * 9}),
    *[
        (f"preprocessing.{name} is", {"preprocessing": {**PREPROCESSING, key: value}})
        for name, key, value in (
            ("std.0", "std", [0, 0, 0]),
            ("std.1", "std", [0.5, -1, 0.5]),
            ("std.2", "std", [0.5, 0.5, 1e-30]),
            ("std.0", "std", [float("nan")] * 3),
            ("std.2", "std", [0.5, 0.5]),
            ("mean.0", "mean", [123.7, 116.3, 103.5]),
            ("mean", "mean", None),
            ("image_size", "image_size", 0),
            ("image_size", "image_size", -14),
            ("image_size", "image_size", 10**9),
            ("image_size", "image_size", 32.5),
            ("crop", "crop", 0),
            ("crop", "crop", -1),
            ("crop", "crop", 1e-9),
            ("crop", "crop", 1.5),
            ("interpolation", "interpolation", "nearest"),
            ("colour", "colour", 1),
        )
    ],
    ("classes are not a list of names", {"classes": 3}),
    ("classes are not a list of names", {"classes": [1, 2]}),
    ("classes are not a list of names", {"classes": ["a", ""]}),
    ("classes are not a list of names", {"classes": ["a", "b" * 5000]}),
    ("config has more than 100,000 letters", {"config": "a: 1\n" * 99_999}),
    ("names a class twice", {"classes": ["a", "a"]}),
    ("names 3 classes", {"classes": ["a", "b", "c"]}),
    ("base is no name or path ('xxx", {"base": "x" * 5000}),
    ("which is needed as well: /dev/zero is a device", {"base": "/dev/zero"}),
    *[
        ("architecture.dim is", {"base": "b", "architecture": {**ARCHITECTURE, "dim": dim}})
        for dim in (10**9, 0, "a", None, True, 32.5)
    ],
]


@pytest.mark.parametrize(("message", "changes"), FAULTS)
def test_a_fault_of_our_own_metadata_is_named(
    tmp_path: Path, message: str, changes: dict[str, Any]
) -> None:
    path = own_file(tmp_path / "w.safetensors", **changes)
    for load in (
        lambda: pretrained.load_model(path),
        lambda: build_for(config_with(path, {}), ("a", "b")),
    ):
        with pytest.raises(UserError) as caught:
            load()
        assert str(path) in str(caught.value) and message in str(caught.value)
        assert len(str(caught.value)) < 500


def test_our_own_metadata_as_it_should_be(tmp_path: Path) -> None:
    found = pretrained.read(own_file(tmp_path / "w.safetensors"))
    assert found.classes == ("a", "b") and found.vit == NET.vit.concrete()


def test_another_programs_metadata_is_not_ours(tmp_path: Path) -> None:
    state = pretrained.export(VisionTransformer(SMALL), "timm")
    save_file(state, tmp_path / "w.safetensors", {"format": "pt", "architecture": "vit_small"})
    assert pretrained.read(tmp_path / "w.safetensors").vit.num_heads == 2


def test_blocks_that_a_head_over_layers_can_not_read(tmp_path: Path) -> None:
    state = {name: array.contiguous() for name, array in NET.state_dict().items()}
    for depths in ([0], [99], [2, 1], [-1], [1, 1]):
        state["layers.depths"] = torch.tensor(depths)
        state["layers.scale"] = torch.ones(())
        state["layers.fc.bias"] = torch.zeros(2)
        save_file(state, tmp_path / "w.safetensors", metadata_of(NET))
        with pytest.raises(UserError, match="layers.depths is"):
            pretrained.read(tmp_path / "w.safetensors")


# --------------------------------------------------------- config.json, preprocessor_config.json

PLAIN = {"hidden_size": 128, "num_attention_heads": 4, "hidden_act": "gelu"}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def described(
    folder: Path, config: Any = PLAIN, processor: Any = None, layout: str = "huggingface-vit"
) -> Weights:
    arrays = pretrained.export(VisionTransformer(SMALL), layout)
    save_file(arrays, folder / "model.safetensors")
    for name, content in (("config", config), ("preprocessor_config", processor)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text)
    return pretrained.read(folder)


@pytest.mark.parametrize(
    ("act", "gelu"),
    [("gelu", "exact"), ("gelu_new", "tanh"), ("gelu_pytorch_tanh", "tanh"), (None, "exact")],
)
def test_activations_that_are_known(tmp_path: Path, act: str | None, gelu: str) -> None:
    assert described(tmp_path, {**PLAIN, "hidden_act": act}).vit.gelu == gelu


@pytest.mark.parametrize("act", ["quick_gelu", "relu", "silu", "gelu_10", "no-such", 3, ["gelu"]])
def test_other_activations_are_refused_by_name(tmp_path: Path, act: Any) -> None:
    with pytest.raises(UserError) as caught:
        described(tmp_path, {**PLAIN, "hidden_act": act})
    assert f"config.json: hidden_act is {act!r}" in str(caught.value)


def test_timms_activation(tmp_path: Path) -> None:
    timm = {"architecture": "vit_x", "num_features": 128, "model_args": {"act_layer": "quick_gelu"}}
    with pytest.raises(UserError, match="act_layer is 'quick_gelu'"):
        described(tmp_path, timm, layout="timm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 7}, "num_attention_heads is 7, which does not divide hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": [4]}, "num_attention_heads is [4]"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
        ({"global_pool": "avg"}, "global_pool is 'avg'"),
    ],
)
def test_a_config_that_can_not_be_followed(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        described(tmp_path, PLAIN | change)
    assert "config.json: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": [32, 32]}, {"image_size": 32}),
        ({"size": [32]}, {"image_size": 32}),
        ({"size": 32}, {"image_size": 32}),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, {"image_size": 32}),
        ({"size": {"height": 32, "width": 32}, "crop_size": None}, {"image_size": 32}),
        ({"image_mean": [0.4], "image_std": [0.2]}, {"mean": (0.4,) * 3, "std": (0.2,) * 3}),
        ({"image_mean": 0.4, "image_std": 0.2}, {"mean": (0.4,) * 3, "std": (0.2,) * 3}),
        ({"image_mean": None}, {"mean": (0.5,) * 3}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({**HALVES, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3},
            {"mean": (0.5,) * 3, "std": (0.2,) * 3},
        ),
        ({"do_rescale": False, "do_normalize": False}, {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}),
        ({**HALVES, "rescale_factor": 1 / 127.5}, {"mean": (0.25,) * 3, "std": (0.25,) * 3}),
        ({**HALVES, "rescale_factor": 0.00392156862745098}, {"mean": (0.5,) * 3}),
        (
            {"size": 32, "do_center_crop": False, "crop_size": {"height": 48, "width": 48}},
            {"image_size": 32, "crop": 1.0},
        ),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 48},
            {"image_size": 48, "crop": 0.75},
        ),
        ({"resample": 3}, {"interpolation": "bicubic"}),
        ({"resample": 0}, {"interpolation": "bilinear"}),
    ],
)
def test_a_processor_is_followed(
    tmp_path: Path, processor: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = described(tmp_path, PLAIN, processor).preprocessing.model_dump()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value) if key != "interpolation" else found[key] == value


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "image_mean.2 is"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean.0 is 'a'"),
        ({"image_std": [0, 0, 0]}, "image_std.0 is 0"),
        ({"image_mean": [123.0] * 3}, "image_mean.0 is 123.0"),
        ({"size": {"height": 32, "width": 64}}, "not a square"),
        ({"size": 0}, "size is 0, which is no size in pixels"),
        ({"size": "large"}, "size is 'large', which is no size"),
        ({"crop_size": {}}, "crop_size is {}, which is no size"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_rescale": False, "image_mean": {"r": 1}}, "image_mean"),
    ],
)
def test_a_processor_that_can_not_be_followed(
    tmp_path: Path, processor: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        described(tmp_path, PLAIN, processor)
    assert "preprocessor_config.json: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("nothing", [None, [], "x", {}])
def test_timms_config_with_nothing_in_it(tmp_path: Path, nothing: Any) -> None:
    found = described(tmp_path, {"num_features": 128, "pretrained_cfg": nothing}, layout="timm")
    assert found.preprocessing.mean[0] == 0.485


def test_timms_config(tmp_path: Path) -> None:
    timm = {"mean": [0.1, 0.2, 0.3], "input_size": [3, 48, 48], "crop_pct": 0.9, "std": None}
    found = described(tmp_path, {"num_features": 128, "pretrained_cfg": timm}, layout="timm")
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)
    assert (found.preprocessing.image_size, found.preprocessing.crop) == (48, 0.9)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '"x"'])
def test_a_config_that_is_no_object_is_said(tmp_path: Path, text: str) -> None:
    found = described(tmp_path, text)
    assert any("config.json" in note and "was left out" in note for note in found.notes)


def test_a_size_unlike_the_tables(tmp_path: Path) -> None:
    """The table is resampled for the size that the processor names."""
    found = described(tmp_path, PLAIN, {"size": {"height": 48, "width": 48}})
    assert (found.vit.dim, found.preprocessing.image_size) == (64, 48)
