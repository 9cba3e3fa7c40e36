"""Which of a checkpoint's arrays are the network: its wrappers, and what stands before its names.

People keep a network below `model`, `state_dict` or `teacher`, and their programs write `module.`,
`_orig_mod.` or `backbone.` before its names, in any order. Nothing of that is listed here: a
network is where a layout's names are, whatever stands before them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from pretrained.layouts import LAYOUTS, Layout
from utils import some

MOST_NETWORKS = 16  # in one file, of one layout
MOST_STATES = 1000  # mappings of names to arrays, in one file
DEEPEST_WRAPPER = 4
MOST_WRAPPERS = 10_000  # that are looked into, of one file; a file may hold millions
# Written by a program into the middle of a name, too: torch.compile, FSDP, activation checkpoints.
WRITTEN_BETWEEN = re.compile(
    r"(?<![^./])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)[./]"
)
# An average is what such projects evaluate: DINO and iBOT their teacher, timm its EMA.
AVERAGES = {"ema", "teacher", "averaged", "swa"}
# Where others are there, these are not what is evaluated; MoCo's and BYOL's moving copies are some.
LESSER = {
    "student",
    "online",
    "momentum",
    "target",
    "queue",
    "optimizer",
    "optim",
    "opt",
    "mu",
    "nu",
}
LESSER |= {"decoder", "text", "k", "init", "initial", "discriminator"}
USUAL = ("model", "state_dict", "model_state_dict", "net", "params", "network", "module")
WORDS = r"(^|[./])([a-z0-9]+_)*(%s)(_[a-z0-9]+)*([./]|$)"
# Beside a trunk, and nothing of what it computes.
BESIDE = re.compile(
    WORDS % "heads?|classifiers?|fc|linear|projectors?|projection|proj|predictors?|decoder|neck|mlp"
    "|last_layer|prototypes?|loss|criterion|metrics?|queue|ptr|center|n_averaged|initted|steps?"
    # An image-text model's other half.
    "|text|token_embedding|positional_embedding|ln_final|logit_scale|logit_bias"
)
TEXT_TOWER = re.compile(r"(^|[./])transformer\.resblocks\.")
HEADS = re.compile(  # of the trunk itself, and none that the layout's table knows
    r"^(?!fc_norm)([a-z0-9]+_)*(heads?|classifiers?|fc|projectors?|projection|predictors?|last_layer|prototypes?)"
    r"(_[a-z0-9]+)*[./]"
)


@dataclass(frozen=True)
class Trunk:
    """A Vision Transformer among arrays: its layout, and what stands before its names."""

    layout: Layout
    prefix: str


@dataclass(frozen=True)
class Peeled:
    """The arrays of one trunk under its layout's names, and what else there was: `heads`, declared
    ignored, and `unknown`, which nothing accounts for."""

    layout: Layout
    arrays: dict[str, Tensor]
    heads: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def peel(arrays: Mapping[str, Tensor]) -> Peeled | None:
    """The trunk in a flat set of arrays, the best of several; None without any."""
    arrays, doubled = _plain_names(arrays)
    found = trunks(arrays)
    if not found:
        return None
    chosen = min(found, key=lambda trunk: _rank(trunk.prefix))
    prefixes = sorted({trunk.prefix for trunk in found}, key=len, reverse=True)
    inside: dict[str, Tensor] = {}
    heads, unknown = [], list(doubled)
    for name, array in arrays.items():
        owner = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if owner == chosen.prefix:
            inside[name[len(owner) :]] = array
        elif owner is None and (BESIDE.search(name) or TEXT_TOWER.search(name)):
            heads.append(name)
        elif owner is None:
            unknown.append(name)
    notes = []
    if chosen.prefix:
        notes.append(f"the arrays' names without their {chosen.prefix!r}")
    if others := [prefix for prefix in prefixes if prefix != chosen.prefix]:
        named = some(sorted(repr(prefix) for prefix in others))
        notes.append(f"the network at {chosen.prefix!r} was taken, not the other at {named}")
    return Peeled(chosen.layout, inside, tuple(heads), tuple(unknown), tuple(notes))


def _plain_names(arrays: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The arrays without what programs write between; names that have become the same twice."""
    plain: dict[str, Tensor] = {}
    doubled = []
    for name, array in arrays.items():
        short = WRITTEN_BETWEEN.sub("", name)
        if short in plain:
            doubled.append(name)
        plain.setdefault(short, array)
    return plain, doubled


def trunks(names: Iterable[str]) -> list[Trunk]:
    """Every Vision Transformer of a known layout among the names of arrays."""
    names = [WRITTEN_BETWEEN.sub("", name) for name in names]
    found: dict[str, Trunk] = {}
    for layout in LAYOUTS.values():
        anchor = re.compile(rf"((?:.*?[./])??)(?:{layout.anchor})")
        prefixes = dict.fromkeys(m[1] for name in names if (m := anchor.fullmatch(name)))
        for prefix in islice(prefixes, MOST_NETWORKS):
            inside = (name[len(prefix) :] for name in names if name.startswith(prefix))
            if any(re.search(layout.signature, name) for name in inside):
                found.setdefault(prefix, Trunk(layout, prefix))
    return list(found.values())


def unwrap(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The arrays of the network in what torch.save wrote, however deep, and a note on which.

    Of several networks an average or a teacher is taken, as their projects evaluate with it.
    Without a network, the largest set of arrays, to be named in an error.
    """
    states = list(islice(_states(content), MOST_STATES))
    known = [
        (path, arrays, trunk.prefix) for path, arrays in states for trunk in trunks(arrays.keys())
    ]
    if not known:
        largest = max(states, key=lambda state: len(state[1]), default=((), {}))
        return largest[1], ()
    path, arrays, _ = min(known, key=lambda one: _rank("/".join(one[0]) + "." + one[2]))
    taken = "/".join(path) or "the top"
    others = sorted({"/".join(other) or "the top" for other, *_ in known} - {taken})
    if others:
        return arrays, (f"of its networks, {taken} was taken, not {some(others)}",)
    return arrays, ((f"the arrays are those at {taken}",) if path else ())


def _states(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping of names to arrays, with the keys that lead to it; the outermost come first,
    and each is looked into once, whatever leads to it."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    known: dict[int, dict[str, Tensor]] = {}
    places = 1
    while waiting:
        path, found = waiting.popleft()
        if id(found) not in known:
            named = dict(found) if isinstance(found, Mapping) else dict(enumerate(found))
            known[id(found)] = {
                k: v for k, v in named.items() if isinstance(k, str) and isinstance(v, Tensor)
            }
            inner = named.items() if len(path) < DEEPEST_WRAPPER else ()
            nested = ((k, v) for k, v in inner if isinstance(v, (Mapping, list, tuple)))
            for key, value in islice(nested, MOST_WRAPPERS - places):
                waiting.append(((*path, str(key)), value))
                places += 1
        if own := known[id(found)]:
            yield path, own


def _rank(place: str) -> tuple[int, int]:
    """Where a network comes among several, the first first, by the words that lead to it."""
    keys = re.split(r"[./]", place.lower())
    words = set(re.split(r"[^a-z0-9]+", place.lower()))
    usual = min((USUAL.index(key) for key in keys if key in USUAL), default=len(USUAL))
    return (0 if words & AVERAGES else 2 if words & LESSER else 1), usual
