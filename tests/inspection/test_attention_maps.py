"""Attention maps, by hand and on pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from PIL import Image

from benchmarks.attention import mask_cells, pasted
from certainty.certainty import Certainty
from config import Preprocessing, ViTConfig
from inspection.attention_maps import (
    attention_maps,
    clipped,
    heads,
    on_picture,
    overlay,
    relevance,
    rollout,
    seen,
    seen_box,
)
from model import Attention, VisionTransformer, attention_kept
from pretrained.build import load_model
from tests.helpers import REPO, TINY_VIT
from tools.attention import draw_panel
from transforms import eval_transform

SMALL = REPO / "weights/vit-s14.safetensors"  # of the quick start, where it was made
GRID = 4  # of TINY_VIT


def network(**changes: int) -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**{**TINY_VIT, "num_classes": 3, **changes})).eval()
    for name, parameter in net.named_parameters():  # sharper attention than at the start
        if name.endswith("qkv.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    if isinstance(net.head, torch.nn.Linear):
        torch.nn.init.normal_(net.head.weight)
    return net


def batch(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of two matrices, by the definition."""
    n = len(a)
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            out[i, j] = sum(a[i, k] * b[k, j] for k in range(n))
    return out


def test_rollout_is_the_papers() -> None:
    torch.manual_seed(0)
    kept = [(3 * torch.randn(2, 4, 17, 17)).softmax(-1) for _ in range(3)]
    found = rollout(kept)
    assert found.shape == (2, GRID, GRID)
    for i in range(2):
        reach = np.eye(17)
        for a in kept:
            mixed = np.zeros((17, 17))
            for head in range(4):
                mixed += a[i, head].double().numpy() / 4
            reach = product(0.5 * mixed + 0.5 * np.eye(17), reach)
        row = reach[0, 1:]
        np.testing.assert_allclose(found[i].flatten(), row / row.sum(), rtol=1e-5)


def test_relevance_is_the_papers_with_gradients_by_differences() -> None:
    net = network().double()
    images, target = batch().double(), torch.tensor([2, 0])
    with attention_kept(net) as kept:
        logits = net(images)
    found = relevance(logits, kept, target).detach()
    for i in range(2):
        R = np.eye(17)
        for block, a in enumerate(kept):
            slope = gradient_by_differences(net, images[i : i + 1], block, int(target[i]))
            weighted = np.zeros((17, 17))
            for head in range(4):
                weighted += np.maximum(slope[head] * a[i, head].detach().numpy(), 0) / 4
            R = R + product(weighted, R)
        row = R[0, 1:]
        np.testing.assert_allclose(found[i].flatten(), row / row.sum(), rtol=1e-4, atol=1e-9)


def gradient_by_differences(
    net: VisionTransformer, image: torch.Tensor, block: int, target: int
) -> np.ndarray:
    """A logit's slope by each attention (H, 17, 17) of a block, measured by nudging each: many
    nudged copies of the picture at a time."""
    H, N = net.vit.num_heads, 17
    step, count = 1e-5, H * N * N
    nudges = torch.zeros(count, H, N, N, dtype=torch.double)
    nudges.view(count, -1).fill_diagonal_(step)
    tokens = net.forward_trunk(image, block).expand(count, -1, -1)
    plain = net.blocks[block]
    B, K = count, net.vit.hidden_dim // H

    def out(sign: float) -> torch.Tensor:
        with torch.no_grad():
            q, k, v = plain.attn.qkv(plain.norm1(tokens)).view(B, N, 3, H, K).permute(2, 0, 3, 1, 4)
            a = (q @ k.transpose(-2, -1) * K**-0.5).softmax(-1) + sign * nudges
            x = tokens + plain.attn.proj((a @ v).transpose(1, 2).reshape(B, N, H * K))
            x = x + plain.mlp(plain.norm2(x))
            return net.forward_tail(x, block + 1)[:, target]

    return ((out(1.0) - out(-1.0)) / (2 * step)).view(H, N, N).numpy()


def test_each_map_sums_to_one_and_the_logits_stay() -> None:
    net = network()
    maps = attention_maps(net, batch(3))
    with torch.no_grad():
        torch.testing.assert_close(maps.logits, net(batch(3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps.probabilities, maps.logits.softmax(1))
    net.certainty = Certainty(0)
    net.certainty.temperature.fill_(0.5)  # as tools.predict says of the picture
    sure = attention_maps(net, batch(3)).probabilities
    torch.testing.assert_close(sure, (maps.logits / 0.5).softmax(1))
    assert maps.heads.shape == (3, 4, GRID, GRID)
    for found in (maps.rollout, maps.relevance, maps.heads):
        assert not found.requires_grad and (found >= 0).all()
        sums = found.sum((-2, -1))
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_heads_are_the_last_blocks_class_token() -> None:
    net = network()
    with attention_kept(net) as kept, torch.no_grad():
        net(batch())
    first = kept[-1][1, 2, 0, 1:]  # of picture 1, head 2
    found = attention_maps(net, batch()).heads[1, 2].flatten()
    torch.testing.assert_close(found, first / first.sum(), rtol=1e-4, atol=1e-6)


def test_relevance_is_the_predicted_classs_and_differs_by_class() -> None:
    net = network()
    plain, predicted = attention_maps(net, batch()), net(batch()).argmax(1)
    same = attention_maps(net, batch(), predicted)
    torch.testing.assert_close(plain.relevance, same.relevance)
    other = attention_maps(net, batch(), (predicted + 1) % 3)
    assert (plain.relevance - other.relevance).abs().max() > 0.01
    torch.testing.assert_close(plain.rollout, other.rollout)


def test_a_fresh_head_has_no_relevance_and_a_frozen_network_has_maps() -> None:
    net = network()
    net.requires_grad_(False)
    net.train()
    with torch.no_grad():
        assert attention_maps(net, batch()).relevance.sum() > 1.9
    assert net.training and all(p.grad is None for p in net.parameters())
    net.head.weight.zero_()
    assert not attention_maps(net, batch()).relevance.any()


@pytest.mark.parametrize("patch", [0, 6, 15])
def test_a_network_that_looks_at_one_patch(patch: int) -> None:
    """Queries are constant, and only that patch's position has a key they like."""
    net = network(num_layers=1)
    block = net.blocks[0]
    D, K = net.vit.hidden_dim, net.vit.hidden_dim // net.vit.num_heads
    with torch.no_grad():
        net.pos_embed.zero_()
        net.pos_embed[0, 1 + patch, :2] = torch.tensor([50.0, -50.0])
        block.attn.qkv.weight.zero_()
        block.attn.qkv.bias.zero_()
        block.attn.qkv.bias[:D] = 4.0  # queries
        for head in range(net.vit.num_heads):
            block.attn.qkv.weight[D + head * K, 0] = 5.0  # keys: the first feature
        torch.nn.init.normal_(block.attn.qkv.weight[2 * D :])
    maps = attention_maps(net, batch())
    found = [maps.rollout, maps.relevance, maps.heads.mean(1)]
    for cells in found:
        assert (cells.flatten(1)[:, patch] > 0.9).all(), cells


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (211, 640), (128, 128), (40, 37)])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_the_box_is_what_the_transform_leaves(size: tuple[int, int], crop: float) -> None:
    """The transform's own result, of a picture that holds its coordinates, says where it was."""
    preprocessing = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), image_size=32, crop=crop)
    width, height = size
    x = torch.linspace(0.5 / width, 1 - 0.5 / width, width).expand(height, width)
    y = torch.linspace(0.5 / height, 1 - 0.5 / height, height)[:, None].expand(height, width)
    seen = eval_transform(preprocessing)(torch.stack([x, y, x]))  # c h w
    left, top, right, bottom = seen_box(size, preprocessing)
    middle = (seen[0].mean() * width, seen[1].mean() * height)
    assert middle[0] == pytest.approx((left + right) / 2, abs=0.02 * width)
    assert middle[1] == pytest.approx((top + bottom) / 2, abs=0.02 * height)
    column = seen[0, 16, 4:-4] * width  # away from the edges, where the resize bends
    assert float(column[-1] - column[0]) / 23 * 32 == pytest.approx(right - left, rel=0.02)
    row = seen[1, 4:-4, 16] * height
    assert float(row[-1] - row[0]) / 23 * 32 == pytest.approx(bottom - top, rel=0.02)


@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 2)])
@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_a_cell_lands_on_its_patch(size: tuple[int, int], cell: tuple[int, int]) -> None:
    """The patch is found by the transform itself: a white disc where the map's cell is laid must
    come out in that cell."""
    preprocessing = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), image_size=32)
    cells = np.zeros((GRID, GRID))
    cells[cell] = 1
    laid = on_picture(size, cells, preprocessing)
    assert laid.shape == (size[1], size[0])
    pixels = torch.from_numpy((laid > 0.5).astype(np.uint8) * 255).expand(3, -1, -1)
    seen = eval_transform(preprocessing)(pixels)[0]
    shares = torch.nn.functional.avg_pool2d(seen[None], 8)[0]  # g g
    assert np.unravel_index(int(shares.argmax()), (GRID, GRID)) == cell
    assert shares[cell] > 0.9 * shares.sum()


def test_an_overlay_keeps_the_pictures_size_and_colours_the_cell_alone() -> None:
    preprocessing = Preprocessing(image_size=32)
    cells = np.zeros((GRID, GRID))
    cells[1, 2] = 1
    laid = np.asarray(
        overlay(Image.new("RGB", (300, 200), (200, 60, 60)), cells, preprocessing), int
    )
    assert laid.shape == (200, 300, 3)
    colourful = laid.max(2) - laid.min(2)
    left, top, right, bottom = seen_box((300, 200), preprocessing)
    side = (right - left) / GRID
    x, y = int(left + 2.5 * side), int(top + 1.5 * (bottom - top) / GRID)
    assert colourful[y, x] > 60
    assert colourful[:, : int(left)].max() == 0, "grey where the network did not look"
    assert laid[100, 5].min() > 180, "pale outside"  # the picture itself is at 101
    flat = np.full((GRID, GRID), 1 / 16)
    even = np.asarray(overlay(Image.new("RGB", (300, 200), "grey"), flat, preprocessing), int)
    assert (even[100, 70:230] == even[100, 70]).all(), "nothing stands out of an even map"


@pytest.mark.skipif(not SMALL.exists(), reason="the quick start's weights are not here")
def test_pretrained_attention_lies_on_the_figure() -> None:
    from tools.draw_pilots.picture import draw_pilot_with_mask

    net = load_model(SMALL, num_classes=5, image_size=140)
    transform = eval_transform(net.preprocessing)
    ratios = []
    for i in range(3):
        random = default_rng([1000, 0, i])
        drawn = draw_pilot_with_mask("ayanami_rei", random)
        image, mask = pasted(drawn, 2, net.preprocessing, random)
        images = transform(torch.from_numpy(np.array(image)).permute(2, 0, 1))[None]
        cells = mask_cells(mask, net)
        with attention_kept(net) as kept, torch.no_grad():
            net(images)
        ratios.append(
            [float((found * cells).sum() / cells.mean()) for found in (
                rollout(kept)[0], heads(kept)[0].mean(0))]
        )  # fmt: skip
    assert all(
        isinstance(block.attn, Attention) and block.attn.kept is None for block in net.blocks
    )
    assert np.mean(ratios, 0).min() > 1.4, ratios


def test_a_map_lies_where_the_network_saw_it_whatever_the_fit() -> None:
    cells = np.zeros((4, 4), np.float32)
    cells[:, 0] = 1  # the left quarter of what the network sees
    wide = (100, 40)
    for fit, box in (("squash", (0, 0, 100, 40)), ("pad", (0, -30, 100, 70))):
        how = Preprocessing(image_size=32, fit=fit)
        assert seen_box(wide, how) == pytest.approx(box, abs=4)
        laid = on_picture(wide, cells, how)
        assert laid[:, :12].min() > 0.9 and laid[:, 40:].max() == 0, fit
        picture = Image.new("RGB", wide, "white")
        assert overlay(picture, cells, how).size == wide
        assert clipped(seen_box(wide, how), wide) == (0, 0, 100, 40)
    tall = seen_box((40, 100), Preprocessing(image_size=32, fit="pad"))
    assert tall == pytest.approx((-30, 0, 70, 100), abs=4)


@pytest.mark.parametrize(("images", "threads"), [(1, 1), (2, 2)])
def test_what_is_small_takes_one_core(
    monkeypatch: pytest.MonkeyPatch, cores: Callable[[int], None], images: int, threads: int
) -> None:
    """And gives the others back."""
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3))
    monkeypatch.setattr("inspection.attention_maps.SMALL", net.pos_embed.numel())
    found: list[int] = []
    net.head.register_forward_hook(lambda *_: found.append(torch.get_num_threads()))
    cores(2)
    attention_maps(net, torch.randn(images, 3, net.vit.dim, net.vit.dim))
    assert found == [threads] and torch.get_num_threads() == 2


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (50, 1), (1, 3000), (2000, 3), (800, 1), (10, 8000)])
def test_a_strip_has_its_frame_too(size: tuple[int, int], fit: Any, tmp_path: Path) -> None:
    """Of some the part that the network saw is no whole pixel."""
    net = network()
    net.preprocessing = Preprocessing(image_size=32, fit=fit)
    strip = Image.new("RGB", size, "red")
    assert overlay(strip, np.ones((GRID, GRID)), net.preprocessing).size == size
    assert seen(strip, net.preprocessing).size == size
    small = strip.copy()
    small.thumbnail((96, 96))
    assert overlay(small, np.ones((GRID, GRID)), net.preprocessing).size == small.size
    maps = attention_maps(net, batch(1))
    draw_panel(net, strip, maps, ("a", "b", "c"), tmp_path / "panel.png")
    assert (tmp_path / "panel.png").exists()
