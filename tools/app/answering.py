"""From a picture's file to all that the page says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from answers import Row, row_of
from classifier import Answer, Classifier, Unreadable
from decoding.formats import MEGA
from images import read_image
from inspection.attention_maps import as_input, attention_maps, overlay, seen
from inspection.thumbnails import Thumbnail, as_thumbnail
from tools.app.words import Said, said

MOST_BYTES = 50 << 20  # of a file
MOST_PIXELS = 200 * MEGA  # of a picture: the largest that phones take; 600 MB as it is read
AT_ONCE = 8  # of many pictures: a bar moves, others get their turns, and Ctrl-C is soon heard
LONGER = 560  # pixels of a picture's longer side on the page


@dataclass(frozen=True)
class Told:
    """What is told of a picture: its row, words, and the picture and where the network looked;
    without words where it can't be read, and the row has the problem."""

    row: Row
    said: Said | None = None
    picture: Thumbnail | None = None
    looked: Thumbnail | None = None


class Answering:
    """A classifier that is asked by several at once, and answers one after the other."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._turn = threading.Lock()
        self._ended = threading.Event()

    def one(self, path: Path, name: str, looks: bool = True) -> Told:
        """What the page says of one file; with `looks`, the pictures to it."""
        net = self.classifier.net
        with self._turn:
            answer = self._answers([path])[0]
            row = row_of(name, None, answer, len(self.classifier.classes))
            if isinstance(answer, Unreadable):
                return Told(row)
            words = said(answer, self.classifier)
            if not looks:
                return Told(row, words)
            pixels = read_image(path, net.preprocessing.greys, self.classifier.max_pixels)
            target = self.classifier.classes.index(answer.label)
            maps = attention_maps(net, as_input(net, pixels).to(net.device), target)
        picture = Image.fromarray(pixels)
        picture.thumbnail((LONGER, LONGER))
        looked = overlay(picture, maps.relevance[0], net.preprocessing)
        shown = seen(picture, net.preprocessing)
        return Told(row, words, as_thumbnail(shown), as_thumbnail(looked))

    def many(self, files: Sequence[tuple[Path, str]]) -> Iterator[Row]:
        """The rows of files, each with its name, as far as they come before `end`."""
        for start in range(0, len(files), AT_ONCE):
            if self._ended.is_set():
                return
            some = files[start : start + AT_ONCE]
            with self._turn:
                found = self._answers([path for path, _ in some])
            for (_, name), answer in zip(some, found, strict=True):
                yield row_of(name, None, answer, 1)

    def end(self) -> None:
        """Let those who ask for many go with what they have."""
        self._ended.set()

    def _answers(self, paths: list[Path]) -> list[Answer | Unreadable]:
        return [answer for _, answer in self.classifier.stream(paths)]
