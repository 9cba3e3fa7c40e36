"""Draws what a pilot wears: suits, uniforms and accessories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.draw_pilots.hair import FrontHair
from tools.draw_pilots.paper import (
    DUSK,
    RGB,
    WHITE,
    Clip,
    Frame,
    Pen,
    arcs,
    both_sides,
    ellipse,
    mix,
    pts,
    spline,
)

_TORSO = pts("0.3 1.5, 0.55 1.72, 1.15 1.9, 1.5 2.08, 1.7 2.5, 1.78 3.3, 1.84 4.6, 1.9 8")


@dataclass(frozen=True)
class Outfit:
    """What is worn in one picture: the kind (plug, girl, boy, vest, casual) and its colours."""

    kind: str
    skin: RGB
    main: RGB
    trim: RGB
    light: RGB


def draw_body(pen: Pen, outfit: Outfit, build: float, curvy: bool) -> None:
    """Draw neck, shoulders and clothes."""
    outline = both_sides(np.array(_TORSO) * (build, 1))
    torso = np.vstack([spline(outline[:8], False), spline(outline[8:], False)])
    base = WHITE if outfit.kind in ("girl", "boy", "vest") else outfit.main
    pen.shape(torso, base)
    region = pen.clip(torso)
    shade = mix(base, DUSK, 0.26)
    for side in (-1, 1):  # arms against the trunk
        arm = spline(pts("1.22 2.5, 1.3 3.1, 1.2 4.2, 1.3 6, 1 6, 1.05 3.6") * (side * build, 1))
        pen.fill(arm, shade, 0.7, region)
        pen.line(
            arcs(np.array([(1.22, 2.45), (1.24, 4.4)]) * (side * build, 1), side * 0.06),
            base,
            0.9,
            (0, 0.5),
        )
    _WEAR[outfit.kind](pen, outfit, region, curvy)
    pen.fill(
        spline(pts("0.9 1.6, 2.2 1.6, 2.2 8, 1 8, 0.7 3.4")), mix(base, DUSK, 0.6), 0.22, region
    )


def draw_neck(pen: Pen, skin: RGB, collar: float) -> None:
    """Draw the neck down to `collar`, with the head's shadow on it."""
    neck = both_sides([(0.33, 0.8), (0.30, 1.3), (0.40, collar), (0.0, collar + 0.22)])
    pen.shape(neck, skin)
    _shade_neck(pen, skin, pen.clip(neck))


def _shade_neck(pen: Pen, skin: RGB, region: Clip) -> None:
    shade = spline(pts("-0.5 0.8, 0.5 0.8, 0.5 1.35, 0.1 1.62, -0.4 1.3"))
    pen.fill(shade, mix(skin, (176, 78, 104), 0.45), 0.85, region)


def _bust(pen: Pen, colour: RGB, region: Clip) -> None:
    for side in (-1, 1):
        fold = pts("0.95 2.75, 0.72 3.18, 0.25 3.2, 0.1 3, 0.35 3.08, 0.7 3.02") * (side, 1)
        pen.fill(spline(fold), mix(colour, DUSK, 0.35), 0.55, region)


def _wear_plug(pen: Pen, o: Outfit, region: Clip, curvy: bool) -> None:
    """The plug suit: a stiff collar, shoulder caps, a breast plate and glossy seams."""
    for side in (-1, 1):
        s = np.array([side, 1.0])
        pen.fill(
            spline(pts("1 1.8, 1.6 1.95, 1.95 2.6, 1.45 2.62, 1.1 2.2") * s), o.trim, clip=region
        )
        pen.line(spline(pts("1 1.84, 1.12 2.25, 1.45 2.6, 1.75 2.62") * s, False), o.trim)
        pen.fill(
            spline(pts("0.72 3.3, 0.95 3.5, 0.9 4.6, 1 7, 0.7 7, 0.66 4.4") * s),
            o.trim,
            0.9,
            region,
        )
        pen.fill(spline(pts("1.22 2, 1.36 2.02, 1.52 2.3, 1.42 2.32") * s), WHITE, 0.55, region)
    plate = spline(both_sides(pts("0.62 1.86, 0.82 2.3, 0.62 2.72, 0.16 2.92")))
    pen.fill(plate, o.light, clip=region)
    pen.line(np.vstack([plate, plate[:1]]), o.light, 0.9, (0.7, 0.7))
    if curvy:
        _bust(pen, o.main, region)
    pen.line(pts("0 2.9, 0 3.6, 0 5.5"), o.main, 0.8)
    pen.fill(pts("-0.2 2.3, 0.2 2.3, 0.16 2.46, -0.16 2.46"), mix(o.trim, DUSK, 0.3), clip=region)
    collar = spline(both_sides(pts("0.36 1.36, 0.44 1.46, 0.58 1.76, 0.2 1.98")), steps=4)
    pen.shape(collar, o.trim)
    pen.fill(
        spline(pts("-0.36 1.5, -0.2 1.58, -0.22 1.8, -0.44 1.72")), WHITE, 0.4, pen.clip(collar)
    )


def _shirt_collar(pen: Pen, gap: float) -> None:
    for side in (-1, 1):
        flap = np.array([(0.32, 1.42), (0.62, 1.72), (0.48, 2.15), (gap, 1.95)]) * (side, 1)
        pen.shape(flap, WHITE, 0.9)


def _wear_girl(pen: Pen, o: Outfit, region: Clip, curvy: bool) -> None:
    """The school's pinafore over a white shirt, with a ribbon."""
    dress = pts("0.62 1.72, 0.98 1.84, 0.92 2.6, 1.12 3.2, 1 4.6, 1.25 8")
    bib = both_sides(np.vstack([dress, [(0.0, 8.0)]]))
    hole = spline(both_sides(pts("0.62 1.6, 0.6 2.2, 0.4 2.75")))
    pen.fill(bib, o.main, clip=region)
    pen.fill(hole, WHITE, clip=region)
    pen.line(spline(both_sides(pts("0.62 1.72, 0.6 2.2, 0.4 2.75")), False), o.main)
    for side in (-1, 1):
        pen.line(spline(dress[1:5] * (side, 1), False), o.main)
    _bust(pen, o.main, region)
    _shirt_collar(pen, 0.06)
    for side in (-1, 1):
        loop = spline(pts("0 2.02, 0.3 1.9, 0.34 2.2") * (side, 1))
        pen.shape(loop, o.trim)
        pen.shape(pts("0.02 2.08, 0.2 2.6, 0.06 2.56") * (side, 1), o.trim, 0.8)
    pen.shape(ellipse(0, 2.06, 0.08, 0.08, 14), mix(o.trim, WHITE, 0.15))


def _wear_boy(pen: Pen, o: Outfit, region: Clip, curvy: bool) -> None:
    """An open white school shirt over a coloured one."""
    pen.fill(pts("-0.34 1.5, 0.34 1.5, 0.06 2.5, -0.06 2.5"), o.trim, clip=region)
    pen.line(pts("0.05 2.45, 0.06 3.6, 0.04 6"), WHITE, 0.8)
    for y in (2.75, 3.4, 4.05):
        pen.fill(ellipse(-0.05, y, 0.045, 0.045, 12), mix(WHITE, DUSK, 0.4), clip=region)
    pocket = pts("0.45 2.75, 0.95 2.72, 0.94 3.3, 0.46 3.32")
    pen.line(np.vstack([pocket, pocket[:1]]), WHITE, 0.7, (0.8, 0.8))
    _shirt_collar(pen, 0.22)


def _wear_vest(pen: Pen, o: Outfit, region: Clip, curvy: bool) -> None:
    """A knitted vest with a tie over a white blouse."""
    vest = both_sides(pts("0.66 1.76, 1.02 1.86, 0.98 2.6, 1.16 3.3, 1.05 4.6, 1.3 8"))
    pen.fill(vest, o.main, clip=region)
    pen.fill(pts("-0.6 1.6, 0.6 1.6, 0 2.95"), WHITE, clip=region)
    for side in (-1, 1):
        pen.stroke(pts("0.62 1.74, 0.32 2.32, 0 2.95") * (side, 1), 0.09, o.light, (1, 1))
    _bust(pen, o.main, region)
    pen.shape(pts("-0.1 1.95, 0.1 1.95, 0.15 2.6, 0 2.8, -0.15 2.6"), o.trim, 0.8)
    _shirt_collar(pen, 0.05)


def _wear_casual(pen: Pen, o: Outfit, region: Clip, curvy: bool) -> None:
    """A shirt of any colour with a round neck and perhaps a stripe."""
    hole = spline(both_sides(pts("0.4 1.42, 0.56 1.7, 0.34 2")))
    pen.fill(hole, o.skin)
    _shade_neck(pen, o.skin, pen.clip(hole))
    neckline = spline(pts("-0.62 1.66, -0.46 1.95, 0 2.1, 0.46 1.95, 0.62 1.66"), False)
    pen.stroke(neckline, 0.1, o.trim, (0.6, 0.6))
    pen.line(neckline - (0, 0.05), o.trim, 0.8)
    pen.line(neckline + (0, 0.05), o.trim, 0.8)
    if o.light != o.main:
        pen.fill(pts("-2 2.65, 2 2.65, 2 3, -2 3"), o.light, clip=region)
    if curvy:
        _bust(pen, o.main, region)
    for side in (-1, 1):
        pen.line(arcs(np.array([(1.05, 1.86), (1.2, 2.6)]) * (side, 1), side * 0.12), o.main, 0.7)


_WEAR = {
    "plug": _wear_plug,
    "girl": _wear_girl,
    "boy": _wear_boy,
    "vest": _wear_vest,
    "casual": _wear_casual,
}


# ----------------------------------------------------------------------------------- accessories


def draw_clips(pen: Pen, colour: RGB, size: float) -> None:
    """Draw the two nerve clips that sit on the hair."""
    for side in (-1, 1):
        clip = pts("-0.16 0.12, -0.05 -0.2, 0.2 -0.16, 0.24 0.2, 0.02 0.28") * size
        place = np.array([side * 0.86, -0.78])
        pen.shape(clip * (side, 1) + place, colour)
        pen.fill(clip * 0.5 * (side, 1) + place + (0, -0.03), mix(colour, WHITE, 0.45))
        pen.line(np.array([(-0.1, 0.16), (0.22, 0.1)]) * size * (side, 1) + place, colour, 0.8)


def draw_hairband(pen: Pen, colour: RGB, front: FrontHair) -> None:
    """Draw a band over the crown."""
    over = arcs(pts("-1.16 -0.42, 0 -1.06, 1.16 -0.42"), -0.2, 12)
    under = over + (0, 0.15)
    band = np.vstack([over, under[::-1]])
    region = pen.clip(front.mass)
    pen.fill(band, colour, clip=region)
    pen.fill(np.vstack([over + (0, 0.09), under[::-1]]), mix(colour, DUSK, 0.3), 0.7, region)
    pen.line(over, colour, 0.8)
    pen.line(under, colour, 0.8)


def draw_glasses(pen: Pen, colour: RGB, thick: float) -> None:
    """Draw glasses with coloured rims and a glint."""
    for side in (-1, 1):
        rim = spline(
            pts("0.1 0.12, 0.2 0, 0.66 -0.02, 0.82 0.1, 0.76 0.46, 0.6 0.6, 0.26 0.58, 0.13 0.42")
            * (side, 1),
            steps=5,
        )
        pen.fill(rim, (214, 236, 255), 0.16)
        pen.fill(pts("0.28 0.56, 0.52 0.02, 0.62 0.02, 0.38 0.57") * (side, 1), WHITE, 0.3)
        pen.stroke(np.vstack([rim, rim[:2]]), thick, colour, (0.9, 0.9))
        pen.stroke(pts("0.8 0.14, 0.9 0.12, 1.02 0.1") * (side, 1), thick, colour, (0.9, 0.9))
    pen.stroke(arcs([(-0.12, 0.22), (0.12, 0.22)], -0.25), thick, colour, (1, 1))


def draw_eyepatch(pen: Pen, side: int) -> None:
    """Draw a white dressing over one eye with its straps."""
    for end in ((-side * 0.95, -0.35), (side * 0.95, 0.1)):
        pen.stroke(
            np.array([(side * 0.43, 0.27), ((side * 0.43 + end[0]) / 2, (0.27 + end[1]) / 2), end]),
            0.06,
            WHITE,
            (1, 1),
        )
    patch = spline(
        pts("0.14 0.02, 0.45 -0.08, 0.76 0.06, 0.74 0.5, 0.44 0.6, 0.14 0.5") * (side, 1)
    )
    pen.shape(patch, WHITE)
    pen.fill(ellipse(side * 0.45, 0.34, 0.2, 0.14), (206, 214, 228), 0.6, soft=0.05)


def draw_bandage(pen: Pen, front: FrontHair) -> None:
    """Wind a white bandage round the forehead."""
    over = arcs([(-1.15, -0.42), (1.15, -0.5)], -0.05, 10)
    band = np.vstack([over, over[::-1] + (0, 0.2)])
    pen.fill(band, WHITE, clip=pen.clip(front.mass, pts("-0.9 -0.6, 0.9 -0.6, 0.9 0, -0.9 0")))
    pen.line(over, WHITE, 0.7)
    pen.line(over + (0, 0.1), WHITE, 0.5)
    pen.line(over + (0, 0.2), WHITE, 0.7)


def draw_earphones(pen: Pen, body: Frame) -> None:
    """Draw the buds of a tape player and their cord."""
    for side in (-1, 1):
        pen.shape(ellipse(side * 0.96, 0.36, 0.1, 0.11, 16), (238, 238, 240))
    head = pen.frame
    pen.frame = body
    for side in (-1, 1):
        cord = spline(
            [(side * 0.95, 0.5), (side * 0.8, 1.5), (side * 0.3, 2.3), (0.05, 3.1)], False
        )
        pen.stroke(cord, 0.045, (236, 236, 238), (0.9, 0.9))
    pen.frame = head
