"""ATTRIBUTION.md: whose the pictures of a set are, and where each is from."""

from __future__ import annotations

import re

from tools.safebooru.manifest import MANIFEST, Manifest, Row
from utils import write_text

ATTRIBUTION = "ATTRIBUTION.md"
HEAD = """\
# Where these pictures are from

{pictures} pictures of {board}, fetched by `python -m tools.safebooru` for whoever ran it.

**They are not ours, nor yours, to pass on.** Each belongs to the artist who made it, and characters
to their owners (those of *Neon Genesis Evangelion* to khara). Keep them on your own machine, to
train on and to look at; publish and redistribute none of them, alone or as a set. Who asks for a
picture to be taken out is right: delete its file, and it is not fetched again.

[{manifest}]({manifest}) says what became of every post that was looked at, and why. It can be
handed on: alone in a folder, the command that made the set, with that folder as `--out` and with
`--refetch`, fetches the same pictures from the board, each of the same md5.

"""


def write_attribution(manifest: Manifest) -> None:
    """Write it anew, a line for each picture that is here."""
    rows = manifest.decided("taken")
    boards = sorted({row.board for row in rows})
    head = HEAD.format(
        pictures=f"{len(rows):,}", board=" and ".join(boards) or "a board", manifest=MANIFEST
    )
    write_text(manifest.folder / ATTRIBUTION, head + "".join(map(_line, rows)))


def _line(row: Row) -> str:
    """A picture, its post, and where its artist showed it; a source is anybody's text."""
    source = f", from {row.source}" if re.fullmatch(r"https?://[!-;=?-~]+", row.source) else ""
    return f"- {row.file}: {row.page}{source}\n"
