"""Draws a pilot's hair: what hangs behind, the tails, the fringe and the locks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from tools.draw_pilots.paper import (
    DUSK,
    MIRROR,
    RGB,
    WHITE,
    Clip,
    Path,
    Pen,
    Point,
    arcs,
    both_sides,
    mix,
    often,
    spline,
)


@dataclass(frozen=True)
class Hair:
    """A haircut, as outlines in head units.

    `fringe` runs from ear to ear as edge, tip, valley, tip ... edge.  `locks` hang beside the face
    (root, root, tip) and a `tail` hangs lower and heavier; both are given for the right side and
    mirrored.  `back` is the right half of what is seen behind the head, from temple to nape.
    """

    fringe: tuple[Point, ...]
    locks: tuple[tuple[Point, Point, Point], ...]
    back: tuple[Point, ...]
    crown: Point = (1.12, 1.42)
    spikes: int = 0
    spike: float = 0.1
    tail: tuple[Point, ...] = ()
    tied: bool = False
    ears: bool = False


def jittered(points: Sequence[Point] | Path, rng: Generator, amount: float) -> Path:
    """The points, each moved a little."""
    p = np.asarray(points, float)
    return p + rng.uniform(-amount, amount, p.shape)


def _lock(root_a: Path, root_b: Path, tip: Path, bend: float) -> Path:
    """Outline of one lock of hair, from root to tip and back; open at the root."""
    down = arcs([tuple(root_a), tuple(tip)], bend, 10)
    up = arcs([tuple(tip), tuple(root_b)], -bend * 0.35, 10)
    return np.vstack([down, up])


def _crown(hair: Hair, rng: Generator) -> Path:
    """The top of the hair from the left ear over the crown to the right ear."""
    rx, top = hair.crown
    ry = top - 0.1
    sweep = math.radians(12)
    if not hair.spikes:
        turn = np.linspace(math.pi - sweep * 0.2, 2 * math.pi + sweep * 0.2, 40)
        return np.stack([rx * np.cos(turn), -0.1 + ry * np.sin(turn)], 1)
    turn = np.linspace(math.pi - sweep, 2 * math.pi + sweep, 2 * hair.spikes + 1)
    reach = np.ones(len(turn))
    reach[1::2] += hair.spike * rng.uniform(0.5, 1.3, hair.spikes)
    # Tips lean down and away from the crown, as hair falls.
    turn[1::2] += np.where(np.cos(turn[1::2]) > 0, 1, -1) * 0.55 * math.pi / hair.spikes
    p = np.stack([rx * reach * np.cos(turn), -0.1 + ry * reach * np.sin(turn)], 1)
    return arcs(p, -0.12, 6)


def draw_back_hair(pen: Pen, hair: Hair, colour: RGB, rng: Generator) -> None:
    """Draw what hangs behind head, neck and shoulders."""
    outline = jittered(both_sides(hair.back), rng, 0.045)
    bow = np.where(np.arange(len(outline) - 1) % 2 == 0, -0.14, -0.05)
    path = arcs(outline, bow)
    dark = mix(colour, DUSK, 0.3)
    pen.shape(path, dark)
    region = pen.clip(path)
    pen.fade(region, mix(colour, DUSK, 0.55), 0.5, 0.0)
    for tip in outline[2:-2:2]:
        if abs(tip[0]) > 0.3:
            strand = arcs([(tip[0] * 0.8, tip[1] * 0.35), (tip[0] * 0.94, tip[1] * 0.85)], 0.06)
            pen.line(strand, dark, 0.6, (0.0, 0.0))


def draw_tail(pen: Pen, points: Sequence[Point], side: int, colour: RGB, rng: Generator) -> None:
    """Draw one long tail of hair, given as the spine of its middle with a fixed swell."""
    spine = spline(jittered(points, rng, 0.05) * (side, 1), closed=False, steps=8)
    t = np.linspace(0, 1, len(spine))[:, None]
    across = np.array([1.0, 0.12 * side])
    half = (0.30 * np.sin(np.pi * (0.12 + 0.88 * t)) ** 0.8) * across
    outline = np.vstack([spine + half, (spine - half)[::-1]])
    pen.shape(outline, colour)
    region = pen.clip(outline)
    inner = np.vstack([spine + half * 0.95, (spine + half * 0.25)[::-1]])
    pen.fill(inner, mix(colour, DUSK, 0.28), clip=region)
    pen.fill(
        np.vstack([spine[4:-8] - half[4:-8] * 0.65, (spine[4:-8] - half[4:-8] * 0.4)[::-1]]),
        mix(colour, WHITE, 0.4),
        0.6,
        region,
    )
    for offset in (-0.3, 0.3):
        pen.line(spine[3:-2] + half[3:-2] * offset, colour, 0.55, (0, 0))


@dataclass(frozen=True)
class FrontHair:
    """One picture's front hair, planned first because the fringe throws a shadow on the face."""

    mass: Path
    fringe: Path
    crown: Path
    corners: Path
    locks: tuple[Path, ...]


def plan_front_hair(hair: Hair, rng: Generator) -> FrontHair:
    """Jitter the haircut into this picture's outlines."""
    crown = _crown(hair, rng)
    corners = jittered(hair.fringe, rng, 0.055)
    if often(rng, 0.5):
        corners = (corners * MIRROR)[::-1]
    corners[0], corners[-1] = crown[0], crown[-1]
    sway = rng.uniform(-0.05, 0.05)
    falling = np.arange(len(corners) - 1) % 2 == 0
    outward = np.where(corners[:-1, 0] < 0, 1.0, -1.0)
    bow = np.where(falling, 0.13, 0.05) * outward + sway
    fringe = arcs(corners, bow, 8)
    locks = []
    for root_a, root_b, tip in hair.locks:
        for side in (-1, 1):
            a, b, end = jittered([root_a, root_b, tip], rng, 0.05) * (side, 1)
            locks.append(_lock(a, b, end, -side * rng.uniform(0.04, 0.16)))
    return FrontHair(np.vstack([crown, fringe[::-1]]), fringe, crown, corners, tuple(locks))


def draw_front_hair(pen: Pen, front: FrontHair, colour: RGB, gloss: float, rng: Generator) -> None:
    """Draw the fringe, the crown and the locks beside the face."""
    for lock in front.locks:
        pen.fill(lock, colour)
        pen.fill(lock * (0.985, 1), mix(colour, DUSK, 0.16), 0.6, pen.clip(lock))
        pen.line(lock[:10], colour, 1.0, (0.1, 0.7))
        pen.line(lock[10:], colour, 1.0, (0.7, 0.1))
    pen.fill(front.mass, colour)
    region = pen.clip(front.mass)
    pen.fade(region, mix(colour, WHITE, 0.3), 0.55, 0.0)
    _shade_hair(pen, front, colour, region)
    _gloss_hair(pen, colour, gloss, region, rng)
    pen.line(front.fringe, colour, 1.0, (0.9, 0.9))
    pen.line(front.crown, colour, 1.15, (0.8, 0.8))
    crown_x = rng.uniform(-0.2, 0.2)
    for x, y in front.corners[2:-1:2]:
        bend = 0.08 if x < crown_x else -0.08
        middle = (crown_x + (x - crown_x) * 0.75, y - 0.5)
        pen.line(arcs([(x, y), middle], -bend), colour, 0.7, (0.7, 0.0))


def _shade_hair(pen: Pen, front: FrontHair, colour: RGB, region: Clip) -> None:
    """Darken one side of every lock of the fringe, and the hair's far side."""
    dark = mix(colour, DUSK, 0.3)
    corners = front.corners
    for i in range(1, len(corners) - 1, 2):
        tip, valley = corners[i], corners[i + 1]
        inner = (tip * 0.45 + valley * 0.55) + (0, -0.22)
        pen.fill(
            arcs([tuple(tip), tuple(valley), tuple(inner), tuple(tip)], 0.1), dark, 0.75, region
        )
    edge = front.crown
    pen.fill(
        np.vstack([edge[len(edge) // 2 :], edge[::-1][: len(edge) // 2] * (0.86, 0.97)]),
        dark,
        0.35,
        region,
    )


def _gloss_hair(pen: Pen, colour: RGB, gloss: float, region: Clip, rng: Generator) -> None:
    """Lay the broken ring of light that drawn hair wears."""
    if gloss <= 0:
        return
    bright = mix(colour, WHITE, 0.62)
    ends = np.sort(rng.uniform(-0.95, 0.95, 4)) + (-0.1, 0, 0, 0.1)
    lift = rng.uniform(-0.12, 0.08)
    for left, right in (ends[:2], ends[2:]):
        x = np.linspace(left, right, 2 * max(2, round((right - left) / 0.15)) + 1)
        y = -0.66 - 0.24 * (1 - x * x) + lift
        teeth = np.where(np.arange(len(x)) % 2 == 1, rng.uniform(0.1, 0.2, len(x)), 0.0)
        thick = 0.05 * np.sin(np.linspace(0, np.pi, len(x)))
        upper = np.stack([x, y - thick - teeth * 0.6], 1)
        lower = np.stack([x * 1.04, y + thick + teeth], 1)[::-1]
        pen.fill(np.vstack([arcs(upper, 0.1, 4), arcs(lower, 0.1, 4)]), bright, gloss, region)
