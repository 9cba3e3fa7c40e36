"""Whether such a picture is in the set: the core's near-duplicates, by post."""

from __future__ import annotations

import numpy as np

from decoding.duplicates import NEAR, Known, descriptor


class Seen:
    """The pictures of a set by their posts, asked whether one is near a new one."""

    def __init__(self) -> None:
        self.known = Known()
        self.posts: list[int | None] = []  # None: forgotten

    def add(self, post: int, pixels: np.ndarray) -> None:
        self.known.add(descriptor(pixels))
        self.posts.append(post)

    def forget(self, post: int) -> None:
        self.posts[self.posts.index(post)] = None

    def like(self, pixels: np.ndarray) -> list[int]:
        """The posts whose picture is near one (h, w, 3), uint8; the nearest first."""
        if not self.posts:
            return []
        near = self.known.likeness(descriptor(pixels))
        order = np.argsort(-near, kind="stable")
        return [post for i in order if near[i] >= NEAR and (post := self.posts[i]) is not None]
