"""Puts things before a pilot, lights the figure and grades the colours; counts in pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tools.draw_pilots.paper import (
    DUSK,
    RGB,
    Palette,
    Pen,
    capsule,
    ellipse,
    mix,
    often,
    pick,
    pts,
    spline,
)


def draw_occluder(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    """Sometimes put something before the figure; the mask loses what it hides."""
    draw = pick(rng, (None,) * 10 + OCCLUDERS)
    if draw is not None:
        draw(pen, suit, palette, rng)


def _raise_hand(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    colour = suit if often(rng, 0.5) else (252, 224, 206)
    side = pick(rng, (-1, 1))
    wrist = np.array([side * rng.uniform(0.7, 1.3), rng.uniform(1.6, 2.2)])
    elbow = wrist + (side * rng.uniform(0.2, 1.0), 3.0)
    lean = rng.uniform(-0.35, 0.35)
    pen.shape(capsule(elbow, wrist, 0.42, 0.2), colour)
    raised = pick(rng, ((1, 1, 1, 1), (1, 1, 0, 0), (0, 1, 1, 1), (1, 0, 0, 0)))
    palm = wrist + (math.sin(lean) * 0.42, -math.cos(lean) * 0.42)
    for k, up in enumerate(raised):
        angle = lean + (k - 1.5) * 0.2
        way = np.array([math.sin(angle), -math.cos(angle)])
        root = palm + np.array([(k - 1.5) * 0.145, -0.12])
        pen.shape(
            capsule(root, root + way * (0.72 - 0.08 * abs(k - 1.3) if up else 0.26), 0.1, 0.075),
            colour,
            0.8,
        )
    pen.shape(ellipse(palm[0], palm[1], 0.34, 0.36), colour, 0.9)
    for k, up in enumerate(
        raised
    ):  # hide the rims between palm and fingers, then curl the others over it
        root = palm + np.array([(k - 1.5) * 0.145, -0.1])
        pen.fill(ellipse(root[0], root[1], 0.085, 0.12, 16), colour)
        if not up:
            pen.shape(ellipse(root[0], root[1] + 0.06, 0.09, 0.15, 16), colour, 0.7)
    thumb = palm + np.array([-side * 0.24, 0.1])
    pen.shape(capsule(thumb, thumb + (-side * 0.26, -0.26), 0.11, 0.08), colour, 0.8)


def _hide_behind_bar(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    width, height = pen.image.size
    x, half, lean = (
        width * rng.uniform(0.05, 0.95),
        width * rng.uniform(0.03, 0.08),
        width * rng.uniform(-0.15, 0.15),
    )
    colour = pick(rng, palette)
    if often(rng, 0.5):  # a post
        pen.hide(
            [(x - half, 0), (x + half, 0), (x + half + lean, height), (x - half + lean, height)],
            colour,
        )
        pen.hide(
            [(x, 0), (x + half, 0), (x + half + lean, height), (x + lean, height)],
            mix(colour, DUSK, 0.3),
        )
        return
    for top, bottom in (
        (0.0, rng.uniform(0.04, 0.13)),
        (1 - rng.uniform(0.06, 0.22), 1.0),
    ):  # a film's bars
        pen.hide(
            [
                (0, height * top),
                (width, height * top),
                (width, height * bottom),
                (0, height * bottom),
            ],
            (12, 10, 14),
        )


def _say(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    width, height = pen.image.size
    x, y = width * pick(rng, (0.17, 0.83)), height * rng.uniform(0.12, 0.8)
    rx, ry = width * rng.uniform(0.15, 0.22), height * rng.uniform(0.08, 0.15)
    mouth = pen.frame.px([(0.0, 0.9)])[0]
    tip = np.array([x, y]) + (mouth - (x, y)) * 0.45
    for grow, colour in ((0.008 * width, (30, 26, 34)), (0.0, (255, 255, 255))):
        pen.hide([(x - rx * 0.3, y), (x + rx * 0.3, y), tuple(tip)], colour)
        pen.hide(ellipse(x, y, rx + grow, ry + grow), colour)
    for k in range(3):
        left, level = x - rx * rng.uniform(0.45, 0.65), y + (k - 1) * ry * 0.5
        right, thick = x + rx * rng.uniform(0.2, 0.65), ry * 0.08
        pen.hide(
            [
                (left, level - thick),
                (right, level - thick),
                (right, level + thick),
                (left, level + thick),
            ],
            (60, 56, 66),
        )


def _hold_cup(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    x, y, s = rng.uniform(-0.9, 0.9), rng.uniform(1.15, 1.9), rng.uniform(0.4, 0.6)
    colour = pick(rng, (*palette, (250, 250, 250)))
    pen.hide(pen.frame.px(ellipse(x + s, y + s * 0.85, s * 0.5, s * 0.5)), colour)
    pen.hide(pen.frame.px(ellipse(x + s, y + s * 0.85, s * 0.28, s * 0.28)), mix(colour, DUSK, 0.6))
    pen.hide(
        pen.frame.px(
            [(x - s, y), (x + s, y), (x + s * 0.85, y + s * 2), (x - s * 0.85, y + s * 2)]
        ),
        colour,
    )
    pen.hide(
        pen.frame.px(
            [(x + s * 0.4, y), (x + s, y), (x + s * 0.85, y + s * 2), (x + s * 0.35, y + s * 2)]
        ),
        mix(colour, DUSK, 0.2),
    )
    pen.hide(pen.frame.px(ellipse(x, y, s, s * 0.24)), mix(colour, (255, 255, 255), 0.4))
    pen.hide(pen.frame.px(ellipse(x, y + 0.02, s * 0.86, s * 0.17)), (96, 58, 40))


def _scatter_petals(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    width, height = pen.image.size
    colour = pick(rng, ((255, 196, 214), (255, 255, 255), (255, 160, 60), (180, 220, 140)))
    for _ in range(int(rng.integers(12, 34))):
        x, y, r, a = (
            width * rng.random(),
            height * rng.random(),
            width * rng.uniform(0.012, 0.035),
            rng.uniform(0, 6.3),
        )
        p = spline(pts("-1.2 0, 0 -0.6, 1 -0.25, 0.75 0, 1 0.25, 0 0.6"), steps=3) * r
        p = p @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) + (x, y)
        pen.hide(p, mix(colour, (255, 255, 255), rng.uniform(0, 0.4)))


def _blur_before(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    width, height = pen.image.size
    cover = Image.new("L", (width // 4, height // 4))
    draw = ImageDraw.Draw(cover)
    for _ in range(int(rng.integers(2, 5))):
        x, y = (
            width / 4 * pick(rng, (rng.uniform(-0.05, 0.2), rng.uniform(0.8, 1.05))),
            height / 4 * rng.random(),
        )
        r = width / 4 * rng.uniform(0.08, 0.2)
        draw.ellipse((x - r, y - r * 1.6, x + r, y + r * 1.6), fill=235)
    cover = cover.filter(ImageFilter.GaussianBlur(width / 110)).resize(
        pen.image.size, Image.Resampling.BILINEAR
    )
    pen.image.paste(pick(rng, palette), (0, 0, width, height), cover)
    pen.mask = ImageChops.subtract(pen.mask, cover)


def _raise_field(pen: Pen, suit: RGB, palette: Palette, rng: Generator) -> None:
    """An AT field: light only, so the mask keeps what shines through."""
    width, height = pen.image.size
    draw = ImageDraw.Draw(pen.image, "RGBA")
    centre = np.array([width * rng.uniform(0.1, 0.9), height * rng.uniform(0.2, 0.9)])
    corners = np.linspace(0, 2 * math.pi, 9) + math.pi / 8
    for k in range(1, 12):
        ring = centre + np.stack([np.cos(corners), np.sin(corners)], 1) * k * width * 0.06
        draw.line(
            ring.ravel().tolist(),
            fill=(255, 160, 50, max(30, 210 - 16 * k)),
            width=max(2, width // 100),
        )


OCCLUDERS = (
    _raise_hand, _raise_hand, _raise_hand, _hide_behind_bar, _hide_behind_bar, _say, _hold_cup,
    _scatter_petals, _scatter_petals, _blur_before, _raise_field
)  # fmt: skip


def light_figure(image: Image.Image, mask: Image.Image, rng: Generator) -> Image.Image:
    """Light the figure: a shadow over one half, a bright rim, both or neither."""
    width, height = image.size
    if often(rng, 0.3):
        x, lean = width * rng.uniform(0.3, 0.7), width * rng.uniform(-0.3, 0.3)
        edge = 0 if often(rng, 0.5) else width
        shadow = Image.new("L", image.size)
        ImageDraw.Draw(shadow).polygon(
            [(x, 0), (edge, 0), (edge, height), (x + lean, height)], fill=int(rng.integers(60, 130))
        )
        shadow = shadow.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 0.12 * width)))
        image.paste(
            pick(rng, (DUSK, (30, 40, 90), (90, 30, 40))),
            (0, 0, width, height),
            ImageChops.multiply(shadow, mask),
        )
    if often(rng, 0.3):
        reach = max(2, width // 60) * pick(rng, (-1, 1))
        rim = ImageChops.subtract(mask, ImageChops.offset(mask, reach, abs(reach) // 2)).filter(
            ImageFilter.BoxBlur(1.2)
        )
        image.paste(
            pick(rng, ((255, 244, 214), (190, 226, 255), (255, 190, 120))),
            (0, 0, width, height),
            ImageChops.multiply(rim, mask),
        )
    return image


# Each: the colour that white turns into, the share of that tint, the share of greyness.
GRADES: tuple[tuple[RGB, float, float], ...] = (
    ((255, 206, 150), 0.8, 0.15),  # evening
    ((130, 150, 230), 0.8, 0.25),  # night
    ((255, 150, 50), 0.95, 0.85),  # LCL
    ((225, 225, 228), 1.0, 0.92),  # nearly grey
    ((255, 196, 214), 0.7, 0.1),  # rose
    ((196, 240, 220), 0.7, 0.2),  # tube light
    ((236, 216, 186), 0.9, 0.8),  # sepia
    ((240, 90, 80), 0.8, 0.6),  # alarm
)


def grade(image: Image.Image, rng: Generator) -> Image.Image:
    """Colour the whole picture, as evening, night or LCL would."""
    if often(rng, 0.52):
        return image
    tint, share, greyness = pick(rng, GRADES)
    share, grey = share * rng.uniform(0.5, 1.0), greyness * rng.uniform(0.75, 1.0)
    gain = np.array(mix((255, 255, 255), tint, share)) / 255
    matrix = (np.eye(3) * (1 - grey) + np.array([0.299, 0.587, 0.114]) * grey) * gain[:, None]
    rows = np.hstack([matrix * rng.uniform(0.95, 1.12), np.full((3, 1), rng.uniform(-12, 10))])
    return image.convert("RGB", tuple(rows.ravel().tolist()))
