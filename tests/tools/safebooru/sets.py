"""What became of a set, read from its folder; and posts to make one of."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from filing.csv_files import read_csv
from tests.tools.safebooru.server import HTML, FakeBoard, scene


def rows(out: Path) -> dict[int, dict[str, str]]:
    return {int(row["post"]): row for row in read_csv(out / "manifest.csv")}


def files(out: Path) -> set[str]:
    return {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name[0] != "."}


def why(out: Path, post: int) -> str:
    row = rows(out)[post]
    return f"{row['decision']}: {row['reason']}"


def two_classes(board: FakeBoard, each: int = 4) -> None:
    for i in range(each):
        board.add(100 + i, "rei")
        board.add(200 + i, "asuka")


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1 << 16))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def without_times(out: Path) -> list[dict[str, str]]:
    return [row | {"fetched_at": ""} for row in read_csv(out / "manifest.csv")]


def many_faults(board: FakeBoard) -> None:
    """Posts of both classes with every lasting fault among them."""
    two_classes(board, 8)
    board.add(150, "rei", image=scene(103, (128, 96)))  # larger than 103, which comes later
    board.add(90, "asuka", image=scene(105, (128, 96)))  # larger than rei's 105
    del board.files[board.add(151, "rei")]
    board.add(152, "rei", content=b"no picture")
    board.add(153, "rei", content=bomb())
    board.add(99, "rei", hash="1" * 32)
    board.add(250, "asuka", rating="questionable")
    board.add(251, "asuka", image=scene(203))
    board.always[board.add(252, "asuka")] = HTML


def contents(out: Path) -> dict[str, bytes]:
    return {f: (out / f).read_bytes() for f in files(out) if f != "manifest.csv"}
