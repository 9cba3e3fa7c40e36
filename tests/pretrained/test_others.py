"""Weights of other kinds are told what they are; their libraries say which arrays they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers

from pretrained.read import convert
from utils import UserError

Make = Callable[[], Any]


def of_timm(name: str, **sizes: int) -> Make:
    return lambda: timm.create_model(name, **sizes)


def of_torchvision(name: str) -> Make:
    return lambda: getattr(torchvision.models, name)()


def of_transformers(name: str, **sizes: int) -> Make:
    def make() -> Any:
        model = getattr(transformers, name)
        return model(model.config_class(**sizes))

    return make


KINDS: list[tuple[str, Make]] = [
    ("a Swin Transformer,", of_timm("swin_tiny_patch4_window7_224")),
    ("a Swin Transformer,", of_torchvision("swin_t")),
    ("a Swin Transformer,", of_transformers("SwinModel")),
    ("a Swin Transformer V2", of_timm("swinv2_tiny_window8_256")),
    ("a Swin Transformer V2", of_torchvision("swin_v2_t")),
    ("a BEiT", of_timm("beit_base_patch16_224")),
    ("a BEiT", of_transformers("BeitModel")),
    ("a SigLIP image tower", of_timm("vit_base_patch16_siglip_224")),
    ("a SigLIP image tower", of_transformers("SiglipVisionModel")),
    ("CLIP,", of_transformers("CLIPModel")),
    ("CLIP,", of_transformers("CLIPVisionModel")),
    ("the text tower of CLIP", of_transformers("CLIPTextModel")),
    ("a language model", of_transformers("BertModel")),
    ("a ConvNeXt", of_timm("convnext_tiny")),
    ("a ConvNeXt", of_torchvision("convnext_tiny")),
    ("a ConvNeXt", of_transformers("ConvNextModel")),
    ("a ResNet,", of_timm("resnet18")),
    ("a ResNet,", of_torchvision("resnet50")),
    ("a ResNet,", of_transformers("ResNetModel")),
    ("a DenseNet", of_torchvision("densenet121")),
    ("an EfficientNet or MobileNet", of_timm("efficientnet_b0")),
    ("a convolutional network", of_torchvision("vgg11")),
    ("a hybrid of a ResNet", of_timm("vit_tiny_r_s16_p8_224")),
    ("an MLP-Mixer", of_timm("mixer_s32_224")),
    ("a SAM image encoder", of_timm("samvit_base_patch16")),
    ("an MViT", of_timm("mvitv2_tiny")),
    ("a MaxViT", of_torchvision("maxvit_t")),
    ("a SegFormer or a PVT", of_timm("pvt_v2_b0")),
    ("a DINOv3", of_transformers("DINOv3ViTModel")),
    ("a CaiT", of_timm("cait_xxs24_224")),
]


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(
    ("kind", "make"), KINDS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(KINDS)]
)
def test_it_is_said_what_they_are(kind: str, make: Make, prefix: str) -> None:
    with torch.device("meta"):
        arrays = {prefix + name: array for name, array in make().state_dict().items()}
    with pytest.raises(UserError, match=f"this is {kind}"):
        convert(arrays)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("CLIP,", "visual.transformer.resblocks.0.ln_1.weight"),
        ("LoRA adapters", "base_model.model.blocks.0.attn.qkv.lora_A.weight"),
        ("a ViT of vit-pytorch", "to_patch_embedding.1.weight"),
    ],
)
def test_kinds_told_by_a_name_alone(kind: str, name: str) -> None:
    with pytest.raises(UserError, match=f"this is {kind}"):
        convert({name: torch.zeros(1)})


@pytest.mark.parametrize(
    "make",
    [
        of_timm("vit_giant_patch14_dinov2", depth=2, embed_dim=64, num_heads=1, mlp_ratio=4),
        of_transformers("Dinov2Model", use_swiglu_ffn=True, hidden_size=64, num_attention_heads=1),
    ],
    ids=["timm", "transformers"],
)
def test_a_swiglu_is_named(make: Make) -> None:
    with pytest.raises(UserError, match="its MLP is a SwiGLU, as in DINOv2's giant"):
        convert(make().state_dict())
