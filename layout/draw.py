"""Parts for pictures whose folder says none: a stratified draw, groups together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from config import TrainConfig
from images import Sample
from utils import UserError

Cuts = dict[str, float]  # the parts that are drawn, and the share of each


def assign_parts(
    samples: list[Sample], classes: tuple[str, ...], train: TrainConfig, notes: list[str]
) -> list[Sample]:
    """Give every sample a part: the folder's own, and a stratified val, and test where it is
    asked for, cut from train if there is none."""
    there = {sample.part for sample in samples}
    fractions = {"test": train.test_fraction, "val": train.val_fraction}
    if "test" in there and train.test_fraction:
        notes.append("train.test_fraction is not used: the folder has a test part of its own")
    cuts = {part: share for part, share in fractions.items() if share and part not in there}
    parts = _drawn(samples, classes, train, cuts) if cuts else {}
    return [
        s if s.part in ("val", "test") else replace(s, part=parts.get(s.group, "train"))
        for s in samples
    ]


def _drawn(
    samples: list[Sample], classes: tuple[str, ...], train: TrainConfig, cuts: Cuts
) -> dict[str, str]:
    """The parts of the groups that are held out.

    Those of one class are drawn class by class, those of several so that each class gets its share.
    One image under several classes can't be learned, nor judged by: that is said elsewhere, and
    its group is held out only where a class has no other.
    """
    free = [sample for sample in samples if sample.part in ("", "train")]
    doubtful = _of_several(samples, "sha256")
    doubtful = {sample.group for sample in samples if sample.sha256 in doubtful}
    mixed = _of_several(samples, "group") - doubtful
    parts = _cut_mixed([s for s in free if s.group in mixed], train.seed, cuts)
    for label, name in enumerate(classes):
        mine = [sample for sample in free if sample.label == label]
        groups = Counter(s.group for s in mine if s.group not in mixed | doubtful)
        shared = {s.group for s in mine} & mixed
        if not groups and not shared:
            groups = Counter(s.group for s in mine)
            if parts.keys() & groups.keys():  # its copies have been given parts
                continue
        if mine and len(groups) + len(shared) <= len(cuts):
            raise UserError(_too_few(name, mine, len(groups) + len(shared), cuts))
        if len(groups) > len(cuts):
            parts |= _cut_class(groups, f"{train.seed} {name}", cuts)
    return parts


def _of_several(samples: list[Sample], key: str) -> set[str]:
    """The digests, or groups, that several classes have."""
    labels: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[getattr(sample, key)].add(sample.label)
    return {name for name, found in labels.items() if len(found) > 1}


def _too_few(name: str, mine: list[Sample], groups: int, cuts: Cuts) -> str:
    needs = f"{len(cuts) + 1} or more, one to train on and one for {' and one for '.join(cuts)}"
    if groups == len({sample.sha256 for sample in mine}):
        return f"class {name} has {groups} different image(s): it needs {needs}"
    return (
        f"class {name} has {len(mine)} images that make up {groups} group(s), and a group is not "
        f"parted: it needs {needs}; add others, or see what train.groups and "
        "train.group_duplicates put together"
    )


def _ranked(groups: Iterable[str], seed: str) -> list[str]:
    """The order of a draw. It ranks each group by itself, so pictures that come later move few of
    the others."""
    return sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def _cut_class(groups: Counter[str], seed: str, cuts: Cuts) -> dict[str, str]:
    """The parts of the groups of a class that are held out."""
    parts: dict[str, str] = {}
    total = groups.total()
    for i, (part, share) in enumerate(cuts.items()):
        salt = "" if part == "val" else f" {part}"
        chosen = _cut(groups, share * total, f"{seed}{salt}", len(cuts) - i)
        parts |= dict.fromkeys(chosen, part)
        groups = Counter({name: n for name, n in groups.items() if name not in chosen})
    return parts


def _cut(groups: Counter[str], images: float, seed: str, leave: int = 1) -> set[str]:
    """Draw groups until they make up so many `images`; never none, and `leave` groups at least
    stay."""
    names = _ranked(groups, seed)
    wanted = max(1, round(images))
    chosen: set[str] = set()
    taken = 0
    for name in names:
        fits = taken + groups[name] <= wanted
        if fits and len(chosen) < len(names) - leave:
            chosen.add(name)
            taken += groups[name]
    return chosen or ({min(names, key=lambda n: groups[n])} if names else set())


def _cut_mixed(samples: list[Sample], seed: int, cuts: Cuts) -> dict[str, str]:
    """The parts of groups with several classes: each is taken that brings the classes' counts
    nearer to their shares."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for sample in samples:
        counts[sample.group][sample.label] += 1
    totals = Counter(sample.label for sample in samples)
    parts: dict[str, str] = {}
    for i, (part, share) in enumerate(cuts.items()):
        lacks = {label: share * total for label, total in totals.items()}
        stay = len(cuts) - i
        for name in _ranked(counts.keys() - parts.keys(), f"{seed} mixed {part}"):
            after = {label: n - counts[name][label] for label, n in lacks.items()}
            nearer = sum(map(abs, after.values())) < sum(map(abs, lacks.values()))
            if nearer and len(counts) - len(parts) > stay:
                parts[name], lacks = part, after
    return parts
