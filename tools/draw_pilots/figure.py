"""Draws a whole pilot: chooses looks and clothes, then stacks the parts from back to front."""

from __future__ import annotations

from numpy.random import Generator

from tools.draw_pilots.cast import Pilot
from tools.draw_pilots.clothes import (
    Outfit,
    draw_bandage,
    draw_body,
    draw_clips,
    draw_earphones,
    draw_eyepatch,
    draw_glasses,
    draw_hairband,
    draw_neck,
)
from tools.draw_pilots.face import MOUTHS, Look, draw_brows, draw_head
from tools.draw_pilots.hair import (
    FrontHair,
    Hair,
    draw_back_hair,
    draw_front_hair,
    draw_tail,
    plan_front_hair,
)
from tools.draw_pilots.paper import RGB, Frame, Pen, at_half_turn, ellipse, mix, often, pick, shift


def draw_figure(pen: Pen, name: str, pilot: Pilot, rng: Generator) -> None:
    """Draw the whole character, from the hair behind to the fringe before the eyes."""
    look, hair_colour = _choose_look(pilot, rng)
    outfit = _choose_outfit(pilot, look.skin, rng)
    curvy = pilot.build < 0.95
    stand = pen.frame
    body = Frame(stand.origin, stand.scale, stand.angle * 0.5 + rng.normal() * 0.05)
    neck_x, neck_y = body.px([(0.0, 1.2)])[0]
    turn = (rng.uniform(-0.26, 0.26), rng.uniform(-0.07, 0.10))
    head = Frame(
        (neck_x, neck_y), stand.scale, stand.angle + rng.normal() * 0.06, (0.0, 1.2), *turn
    )
    front = plan_front_hair(pilot.cut, rng)
    tails_before = often(rng, 0.6) or not pilot.cut.tied

    pen.frame = at_half_turn(head, -0.4)
    draw_back_hair(pen, pilot.cut, hair_colour, rng)
    if not tails_before:
        _draw_tails(pen, pilot.cut, hair_colour, rng)
    pen.frame = body
    draw_neck(pen, look.skin, 1.75)
    draw_body(pen, outfit, pilot.build * rng.uniform(0.95, 1.05), curvy)
    if tails_before:
        pen.frame = at_half_turn(head, -0.4)
        _draw_tails(pen, pilot.cut, hair_colour, rng)
    pen.frame = head
    draw_head(pen, look, front, pilot.cut.ears)
    if name == "ayanami_rei" and often(rng, 0.1):
        draw_eyepatch(pen, pick(rng, (-1, 1)))
    if name == "makinami_mari_illustrious" and often(rng, 0.92):
        rims = shift(
            (214, 44, 84), rng.normal() * 0.03, rng.uniform(0.7, 1.1), rng.uniform(0.8, 1.1)
        )
        draw_glasses(pen, rims, rng.uniform(0.05, 0.075))
    draw_front_hair(pen, front, hair_colour, pick(rng, (0.0, 0.5, 0.75, 0.9)), rng)
    draw_brows(pen, look)
    _draw_extras(pen, name, front, outfit, body, rng)


def _draw_tails(pen: Pen, cut: Hair, colour: RGB, rng: Generator) -> None:
    for side in (-1, 1) if cut.tail else ():
        draw_tail(pen, cut.tail, side, colour, rng)
        if cut.tied:
            x, y = cut.tail[0]
            knot = ellipse(side * (x + 0.12), y + 0.16, 0.13, 0.1, 14)
            pen.shape(knot, (206, 60, 92))


def _draw_extras(
    pen: Pen, name: str, front: FrontHair, outfit: Outfit, body: Frame, rng: Generator
) -> None:
    """Draw what a character wears on the head."""
    plug = outfit.kind == "plug"
    if name == "ayanami_rei":
        if often(rng, 0.85 if plug else 0.12):
            draw_clips(pen, (240, 242, 246), rng.uniform(0.75, 0.95))
        elif often(rng, 0.2):
            draw_bandage(pen, front)
    elif name == "ikari_shinji":
        if plug and often(rng, 0.5):
            draw_clips(pen, (236, 240, 246), rng.uniform(0.6, 0.8))
        elif often(rng, 0.4):
            draw_earphones(pen, body)
    elif name == "makinami_mari_illustrious":
        if often(rng, 0.85):
            draw_hairband(pen, pick(rng, ((238, 238, 242), (236, 120, 160), (90, 150, 190))), front)
    elif name == "nagisa_kaworu":
        if plug and often(rng, 0.35):
            draw_clips(pen, (60, 62, 84), rng.uniform(0.6, 0.8))
    elif often(rng, 0.88):
        draw_clips(
            pen,
            shift((214, 40, 40), rng.normal() * 0.01, 1.0, rng.uniform(0.85, 1.1)),
            rng.uniform(0.95, 1.2),
        )


def _choose_look(pilot: Pilot, rng: Generator) -> tuple[Look, RGB]:
    """Choose this picture's expression and colours; the second value is the hair's colour."""
    drift = rng.normal() * 0.02
    hair = shift(pilot.hair, drift, rng.uniform(0.5, 1.3), rng.uniform(0.82, 1.12))
    skin = shift(
        (253, 226, 208), rng.normal() * 0.012, rng.uniform(0.6, 1.5), rng.uniform(0.92, 1.0)
    )
    look = Look(
        skin=skin,
        iris=shift(
            pilot.eyes, rng.normal() * 0.015, rng.uniform(0.75, 1.1), rng.uniform(0.85, 1.15)
        ),
        lash=mix((44, 26, 40), hair, rng.uniform(0.0, 0.25)),
        brow=mix(hair, (60, 36, 50), 0.5),
        gaze=(rng.uniform(-1, 1), rng.uniform(-0.6, 0.8)),
        eye_height=pilot.eye_height * rng.uniform(0.88, 1.12),
        slant=pilot.slant + rng.normal() * 0.03,
        eyes=pick(rng, ("open",) * 9 + ("half", "half", "smile", "asleep", "wink")),
        mouth=pick(rng, pilot.mouths if often(rng, 0.7) else MOUTHS),
        brow_tilt=pilot.brows + rng.normal() * 0.35,
        blush=pick(rng, (0.0, 0.2, 0.35, 0.6)),
        jaw=pilot.jaw * rng.uniform(0.96, 1.04),
    )
    return look, hair


def _choose_outfit(pilot: Pilot, skin: RGB, rng: Generator) -> Outfit:
    """Choose the clothes: often not the plug suit, so that no colour settles who it is."""
    kind = pick(rng, ("plug",) * 9 + (pilot.uniform,) * 5 + ("casual",) * 4)
    if kind == "plug":
        main, trim, light = (
            shift(c, rng.normal() * 0.012, rng.uniform(0.75, 1.15), rng.uniform(0.85, 1.08))
            for c in (pilot.suit, pilot.trim, pilot.light)
        )
        return Outfit(kind, skin, main, trim, light)
    if kind == "casual":
        main = shift((220, 110, 90), rng.random(), rng.uniform(0.1, 1.1), rng.uniform(0.35, 1.15))
        other = shift(main, rng.uniform(0.3, 0.7), 0.8, 1.1)
        return Outfit(
            kind, skin, main, mix(main, (255, 255, 255), 0.4), other if often(rng, 0.4) else main
        )
    if kind == "girl":
        return Outfit(
            kind,
            skin,
            shift((84, 130, 150), rng.normal() * 0.03, 1.0, rng.uniform(0.8, 1.1)),
            (200, 44, 52),
            (255, 255, 255),
        )
    if kind == "vest":
        return Outfit(
            kind,
            skin,
            pick(rng, ((96, 110, 84), (70, 74, 100), (190, 160, 120))),
            pick(rng, ((180, 44, 60), (60, 110, 90))),
            (236, 224, 196),
        )
    return Outfit(
        kind,
        skin,
        (255, 255, 255),
        pick(rng, ((236, 120, 56), (44, 48, 66), (70, 90, 150), (60, 120, 100))),
        (255, 255, 255),
    )
