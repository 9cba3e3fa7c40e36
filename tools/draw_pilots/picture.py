"""One picture: a backdrop, a figure in it, light and colour, and the mask of the figure."""

from __future__ import annotations

from numpy.random import Generator
from PIL import Image, ImageFilter

from tools.draw_pilots import backdrops, light
from tools.draw_pilots.cast import PILOTS
from tools.draw_pilots.figure import draw_figure
from tools.draw_pilots.paper import Frame, Ink, Pen, often, pick


def draw_pilot(name: str, rng: Generator) -> Image.Image:
    """Draw one picture of the named character (a key of PILOTS)."""
    return draw_pilot_with_mask(name, rng)[0]


def draw_pilot_with_mask(name: str, rng: Generator) -> tuple[Image.Image, Image.Image]:
    """Draw one picture and say where the figure is.

    The mask is an "L" image of the same size: 255 where the figure shows, 0 where it is hidden or
    absent.  Light and colour come after it, so the mask is exact to the smoothing of the edges.
    """
    pilot = PILOTS[name]
    size = _choose_size(rng)
    zoom = 3 if min(size) < 300 else 2  # drawn larger, then averaged down: that smooths the edges
    paper = (size[0] * zoom, size[1] * zoom)
    palette = pick(rng, backdrops.PALETTES)
    image = pick(rng, backdrops.BACKDROPS)(paper, palette, rng)
    if often(rng, 0.35):
        backdrops.draw_clutter(image, palette, rng)
    if often(rng, 0.25):  # a shallow focus
        image = (
            image.reduce(6).filter(ImageFilter.BoxBlur(1)).resize(paper, Image.Resampling.BICUBIC)
        )
    pen = Pen(image, _choose_frame(paper, rng), _choose_ink(rng))
    draw_figure(pen, name, pilot, rng)
    light.draw_occluder(pen, pilot.suit, palette, rng)
    image, mask = pen.image.reduce(zoom), pen.mask.reduce(zoom)
    return light.grade(light.light_figure(image, mask, rng), rng), mask


def _choose_size(rng: Generator) -> tuple[int, int]:
    short = int(rng.integers(256, 385))
    long = int(short * pick(rng, (1.0, 1.2, 1.25, 1.33, 1.41, 1.5)))
    return (short, long) if often(rng, 0.68) else (long, short)


def _choose_frame(paper: tuple[int, int], rng: Generator) -> Frame:
    """Choose how near, where and at what angle the figure stands."""
    width, height = paper
    near = rng.beta(1.3, 2.0)
    scale = min(paper) * (0.19 + 0.27 * near)
    x = width * (
        0.5 + rng.normal() * (0.07 if often(rng, 0.75) else 0.17) * min(1.2, width / height)
    )
    y = height * (0.42 + 0.1 * near + rng.normal() * 0.045)
    y = min(max(y, scale * 0.9), height - scale * 0.75)  # the eyes stay in the picture
    return Frame((min(max(x, scale * 0.3), width - scale * 0.3), y), scale, rng.normal() * 0.09)


def _choose_ink(rng: Generator) -> Ink:
    style = pick(rng, ("ink", "ink", "coloured", "coloured", "thick", "sketch", "none"))
    black = pick(rng, ((40, 28, 44), (24, 22, 30), (70, 40, 40), (36, 40, 80)))
    wobble = rng.uniform(0.0, 0.018)
    return {
        "ink": Ink(rng.uniform(0.02, 0.034), black, wobble),
        "coloured": Ink(rng.uniform(0.022, 0.038), None, wobble),
        "thick": Ink(rng.uniform(0.045, 0.07), black, wobble),
        "sketch": Ink(rng.uniform(0.014, 0.022), black, rng.uniform(0.012, 0.028), True),
        "none": Ink(0.0, None, wobble),
    }[style]
