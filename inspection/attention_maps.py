"""Where a network looks: attention maps over the patches, and over the picture itself.

A map is g x g cells, one a patch, and sums to 1. Blocks' attention comes from `attention_kept`:
a list of (B, H, N, N), the first block's first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from certainty.certainty import sureness
from config import Preprocessing
from engine.cores import one_core
from images import as_tensor
from model import VisionTransformer, attention_kept
from transforms import eval_transform, padded_sides

PALETTE = "inferno"  # perceptually uniform, and read alike by the colour-blind
DIMMED = 0.6  # how much white lies over what the network did not see
FAINTEST, STRONGEST = 0.1, 0.8  # opacity of the map's smallest cell, and of its largest
# Beyond this share of the cells the colours end: a single token may hold ten times what any other
# does (ViTs' artefacts, arXiv:2309.16588), and would leave the rest of the map dark.
BRIGHTEST = 0.98
# Numbers of a batch's tokens: one picture of an S/14 at 224 pixels, whose maps take 0.4 s on one
# core, 0.3 on two idle ones, and 1.6 where another program has one of them.
SMALL = 100_000


@dataclass(frozen=True)
class Maps:
    """What one pass gave of a batch, on the CPU: logits and probabilities (B, C), rollout and
    relevance (B, g, g), heads (B, H, g, g)."""

    logits: Tensor
    probabilities: Tensor
    rollout: Tensor
    relevance: Tensor
    heads: Tensor


def as_input(net: VisionTransformer, pixels: np.ndarray) -> Tensor:
    """A picture (h, w, 3) as evaluation gives it to the network, (1, c, dim, dim)."""
    transform = eval_transform(net.preprocessing, net.vit.input_channels)
    return transform(as_tensor(pixels))[None]


def attention_maps(
    net: VisionTransformer, images: Tensor, target: Tensor | int | None = None
) -> Maps:
    """All maps of a batch of normalised images (B, c, h, w), by one pass without dropout.

    `target` is the class that the relevance is for: one a picture (B,), or one for all; None is
    the predicted class. Takes a network with a head.
    """
    assert net.num_classes, "relevance is for a class: it needs a head"
    was_training = net.training
    net.eval()
    # Where nothing trains it is the images that make the pass part of a graph.
    images = images.detach().requires_grad_()
    with one_core(is_small(net, len(images))):
        with torch.enable_grad(), attention_kept(net) as attention:
            logits = net(images)  # B C
        net.train(was_training)
        if target is None:
            target = logits.argmax(1)
        target = torch.as_tensor(target, device=logits.device).expand(len(logits))
        found = relevance(logits, attention, target)
        kept = [a.detach() for a in attention]
        logits = logits.detach().float()
        maps = (logits, sureness(net.certainty, logits), rollout(kept), found, heads(kept))
    return Maps(*(tensor.cpu() for tensor in maps))


def is_small(net: VisionTransformer, images: int) -> bool:
    """Whether a pass makes so little of each product that cores wait for one another."""
    return images * net.pos_embed[0].numel() <= SMALL


# --------------------------------------------------------------------------- attention -> a map


def rollout(attention: list[Tensor]) -> Tensor:
    """Attention rollout: how much of each patch reaches the class token, (B, g, g).

    Heads are averaged, half of a block is its skip connection, blocks multiply. It knows of no
    class. Abnar & Zuidema 2020, arXiv:2005.00928, section 3.
    """
    reach = _identity(attention[0])
    for a in attention:
        mean = a.mean(1)  # B H N N -> B N N
        reach = (0.5 * mean + 0.5 * _identity(a)) @ reach
    return _cells(reach[:, 0, 1:])


def relevance(logits: Tensor, attention: list[Tensor], target: Tensor) -> Tensor:
    """What speaks for the class `target` (B,), (B, g, g): attention weighted by its gradient.

    Blocks add (gradient x attention)+, averaged over the heads, times what came before. A map is
    all zero where nothing speaks for the class, as under a fresh head. Chefer et al. 2021,
    arXiv:2103.15679, equations 5 and 6.
    """
    with torch.enable_grad():
        score = logits.gather(1, target[:, None]).sum()
    # Kept, so that another class can be asked for.
    gradients = torch.autograd.grad(score, attention, retain_graph=True)
    found = _identity(attention[0])
    for a, gradient in zip(attention, gradients, strict=True):
        weighted = (gradient * a.detach()).clamp(min=0).mean(1)  # B H N N -> B N N
        found = found + weighted @ found
    return _cells(found[:, 0, 1:])


def heads(attention: list[Tensor]) -> Tensor:
    """What each head of the last block reads for the class token, (B, H, g, g)."""
    return _cells(attention[-1][:, :, 0, 1:])


def _identity(a: Tensor) -> Tensor:
    """One for each picture of (B, H, N, N) attention, (B, N, N)."""
    B, _, N, _ = a.shape
    return torch.eye(N, dtype=a.dtype, device=a.device).expand(B, N, N)


def _cells(row: Tensor) -> Tensor:
    """Patches (..., N - 1) as a square (..., g, g) that sums to 1, or stays zero."""
    g = round(row.shape[-1] ** 0.5)
    total = row.sum(-1, keepdim=True)
    return (row / total.where(total > 0, 1.0)).unflatten(-1, (g, g))


# ----------------------------------------------------------------------------- a map -> a picture


def seen_box(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, ...]:
    """The part of a picture (width, height) that `eval_transform` leaves, in the picture's own
    pixels: left, top, right, bottom. Its sides may differ by the rounding of the resize."""
    width, height = size
    if preprocessing.fit == "squash":
        return 0.0, 0.0, float(width), float(height)
    if preprocessing.fit == "pad":  # beyond the picture, too
        side = preprocessing.image_size
        own = padded_sides(width, height, side)
        steps = width / own[0], height / own[1]  # the picture's pixels by the network's
        left, top = (-(side - o) // 2 * s for o, s in zip(own, steps, strict=True))
        return left, top, left + side * steps[0], top + side * steps[1]
    shorter = round(preprocessing.image_size / preprocessing.crop)
    # The longer side is cut, not rounded: torchvision's Resize.
    if width <= height:
        resized = (shorter, int(shorter * height / width))
    else:
        resized = (int(shorter * width / height), shorter)
    corner = [round((side - preprocessing.image_size) / 2) for side in resized]
    starts = [c * own / side for c, own, side in zip(corner, size, resized, strict=True)]
    ends = [
        (c + preprocessing.image_size) * own / side
        for c, own, side in zip(corner, size, resized, strict=True)
    ]
    return (*starts, *ends)


def on_picture(
    size: tuple[int, int], cell_map: Tensor | np.ndarray, preprocessing: Preprocessing
) -> np.ndarray:
    """A map (g, g) laid over a picture of this width and height, (height, width): interpolated
    where the network saw the picture, 0 elsewhere. Its values are the cells'."""
    cells = np.asarray(cell_map, dtype=np.float32)
    left, top, right, bottom = seen_box(size, preprocessing)
    x, y = cells.shape[1] / (right - left), cells.shape[0] / (bottom - top)
    where = (x, 0.0, -left * x, 0.0, y, -top * y)  # from the picture's pixels to cells
    laid = Image.fromarray(cells).transform(
        size, Image.Transform.AFFINE, where, Image.Resampling.BILINEAR
    )
    return np.asarray(laid)


def overlay(
    image: Image.Image, cell_map: Tensor | np.ndarray, preprocessing: Preprocessing
) -> Image.Image:
    """A picture, of its own size, with a map (g, g) where the network saw it.

    The colour and its opacity grow from the map's smallest cell to its largest ones; what
    `eval_transform` cut off is pale. The picture is grey, so that colour means the map alone.
    """
    cells = np.asarray(cell_map, dtype=np.float32)
    least, most = cells.min(), np.quantile(cells, BRIGHTEST)
    cells = ((cells - least) / max(float(most - least), 1e-9)).clip(0, 1)
    strength = on_picture(image.size, cells, preprocessing)  # height width
    colours = _palette()[np.rint(strength * 255).astype(np.uint8)]
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    opacity = (FAINTEST + (STRONGEST - FAINTEST) * strength)[..., None]
    shown = grey * (1 - opacity) + colours * opacity
    return _framed(grey, shown, seen_box(image.size, preprocessing))


def seen(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """A picture, of its own size and colours, pale where the network did not see it."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return _framed(pixels, pixels, seen_box(image.size, preprocessing))


def _framed(outside: np.ndarray, inside: np.ndarray, box: tuple[float, ...]) -> Image.Image:
    """`inside` within the box, and around it a pale `outside`."""
    pixels = outside * (1 - DIMMED) + 255 * DIMMED
    left, top, right, bottom = clipped(box, (pixels.shape[1], pixels.shape[0]))
    pixels[top:bottom, left:right] = inside[top:bottom, left:right]
    picture = Image.fromarray((pixels + 0.5).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline="white")
    return picture


def clipped(box: tuple[float, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """As much of a box as lies within a picture, in whole pixels: one at least, of a picture that
    is thousands of times as long as it is wide, too."""
    left, top, right, bottom = (round(edge) for edge in box)
    left, top = (min(max(0, edge), side - 1) for edge, side in zip((left, top), size, strict=True))
    return left, top, max(left + 1, min(size[0], right)), max(top + 1, min(size[1], bottom))


@cache
def _palette() -> np.ndarray:
    """The palette's 256 colours, (256, 3), from 0 to 255."""
    from matplotlib import colormaps  # slow to import, and only pictures need it

    return 255 * colormaps[PALETTE](np.arange(256))[:, :3].astype(np.float32)
