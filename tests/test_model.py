"""The network: its size, its seam, its initialisation, and that it is the paper's."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from config import ConfigError, ViTConfig
from model import LayersHead, Tail, VisionTransformer, attention_kept, cells
from pretrained import export, load_model, save_model
from pretrained.build import resample_positions
from tests.helpers import CPU, TINY_VIT
from tokens.trunk import Trunk
from utils import UserError

TINY = ViTConfig(**TINY_VIT, num_classes=5)


def tiny(**changes: object) -> VisionTransformer:
    """A small model whose head and class token are not at their initial zeros."""
    torch.manual_seed(0)
    net = VisionTransformer(TINY.model_copy(update=changes)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


@pytest.mark.parametrize(("classes", "count"), [(1000, 86_567_656), (5, 85_802_501)])
def test_b16_has_the_papers_size(classes: int, count: int) -> None:
    with torch.device("meta"):
        net = VisionTransformer(ViTConfig(num_classes=classes))
    assert net.parameter_counts() == (count, count)


def test_names_and_shapes_are_timms() -> None:
    with torch.device("meta"):
        ours = VisionTransformer(ViTConfig(num_classes=1000)).state_dict()
        theirs = timm.create_model("vit_base_patch16_224").state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_equals_a_transformer_written_with_other_parts() -> None:
    """The same weights in PyTorch's own pre-norm encoder layers, in float64."""
    net = tiny().double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = net.forward_trunk(x, 0)
    for block in net.blocks:
        layer = torch.nn.TransformerEncoderLayer(
            48, 4, 96, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
            "norm1.": "norm1.",
            "norm2.": "norm2.",
        }
        state = block.state_dict()
        layer.load_state_dict(
            {a + p: state[b + p] for a, b in names.items() for p in ("weight", "bias")}
        )
        tokens = layer.double().eval()(tokens)
    expected = net.head(net.norm(tokens)[:, 0])
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_seam_is_exact(depth: int) -> None:
    net = tiny()
    x = torch.randn(3, 3, 32, 32)
    split = net.forward_tail(net.forward_trunk(x, depth), depth)
    torch.testing.assert_close(split, net(x), rtol=1e-5, atol=1e-5)


def gradients(net: VisionTransformer, tokens: Tensor, full: bool) -> dict[str, Tensor]:
    """The logits of the last block, norm and head, and the gradients of all that made them."""
    net.full_last_block = full
    net.zero_grad()
    tokens = tokens.clone().requires_grad_()
    logits = net.forward_tail(tokens, len(net.blocks) - 1)
    (logits.sin() * torch.arange(logits.numel()).view_as(logits)).sum().backward()
    assert tokens.grad is not None
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), "tokens": tokens.grad, **found}


def test_the_class_token_alone_equals_the_plain_block() -> None:
    net = tiny().double()
    tokens = 3 * torch.randn(4, 17, 48, dtype=torch.float64) + 1
    plain, alone = (gradients(net, tokens, full) for full in (True, False))
    assert plain.keys() == alone.keys() and len(plain) == 2 + 16
    for name in plain:
        torch.testing.assert_close(plain[name], alone[name], rtol=1e-10, atol=1e-10, msg=name)
    assert not alone["blocks.1.attn.qkv.bias"][48:96].any(), "softmax ignores the keys' bias"


def test_the_class_token_alone_equals_the_plain_block_under_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same masks, drawn for all tokens; the plain attention is written out here."""
    net = tiny(dropout=0.3, attention_dropout=0.4).double().train()
    tokens = torch.randn(4, 17, 48, dtype=torch.float64)
    masks: list[Tensor] = []

    def draw(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
        masks.append((torch.rand_like(x) > p) / (1 - p))
        return x * masks[-1]

    def same_for_class_token(x: Tensor, *options: object) -> Tensor:
        return x * masks.pop(0)[..., 0, :]  # B H N N -> B H N, B N D -> B D

    def attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
        a = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return torch.nn.functional.dropout(a, dropout_p) @ v

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(torch.nn.functional, "dropout", draw)
    plain = gradients(net, tokens, full=True)
    assert [mask.ndim for mask in masks] == [4, 3, 3, 3]
    monkeypatch.setattr(torch.nn.functional, "dropout", same_for_class_token)
    alone = gradients(net, tokens, full=False)
    assert not masks and plain.keys() == alone.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], alone[name], rtol=1e-10, atol=1e-10, msg=name)


def test_the_initial_loss_is_ln_of_the_classes() -> None:
    logits = VisionTransformer(TINY)(torch.randn(4, 3, 32, 32))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


def test_initial_deviations() -> None:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(num_classes=5, num_layers=1))
    assert net.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.patch_embed.proj.weight.std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.02)
    assert not net.head.weight.any() and not net.blocks[0].attn.qkv.bias.any()


def test_layer_norm_is_over_features_not_tokens() -> None:
    """The first attempt's fault: a token's normalised values must not depend on other tokens."""
    net = tiny()
    tokens = torch.randn(1, 17, 48)
    changed = tokens.clone()
    changed[:, 3] += 1
    norm = net.blocks[0].norm1
    same = [i for i in range(17) if i != 3]
    assert torch.equal(norm(tokens)[:, same], norm(changed)[:, same])
    assert norm(tokens).mean(-1).abs().max() < 5  # its own affine, over 48 features


def test_samples_do_not_influence_each_other() -> None:
    net = tiny()
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    net(x)[0].sum().backward()
    assert x.grad is not None and not x.grad[1].any() and x.grad[0].any()


def test_dropout_only_in_training() -> None:
    net = tiny(dropout=0.5, attention_dropout=0.5)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))


def test_a_frozen_trunk_has_no_gradient_and_no_dropout() -> None:
    net = tiny(dropout=0.5)
    net.freeze_trunk(1)
    net.train()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.forward_trunk(x, 1), net.forward_trunk(x, 1))
    assert not torch.equal(net(x), net(x)), "the last block keeps its dropout"
    net(x).sum().backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {n for n in net.state_dict() if n.startswith(("blocks.1.", "norm", "head"))}


def test_no_classes_gives_features_and_pre_logits_are_a_tanh() -> None:
    x = torch.randn(2, 3, 32, 32)
    assert tiny(num_classes=0)(x).shape == (2, 48)
    features = tiny(num_classes=0, representation_size=24)(x)
    assert features.shape == (2, 24) and features.abs().max() <= 1


def test_auto_classes_can_not_be_built() -> None:
    with pytest.raises(ConfigError, match="num_classes"):
        VisionTransformer(ViTConfig())


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (37, 16), (4, 2), (3, 3)])
def test_positions_resample_as_timms(old: int, new: int) -> None:
    table = torch.randn(1, old * old + 1, 32)
    expected = resample_abs_pos_embed(table, [new, new], [old, old])
    torch.testing.assert_close(resample_positions(table, new), expected, rtol=0, atol=1e-5)


def test_attention_that_is_kept() -> None:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3)).eval()
    torch.nn.init.normal_(net.head.weight)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32, 32)
    plain = net(images)
    with attention_kept(net) as kept:
        logits = net(images)
    assert torch.allclose(logits, plain, atol=1e-5)
    assert [tuple(a.shape) for a in kept] == [(2, 4, 17, 17)] * 2
    assert all(torch.allclose(a.sum(-1), torch.ones(2, 4, 17)) for a in kept)
    gradients = torch.autograd.grad(logits[:, 1].sum(), kept)
    assert all(g.abs().sum() > 0 for g in gradients)
    net(images)
    assert len(kept) == 2, "nothing is kept afterwards"
    assert not net.full_last_block


def layered(class_head: bool = True, depths: tuple[int, ...] = (2, 3)) -> VisionTransformer:
    """A small network with a head over layers, beside its class head or instead of it."""
    torch.manual_seed(0)
    vit = ViTConfig(**{**TINY_VIT, "num_layers": 4, "num_classes": 3 if class_head else 0})
    net = VisionTransformer(vit, classes=("a", "b", "c"))
    net.layers = LayersHead(depths, 48, 3)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    with torch.no_grad():
        net.layers.scale.fill_(2.0)
    return net.eval()


@pytest.mark.parametrize("depths", [(1,), (2, 3)])
@pytest.mark.parametrize("class_head", [True, False])
def test_a_layers_head_is_what_it_says(class_head: bool, depths: tuple[int, ...]) -> None:
    """The mean of two probabilities, or its own alone, of the class token, the patches' mean, and
    nine parts of them."""
    net, images = layered(class_head, depths), torch.randn(5, 3, 32, 32)
    assert net.layers is not None and net.num_classes == 3
    with torch.no_grad():
        seen = [net.forward_trunk(images, depth) for depth in depths]
        features = [f(x) for x in seen for f in (first, mean_of_rest)]
        features = torch.cat([*features, cells(seen[-1]).flatten(1)], 1)
        own = F.linear(features, net.layers.fc.weight, net.layers.fc.bias)
        wanted = own.softmax(1)
        if class_head:
            tail = net.forward_tail(net.forward_trunk(images, 0), 0)
            wanted = (wanted + (2 * tail).softmax(1)) / 2
        torch.testing.assert_close(net(images).softmax(1), wanted)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 10, 16])
def test_cells_are_torchs_adaptive_means(side: int) -> None:
    tokens = torch.randn(2, 1 + side * side, 5)
    patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # B D h w
    wanted = F.adaptive_avg_pool2d(patches, 3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(cells(tokens), wanted)


def first(tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def mean_of_rest(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].mean(1)


@pytest.mark.parametrize("frozen", [3, 4])
@pytest.mark.parametrize("class_head", [True, False])
def test_the_tail_answers_as_the_network(class_head: bool, frozen: int) -> None:
    net, images = layered(class_head), torch.randn(5, 3, 32, 32)
    net.freeze_trunk(frozen)
    with torch.no_grad():
        tokens = Trunk(net, CPU, layers=True)(images)
        torch.testing.assert_close(Tail(net)(tokens), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["class", "layers", "both"])
def test_a_users_own_onnx_export_answers_the_same(head: str, tmp_path: Path) -> None:
    """By the exporter that needs no further package, for batches of any size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    net = layered(class_head=head != "layers")
    if head == "class":
        net.layers = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.randn(2, 3, 32, 32),),
            str(tmp_path / "net.onnx"),
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    images = torch.randn(5, 3, 32, 32)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_head", [True, False])
def test_a_layers_head_is_saved_and_loaded(class_head: bool, tmp_path: Path) -> None:
    net, images = layered(class_head), torch.randn(2, 3, 32, 32)
    save_model(tmp_path / "a.safetensors", net)
    again = load_model(tmp_path / "a.safetensors")
    assert again.layers is not None and again.layers.blocks == (2, 3)
    assert (again.num_classes, again.classes) == (3, ("a", "b", "c"))
    torch.testing.assert_close(again(images), net(images), rtol=0, atol=0)
    save_model(tmp_path / "b.safetensors", again)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    fresh = load_model(tmp_path / "a.safetensors", num_classes=4)
    assert fresh.layers is None and fresh(images).shape == (2, 4)
    with pytest.raises(UserError, match="the timm layout has no place for a head over several"):
        export(again, "timm")


def test_attention_of_a_layers_head_is_kept() -> None:
    net, images = layered(class_head=False), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), attention_kept(net) as kept:
        torch.testing.assert_close(net(images), layered(class_head=False)(images))
    assert len(kept) == 3, "the last block is not run: nothing reads it"
