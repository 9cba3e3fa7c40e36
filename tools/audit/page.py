"""An audit as one page: a gallery to decide by, a map, and the choice as a file.

The page loads nothing; of scripts it runs its own alone, whose hash its policy names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from audit.findings import KINDS, Findings, Suspect
from inspection.charts import by_images
from inspection.render import render
from inspection.thumbnails import thumbnail
from system.filenames import text_of
from tools.audit.about import DECISIONS, PAGE, About, earlier, new_words, own_words, write_about
from utils import progress_bar, shell, write_text

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "keep.js", "map.js", "again.js", "start.js")  # together one module
CARDS = 300  # with their neighbours some 5 MB
LARGE = 256  # pixels of a card's longer side: it is looked at closely
NEIGHBOURS, SMALL = 5, 96  # pictures beside one, and the longer side of theirs
DOTS = 4000  # on the map: more hide one another
TINY, TINY_MOST, TINY_SECONDS = 64, 1000, 20.0  # pictures on the map that nothing else shows
NOISE_ROWS = 20
TITLES = {
    "label": "maybe wrong",
    "leak": "leak",
    "duplicate": "duplicate",
    "outlier": "odd one out",
    "quality": "quality",
    "unreadable": "unreadable",
}
EXPLAINED = {
    "label": "the label may be another class's: listed from a probability of 0.1, flagged from 0.5",
    "leak": "the same picture is trained on and held out",
    "duplicate": "the same picture more than once",
    "outlier": "unlike all others",
    "quality": "dark, blurred, small, or the like",
    "unreadable": "no program can show it",
}


def write_page(
    folder: Path,
    findings: Findings,
    run: Path | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Write audit.html and audit.json into an audit's folder; the page's path.

    `run` is the finished run that was asked, where there is one, else `config` the settings and
    `overrides` what the command line said of them: what training again takes.
    """
    about = About(findings.name, findings.root, findings.classes, run, config, tuple(overrides))
    write_about(folder, about)
    shown = chosen(findings.suspects)
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    values: dict[str, Any] = {
        "findings": findings,
        "root": text_of(str(findings.root)),
        "kinds": kinds(findings.suspects, shown),
        "cut": cut(findings.suspects, shown),
        "noise": noise(findings),
        "sizes": [by_images(findings.sizes)] if findings.sizes else None,
        "commands": commands(about),
        "data": embedded(data(findings, shown, about)),
        "script": Markup(script),  # noqa: S704
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    values["contents"] = contents(values)
    path = folder / PAGE
    write_text(path, render(HERE / "page.html", **values))
    return path


def contents(values: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "found": ("Found", True),
        "suspects": ("Suspects", values["kinds"]),
        "map": ("Map", values["findings"].paths),
        "noise": ("Label noise", values["noise"]),
        "sizes": ("More pictures?", values["sizes"]),
    }
    return [(name, text) for name, (text, there) in names.items() if there]


# ---------------------------------------------------------------------------------- what is shown


def chosen(suspects: Iterable[Suspect], most: int = CARDS) -> list[Suspect]:
    """Those that have a card: the worst of each kind in turn, copies together, as many as fit; kind
    by kind, the worst first."""
    queues = [bundles([s for s in suspects if s.kind == kind]) for kind in KINDS]
    taken: list[list[list[Suspect]]] = [[] for _ in KINDS]
    room = most
    for turn in zip_longest(*queues):
        for place, bundle in enumerate(turn):
            if bundle and room:
                taken[place].append(bundle[:room])
                room -= len(bundle[:room])
    return [suspect for kind in taken for bundle in kind for suspect in bundle]


def bundles(suspects: list[Suspect]) -> list[list[Suspect]]:
    """Copies of one another together, the worst first."""
    worst: dict[int | None, float] = {}
    for suspect in suspects:
        worst[suspect.group] = max(suspect.score, worst.get(suspect.group, suspect.score))

    def place(suspect: Suspect) -> tuple[float, int]:
        if suspect.group is None:
            return (-suspect.score, -1)
        return (-worst[suspect.group], suspect.group)

    ordered = sorted(suspects, key=place)
    found: list[list[Suspect]] = []
    for group, copies in groupby(ordered, key=lambda s: s.group):
        members = list(copies)
        found += [[s] for s in members] if group is None else [members]
    return found


def kinds(suspects: Sequence[Suspect], shown: Sequence[Suspect]) -> list[dict[str, Any]]:
    """The kinds that were found: how many, and how many of them have a card."""
    every, here = Counter(s.kind for s in suspects), Counter(s.kind for s in shown)
    return [
        {"kind": kind, "title": TITLES[kind], "says": EXPLAINED[kind]}
        | {"count": every[kind], "shown": here[kind]}
        for kind in KINDS
        if every[kind]
    ]


def cut(suspects: Sequence[Suspect], shown: Sequence[Suspect]) -> str | None:
    if len(shown) == len(suspects):
        return None
    return (
        f"{len(shown):,} of {len(suspects):,} are shown here, the worst of each kind; audit.csv "
        "lists all. Decide these, and audit again."
    )


def noise(findings: Findings) -> list[tuple[str, str, float]]:
    """Class, the class that some of its pictures seem to be of, their share; the largest first."""
    rows = [
        (findings.classes[i], findings.classes[j], float(share))
        for i, row in enumerate(findings.noise)
        for j, share in enumerate(row)
        if i != j and share > 0
    ]
    return sorted(rows, key=lambda row: -row[2])[:NOISE_ROWS]


def commands(about: About) -> dict[str, str]:
    """What carries the decisions out: by moving files, or by a training that reads them."""
    root = text_of(str(about.root.absolute()))
    if about.run is not None:
        of = [f"train.from_run={text_of(str(about.run))}"]
    else:
        of = [] if about.config is None else ["--config", text_of(str(about.config))]
    words = [*of, *own_words(about), *new_words(DECISIONS)]
    return {
        "apply": shell("python", "-m", "tools.audit", "--apply", DECISIONS, "--root", root),
        "train": shell("python", "training.py", *words),
    }


# --------------------------------------------------------------------------- what its script takes


def data(findings: Findings, shown: Sequence[Suspect], about: About) -> dict[str, Any]:
    """All that the page's script shows; pictures are numbers: rows of `pictures`."""
    index = {path: i for i, path in enumerate(findings.paths)}
    cards = [card(suspect, index.get(suspect.path), findings) for suspect in shown]
    dots = on_the_map(len(findings.paths), {c["picture"] for c in cards} - {None})
    near = {i for c in cards for i in c["near"]}
    used = sorted({*dots, *near, *(c["picture"] for c in cards if c["picture"] is not None)})
    pictures = {
        i: [findings.paths[i], int(findings.labels[i]), findings.parts[i]]
        + [round(float(x), 4) for x in findings.places[i]]
        for i in used
    }
    return {
        "id": about.id,
        "classes": findings.classes,
        "titles": TITLES,
        "cards": cards,
        "earlier": [(p, {"decision": d.what, "label": d.label}) for p, d in earlier(about).items()],
        "pictures": pictures,
        "dots": dots,
        "thumbs": thumbs(findings, [c["picture"] for c in cards], near, dots),
    }


def card(suspect: Suspect, picture: int | None, findings: Findings) -> dict[str, Any]:
    near = [] if picture is None else findings.neighbours[picture][:NEIGHBOURS]
    return {
        "picture": picture,
        "thumb": thumbnail(findings.root, suspect.path, findings.greys, LARGE).url
        if picture is None  # such as a copy that training leaves out
        else None,
        "path": suspect.path,
        "kind": suspect.kind,
        "given": suspect.given,
        "suggested": suspect.suggested,
        "group": suspect.group,
        "part": suspect.part,
        "says": suspect.says,
        "near": [int(i) for i in near],
    }


def on_the_map(pictures: int, suspects: set[int]) -> list[int]:
    """Every suspect that has a card, and of the others as many as fit, evenly."""
    rest = [i for i in range(pictures) if i not in suspects]
    step = -(-len(rest) // DOTS) or 1
    return sorted([*rest[::step], *suspects])


def thumbs(
    findings: Findings, cards: Iterable[int | None], near: Iterable[int], dots: Iterable[int]
) -> dict[int, str]:
    """Pictures as data URLs: those of cards large, their neighbours small, and on the map, while
    there is time, tiny."""
    sizes = dict.fromkeys(near, SMALL) | {i: LARGE for i in cards if i is not None}
    tiny = [i for i in dots if i not in sizes][:TINY_MOST]
    ends = time.monotonic() + TINY_SECONDS

    def one(wanted: tuple[int, int]) -> tuple[int, str | None]:
        i, longer = wanted
        if longer == TINY and time.monotonic() > ends:
            return i, None
        return i, thumbnail(findings.root, findings.paths[i], findings.greys, longer).url

    jobs = [*sizes.items(), *((i, TINY) for i in tiny)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = progress_bar(pool.map(one, jobs), "pictures", len(jobs), unit="image")
        return {i: url for i, url in made if url is not None}


def embedded(values: dict[str, Any]) -> Markup:
    """JSON as a script element may hold it: nothing in it ends the element, or begins another."""
    text = json.dumps(values, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704
