"""Near-duplicates: copies that were made on purpose are found, other pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from decoding.duplicates import (
    NEAR,
    SIDE,
    Known,
    descriptor,
    joined,
    near_groups,
    near_pairs,
    similarity,
)
from tests.helpers import picture, scene


def small(picture: Image.Image) -> np.ndarray:
    return descriptor(np.asarray(picture))


def encoded(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    return Image.open(file)


def cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((0, round(0.02 * height), round(0.95 * width), round(0.97 * height)))


def tinted(picture: Image.Image) -> Image.Image:
    gains = np.array([1.0, 0.85, 0.7])
    return Image.fromarray((np.asarray(picture) * gains).astype(np.uint8))


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "rescaled": lambda picture: picture.resize((70, 100)),
    "encoded": encoded,
    "cropped": cropped,
    "mirrored": ImageOps.mirror,
    "tinted": tinted,
    "all": lambda picture: encoded(tinted(cropped(ImageOps.mirror(picture)))),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_are_found_among_others(way: str) -> None:
    pictures = [scene(seed) for seed in range(30)]
    copies = [WAYS[way](picture) for picture in pictures[:10]]
    groups = near_groups(np.stack([small(p) for p in pictures + copies]))
    assert groups == [[i, 30 + i] for i in range(10)]


def test_pictures_that_tell_too_little_are_like_no_others() -> None:
    plain = np.full((100, 100, 3), 7, np.uint8)
    tiny = np.asarray(scene(0, (SIDE - 1, 90)))
    assert not descriptor(plain).any() and not descriptor(tiny).any()
    assert near_groups(np.stack([descriptor(plain)] * 3)) == []
    assert similarity(descriptor(plain), descriptor(plain)) == 0


def test_noise_is_like_no_other_noise() -> None:
    noisy = np.stack([small(picture("red", i)) for i in range(40)])
    assert near_groups(noisy) == []


def test_sets_of_one_and_none() -> None:
    assert near_groups(np.empty((0, SIDE, SIDE), np.uint8)) == []
    assert near_groups(small(scene(0))[None]) == []


def test_many_copies_are_one_group() -> None:
    pictures = [scene(0).rotate(angle / 20) for angle in range(-20, 20)] + [scene(1)]
    groups = near_groups(np.stack([small(p) for p in pictures] * 3))
    assert [len(group) for group in groups] == [120, 3]


def test_a_chain_that_swallows_the_set_is_cut_where_it_is_weakest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40 pictures in a row, each like the next; the link in the middle is the weakest."""
    pairs = np.stack([np.arange(39), np.arange(1, 40)], 1)
    likeness = np.full(39, 0.999)
    likeness[19] = 0.95
    monkeypatch.setattr("decoding.duplicates.near_pairs", lambda descriptors: (pairs, likeness))
    anything = np.empty((40, SIDE, SIDE), np.uint8)
    assert near_groups(anything) == [[*range(20)], [*range(20, 40)]]
    monkeypatch.setattr("decoding.duplicates.MOST_OF_SET", 1.0)
    assert near_groups(anything) == [[*range(40)]]


def test_pairs_are_named_once_with_their_likeness() -> None:
    album = np.stack([small(p) for p in (scene(3), scene(4), ImageOps.mirror(scene(3)))])
    pairs, likeness = near_pairs(album)
    assert pairs.tolist() == [[0, 2]] and likeness[0] > 0.99
    assert similarity(album[0], album[2]) == pytest.approx(likeness[0], abs=1e-4)
    assert similarity(album[0], album[1]) < NEAR


def test_a_new_picture_is_found_among_the_known_ones() -> None:
    known = Known()
    assert known.find(small(scene(0))) is None
    for seed in range(5):
        known.add(small(scene(seed)))
    assert len(known) == 5
    # Either may be the crop of the other.
    assert known.find(small(cropped(scene(3)))) == 3
    known.add(small(cropped(scene(7))))
    assert known.find(small(scene(7))) == 5
    assert known.find(small(scene(8))) is None


def test_what_hangs_together() -> None:
    assert joined(6, [(4, 1), (2, 3), (3, 4)]) == [[1, 2, 3, 4]]
