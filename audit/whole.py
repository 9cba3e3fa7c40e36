"""The audit of a set: every measure in turn, and what they say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from audit import copies, more, quality
from audit.fair import fairness
from audit.features import Seen, look_at
from audit.findings import KINDS, Findings, Suspect
from audit.labels import SUSPECT, Doubts, doubts
from audit.neighbours import nearest, places
from audit.odd import far_out, oddness
from config import Config
from dataset import SAME_FILE, Split
from decoding.duplicates import near_groups
from engine.cores import SMALL, one_core
from images import FileIndex, read_all
from layout.split_file import text_below
from utils import UserError, some

LISTED = 0.1  # how probably wrong a label is to be listed; from SUSPECT on it is flagged
GIVE_AWAY = 20  # pictures that are shown where a split is not fair
FEWEST = 10  # pictures of a part: fewer can't be told from others by more than chance
Said = tuple[list[Suspect], list[str]]  # the suspects of a kind, and sentences on the set


def audit(
    config: Config,
    split: Split,
    device: torch.device,
    folder: Path,
    known: FileIndex | None = None,
    block: Mapping[str, tuple[str, float]] | None = None,
) -> Findings:
    """Look at every picture of a split with the config's frozen network. `folder`, which gives the
    name, keeps what is measured of files; `block`: what a trained last block answered to pictures
    that it had not seen, by path, and how probably."""
    seen = look_at(config, split, device)
    if known is not None:  # what was read for the split is not read again
        known.update(seen.samples)
    reading = read_all([sample.path for sample in seen.samples], known, None)
    if reading.bad:
        path, reason = reading.bad[0]
        raise UserError(f"{path} can't be read any more ({reason}); begin again")
    descriptors = np.stack([reading.descriptors[sample.path] for sample in seen.samples])
    looks = quality.looks(seen.samples, folder / "quality.csv")
    with one_core(len(seen.samples) <= SMALL):
        return examined(seen, descriptors, looks, folder.name.removeprefix("audit-"), block or {})


def examined(
    seen: Seen,
    descriptors: np.ndarray,
    looks: Sequence[quality.Look],
    name: str,
    block: Mapping[str, tuple[str, float]],
) -> Findings:
    """What there is to find in pictures (n), by what the network sees, their descriptors (n, S, S)
    and the numbers of their pixels."""
    split, labels, basis = seen.split, seen.labels, seen.basis()
    near = near_groups(descriptors)
    groups = copies.copies([sample.sha256 for sample in seen.samples], near)
    together = copies.copies([sample.group for sample in seen.samples], near)
    found = doubts(basis, labels, len(split.classes), [torch.tensor(g) for g in together])
    sizes = more.by_size(seen.features, labels, len(split.classes))
    twice = more.twice_as_many(sizes)
    told = [
        ([], _shape(split)),
        _labels(seen, found, block, [g for g in groups if copies.disagrees(seen, g)]),
        copies.suspects(seen, groups, descriptors),
        _odd(seen),
        _quality(seen, looks),
        _unused(split),
        _fair(seen),
        ([], [more.more_said(sizes, twice)]),
    ]
    order = {kind: i for i, kind in enumerate(KINDS)}
    suspects = [suspect for some_kind, _ in told for suspect in some_kind]
    suspects.sort(key=lambda s: (order[s.kind], s.group or 0, -s.score))
    return Findings(
        name=name,
        root=split.root,
        classes=split.classes,
        paths=seen.paths,
        labels=tuple(labels.tolist()),
        parts=tuple(seen.parts.tolist()),
        suspects=tuple(suspects),
        neighbours=nearest(seen.tokens).tolist(),
        places=places(seen.tokens).round(4).tolist(),
        said=tuple(sentence for _, sentences in told for sentence in sentences),
        noise=found.pairs.tolist(),
        sizes=[size.row for size in [*sizes, *([twice] if twice else [])]],
        greys=next((s.greys for s in seen.samples if s.greys), None),
    )


def _labels(
    seen: Seen,
    found: Doubts,
    block: Mapping[str, tuple[str, float]],
    disagreeing: Sequence[Sequence[int]],
) -> Said:
    """The labels that may well be wrong; of `disagreeing` copies, which are listed as such, what is
    said counts none."""
    suspects, classes = [], seen.split.classes
    for i in (found.wrong >= LISTED).nonzero()[:, 0].tolist():
        wrong, suggested = found.wrong[i].item(), classes[int(found.suggested[i])]
        says = f"looks like {suggested}; its label is wrong with probability {wrong:.2f}"
        if seen.paths[i] in block:
            answer, sure = block[seen.paths[i]]
            says += f" (the trained last block, which had not seen it, says {answer}, {sure:.2f})"
        suspects.append(seen.suspect(i, "label", wrong, says, suggested))
    beside = {i for group in disagreeing for i in group}
    return suspects, [_labels_said(found, seen, beside)]


def _labels_said(found: Doubts, seen: Seen, copied: Collection[int]) -> str:
    n, classes = len(seen.labels), seen.split.classes
    flagged = sum(i not in copied for i in (found.wrong >= SUSPECT).nonzero()[:, 0].tolist())
    wrong = found.wrong.sum().item()
    beside = ", beside those of copies under several classes" if copied else ""
    if not flagged:
        doubts = f" (small doubts add up to {wrong:.0f})" if wrong >= 0.5 else ""
        return f"labels: none of {n:,} looks wrong{beside}{doubts}"
    counts = found.pairs * torch.bincount(seen.labels, minlength=len(classes))[:, None]
    worst = counts.flatten().topk(min(3, counts.numel()))
    told = [
        f"{classes[i // len(classes)]} that look like {classes[i % len(classes)]} ({value:.1f})"
        for value, i in zip(worst.values.tolist(), worst.indices.tolist(), strict=True)
        if value >= 0.5
    ]
    return (
        f"labels: {flagged:,} of {n:,} look wrong{beside}; an estimated {wrong:.1f} "
        f"({100 * wrong / n:.1f} %) are{': ' if told else ''}{', '.join(told)}"
    )


def _odd(seen: Seen) -> Said:
    """The pictures that are further from every class than the others of the set."""
    scores = oddness(seen.tokens, seen.labels).numpy()
    ranks = (np.argsort(np.argsort(scores)) + 1) / len(scores)
    says = "unlike the pictures of every class"
    found = np.flatnonzero(scores > far_out(scores))
    suspects = [seen.suspect(i, "outlier", float(ranks[i]), says) for i in found.tolist()]
    return suspects, [f"odd ones out: {counted(len(suspects))} unlike every class"]


def _quality(seen: Seen, looks: Sequence[quality.Look]) -> Said:
    """Pictures that teach little."""
    suspects = [
        seen.suspect(i, "quality", *fault)
        for i, fault in enumerate(quality.faults(looks))
        if fault is not None
    ]
    kinds = Counter(suspect.says.partition(":")[0].partition(",")[0] for suspect in suspects)
    told = ": " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()) if kinds else ""
    return suspects, [f"quality: {counted(len(suspects))} of which little is to be seen{told}"]


def _unused(split: Split) -> Said:
    """Files that can't be read, and copies of held-out pictures, which training leaves out."""
    unreadable, leaks, others = [], [], {split.path_of(s): s for s in split.samples}
    for path, reason in split.unused:
        below, name = text_below(split.root, path), path.parent.name
        if _is_unreadable(reason):
            unreadable.append(Suspect(below, "unreadable", name, says=reason))
        elif reason.startswith(SAME_FILE):
            other = others[reason.removeprefix(SAME_FILE)]
            says = f"byte-identical to {split.path_of(other)}; training leaves it out"
            part = path.relative_to(split.root).parts[0]
            leaks.append(Suspect(below, "leak", name, None, 1.0, None, part, says))
    said = f"leaks, left out: {len(leaks)} file{'' if len(leaks) == 1 else 's'}, byte-identical to "
    said += "held-out pictures, and not trained on"
    return unreadable + leaks, [said] if leaks else []


def _fair(seen: Seen) -> Said:
    """Whether the held-out parts can be told from the trained one, and by which pictures."""
    suspects: list[Suspect] = []
    said = []
    trained = seen.parts == "train"
    for part in ("val", "test"):
        held_out = seen.parts == part
        if min(held_out.sum(), trained.sum()) < FEWEST:
            continue
        both = np.flatnonzero(held_out | trained)
        found = fairness(seen.features[torch.from_numpy(both)], held_out[both], part)
        said.append(str(found))
        if found.fair:
            continue
        asked = both[found.asked]
        z = np.where(held_out[asked], found.gives_away, -np.inf)
        says = f"tells {part} from train: what is trained on is unlike it"
        for i in np.argsort(-z)[: min(GIVE_AWAY, int(held_out[asked].sum()))]:
            suspects.append(seen.suspect(int(asked[i]), "outlier", float((z <= z[i]).mean()), says))
    return suspects, said


def _shape(split: Split) -> list[str]:
    """What the set holds."""
    counts = Counter(split.classes[sample.label] for sample in split.samples)
    most, fewest = max(counts.values()), min(counts.values())
    parts = Counter(sample.part for sample in split.samples)
    kinds = Counter(sample.path.suffix.lower().lstrip(".") or "none" for sample in split.samples)
    held = ", ".join(f"{n:,} {part}" for part, n in parts.items())
    files = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common(5))
    said = [
        f"{len(split.samples):,} pictures of {len(counts)} classes ({held}), "
        f"{f'{most:,} of each' if most == fewest else f'{fewest:,} to {most:,} of a class'}; "
        f"files: {files}"
    ]
    if most > 2 * fewest:
        few = some(sorted(name for name, n in counts.items() if 2 * n < most))
        said.append(f"unequal classes: of {few} there is less than half of the largest one's")
    unreadable = [text_below(split.root, p) for p, why in split.unused if _is_unreadable(why)]
    if unreadable:
        said.append(f"unreadable: {len(unreadable):,} ({some(sorted(unreadable))})")
    if others := len(split.unused) - len(unreadable):
        said.append(f"not used: {others:,} {'other ' * bool(unreadable)}file{'s' * (others > 1)}")
    return said


def _is_unreadable(reason: str) -> bool:
    return reason.startswith("unreadable")


def counted(n: int) -> str:
    return f"{n or 'no'} picture{'' if n == 1 else 's'}"
