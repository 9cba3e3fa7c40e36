"""Pictures that are nearly the same: mirrored, cropped by some percent, tinted, rescaled or encoded
anew, found by their pixels.

A picture's descriptor is a small grey thumbnail of the whole of it. The low frequencies of all of
them, mirrored and cropped too, are compared by matrix products and propose each picture's nearest
ones. Of such a pair the one is then laid on a window of the other, which a few Gauss-Newton steps
find (Baker and Matthews 2004, Lucas-Kanade 20 Years On), and what both have of fine detail is
correlated: pictures of like composition share the coarse shapes, copies the detail, too.
EXPERIMENTS.md, 2026-11-26, says how the numbers were chosen.

Letters: n pictures, P pairs, W waves, S the side of a descriptor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from utils import progress_bar

SIDE = 32
NEAR = 0.94  # the fine detail's correlation: copies have more, other pictures less
FREQUENCIES = 8  # each way, for the search: 63 waves
CROP = 0.94  # of a side: besides whole pictures such windows are looked up; steps do the rest
LEAST_ALIKE = 0.88  # the cosine of the low frequencies
NEIGHBOURS = 4  # that are looked at, of each picture
BLOCK = 512  # pictures that are compared with all others at once
PAIRS = 512  # that are aligned at once
HOPELESS = (0.35, 0.55, 0.7, 0.8, 0.85)  # step by step: so little does not rise to NEAR any more
SURE = 0.97  # so much is enough at any step
SMALLEST = 0.8  # of a side: a window that shows less is another picture
BEYOND = 0.15  # of a side: so far a window may look out of the picture
BAND = (0.7, 1.5)  # cells: what a blur by the one leaves and by the other takes is fine detail
LEAST_CONTRAST = 2.0  # grey levels, the standard deviation: plain pictures are all alike
MOST_OF_SET, FEW = 0.1, 10  # pictures in a group: of more a stricter correlation is asked
STRICTER = (0.96, 0.98, 0.99)


def descriptor(pixels: np.ndarray) -> np.ndarray:
    """The descriptor (S, S), uint8, of pixels (h, w, 3) or (h, w), uint8; all 0, which is like no
    other, of a picture that tells too little: a plain one, or one with a side of less than S."""
    height, width = pixels.shape[:2]
    if min(height, width) < SIDE:
        return np.zeros((SIDE, SIDE), np.uint8)
    picture = Image.fromarray(pixels)
    if (step := min(height, width) // (4 * SIDE)) > 1:
        picture = picture.reduce(step)
    small = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return small if small.std() >= LEAST_CONTRAST else np.zeros_like(small)


def near_groups(descriptors: np.ndarray) -> list[list[int]]:
    """Groups of near-duplicates among descriptors (n, S, S): their indices, sorted, two or more.

    Look-alikes can form chains: a group of more than MOST_OF_SET of all is parted by a stricter
    correlation.
    """
    pairs, likeness = near_pairs(descriptors)
    found = joined(len(descriptors), pairs)
    most = max(FEW, MOST_OF_SET * len(descriptors))
    for least in STRICTER:
        if not (large := [group for group in found if len(group) > most]):
            break
        kept = ~np.isin(pairs[:, 0], np.concatenate(large)) | (likeness >= least)
        pairs, likeness = pairs[kept], likeness[kept]
        found = joined(len(descriptors), pairs)
    return found


def near_pairs(descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) of near-duplicates among descriptors (n, S, S), each once, and their likeness
    (P,), the correlation of the fine detail; of very many copies not every pair, but so many that
    they hang together."""
    album = _Album.of(descriptors)
    pairs, likeness = _near(album)
    groups = joined(len(descriptors), pairs.tolist())
    while True:
        # Of very many copies each has few for neighbours: some of each group are asked once more.
        large = [group for group in groups if len(group) > NEIGHBOURS]
        some = torch.tensor([g[i] for g in large for i in (0, len(g) // 2, -1)], dtype=torch.long)
        more, alike = _near(_Album(*(field[some] for field in album)))
        pairs, likeness = torch.cat([pairs, some[more]]), torch.cat([likeness, alike])
        before, groups = groups, joined(len(descriptors), pairs.tolist())
        if len(groups) == len(before):
            break
    found, first = np.unique(pairs.sort(1).values.numpy(), axis=0, return_index=True)
    return found, likeness.numpy()[first]


def _near(album: _Album) -> tuple[Tensor, Tensor]:
    """The near-duplicates (P, 2) among each picture's neighbours, and their likeness (P,)."""
    pairs = _candidates(album, album)
    order = pairs.cosine.argsort(descending=True, stable=True)  # found both ways: the better one
    _, first = np.unique(pairs.indices[order].sort(1).values, axis=0, return_index=True)
    chosen = order[torch.from_numpy(first)]
    pairs = _Pairs(*(field[chosen] for field in pairs))
    likeness = _likeness(album, album, pairs)
    near = likeness >= NEAR
    return pairs.indices[near], likeness[near]


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The likeness of two pictures by their descriptors (S, S); of near-duplicates NEAR or more."""
    return Known([one]).likeness(other)[0]


def joined(n: int, pairs: Iterable[Iterable[int]]) -> list[list[int]]:
    """Which of n things hang together by pairs: the groups of two or more, each sorted."""
    head = list(range(n))

    def head_of(i: int) -> int:
        while head[i] != i:
            head[i] = i = head[head[i]]
        return i

    for i, j in pairs:
        low, high = sorted((head_of(int(i)), head_of(int(j))))
        head[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(n):
        groups[head_of(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


class Known:
    """Pictures by their descriptors (S, S), in the order in which they were added, to be asked
    whether another one is a near-duplicate of one of them."""

    def __init__(self, descriptors: Iterable[np.ndarray] = ()) -> None:
        given = list(descriptors)
        self.album = _Album.of(np.stack(given) if given else np.empty((0, SIDE, SIDE), np.uint8))

    def __len__(self) -> int:
        return len(self.album.pictures)

    def add(self, descriptor: np.ndarray) -> None:
        parts = zip(self.album, _Album.of(descriptor[None]), strict=True)
        self.album = _Album(*(torch.cat(both) for both in parts))

    def find(self, descriptor: np.ndarray) -> int | None:
        """The number of the picture that this one is most nearly a duplicate of; None: of none."""
        if not len(self):
            return None
        likeness = self.likeness(descriptor)
        best = int(np.argmax(likeness))
        return best if likeness[best] >= NEAR else None

    def likeness(self, descriptor: np.ndarray) -> np.ndarray:
        """The likeness (n,) with each, 0 where it is far from near."""
        asked = _Album.of(descriptor[None])
        found = torch.zeros(len(self))
        for one, other, column in ((asked, self.album, 1), (self.album, asked, 0)):
            pairs = _candidates(one, other)
            index = pairs.indices[:, column]
            found.scatter_reduce_(0, index, _likeness(one, other, pairs), "amax")
        return found.numpy()


# ------------------------------------------------------------------------------------- the search


class _Album(NamedTuple):
    """Pictures (n, S, S), their fine detail (n, S, S), and the low frequencies (n, W), of length 1,
    of all of each and of its middle."""

    pictures: Tensor
    fine: Tensor
    whole: Tensor
    middle: Tensor

    @classmethod
    def of(cls, descriptors: np.ndarray) -> _Album:
        pictures = torch.from_numpy(np.array(descriptors, np.float32))
        return cls(pictures, _fine(pictures), _waves(pictures, 1.0), _waves(pictures, CROP))


class _Pairs(NamedTuple):
    """Pictures of two albums (P, 2), the first one to be laid on a window of the second: whether
    that is to be mirrored (P,), the side of the window (P,), by the picture's, and the cosine (P,)
    of the low frequencies."""

    indices: Tensor
    mirrored: Tensor
    crop: Tensor
    cosine: Tensor


def _waves(pictures: Tensor, crop: float) -> Tensor:
    """The low frequencies (n, W) of a centred window of pictures (n, S, S), but for the mean."""
    cells = (torch.arange(SIDE) + 0.5) / SIDE
    basis = torch.cos(torch.pi * torch.arange(FREQUENCIES)[:, None] * cells)  # the DCT-II
    basis /= basis.norm(dim=1, keepdim=True)
    start, side = torch.tensor([SIDE * (1 - crop) / 2]), torch.tensor([SIDE * crop])
    basis = basis @ _sampled(start, side)[0][0]
    found = basis @ pictures @ basis.T
    return F.normalize(found.flatten(1)[:, 1:])


def _candidates(one: _Album, other: _Album) -> _Pairs:
    """For each picture of the one album those of the other that may be near-duplicates."""
    odd = torch.arange(FREQUENCIES**2)[1:] % FREQUENCIES % 2  # a mirror turns these waves round
    ways = [(w, m) for m in (1.0, 1.0 - 2 * odd) for w in (other.whole, other.middle)]
    found = [torch.empty(0, 2, dtype=torch.long)]
    blocks = torch.arange(len(one.whole)).split(BLOCK)
    for rows in progress_bar(
        blocks, "looking for near-duplicates", disable=one is not other or len(blocks) < 2 or None
    ):
        mine = one.whole[rows]
        best = mine @ other.whole.T
        for waves, mirror in ways[1:]:
            torch.maximum(best, (mine * mirror) @ waves.T, out=best)
        if one is other:
            best[torch.arange(len(rows)), rows] = 0
        values, columns = best.topk(min(NEIGHBOURS, best.shape[1]), 1)
        alike = values >= LEAST_ALIKE
        found.append(torch.stack([rows[:, None].expand_as(columns)[alike], columns[alike]], 1))
    pairs = torch.cat(found)
    i, j = pairs.T
    cosines = torch.stack([(one.whole[i] * mirror * waves[j]).sum(1) for waves, mirror in ways])
    cosine, way = cosines.max(0)
    return _Pairs(pairs, way >= 2, torch.where(way % 2 == 1, CROP, 1.0), cosine)


# ---------------------------------------------------------------------------------- the alignment


def _likeness(one: _Album, other: _Album, pairs: _Pairs) -> Tensor:
    """The likeness (P,) of pairs, where the first picture lies best on the second."""
    found = [torch.empty(0)]
    for part in torch.arange(len(pairs.indices)).split(PAIRS):
        i, j = pairs.indices[part].T
        mirrored = pairs.mirrored[part, None, None, None]
        a, b = (torch.stack([x.pictures[k], x.fine[k]], 1) for x, k in ((one, i), (other, j)))
        found.append(_aligned(a, torch.where(mirrored, b.flip(3), b), pairs.crop[part]))
    return torch.cat(found)


def _aligned(a: Tensor, b: Tensor, crop: Tensor) -> Tensor:
    """The correlation (P,) of the fine detail of pictures a (P, 2, S, S), which are a picture and
    its detail, with the windows of b that some steps from a centred one of side `crop` find; no
    more of them are taken than tell NEAR from less."""
    likeness = torch.zeros(len(a))
    start, side = SIDE * (1 - crop) / 2, SIDE * crop
    window = torch.stack([start, side, start, side], 1)  # its top, height, left and width
    left = torch.arange(len(a))
    for hopeless in HOPELESS:
        detail, weight = _seen(b[:, 1], window)
        likeness[left] = _correlation(a[:, 1], detail, weight)
        going = (likeness[left] > hopeless) & (likeness[left] < SURE)
        a, b, window, left = a[going], b[going], window[going], left[going]
        window = _stepped(window, a[:, 0], b[:, 0])
    # Detail is of one scale in both only where it is taken of what is seen.
    seen, weight = _seen(b[:, 0], window)
    likeness[left] = _correlation(a[:, 1], _fine(seen), weight)
    return likeness


def _seen(b: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """What windows (P, 4) of pictures b show (P, S, S), and where they lie inside: 1, else 0."""
    (rows, _, in_y), (columns, _, in_x) = _sampled(*window.T[:2]), _sampled(*window.T[2:])
    return rows @ b @ columns.mT, in_y[:, :, None] * in_x[:, None]


def _stepped(window: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The windows (P, 4) of pictures b after one Gauss-Newton step: a as gain times what they show,
    and an offset, by least squares."""
    rows, rows_slope, in_y = _sampled(*window.T[:2])
    columns, columns_slope, in_x = _sampled(*window.T[2:])
    weight, part = in_y[:, :, None] * in_x[:, None], rows @ b
    seen, slopes = part @ columns.mT, (rows_slope @ b @ columns.mT, part @ columns_slope.mT)
    share = (torch.arange(SIDE) + 0.5) / SIDE
    length = ((seen - _mean(seen, weight)) * weight).norm(dim=(1, 2), keepdim=True).clamp(min=1)
    y, x = (slope * weight / length for slope in slopes)
    shown = _unit(seen, weight)
    J = torch.stack([y, y * share[:, None], x, x * share, shown, weight], 1).flatten(2)  # P 6 S*S
    rest = (_unit(a, weight) - shown).flatten(1)[..., None]  # P S*S 1
    damped = J @ J.mT + 1e-3 * torch.eye(6)
    change = torch.linalg.solve(damped, J @ rest)[:, :4, 0].clamp(-2, 2)
    window = window + change
    side = window[:, 1::2].clamp(SMALLEST * SIDE, SIDE / SMALLEST)
    lowest, highest = -BEYOND * SIDE, (1 + BEYOND) * SIDE - side
    start = torch.minimum(window[:, ::2].clamp(min=lowest), highest)
    return torch.stack([start, side], 2).flatten(1)


def _sampled(start: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights (P, S, S) that read S points of windows out of S cells, linearly; their slope by
    the position; and which points (P, S) lie inside, 1 or 0."""
    share = (torch.arange(SIDE) + 0.5) / SIDE
    place = start[:, None] + share * side[:, None] - 0.5
    inside = (place > -0.75) & (place < SIDE - 0.25)
    place = place.clamp(0, SIDE - 1)
    low = place.floor().clamp(max=SIDE - 2)
    part = (place - low)[..., None]
    below = F.one_hot(low.long(), SIDE).float()
    above = below.roll(1, -1)
    return below * (1 - part) + above * part, above - below, inside.float()


def _blur(cells: float) -> Tensor:
    distance = torch.arange(SIDE)[:, None] - torch.arange(SIDE)
    return F.normalize(torch.exp(-0.5 * (distance / cells) ** 2), p=1, dim=1)


def _fine(pictures: Tensor) -> Tensor:
    """The fine detail of pictures (P, S, S)."""
    little, much = (_blur(cells) for cells in BAND)
    return little @ pictures @ little.T - much @ pictures @ much.T


def _mean(pictures: Tensor, weight: Tensor) -> Tensor:
    return (pictures * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True)


def _unit(pictures: Tensor, weight: Tensor) -> Tensor:
    """Pictures (P, S, S) without their mean and of length 1, where they have a weight."""
    centred = (pictures - _mean(pictures, weight)) * weight
    return centred / centred.norm(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return (_unit(a, weight) * _unit(b, weight)).sum((1, 2))
