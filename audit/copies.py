"""Copies of one picture: within a part, in several, under several classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from audit.features import Seen
from audit.findings import Suspect
from decoding.duplicates import Known, joined
from utils import some

COMPARED = (
    32  # pictures of a group that each of it is compared with: frames of a video are hundreds
)


def copies(names: Sequence[str], near: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups (two or more) of pictures (n) that have one name, or that are `near` ones."""
    first: dict[str, int] = {}
    same = [(first.setdefault(name, i), i) for i, name in enumerate(names)]
    pairs = [(group[0], other) for group in near for other in group[1:]]
    return joined(len(names), [*same, *pairs])


def disagrees(seen: Seen, group: Sequence[int]) -> bool:
    """Whether copies of one picture lie under several classes."""
    return len({seen.given[i] for i in group}) > 1


def suspects(
    seen: Seen, groups: Sequence[Sequence[int]], descriptors: np.ndarray
) -> tuple[list[Suspect], list[str]]:
    """The pictures of each group, leaks where it lies in several parts, and sentences on both."""
    digests, found = [sample.sha256 for sample in seen.samples], []
    for number, group in enumerate(groups, 1):
        parts = sorted({seen.samples[i].part for i in group})
        classes = sorted({seen.given[i] for i in group})
        for i, (alike, other) in zip(group, _most_alike(group, digests, descriptors), strict=True):
            says = "byte-identical to" if alike == 1 else "nearly the same as"
            says += f" {seen.paths[other]}"
            if len(group) > 2:
                says += f" ({len(group)} in all)"
            if len(parts) > 1:
                says += f"; they lie in {' and '.join(parts)}"
            if disagrees(seen, group):
                says += f"; they are called {some(classes, between=' and ')}"
            kind = "leak" if len(parts) > 1 else "duplicate"
            found.append(seen.suspect(i, kind, alike, says, None, number))
    return found, said(found)


def _most_alike(
    group: Sequence[int], digests: Sequence[str], descriptors: np.ndarray
) -> Iterator[tuple[float, int]]:
    """How alike each picture of a group is to the one that it is most like, and which that is."""
    some = group[:COMPARED]
    known = Known(descriptors[i] for i in some)
    for place, i in enumerate(group):
        same = [j for j in group if j != i and digests[j] == digests[i]]
        if same:
            yield 1.0, same[0]
            continue
        likeness = known.likeness(descriptors[i])
        likeness[place : place + 1] = -1  # itself, where it is one of them
        best = int(likeness.argmax())
        yield min(float(likeness[best]), 0.9999), some[best]


def said(found: Sequence[Suspect]) -> list[str]:
    """A sentence on each kind."""
    said_of = []
    for kind in ("leak", "duplicate"):
        groups: dict[int | None, set[str]] = defaultdict(set)
        for suspect in found:
            if suspect.kind == kind:
                groups[suspect.group].add(suspect.given)
        if not groups:
            continue
        files = sum(suspect.kind == kind for suspect in found)
        several = sum(len(classes) > 1 for classes in groups.values())
        right = "of each one label at most is right"
        under = f"; {several} of these pictures under several classes: {right}" if several else ""
        one = len(groups) == 1
        if kind == "leak":
            said_of.append(
                f"leaks: {len(groups)} picture{' lies' if one else 's lie'} in several parts "
                f"({files} files{under}), so what is held out was seen in training"
            )
        else:
            said_of.append(
                f"copies: {len(groups)} picture{' is' if one else 's are'} there more than once "
                f"({files} files{under})"
            )
    return said_of or ["copies: none found, exact or near"]
