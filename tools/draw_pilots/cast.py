"""The five Evangelion pilots: what tells each character from the others."""

from __future__ import annotations

from dataclasses import dataclass

from tools.draw_pilots.hair import Hair
from tools.draw_pilots.paper import RGB


@dataclass(frozen=True)
class Pilot:
    """What tells one character from the others."""

    hair: RGB
    eyes: RGB
    suit: RGB
    trim: RGB
    light: RGB
    uniform: str
    cut: Hair
    brows: float  # tilt: positive is fierce, negative is worried
    eye_height: float
    slant: float
    build: float
    jaw: float
    mouths: tuple[str, ...]


# fmt: off
_REI = Hair(
    fringe=((-1, .3), (-.74, .24), (-.58, -.22), (-.4, .1), (-.24, -.25), (-.06, .2), (.1, -.28),
            (.26, .1), (.42, -.22), (.58, .12), (.68, -.15), (.8, .3), (1, .3)),
    locks=(((1.06, -.5), (.72, -.3), (.84, 1.2)), ((1.08, -.3), (.9, -.1), (1.12, .9))),
    back=((.9, -.9), (1.2, -.1), (1.34, .72), (1.16, .62), (1.2, 1.22), (.92, 1.0), (.78, 1.5),
          (.5, 1.2), (.3, 1.52), (.1, 1.3)),
    crown=(1.17, 1.44), spikes=9, spike=.05,
)
_SHINJI = Hair(
    fringe=((-1, .1), (-.78, .12), (-.6, -.3), (-.42, -.02), (-.25, -.4), (-.02, .04), (.12, -.42),
            (.36, -.04), (.5, -.36), (.66, -.02), (.76, -.25), (.84, .1), (1, .1)),
    locks=(((1.02, -.35), (.84, -.3), (.88, .42)),),
    back=((.9, -.9), (1.12, -.2), (1.08, .5), (.95, .5), (.86, .98), (.6, .8), (.42, 1.2), (.1, 1)),
    crown=(1.09, 1.36), spikes=7, spike=.03, ears=True,
)
_MARI = Hair(
    fringe=((-1, .35), (-.86, .55), (-.66, -.05), (-.5, .16), (-.36, -.3), (-.16, .02), (.1, -.66),
            (.3, -.05), (.44, -.28), (.6, .14), (.72, -.05), (.88, .55), (1, .35)),
    locks=(((1.04, -.3), (.84, -.1), (.9, .95)),),
    back=((.9, -.9), (1.16, -.1), (1.2, .7), (1.0, 1.0), (.8, 1.25), (.4, 1.3), (.1, 1.3)),
    crown=(1.13, 1.4),
    tail=((1.0, .75), (1.3, 1.1), (1.5, 1.9), (1.42, 2.8), (1.55, 3.9)), tied=True,
)
_KAWORU = Hair(
    fringe=((-1, .1), (-.86, .3), (-.7, -.1), (-.5, .16), (-.42, -.2), (-.2, .3), (-.02, -.3),
            (.14, .02), (.26, -.3), (.5, .2), (.58, -.15), (.84, .3), (1, .1)),
    locks=(((1.04, -.4), (.82, -.3), (1.0, .62)),),
    back=((.9, -.9), (1.2, -.2), (1.42, .3), (1.12, .3), (1.24, .78), (.96, .66), (.9, 1.12),
          (.62, .9), (.44, 1.24), (.1, 1.0)),
    crown=(1.12, 1.44), spikes=8, spike=.17, ears=True,
)
_ASUKA = Hair(
    fringe=((-1, .3), (-.8, .3), (-.66, -.1), (-.46, .12), (-.36, -.2), (-.14, .22), (.02, -.5),
            (.16, .2), (.34, -.2), (.48, .12), (.64, -.1), (.82, .3), (1, .3)),
    locks=(((.98, -.7), (.7, -.45), (1.16, 1.9)), ((1.04, -.2), (.86, -.1), (.86, .95))),
    back=((.9, -.9), (1.22, -.2), (1.44, 1.4), (1.6, 2.6), (1.74, 3.9), (1.5, 3.5), (1.36, 4.3),
          (1.0, 3.7), (.8, 4.4), (.4, 3.9)),
    crown=(1.14, 1.42),
    tail=((.95, -.2), (1.18, .6), (1.28, 1.5), (1.16, 2.5), (1.32, 3.5)),
)
# fmt: on

PILOTS: dict[str, Pilot] = {
    "ayanami_rei": Pilot(
        hair=(158, 200, 226), eyes=(206, 40, 56),
        suit=(240, 242, 246), trim=(62, 68, 84), light=(226, 232, 240),
        uniform="girl", cut=_REI, brows=-0.1, eye_height=1.0, slant=0.0, build=0.86, jaw=0.96,
        mouths=("flat", "flat", "small", "flat", "frown", "smile"),
    ),
    "ikari_shinji": Pilot(
        hair=(84, 58, 48), eyes=(52, 74, 138),
        suit=(60, 108, 196), trim=(240, 242, 248), light=(232, 238, 246),
        uniform="boy", cut=_SHINJI, brows=-0.6, eye_height=0.76, slant=-0.04, build=1.04, jaw=1.05,
        mouths=("flat", "frown", "small", "smile", "open"),
    ),
    "makinami_mari_illustrious": Pilot(
        hair=(92, 60, 50), eyes=(60, 166, 176),
        suit=(240, 130, 170), trim=(250, 236, 242), light=(248, 190, 210),
        uniform="vest", cut=_MARI, brows=0.1, eye_height=1.04, slant=0.08, build=0.9, jaw=0.98,
        mouths=("cat", "smirk", "open", "smile", "cat"),
    ),
    "nagisa_kaworu": Pilot(
        hair=(196, 198, 206), eyes=(190, 44, 62),
        suit=(44, 46, 70), trim=(92, 98, 138), light=(66, 70, 104),
        uniform="boy", cut=_KAWORU, brows=-0.05, eye_height=0.76, slant=0.08, build=1.06, jaw=1.03,
        mouths=("smile", "smile", "smirk", "flat", "open"),
    ),
    "souryuu_asuka_langley": Pilot(
        hair=(222, 108, 48), eyes=(48, 124, 214),
        suit=(212, 44, 44), trim=(52, 40, 52), light=(232, 86, 62),
        uniform="girl", cut=_ASUKA, brows=0.7, eye_height=1.02, slant=0.14, build=0.88, jaw=0.98,
        mouths=("open", "smirk", "frown", "flat", "cat"),
    ),
}  # fmt: skip
NAMES = tuple(PILOTS)
