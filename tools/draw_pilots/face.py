"""Draws a pilot's face: skin, eyes, brows, nose and mouth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.draw_pilots.hair import FrontHair
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
    ellipse,
    mix,
    pts,
    spline,
)


@dataclass(frozen=True)
class Look:
    """One picture's expression and colouring of the face."""

    skin: RGB
    iris: RGB
    lash: RGB
    brow: RGB
    gaze: Point
    eye_height: float
    slant: float
    eyes: str  # open, half, smile, asleep, wink
    mouth: str
    brow_tilt: float
    blush: float
    jaw: float


_FACE = pts("0 -1.15, 0.6 -0.95, 0.88 -0.4, 0.9 0.1, 0.82 0.5, 0.6 0.86, 0.28 1.13, 0 1.22")
_EYE = pts("-1 0.3, -0.8 -0.42, -0.15 -0.98, 0.55 -0.88, 1 -0.2, 0.8 0.55, 0.1 0.98, -0.62 0.86")
MOUTHS = ("smile", "flat", "open", "smirk", "frown", "cat", "small")


def draw_head(pen: Pen, look: Look, front: FrontHair, ears: bool) -> None:
    """Draw ears, face, the fringe's shadow and the features."""
    shadow = mix(look.skin, (196, 92, 110), 0.36)
    for side in (-1, 1):
        if ears:
            ear = spline(pts("0.84 0.05, 1 0, 1.03 0.2, 0.95 0.45, 0.83 0.5") * (side, 1))
            pen.shape(ear, look.skin)
            pen.line(
                spline(pts("0.97 0.1, 0.92 0.2, 0.93 0.34") * (side, 1), False), look.skin, 0.6
            )
    half = np.array(_FACE)
    half[4:-1, 0] *= look.jaw
    # The chin is given once: doubled points would put a kink into the spline.
    face = spline(np.vstack([half, half[-2:0:-1] * MIRROR]))
    pen.shape(face, look.skin)
    region = pen.clip(face)
    cast = np.vstack([front.fringe + (0.02, 0.14), [(1.2, -1.4), (-1.2, -1.4)]])
    pen.fill(cast, shadow, 0.75, region)
    pen.fill(spline(pts("0.95 0, 0.72 0.55, 0.35 1.02, 0.2 1.3, 1.1 1.3")), shadow, 0.35, region)
    if look.blush:
        for side in (-1, 1):
            spot = ellipse(side * 0.52, 0.62, 0.2, 0.1)
            pen.fill(spot, (238, 96, 104), look.blush, soft=0.07)
    for side in (-1, 1):
        _draw_eye(pen, look, side)
    _draw_nose_and_mouth(pen, look, shadow)


def _draw_eye(pen: Pen, look: Look, side: int) -> None:
    """Draw one eye with its lashes; `side` is -1 for the viewer's left."""
    middle = np.array([side * 0.43, 0.27])
    size = np.array([0.22 + 0.07 * look.eye_height, 0.29 * look.eye_height])
    state = look.eyes
    if state == "wink":
        state = "smile" if side > 0 else "open"
    slant = np.array([[1, -look.slant], [0, 1]])  # raises the outer corner
    if state in ("smile", "asleep"):
        lift = -0.16 if state == "smile" else 0.12
        lid = arcs([(-0.95, 0.15), (0.95, 0.15)], 2 * lift / 1.9, 12) * size
        pen.stroke(lid @ slant * (side, 1) + middle, 0.075, look.lash, (0.2, 0.5))
        return
    eye = _EYE.copy()
    if state == "half":
        eye[1:4, 1] = np.maximum(eye[1:4, 1] * 0.45, -0.45)
    outline = spline(eye * size @ slant * (side, 1) + middle, steps=5)
    pen.fill(outline, mix(WHITE, look.skin, 0.12))
    region = pen.clip(outline)
    _draw_iris(pen, look, middle + np.array(look.gaze) * (0.07, 0.04), size, region)
    lid_shade = spline(eye[:5], False, 5) * size
    band = np.vstack([lid_shade, lid_shade[::-1] + (0, 0.09)]) @ slant * (side, 1) + middle
    pen.fill(band, mix(look.lash, DUSK, 0.5), 0.42, region)
    _draw_lashes(pen, look, eye * size @ slant, side, middle)


def _draw_iris(pen: Pen, look: Look, middle: Path, size: Path, region: Clip) -> None:
    """Draw iris, pupil and lights inside the eye's region."""
    x, y = middle
    rx, ry = size * (0.66, 0.98)
    top, bottom = mix(look.iris, (18, 10, 34), 0.62), mix(look.iris, WHITE, 0.38)
    pen.fill(ellipse(x, y, rx, ry), mix(look.iris, (14, 8, 26), 0.78), clip=region)
    for i in range(6):
        step = i / 5
        colour = (
            mix(top, look.iris, min(1, step * 1.7))
            if step < 0.6
            else mix(look.iris, bottom, (step - 0.6) / 0.4)
        )
        centre = y + ry * 0.62 * step
        pen.fill(
            ellipse(x, centre, rx * (0.88 - 0.42 * step), ry * (0.9 - 0.62 * step), 20),
            colour,
            clip=region,
        )
    pen.fill(
        ellipse(x, y - 0.02, rx * 0.36, ry * 0.42, 16),
        mix(look.iris, (10, 4, 20), 0.86),
        clip=region,
    )
    pen.fill(ellipse(x - rx * 0.38, y - ry * 0.42, rx * 0.34, ry * 0.24, 16), WHITE, clip=region)
    pen.fill(
        ellipse(x + rx * 0.42, y + ry * 0.40, rx * 0.17, ry * 0.13, 12), WHITE, 0.9, clip=region
    )


def _draw_lashes(pen: Pen, look: Look, eye: Path, side: int, middle: Path) -> None:
    """Draw the heavy upper lid, the thin lower one and the crease above."""
    lid = spline(eye[:5], False, 5)
    t = np.linspace(0, 1, len(lid))[:, None]
    lift = np.array([0.02, -0.095]) * (0.25 + 0.75 * np.sin(np.pi * np.clip(t * 0.75 + 0.12, 0, 1)))
    flick = lid[-1] + np.array([0.09, -0.03])
    upper = np.vstack([lid, [flick], (lid + lift)[::-1]]) * (side, 1) + middle
    pen.fill(upper, look.lash)
    lower = spline(eye[4:7], False) * (side, 1) + middle
    pen.stroke(lower, 0.028, mix(look.lash, look.skin, 0.25), (1.0, 0.0))
    crease = (lid[4:-3] + (0.01, -0.17)) * (side, 1) + middle
    pen.stroke(crease, 0.022, mix(look.skin, look.lash, 0.55), (0, 0))


def draw_brows(pen: Pen, look: Look) -> None:
    """Draw the brows; they go over the fringe, as drawn brows do."""
    height = -0.20 - 0.10 * (look.eye_height - 0.8)
    for side in (-1, 1):
        tilt = look.brow_tilt
        points = [
            (0.20, height + tilt * 0.16),
            (0.45, height - 0.06),
            (0.72, height + 0.02 - tilt * 0.12),
        ]
        pen.stroke(spline(np.array(points) * (side, 1), False), 0.05, look.brow, (0.8, 0.1))


def _draw_nose_and_mouth(pen: Pen, look: Look, shadow: RGB) -> None:
    """Draw the small nose and one of MOUTHS."""
    pen.stroke(arcs([(0.0, 0.57), (0.05, 0.655)], -0.2), 0.035, mix(shadow, DUSK, 0.25), (0.0, 0.6))
    line = mix((120, 44, 52), DUSK, 0.3)
    y = 0.88
    if look.mouth == "open":
        lips = spline(
            [
                (-0.17, y - 0.06),
                (0, y - 0.075),
                (0.17, y - 0.06),
                (0.11, y + 0.07),
                (0, y + 0.12),
                (-0.11, y + 0.07),
            ]
        )
        pen.fill(lips, (128, 38, 52))
        pen.fill(ellipse(0, y + 0.1, 0.09, 0.06), (232, 120, 120), clip=pen.clip(lips))
        pen.stroke(np.vstack([lips, lips[:1]]), 0.028, line, (0.8, 0.8))
        return
    if look.mouth == "small":
        pen.fill(ellipse(0, y, 0.055, 0.045), (150, 52, 64))
        return
    curves: dict[str, tuple[list[Point], float]] = {
        "smile": ([(-0.19, y - 0.03), (0.19, y - 0.03)], 0.22),
        "flat": ([(-0.12, y), (0.12, y)], 0.02),
        "smirk": ([(-0.12, y + 0.02), (0.2, y - 0.05)], 0.18),
        "frown": ([(-0.13, y + 0.03), (0.13, y + 0.03)], -0.2),
        "cat": ([(-0.2, y - 0.04), (0, y - 0.01), (0.2, y - 0.04)], 0.3),
    }
    points, bow = curves[look.mouth]
    pen.stroke(arcs(points, bow, 8), 0.036, line, (0.35, 0.35))
