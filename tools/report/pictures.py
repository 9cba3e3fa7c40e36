"""The pictures of a report: thumbnails, attention laid over them, large confusion matrices.

All are data URLs, small and undistorted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from images import read_image
from inspection.record import Prediction, Record
from inspection.thumbnails import LONGER, Thumbnail, as_thumbnail, below, data_url
from metrics import shares

LOOKS_EACH, LOOKS_MOST = 2, 40  # images with attention: of each class, and of all together
LOOKS_SECONDS = 20.0  # no more are begun after: a large network on a CPU
LARGEST_MATRIX = 500  # cells a side; beyond, several share one
HIT, MISS = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermillion


def confusion_image(counts: np.ndarray) -> Thumbnail:
    """A confusion matrix too large for a table: a pixel a cell, blue where right, vermillion where
    wrong, the stronger the larger the share of its class; the rest is transparent."""
    share = shares(counts)
    right = share * np.eye(len(share))
    step = -(-len(share) // LARGEST_MATRIX)
    right, wrong = (_shrunk(values, step) for values in (right, share - right))
    hit = right >= wrong
    pixels = np.zeros((*hit.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where(hit[..., None], HIT, MISS)
    # A root, as one confusion in twenty should be seen.
    pixels[..., 3] = np.rint(255 * np.sqrt(np.maximum(right, wrong)))
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return Thumbnail(data_url(file, "png"), *hit.shape)


def _shrunk(values: np.ndarray, step: int) -> np.ndarray:
    """The largest value of each square of step x step."""
    C = -(-len(values) // step) * step
    padded = np.zeros((C, C))
    padded[: len(values), : len(values)] = values
    return padded.reshape(C // step, step, C // step, step).max((1, 3))


# --------------------------------------------------------------------------------------- attention


def chosen_for_looks(predictions: list[Prediction]) -> list[Prediction]:
    """A few images of each class, the classes in turn, so that whatever is cut is cut of all alike;
    those with the most mistakes first. Of a class the middle of those that it gets right, and the
    surest mistake where there is one."""
    by_class: dict[str, list[Prediction]] = {}
    for answer in predictions:
        by_class.setdefault(answer.label, []).append(answer)
    order = sorted(by_class, key=lambda name: (-sum(not p.right for p in by_class[name]), name))
    turns = [usual_and_wrong(by_class[name]) for name in order]
    return [one[i] for i in range(LOOKS_EACH) for one in turns if i < len(one)]


def usual_and_wrong(answers: list[Prediction]) -> list[Prediction]:
    """LOOKS_EACH of a class's images, at most."""
    right: list[Prediction] = []
    wrong: list[Prediction] = []
    for answer in sorted(answers, key=lambda p: -p.probability):
        (right if answer.right else wrong).append(answer)
    middle = right[len(right) // 2 :] + right[: len(right) // 2]
    mixed = [*wrong[:1], *middle, *wrong[1:]]
    return sorted(mixed[:LOOKS_EACH], key=lambda p: not p.right)


def looks(record: Record, chosen: list[Prediction]) -> Iterator[dict[str, Any] | None]:
    """What the trained network looks at: each chosen image, its rollout and its relevance for the
    answer; None where the image can't be read any more. Stops early where the time is up. Raises
    UserError where the weights can't be used."""
    from inspection.attention_maps import as_input, attention_maps, overlay, seen
    from pretrained.build import build, whole

    if record.weights is None or record.pictures is None:
        return
    net = build(whole(record.weights))
    began = time.monotonic()
    for answer in chosen:
        if time.monotonic() > began + LOOKS_SECONDS:
            return
        path = below(record.pictures, answer.path)
        try:
            pixels = read_image(path, net.preprocessing.greys, None) if path else None
        except Exception:  # as above
            pixels = None
        if pixels is None:
            yield None
            continue
        known = answer.predicted in (net.classes or ())
        target = (net.classes or ()).index(answer.predicted) if known else None
        maps = attention_maps(net, as_input(net, pixels), target)
        picture = Image.fromarray(pixels)
        picture.thumbnail((LONGER, LONGER))
        drawn = (
            ("the picture", seen(picture, net.preprocessing)),
            ("rollout", overlay(picture, maps.rollout[0], net.preprocessing)),
            (
                "for the answer",
                overlay(picture, maps.relevance[0], net.preprocessing),
            ),
        )
        yield {"answer": answer, "images": [(what, as_thumbnail(p)) for what, p in drawn]}
