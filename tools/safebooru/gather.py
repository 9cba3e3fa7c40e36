"""Filling a set: one post after the other, each decided and written down before the next.

What comes next follows from the manifest and the board alone: always the first class that lacks
pictures, and the newest of its posts that is not decided. So a run that was stopped anywhere, by
kill -9 too, ends with the manifest of one that was not.
"""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from images import read_image
from system.stopping import unbroken
from tools.safebooru.board import Again, Board, Refused, Unavailable
from tools.safebooru.manifest import Decision, Manifest, Row
from tools.safebooru.picture import Picture, decoded, see_that_it_is
from tools.safebooru.post import OddPost, Post, read_post
from tools.safebooru.seen import Seen
from tools.safebooru.wanted import Wanted
from utils import UserError, progress_bar, replacing

IN_A_ROW = 5  # files that the board doesn't give; then it is the board
LEFT = re.compile(r"\.(\d+\.\w+|manifest\.csv|ATTRIBUTION\.md)\.\d+\.tmp")  # half written
RESERVE = 20_000_000  # bytes that are left on the disk, for the manifest above all
DROPPED = ".dropped"


class InTheWay(Exception):
    """A file that the manifest does not know has the name of a post's."""


class Gathering:
    """A set that is being filled. `decided` is told each decision that is no `unwanted`."""

    def __init__(
        self,
        board: Board,
        wanted: Wanted,
        manifest: Manifest,
        per_class: int,
        decided: Callable[[Row], object] = lambda row: None,
    ) -> None:
        self.board, self.wanted, self.manifest = board, wanted, manifest
        self.per_class, self.decided = per_class, decided
        self.seen = Seen()
        self.nameless = False  # whether there were posts without an id
        self.failures = 0  # in a row

    def run(self, refetch: bool = False) -> list[str]:
        """Fill the set; the classes that the board has no more posts of."""
        again = [r for r in self.manifest.decided("removed") if r.label in self.wanted.classes]
        if not self._short() and not (refetch and again):
            return []
        self._look_at_what_is_here()
        for row in again if refetch else ():
            self._fetch(row.label, row.as_post())
        listings: dict[str, Iterator[object]] = {}
        ended: list[str] = []
        while name := next((n for n in self._short() if n not in ended), None):
            if name not in listings:
                listings[name] = self.board.posts(self.wanted.query(name))
            if not self._step(name, listings[name]):
                ended.append(name)
        return ended

    def _short(self) -> list[str]:
        return [n for n in self.wanted.classes if self.manifest.count(n) < self.per_class]

    def _look_at_what_is_here(self) -> None:
        for row in progress_bar(self.manifest.decided("taken"), "looking at what is here"):
            try:
                self.seen.add(row.post, read_image(self.manifest.folder / row.file))
            except Exception:  # changed by hand into what can't be read: training will say so
                continue

    # ------------------------------------------------------------------------------- one post

    def _step(self, name: str, listing: Iterator[object]) -> bool:
        """Decide posts up to the first whose file is asked for; False where there are no more."""
        for raw in listing:
            try:
                post = read_post(raw)
                reason = self.wanted.refusal(name, post)
            except OddPost as odd:
                if odd.id is None:
                    self.nameless = True
                    continue
                post, reason = Post(odd.id, "", "", (), "", ""), odd.reason
            if is_settled(self.manifest, post.id):
                continue
            if reason is None:
                self._fetch(name, post)
                return True
            self._note(name, post, "unwanted", reason)
        return False

    def _fetch(self, name: str, post: Post) -> None:
        """Have a post's file, look at it, and decide."""
        path = self.manifest.folder / name / post.file_name
        try:
            picture = decoded(self._content(post, path), post.file_name)
        except Unavailable as error:
            self._failed(name, post, error)
            return
        except Refused as error:
            self._note(name, post, "refused", str(error))
            return
        except InTheWay:
            self._note(name, post, "failed", f"in the way: {name}/{path.name} is another file")
            return
        self.failures = 0
        like = [self.manifest.rows[near] for near in self.seen.like(picture.pixels)]
        better = [r for r in like if r.width * r.height >= picture.size or not self._is_ours(r)]
        if better:
            self._note(name, post, "duplicate", _near(better[0]), picture)
            return
        self._take(name, post, picture, like)

    def _failed(self, name: str, post: Post, error: Unavailable) -> None:
        """Leave a post for another time; where the next ones fail, too, it is the board."""
        known = self.manifest.rows.get(post.id)
        self._note(name, post, "failed", f"not to be had: {error}")
        # Those that failed before don't count: else some that always fail would end each run.
        self.failures += known is None or known.decision != "failed"
        if self.failures == IN_A_ROW:
            raise UserError(
                f"{self.board.base_url} did not give {IN_A_ROW} files one after the other (the "
                f"last: {error}); the same command goes on another time"
            ) from None

    def _content(self, post: Post, path: Path) -> bytes:
        """A file's bytes: from the board, or those here that a stop left without their row."""
        if path.exists():
            try:
                content = path.read_bytes()
                see_that_it_is(content, post.md5)
            except (OSError, Again):
                raise InTheWay from None
            return content
        return self.board.file(post.path, lambda content: see_that_it_is(content, post.md5))

    def _take(self, name: str, post: Post, picture: Picture, worse: list[Row]) -> None:
        """Keep a picture, and drop smaller copies of it."""
        path = self.manifest.folder / name / post.file_name
        taken = self._row(name, post, "taken", "", picture)
        dropped = [replace(r, file="", decision="duplicate", reason=_near(taken)) for r in worse]
        with unbroken():
            if not path.exists():
                with replacing(path, len(picture.content) + RESERVE) as temporary:
                    temporary.write_bytes(picture.content)
            for row in dropped:  # a kill before the rows are written puts them back: see `tidy`
                os.replace(self.manifest.folder / row.place, _aside(self.manifest, row))
            self.manifest.put(*dropped, taken)
            for row in dropped:
                _aside(self.manifest, row).unlink()
                self.seen.forget(row.post)
        self.seen.add(post.id, picture.pixels)
        for row in (*dropped, taken):
            self.decided(row)

    def _is_ours(self, row: Row) -> bool:
        """Whether a picture is as it was fetched: one that was cut by hand is no copy any more."""
        return self.manifest.holds(row)

    def _note(
        self,
        name: str,
        post: Post,
        decision: Decision,
        reason: str,
        picture: Picture | None = None,
    ) -> None:
        known = self.manifest.rows.get(post.id)
        if decision == "unwanted" and known and known.label != name:
            return  # two classes don't want it; the first has said why
        row = self._row(name, post, decision, reason, picture)
        if row != known:
            self.manifest.put(row)
            self.decided(row)

    def _row(
        self, name: str, post: Post, decision: Decision, reason: str, picture: Picture | None
    ) -> Row:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        height, width = picture.pixels.shape[:2] if picture else (0, 0)
        return Row(
            file=f"{name}/{post.file_name}" if decision == "taken" else "",
            label=name,
            post=post.id,
            page=self.board.page_of(post.id),
            url=f"{self.board.base_url}/{post.path}" if post.path else "",
            source=post.source,
            md5=post.md5,
            sha256=picture.sha256 if picture else "",
            bytes=len(picture.content) if picture else 0,
            width=width,
            height=height,
            tags=" ".join(post.tags),
            rating=post.rating,
            fetched_at=now if decision not in ("unwanted", "removed") else "",
            decision=decision,
            reason=reason,
        )


def is_settled(manifest: Manifest, post: int) -> bool:
    """Whether a post is decided for good."""
    row = manifest.rows.get(post)
    return row is not None and row.decision not in ("unwanted", "failed")


def _near(row: Row) -> str:
    return f"near-duplicate: of post {row.post} ({row.label}), {row.width} x {row.height}"


# --------------------------------------------------------------------------------- before a run


def _aside(manifest: Manifest, row: Row) -> Path:
    path = manifest.folder / row.place
    return path.with_name(f".{path.name}{DROPPED}")


def tidy(manifest: Manifest) -> None:
    """Clear away what a kill left: files half written, and copies that were being dropped."""
    for row in manifest.rows.values():
        if row.sha256 and (aside := _aside(manifest, row)).exists():
            if row.decision == "taken" and not (manifest.folder / row.file).exists():
                os.replace(aside, manifest.folder / row.file)
            else:
                aside.unlink()
    for path in [*manifest.folder.glob(".*.tmp"), *manifest.folder.glob("*/.*.tmp")]:
        if LEFT.fullmatch(path.name):
            path.unlink()


def by_hand(manifest: Manifest) -> tuple[list[Row], list[Row]]:
    """What the manifest does not know yet: pictures that were taken away by hand, and some that
    are back."""
    gone = [
        replace(row, file="", decision="removed", reason="removed by hand")
        for row in manifest.decided("taken")
        if not (manifest.folder / row.file).exists()
    ]
    back = [
        replace(row, file=row.place, decision="taken", reason="")
        for row in manifest.decided("removed")
        if manifest.holds(row)
    ]
    return gone, back


# ----------------------------------------------------------------------------------- a dry run


@dataclass
class Survey:
    """A class's posts by their tags alone: those listed, new ones that fit, why others don't, and
    whether the board has no more."""

    listed: int = 0
    fit: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    ended: bool = True


def survey(board: Board, wanted: Wanted, manifest: Manifest, name: str, lacks: int) -> Survey:
    """Look through a class's posts up to as many as it lacks; no file is asked for."""
    found = Survey()
    for raw in board.posts(wanted.query(name)):
        if found.fit >= lacks:
            found.ended = False
            break
        found.listed += 1
        try:
            post = read_post(raw)
            reason = wanted.refusal(name, post)
        except OddPost as odd:
            reason = odd.reason
        else:
            if is_settled(manifest, post.id):
                reason = f"decided before: {manifest.rows[post.id].decision}"
        if reason is None:
            found.fit += 1
        else:
            found.reasons[reason.partition(":")[0]] += 1
    return found
