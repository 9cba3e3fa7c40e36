"""A network is found whatever stands before its names and however deep it lies."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pretrained
from model import VisionTransformer
from pretrained.read import Weights, convert
from tests.pretrained.helpers import SMALL, randomise
from tests.pretrained.test_layouts import timm_model
from utils import UserError

PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.backbone.",
    "visual.trunk.",
    "student.module.backbone._orig_mod.",
    "our_project.vision.",
)


def arrays_of(layout: str) -> dict[str, Tensor]:
    return pretrained.export(randomise(VisionTransformer(SMALL)), layout)


def under(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: array for name, array in arrays.items()}


def same(one: Weights, other: Weights) -> bool:
    return one.state.keys() == other.state.keys() and all(
        torch.equal(array, other.state[name]) for name, array in one.state.items()
    )


def saved(tmp_path: Path, content: Any) -> Weights:
    torch.save(content, tmp_path / "w.pth")
    return pretrained.read(tmp_path / "w.pth")


@pytest.mark.parametrize("layout", ["timm", "huggingface-vit", "torchvision", "huggingface-dinov2"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_stands_before_the_names(layout: str, prefix: str) -> None:
    arrays = arrays_of(layout)
    found = convert(under(prefix, arrays))
    assert found.layout == layout and same(found, convert(arrays))
    assert found.vit.num_classes == 7


def test_a_prefix_before_googles_names() -> None:
    arrays = arrays_of("big_vision")
    assert same(convert(under("target/", arrays)), convert(arrays))


def test_what_torch_writes_between() -> None:
    theirs = timm_model()
    plain = convert(theirs.state_dict())
    for i in range(len(theirs.blocks)):
        theirs.blocks[i] = torch.compile(theirs.blocks[i])
    names = theirs.state_dict()
    assert "blocks.0._orig_mod.norm1.weight" in names and same(convert(names), plain)
    wrapped = {
        name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."): a
        for name, a in timm_model().state_dict().items()
    }
    assert same(convert(under("_fsdp_wrapped_module.", wrapped)), plain)


def test_dinov2s_blocks_in_chunks() -> None:
    arrays = dict(timm_model().state_dict())
    chunked = {name.replace("blocks.1.", "blocks.1.1."): a for name, a in arrays.items()}
    chunked = {name.replace("blocks.0.", "blocks.0.0."): a for name, a in chunked.items()}
    assert "blocks.1.1.norm1.weight" in chunked and same(convert(chunked), convert(arrays))


def test_deit_3_calls_its_layer_scale_gamma() -> None:
    arrays = dict(timm_model(init_values=1.0).state_dict())
    gammas = {
        name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): a
        for name, a in arrays.items()
    }
    assert "blocks.0.gamma_1" in gammas and same(convert(gammas), convert(arrays))


@pytest.mark.parametrize(
    "keys",
    [
        *[(key,) for key in ("teacher", "state_dict_ema", "model_ema", "ema", "params", "net")],
        ("model_state_dict",),
        ("anything",),
        ("checkpoint", "model", "state_dict"),
        ("ema", "module"),
    ],
)
def test_wrappers(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays: Any = OrderedDict(timm_model().state_dict())
    content = arrays
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "note": "x"}
    assert same(saved(tmp_path, content), convert(arrays))


def test_lightnings_checkpoint(tmp_path: Path) -> None:
    arrays = dict(timm_model().state_dict())
    content = {
        "state_dict": under("model.", arrays) | {"criterion.weight": torch.ones(7)},
        "hyper_parameters": {"lr": 1, "args": argparse.Namespace(path=Path("x"))},
        "pytorch-lightning_version": "2.4",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "callbacks": {"EarlyStopping{}": {"best_score": torch.zeros(())}},
    }
    torch.save(content, tmp_path / "last.ckpt")
    found = pretrained.read(tmp_path / "last.ckpt")
    assert same(found, convert(arrays))
    assert any("criterion.weight" in note for note in found.notes)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        ("student", "teacher", "teacher"),
        ("teacher", "student", "teacher"),
        ("model", "model_ema", "model_ema"),
        ("state_dict_ema", "state_dict", "state_dict_ema"),
        ("ema", "model", "ema"),
        ("online_network", "model", "model"),
        ("anything", "state_dict", "state_dict"),
        ("base_encoder", "momentum_encoder", "base_encoder"),
    ],
)
def test_of_several_networks_the_one_that_is_evaluated(
    tmp_path: Path, first: str, second: str, taken: str
) -> None:
    networks = {}
    for seed, name in enumerate((first, second)):
        networks[name] = dict(randomise(timm_model(), seed).state_dict())
    wanted = convert(networks[taken])
    found = saved(tmp_path, networks)
    other = second if taken == first else first
    assert same(found, wanted)
    assert f"of its networks, {taken} was taken, not {other}" in found.notes
    # The same where one flat set holds both.
    flat = convert(under(f"{first}.", networks[first]) | under(f"{second}.", networks[second]))
    assert same(flat, wanted)
    assert any(f"'{taken}.' was taken, not the other at '{other}.'" in n for n in flat.notes)


def test_which_was_taken_is_in_the_log(tmp_path: Path, caplog: Any) -> None:
    arrays = dict(timm_model().state_dict())
    torch.save({"student": arrays, "teacher": arrays}, tmp_path / "w.pth")
    with caplog.at_level("INFO", "vit"):
        pretrained.load_model(tmp_path / "w.pth")
    assert "teacher was taken, not student" in caplog.text


def test_dinos_training_checkpoint(tmp_path: Path) -> None:
    arrays = dict(timm_model(num_classes=0).state_dict())
    head = {f"head.mlp.{i}.weight": torch.zeros(4, 128) for i in (0, 2)}
    head |= {"head.last_layer.weight_g": torch.zeros(4, 1)}
    teacher = under("backbone.", arrays) | head
    other = dict(randomise(timm_model(num_classes=0), 5).state_dict())
    content = {
        "student": under("module.backbone.", other) | under("module.", head),
        "teacher": teacher,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }
    found = saved(tmp_path, content)
    assert same(found, convert(arrays)) and found.vit.num_classes == 0
    assert any("head.mlp.0.weight" in note for note in found.notes)


def test_an_averaged_model() -> None:
    theirs = timm_model()
    averaged = torch.optim.swa_utils.AveragedModel(theirs)
    assert "n_averaged" in averaged.state_dict()
    assert same(convert(averaged.state_dict()), convert(theirs.state_dict()))


def test_an_average_of_arrays_without_names_is_not_taken(tmp_path: Path) -> None:
    arrays = dict(timm_model().state_dict())
    content = {"ema": {"decay": 0.9, "shadow_params": list(arrays.values())}, "model": arrays}
    assert same(saved(tmp_path, content), convert(arrays))


def test_open_clips_image_tower_without_its_text() -> None:
    arrays = dict(timm_model(num_classes=0).state_dict())
    text = {
        "positional_embedding": torch.zeros(4, 8),
        "token_embedding.weight": torch.zeros(9, 8),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(8),
        "text.transformer.resblocks.0.ln_1.weight": torch.zeros(8),
        "ln_final.weight": torch.zeros(8),
        "logit_scale": torch.zeros(()),
        "visual.head.proj.weight": torch.zeros(8, 128),
    }
    assert same(convert(under("visual.trunk.", arrays) | text), convert(arrays))


@pytest.mark.parametrize("prefix", ["", "model.", "module.backbone."])
@pytest.mark.parametrize("stray", ["adapter.down.weight", "blocks.0.adapter.weight", "extra"])
def test_what_nothing_accounts_for_is_named(prefix: str, stray: str) -> None:
    arrays = under(prefix, dict(timm_model().state_dict()))
    within = prefix if stray.startswith("blocks") else ""
    with pytest.raises(UserError, match=f"not understood {stray}"):
        convert({**arrays, within + stray: torch.zeros(3)})


def test_two_names_that_mean_the_same() -> None:
    arrays = dict(timm_model().state_dict())
    with pytest.raises(UserError, match=r"not understood .*_orig_mod.norm.weight"):
        convert({**arrays, "_orig_mod.norm.weight": torch.zeros(128)})


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm_model(num_classes=0)
        self.fc = nn.Linear(128, 3)


HEADS = (
    "head.mlp.0.weight",
    "head.fc.weight",
    "head.0.weight",
    "head.last_layer.weight_v",
    "mlp_head.1.bias",
    "linear_head.weight",
    "dino_head.mlp.0.weight",
    "ibot_head.last_layer.weight_g",
    "classifier.weight",
    "fc.bias",
    "projector.0.weight",
)


@pytest.mark.parametrize("layout", ["timm", "huggingface-vit", "torchvision"])
@pytest.mark.parametrize("name", [head for head in HEADS if not head.startswith("classifier")])
def test_heads_that_are_dropped_anyway(layout: str, name: str) -> None:
    net = VisionTransformer(SMALL.model_copy(update={"num_classes": 0}))
    arrays = pretrained.export(net, layout)
    found = convert({**arrays, name: torch.zeros(5, 9)})
    assert found.vit.num_classes == 0 and any(name in note for note in found.notes)


@pytest.mark.parametrize("name", HEADS)
def test_heads_beside_a_backbone(name: str) -> None:
    arrays = under("backbone.", dict(timm_model(num_classes=0).state_dict()))
    assert convert({**arrays, name: torch.zeros(5, 9)}).vit.num_classes == 0


def test_a_network_with_a_head_of_ones_own() -> None:
    assert convert(TwoLayers().state_dict()).vit.num_classes == 0


def test_dinov2s_classifier_of_two_features() -> None:
    net = VisionTransformer(SMALL.model_copy(update={"num_classes": 0}))
    arrays = pretrained.export(net, "huggingface-dinov2")
    wide = {"classifier.weight": torch.zeros(9, 256), "classifier.bias": torch.zeros(9)}
    found = convert(under("dinov2.", arrays) | wide)
    assert found.vit.num_classes == 0 and "reads 256 features" in " ".join(found.notes)
    with pytest.raises(UserError, match=r"head.weight is \(9, 200\)"):
        convert(arrays | {**wide, "classifier.weight": torch.zeros(9, 200)})


def test_a_cycle_and_many_wrappers_end(tmp_path: Path) -> None:
    arrays = dict(timm_model().state_dict())
    loop: dict[str, Any] = {"model": arrays}
    loop |= {f"again{i}": loop for i in range(50)}
    assert same(saved(tmp_path, loop), convert(arrays))
