"""A network of any size is the same in every layout, and back."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from config import Preprocessing, ViTConfig
from model import VisionTransformer
from pretrained.read import convert
from pretrained.write import export
from tests.properties.helpers import holds

LAYOUTS = ("google", "big_vision", "huggingface-vit", "huggingface-dinov2", "torchvision", "timm")


@st.composite
def networks(draw: st.DrawFn) -> VisionTransformer:
    heads, patch = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    vit = ViTConfig(
        patch_dim=patch,
        dim=patch * draw(st.integers(1, 3)),
        input_channels=draw(st.sampled_from([1, 3])),
        hidden_dim=heads * draw(st.integers(1, 4)),
        num_heads=heads,
        num_layers=draw(st.integers(1, 3)),
        ff_dim=draw(st.integers(1, 9)),
        num_classes=draw(st.sampled_from([0, 2, 3])),
        gelu=draw(st.sampled_from(["tanh", "exact"])),
        eps=draw(st.sampled_from([1e-6, 1e-12, 1e-5])),
    )
    net = VisionTransformer(vit)
    seeded = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=seeded)
    return net


@holds(25, 2000, net=networks(), layout=st.sampled_from(LAYOUTS))
def test_a_network_is_the_same_in_every_layout(net: VisionTransformer, layout: str) -> None:
    vit = net.vit
    told = {"num_heads": vit.num_heads, "gelu": vit.gelu, "eps": vit.eps}
    told |= {"preprocessing": Preprocessing(image_size=vit.dim).model_dump()}
    there = {name: array.clone() for name, array in export(net, layout).items()}
    back = convert(there, told)
    assert back.vit.model_dump(exclude={"preset"}) == vit.model_dump(exclude={"preset"})
    own = net.state_dict()
    assert back.state.keys() == own.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(back.state[name].numpy(), array.numpy(), err_msg=name)


@holds(20, 1000, net=networks(), one=st.sampled_from(LAYOUTS), other=st.sampled_from(LAYOUTS))
def test_from_one_layout_to_another_it_is_what_it_is_at_once(
    net: VisionTransformer, one: str, other: str
) -> None:
    told = {"num_heads": net.vit.num_heads, "gelu": net.vit.gelu, "eps": net.vit.eps}
    told |= {"preprocessing": Preprocessing(image_size=net.vit.dim).model_dump()}
    again = VisionTransformer(net.vit)
    again.load_state_dict(convert(export(net, one), told).state)
    at_once, by_way = export(net, other), export(again, other)
    assert at_once.keys() == by_way.keys()
    for name, array in at_once.items():
        np.testing.assert_array_equal(by_way[name].numpy(), array.numpy(), err_msg=name)
