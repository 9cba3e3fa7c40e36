"""Colours, chance, outlines and the pen that paints them: what every drawn part needs."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]
Point = tuple[float, float]
Path = np.ndarray  # (n, 2) floats
Palette = tuple[RGB, RGB, RGB]
T = TypeVar("T")

WHITE: RGB = (252, 252, 250)
DUSK: RGB = (52, 36, 84)  # shadows lean to violet: plain black makes flat colours look dirty
MIRROR = np.array([-1.0, 1.0])


# ---------------------------------------------------------------------------- colours and chance


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Blend two colours; `share` is how much of the second."""
    r, g, c = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, c


def shift(colour: RGB, hue: float, saturation: float, value: float) -> RGB:
    """Turn the hue (in turns) and scale saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*(x / 255 for x in colour))
    r, g, b = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * value))
    return round(r * 255), round(g * 255), round(b * 255)


def pick(rng: Generator, options: Sequence[T]) -> T:
    """Choose one of `options` (numpy's own choice would turn tuples into arrays)."""
    return options[int(rng.integers(len(options)))]


def often(rng: Generator, chance: float) -> bool:
    """True with the given chance."""
    return bool(rng.random() < chance)


# ------------------------------------------------------------------------------------- outlines


def spline(points: Sequence[Point] | Path, closed: bool = True, steps: int = 6) -> Path:
    """Run a smooth (Catmull-Rom) curve through the points."""
    p = np.asarray(points, float)
    if closed:
        a, b, c, d = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        wide = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
        a, b, c, d = wide[:-3], wide[1:-2], wide[2:-1], wide[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (x[:, None] for x in (a, b, c, d))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-1]])


def arcs(points: Sequence[Point] | Path, bow: float | Path, steps: int = 6) -> Path:
    """Join the points by bowed segments: corners stay sharp, as the tips of hair must."""
    p = np.asarray(points, float)
    a, c = p[:-1], p[1:]
    normal = np.stack([a[:, 1] - c[:, 1], c[:, 0] - a[:, 0]], 1)
    b = (a + c) / 2 + normal * np.broadcast_to(np.asarray(bow, float), (len(a)))[:, None]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c = a[:, None], b[:, None], c[:, None]
    curve = ((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c).reshape(-1, 2)
    return np.vstack([curve, p[-1]])


def ellipse(x: float, y: float, rx: float, ry: float, steps: int = 28) -> Path:
    """Outline of an upright ellipse."""
    turn = np.linspace(0, 2 * math.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


@cache
def pts(text: str) -> Path:
    """Read points written as "x y, x y, ...": an outline then takes a line of code, not a page."""
    points = np.array([[float(v) for v in pair.split()] for pair in text.split(",")])
    points.flags.writeable = False  # every caller gets the same array
    return points


def capsule(start: Path, end: Path, start_radius: float, end_radius: float) -> Path:
    """Outline of a limb with round ends."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    far = np.linspace(-math.pi / 2, math.pi / 2, 8) + angle
    near = far + math.pi
    return np.vstack(
        [
            end + end_radius * np.stack([np.cos(far), np.sin(far)], 1),
            start + start_radius * np.stack([np.cos(near), np.sin(near)], 1),
        ]
    )


def both_sides(right: Sequence[Point] | Path) -> Path:
    """Complete a symmetric outline from its right half, given from top to bottom."""
    half = np.asarray(right, float)
    return np.vstack([half, half[::-1] * MIRROR])


# ---------------------------------------------------------------------------------- pen and paper


def between(values: np.ndarray, least: float, most: float) -> np.ndarray:
    """np.clip, which takes five times as long for a few points."""
    return np.minimum(np.maximum(values, least), most)


def around(path: Path, margin: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of a path with so many pixels around it, inside a picture (width, height)."""
    least, most = np.floor(path.min(0)) - margin, np.ceil(path.max(0)) + margin
    left, top = (min(max(int(v), 0), side - 1) for v, side in zip(least, size, strict=True))
    right, bottom = (min(int(v), side) for v, side in zip(most, size, strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)


@cache
def swelling(points: int) -> tuple[np.ndarray, np.ndarray]:
    """How far along a line of so many points each lies, 0 to 1, and how the line swells there."""
    t = np.linspace(0, 1, points)
    return t, np.sin(np.pi * t) ** 0.7


@dataclass(frozen=True)
class Frame:
    """Where head units land on the paper: turned by `angle` about `pivot`, which lands on `origin`.

    Head units: (0, 0) is the middle of the head, x grows to the viewer's right, y down; the head is
    2 wide, the chin lies at y = 1.2.

    `yaw` and `pitch` slide the middle of the head sideways and down while its rim stays put, which
    looks like a head turning: the far eye narrows, the near one widens.
    """

    origin: Point
    scale: float
    angle: float = 0.0
    pivot: Point = (0.0, 0.0)
    yaw: float = 0.0
    pitch: float = 0.0

    def px(self, points: Sequence[Point] | Path) -> Path:
        """Pixels of the points."""
        p = np.array(points, float)
        x, y = p[:, 0], p[:, 1]
        inside = between(1 - (x / 1.25) ** 2, 0, 1)
        p[:, 0] = x + self.yaw * inside * between(1.5 - y / 2.4, 0.4, 1)
        p[:, 1] = y + self.pitch * inside * between(1 - (y / 1.6) ** 2, 0, 1)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = (p - np.asarray(self.pivot)) @ np.array([[cos, sin], [-sin, cos]])
        return turned * self.scale + np.asarray(self.origin)


@dataclass(frozen=True)
class Ink:
    """How outlines look: width and wobble in head units, a colour or None for a darker fill."""

    width: float
    colour: RGB | None
    wobble: float = 0.0
    twice: bool = False


@dataclass(frozen=True)
class Clip:
    """A region that later paint must not leave."""

    mask: Image.Image
    corner: tuple[int, int]


class Pen:
    """Paints head-unit shapes on an RGB image and keeps the figure's mask beside it."""

    def __init__(self, image: Image.Image, frame: Frame, ink: Ink) -> None:
        self.image = image
        self.mask = Image.new("L", image.size)
        self.frame = frame
        self.ink = ink
        self._draw = ImageDraw.Draw(image)
        self._mask_draw = ImageDraw.Draw(self.mask)

    def px(self, points: Sequence[Point] | Path, phase: float = 0.0) -> Path:
        """Pixels of the points, shaken by the ink's wobble (smooth: fills and lines agree)."""
        p = self.frame.px(points)
        if self.ink.wobble:
            amount, wave = self.ink.wobble * self.frame.scale, 9.0 / self.frame.scale
            p = p + amount * np.sin(p[:, ::-1] * wave + np.array([phase, phase + 1.3]))
        return p

    def clip(self, *shapes: Path) -> Clip:
        """The region covered by any of the shapes."""
        paths = [self.px(s) for s in shapes]
        every = np.vstack(paths)
        width, height = self.image.size
        left, top = (int(max(0, v)) for v in np.floor(every.min(0)))
        right = int(min(width, every[:, 0].max() + 2))
        bottom = int(min(height, every[:, 1].max() + 2))
        mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        draw = ImageDraw.Draw(mask)
        for path in paths:
            draw.polygon((path - (left, top)).ravel().tolist(), fill=255)
        return Clip(mask, (left, top))

    def fill(
        self,
        shape: Path,
        colour: RGB,
        alpha: float = 1.0,
        clip: Clip | None = None,
        soft: float = 0.0,
        solid: bool = True,
    ) -> None:
        """Fill a closed shape; `soft` blurs its edge (head units), `solid` counts it as figure."""
        if alpha >= 1 and clip is None and not soft:
            flat = self.px(shape).ravel().tolist()
            self._draw.polygon(flat, fill=colour)
            if solid:
                self._mask_draw.polygon(flat, fill=255)
            return
        area = clip or self.clip(self._grown(shape, 2.5 * soft) if soft else shape)
        blur = soft * self.frame.scale
        path = self.px(shape) - area.corner
        mask = Image.new("L", area.mask.size)
        ImageDraw.Draw(mask).polygon(path.ravel().tolist(), fill=round(255 * alpha))
        box = around(path, math.ceil(blur) + 2, mask.size)  # a curl is little of the hair's region
        mask = mask.crop(box)
        if soft:
            mask = mask.filter(ImageFilter.BoxBlur(blur))
        if clip is not None:
            mask = ImageChops.multiply(mask, clip.mask.crop(box))
        self.image.paste(colour, (area.corner[0] + box[0], area.corner[1] + box[1]), mask)

    @staticmethod
    def _grown(shape: Path, margin: float) -> Path:
        (left, top), (right, bottom) = shape.min(0) - margin, shape.max(0) + margin
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])

    def fade(self, clip: Clip, colour: RGB, top: float, bottom: float) -> None:
        """Lay a vertical fade of `colour` over a region, from alpha `top` to alpha `bottom`."""
        ramp = Image.linear_gradient("L").resize(clip.mask.size, Image.Resampling.BILINEAR)
        ramp = ramp.point([round(255 * (top + (bottom - top) * i / 255)) for i in range(256)])
        self.image.paste(colour, clip.corner, ImageChops.multiply(ramp, clip.mask))

    def stroke(self, path: Path, width: float, colour: RGB, ends: Point = (0.25, 0.25)) -> None:
        """Brush a line that swells in the middle; `ends` are the shares of width at its ends."""
        t, swell = swelling(len(path))
        rest = ends[0] + (ends[1] - ends[0]) * t
        half = np.maximum(width * self.frame.scale * (rest + (1 - rest) * swell) / 2, 0.6)
        for phase in (0.0, 2.1) if self.ink.twice else (0.0,):
            p = self.px(path, phase)
            along = np.gradient(p, axis=0)
            normal = np.stack([-along[:, 1], along[:, 0]], 1)
            normal /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
            offset = normal * half[:, None]
            flat = np.vstack([p + offset, (p - offset)[::-1]]).ravel().tolist()
            self._draw.polygon(flat, fill=colour)
            self._mask_draw.polygon(flat, fill=255)

    def line(self, path: Path, fill: RGB, weight: float = 1.0, ends: Point = (0.25, 0.25)) -> None:
        """Stroke in this picture's ink, or not at all where the picture has no outlines."""
        if self.ink.width:
            colour = self.ink.colour or mix(fill, DUSK, 0.55)
            self.stroke(path, self.ink.width * weight, colour, ends)

    def hide(self, pixels: Sequence[Point] | Path, colour: RGB) -> None:
        """Fill a shape given in pixels that stands before the figure, and cut it from the mask."""
        flat = np.asarray(pixels, float).ravel().tolist()
        self._draw.polygon(flat, fill=colour)
        ImageDraw.Draw(self.mask).polygon(flat, fill=0)

    def shape(self, outline: Path, colour: RGB, weight: float = 1.0) -> None:
        """Fill a closed outline and ink its rim."""
        self.fill(outline, colour)
        self.line(np.vstack([outline, outline[:1]]), colour, weight, (0.8, 0.8))


def at_half_turn(frame: Frame, share: float) -> Frame:
    """The same frame with its turn scaled: what lies behind moves less, or the other way."""
    return replace(frame, yaw=frame.yaw * share, pitch=frame.pitch * share)
