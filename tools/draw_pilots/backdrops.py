"""Paints what lies behind a pilot: backdrops and the clutter in them; counts in pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from tools.draw_pilots.paper import DUSK, RGB, WHITE, Palette, mix, often, pick, shift

PALETTES: tuple[Palette, ...] = (
    ((150, 205, 236), (236, 246, 250), (74, 128, 190)),
    ((252, 196, 150), (250, 110, 110), (112, 54, 112)),
    ((34, 34, 72), (84, 70, 140), (228, 190, 240)),
    ((238, 232, 218), (206, 190, 170), (130, 104, 92)),
    ((196, 222, 190), (96, 150, 120), (244, 240, 210)),
    ((250, 218, 226), (236, 150, 178), (160, 70, 120)),
    ((232, 128, 40), (140, 42, 20), (255, 206, 110)),
    ((28, 24, 30), (120, 24, 36), (230, 70, 50)),
    ((120, 120, 130), (210, 212, 218), (62, 62, 74)),
    ((246, 226, 120), (242, 168, 60), (90, 70, 120)),
    ((130, 100, 190), (70, 44, 110), (150, 230, 90)),
    ((60, 130, 140), (24, 60, 84), (230, 240, 220)),
    ((170, 60, 60), (240, 196, 180), (60, 30, 44)),
    ((92, 66, 50), (160, 122, 88), (236, 214, 170)),
)


def gradient(size: tuple[int, int], a: RGB, b: RGB, angle: float) -> Image.Image:
    """A picture fading from one colour to the other along `angle`."""
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    t = np.clip((x * math.sin(angle) + y * math.cos(angle)) / 2.2 + 0.5, 0, 1)[..., None]
    small = np.array(a) * (1 - t) + np.array(b) * t
    return Image.fromarray(small.round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _paper(
    size: tuple[int, int], p: Palette, rng: Generator
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = gradient(size, p[0], p[1], rng.uniform(-0.6, 0.6))
    return image, ImageDraw.Draw(image, "RGBA")


def _plain(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    if often(rng, 0.4):
        return Image.new("RGB", size, p[int(rng.integers(3))])
    return _paper(size, p, rng)[0]


def _speed_lines(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    cx, cy = w * rng.uniform(0.3, 0.7), h * rng.uniform(0.3, 0.6)
    far = math.hypot(w, h)
    for angle in rng.uniform(0, 2 * math.pi, int(rng.integers(40, 90))):
        near, half = far * rng.uniform(0.2, 0.5), rng.uniform(0.004, 0.02)
        tip = (cx + near * math.cos(angle), cy + near * math.sin(angle))
        ends = [
            (cx + far * math.cos(angle + s), cy + far * math.sin(angle + s)) for s in (-half, half)
        ]
        draw.polygon([tip, *ends], fill=(*p[2], 190))
    return image


def _halftone(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    pitch = w / rng.uniform(12, 26)
    up = often(rng, 0.5)
    for row in range(int(h / pitch) + 2):
        share = row * pitch / h
        r = pitch * 0.55 * max(0.0, 1 - share if up else share)
        for column in range(int(w / pitch) + 2):
            x, y = (column + row % 2 / 2) * pitch, row * pitch
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(*p[2], 150))
    return image


def _city(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    for layer in range(3):
        colour = mix(mix(p[1], p[2], 0.3 + 0.3 * layer), DUSK, 0.25 * layer)
        x = -rng.uniform(0, 0.1) * w
        while x < w:
            wide = w * rng.uniform(0.07, 0.2)
            top = h * (rng.uniform(0.15, 0.55) + 0.12 * layer)
            draw.rectangle((x, top, x + wide, h), fill=colour)
            step = wide / 5
            for i in range(1, 4):
                for j in range(1, int((h - top) / step / 1.6)):
                    if layer and often(rng, 0.3):
                        y = top + j * step * 1.6
                        draw.rectangle(
                            (x + i * step, y, x + i * step + step * 0.5, y + step * 0.8),
                            fill=(255, 232, 160, 170),
                        )
            x += wide * rng.uniform(1.0, 1.25)
    return image


def _sky(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    if often(rng, 0.5):
        x, y, r = w * rng.uniform(0.1, 0.9), h * rng.uniform(0.08, 0.4), w * rng.uniform(0.06, 0.2)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(p[1], WHITE, 0.6))
    for _ in range(int(rng.integers(2, 6))):
        x, y, r = w * rng.random(), h * rng.random(), w * rng.uniform(0.06, 0.14)
        for k in range(7):
            rr = r * rng.uniform(0.5, 1.0)
            xx, yy = x + (k - 3) * r * 0.7, y + rng.uniform(-0.3, 0.3) * r
            draw.ellipse(
                (xx - rr, yy - rr * 0.8, xx + rr, yy + rr * 0.7),
                fill=(*mix(p[1], WHITE, 0.75), 225),
            )
    return image


def _sea(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    horizon = h * rng.uniform(0.3, 0.65)
    water = pick(rng, (p[2], (176, 34, 40), (36, 110, 160), mix(p[0], DUSK, 0.4)))
    draw.rectangle((0, horizon, w, h), fill=water)
    x = w * rng.uniform(0.1, 0.9)
    for i in range(46):
        t = rng.random() ** 1.5
        y = horizon + (h - horizon) * t
        xx, half = (
            x + rng.normal() * w * (0.08 + 0.4 * t),
            w * (0.02 + 0.08 * t) * rng.uniform(0.5, 1.5),
        )
        bright = mix(water, WHITE, 0.35 + 0.4 * (i % 2))
        draw.ellipse((xx - half, y - 2 - 2 * t, xx + half, y + 2 + 2 * t), fill=(*bright, 190))
    return image


def _hexagons(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    colour = pick(rng, (p[2], (255, 150, 40), (120, 230, 120)))
    sides = pick(rng, (6, 8))
    corners = np.linspace(0, 2 * math.pi, sides + 1) + math.pi / sides
    circle = np.stack([np.cos(corners), np.sin(corners)], 1)
    if often(rng, 0.5):  # one field, ring in ring
        centre = np.array([w * rng.uniform(0.2, 0.8), h * rng.uniform(0.2, 0.7)])
        for k in range(1, 14):
            ring = centre + circle * k * w * 0.07
            draw.line(
                ring.ravel().tolist(), fill=(*colour, max(40, 235 - 14 * k)), width=max(2, w // 110)
            )
        return image
    r = w / rng.uniform(5, 11)
    for row in range(int(h / r / 1.5) + 2):
        for column in range(int(w / r / 1.73) + 2):
            centre = np.array([(column + row % 2 / 2) * r * 1.732, row * r * 1.5])
            cell = (centre + circle * r * 0.93).ravel().tolist()
            if often(rng, 0.35):
                draw.polygon(cell, fill=(*colour, int(rng.integers(30, 130))))
            draw.line(cell, fill=(*colour, 150), width=max(1, w // 300))
    return image


def _geofront(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    w, h = size
    glow = pick(rng, ((40, 90, 80), (92, 60, 40), (60, 50, 120), p[2]))
    image = gradient(size, (14, 16, 34), mix(glow, (14, 16, 34), 0.25), 0.0)
    draw = ImageDraw.Draw(image, "RGBA")
    x, base, half = (
        w * rng.uniform(0.1, 0.9),
        h * rng.uniform(0.5, 0.7),
        w * rng.uniform(0.18, 0.34),
    )
    draw.polygon([(x, base - half), (x - half, base), (x + half * 0.2, base)], fill=(52, 60, 96))
    draw.polygon([(x, base - half), (x + half, base), (x + half * 0.2, base)], fill=(30, 36, 64))
    draw.rectangle((0, base, w, h), fill=(16, 24, 30))
    for k in range(-9, 10):
        draw.line((x + k * w * 0.03, base, x + k * w * 0.3, h), fill=(*glow, 120), width=2)
    for _ in range(50):
        xx, yy, r = w * rng.random(), base * rng.random(), rng.uniform(1, 3)
        draw.ellipse((xx - r, yy - r, xx + r, yy + r), fill=(255, 240, 190, 190))
    return image


def _panels(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    w, h = size
    dark, bright = pick(
        rng, (((16, 14, 18), (240, 90, 30)), ((16, 14, 18), WHITE), (p[1], p[2]), (p[2], p[0]))
    )
    image = Image.new("RGB", size, dark)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(3, 7))):
        x, y, tall = w * rng.uniform(-0.1, 0.8), h * rng.random(), h * rng.uniform(0.04, 0.13)
        for _ in range(int(rng.integers(3, 8))):  # blocks of strokes that only look like writing
            for _ in range(5):
                a, b, c, d = rng.random(4)
                end = (a, y + d * tall) if often(rng, 0.5) else (c, y + b * tall)
                start, stop = (x + a * tall, y + b * tall), (x + end[0] * tall, end[1])
                draw.line((*start, *stop), fill=bright, width=max(2, int(tall * 0.13)))
            x += tall * 1.25
    if often(rng, 0.5):
        y, step = h * rng.uniform(0.05, 0.9), h * 0.06
        for k in range(-1, int(w / step) + 1):
            left = k * step * 1.3
            draw.polygon(
                [
                    (left, y + step),
                    (left + step, y),
                    (left + step * 1.6, y),
                    (left + step * 0.6, y + step),
                ],
                fill=bright,
            )
    return image


def _bokeh(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    for _ in range(int(rng.integers(14, 34))):
        x, y, r = w * rng.random(), h * rng.random(), w * rng.uniform(0.02, 0.11)
        draw.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=(*mix(pick(rng, p), WHITE, 0.4), int(rng.integers(50, 150))),
        )
    return image


def _room(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    w, h = size
    image = Image.new("RGB", size, mix(p[0], WHITE, 0.25))
    draw = ImageDraw.Draw(image, "RGBA")
    x, y, wide, tall = (
        w * rng.uniform(-0.1, 0.5),
        h * rng.uniform(0.02, 0.2),
        w * rng.uniform(0.4, 0.6),
        h * rng.uniform(0.4, 0.6),
    )
    image.paste(gradient((int(wide), int(tall)), p[1], p[2], 0.2), (int(x), int(y)))
    bar = max(3, w // 50)
    frame = mix(p[0], DUSK, 0.5)
    draw.rectangle((x, y, x + wide, y + tall), outline=frame, width=bar)
    draw.line((x + wide / 2, y, x + wide / 2, y + tall), fill=frame, width=bar)
    draw.line((x, y + tall / 2, x + wide, y + tall / 2), fill=frame, width=bar)
    side = -1 if often(rng, 0.5) else 1
    for k in range(5):  # a curtain
        left = (x if side < 0 else x + wide) + side * k * w * 0.045
        draw.rectangle(
            (left - w * 0.025, y - bar, left + w * 0.025, h),
            fill=(*mix(p[2], WHITE, 0.3 + 0.1 * (k % 2)), 220),
        )
    draw.rectangle((0, h * 0.86, w, h), fill=mix(p[1], DUSK, 0.4))
    return image


def _stripes(size: tuple[int, int], p: Palette, rng: Generator) -> Image.Image:
    image, draw = _paper(size, p, rng)
    w, h = size
    step, lean = w / rng.uniform(5, 14), rng.uniform(-0.8, 0.8) * h
    for k in range(-20, 40):
        x = k * step * 2
        draw.polygon(
            [(x, 0), (x + step, 0), (x + step + lean, h), (x + lean, h)], fill=(*p[2], 110)
        )
    return image


BACKDROPS = (
    _plain,
    _plain,
    _speed_lines,
    _halftone,
    _city,
    _sky,
    _sea,
    _hexagons,
    _geofront,
    _panels,
    _bokeh,
    _room,
    _stripes,
)


Brush = ImageDraw.ImageDraw


def _poles(draw: Brush, size: tuple[int, int], dark: RGB, p: Palette, rng: Generator) -> None:
    w, h = size
    x = w * pick(rng, (rng.uniform(0.02, 0.25), rng.uniform(0.75, 0.98)))
    draw.line((x, 0, x, h), fill=dark, width=w // 40)
    for k in range(3):
        y, sag = h * (0.06 + 0.07 * k), h * rng.uniform(0.02, 0.1)
        draw.line((x - w * 0.09, y, x + w * 0.09, y), fill=dark, width=w // 70)
        draw.arc((-0.4 * w, y - sag, x, y + sag), 0, 180, fill=dark, width=3)
        draw.arc((x, y - sag, 1.4 * w, y + sag), 0, 180, fill=dark, width=3)


def _bystanders(draw: Brush, size: tuple[int, int], dark: RGB, p: Palette, rng: Generator) -> None:
    w, h = size
    for _ in range(int(rng.integers(1, 5))):
        x, y, r = w * rng.random(), h * rng.uniform(0.4, 0.9), w * rng.uniform(0.025, 0.07)
        hair = shift((170, 90, 70), rng.random(), rng.uniform(0.3, 1), rng.uniform(0.4, 1.3))
        coat = shift(hair, 0.4, 0.8, 1.0)
        draw.rounded_rectangle((x - r * 1.5, y + r * 1.3, x + r * 1.5, h + 2 * r), r, fill=coat)
        draw.ellipse((x - r, y - r, x + r, y + r * 1.2), fill=mix((240, 206, 186), dark, 0.35))
        cap = (x - r * 1.15, y - r * 1.3, x + r * 1.15, y + r * 1.1)
        draw.pieslice(cap, 170, 370, fill=hair)


def _penguins(draw: Brush, size: tuple[int, int], dark: RGB, p: Palette, rng: Generator) -> None:
    w, h = size
    for _ in range(int(rng.integers(1, 3))):
        x, r = w * rng.random(), w * rng.uniform(0.04, 0.08)
        y = h - r * rng.uniform(1.0, 2.2)
        draw.polygon(
            [(x - r * 0.4, y - r * 1.5), (x, y - r * 2.5), (x + r * 0.4, y - r * 1.5)], dark
        )
        draw.ellipse((x - r * 1.2, y - r * 1.8, x + r * 1.2, y + r * 2), fill=(40, 40, 58))
        draw.ellipse((x - r * 0.75, y - r * 0.4, x + r * 0.75, y + r * 1.8), fill=WHITE)
        beak = [(x - r * 0.3, y - r * 0.8), (x + r * 0.3, y - r * 0.8), (x, y - r * 0.4)]
        draw.polygon(beak, fill=(250, 190, 60))
        for side in (-1, 1):
            eye, e = x + side * r * 0.45, r * 0.16
            draw.ellipse((eye - e, y - r - e, eye + e, y - r + e), fill=WHITE)


def _crosses(draw: Brush, size: tuple[int, int], dark: RGB, p: Palette, rng: Generator) -> None:
    w, h = size
    bright = (*mix(pick(rng, p), (255, 240, 200), 0.6), 160)
    for _ in range(int(rng.integers(1, 5))):
        x, y, r = w * rng.random(), h * rng.uniform(0.3, 0.95), w * rng.uniform(0.02, 0.07)
        draw.rectangle((x - r * 0.3, y - r * 4, x + r * 0.3, h), fill=bright)
        draw.rectangle((x - r * 1.6, y - r * 2.4, x + r * 1.6, y - r * 1.8), fill=bright)


def _stars(draw: Brush, size: tuple[int, int], dark: RGB, p: Palette, rng: Generator) -> None:
    w, h = size
    angle = np.arange(10) * math.pi / 5
    star = (
        np.stack([np.sin(angle), np.cos(angle)], 1) * np.where(np.arange(10) % 2, 1, 0.45)[:, None]
    )
    for _ in range(int(rng.integers(3, 12))):
        place, r = (w * rng.random(), h * rng.random()), w * rng.uniform(0.015, 0.05)
        colour = (*mix(pick(rng, p), WHITE, 0.4), 200)
        draw.polygon((star * r + place).ravel().tolist(), fill=colour)


CLUTTER = (_poles, _bystanders, _bystanders, _penguins, _crosses, _stars)


def draw_clutter(image: Image.Image, palette: Palette, rng: Generator) -> None:
    """Put small things behind the figure: bystanders, poles with wires, crosses, a penguin."""
    dark = mix(pick(rng, palette), DUSK, rng.uniform(0.3, 0.8))
    pick(rng, CLUTTER)(ImageDraw.Draw(image, "RGBA"), image.size, dark, palette, rng)
