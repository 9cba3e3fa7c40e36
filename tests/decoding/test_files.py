"""A picture's file: nothing is waited for, and nothing is read that is larger than any picture."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset import load_split
from decoding import files
from decoding.formats import TooLarge, open_picture, why
from images import read_all
from tests.helpers import picture, settings
from utils import UserError

linux = pytest.mark.skipif(sys.platform != "linux", reason="links to devices, sparse files")


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    picture("red", 5, (24, 16)).save(file, kind)
    return file.getvalue()


def reason(path: Path) -> str:
    (_, found), *_ = read_all([path]).bad
    return found


@linux
def test_what_could_be_waited_for_in_vain(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    leads = {"zero": "/dev/zero", "random": "/dev/random", "pipe": "fifo", "here": "folder"}
    leads |= {"none": "nowhere", "self": "self", "memory": "/proc/self/mem", "kernel": "/proc/kmsg"}
    for name, target in leads.items():
        (tmp_path / name).symlink_to(target)
    found = {name: reason(tmp_path / name) for name in leads}
    assert found["zero"] == found["random"] == "a device, not a file"
    assert found["pipe"] == "a FIFO, not a file" and found["here"] == "a folder, not a file"
    assert found["none"] == "a link to nothing"
    assert found["self"] == "Too many levels of symbolic links"
    assert found["memory"] and found["kernel"]


@linux
def test_a_pipe_that_takes_a_picture_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and its opening."""
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG"))
    original = files._check_regular

    def late(status: os.stat_result) -> None:
        original(status)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        monkeypatch.setattr(files, "_check_regular", original)

    monkeypatch.setattr(files, "_check_regular", late)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(reason(path)), daemon=True)
    reader.start()
    reader.join(20)
    assert found == ["a FIFO, not a file"]


@linux
@pytest.mark.parametrize(
    ("size", "begins", "said"),
    [
        (1 << 40, b"", "a file of 1,099,511,627,776 bytes, more than 2,000,000,000"),
        (1 << 40, encoded("PNG"), "a file of 1,099,511,627,776 bytes, more than 2,000,000,000"),
        (1 << 30, b"no picture", "not an image"),
    ],
)
def test_a_file_that_is_mostly_a_hole(tmp_path: Path, size: int, begins: bytes, said: str) -> None:
    with open(tmp_path / "x.png", "wb") as file:
        file.write(begins)
        file.truncate(size)
    tracemalloc.start()
    try:
        assert reason(tmp_path / "x.png") == said
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@linux
def test_large_files_are_in_memory_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGE", 100)
    at_once, most = [0], [0]
    original = files.content_of

    def counted(path: Path) -> bytes:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.02)
        at_once[0] -= 1
        return original(path)

    monkeypatch.setattr("images.content_of", counted)
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(encoded("PNG"))
    found = read_all([tmp_path / f"{i}.png" for i in range(6)])
    assert len(found.decoded) == 6 and most == [1]


def test_a_file_that_goes_between_the_scan_and_the_reading(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, original = image_folder / "red" / "03.png", read_all

    def late(*args: Any) -> Any:
        gone.unlink(missing_ok=True)
        return original(*args)

    monkeypatch.setattr("dataset.read_all", late)
    with pytest.raises(UserError, match=r"red/03.png \(no such file\); remove them, or set"):
        load_split(settings(image_folder))
    picture("red", 3).save(gone)
    split = load_split(settings(image_folder, on_bad_image="skip"))
    assert split.unused == ((gone, "unreadable: no such file"),)


def test_a_closed_file(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, original = image_folder / "red" / "03.png", os.open

    def opened(path: Any, *more: Any, **options: Any) -> int:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *more, **options)

    monkeypatch.setattr("decoding.files.os.open", opened)
    assert reason(closed) == "Permission denied"


def test_names_can_not_command_a_terminal(image_folder: Path) -> None:
    (image_folder / "red" / "a\x1b[2J\nb.png").write_bytes(b"no")
    with pytest.raises(UserError) as caught:
        load_split(settings(image_folder))
    assert r"a\x1b[2J\x0ab.png (not an image)" in str(caught.value)


# ------------------------------------------------------------------------------ what files claim


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png_of(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def ico_of(inner: bytes) -> bytes:
    head = struct.pack("<HHH", 0, 1, 1)
    return head + struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(inner), 22) + inner


BITMAP = struct.pack("<IiiHHIIiiII", 40, 30_000, 120_000, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(1000)
ICNS = png_of(50_000, 50_000)
CLAIMS = {
    "a PNG": ("x.png", png_of(50_000, 50_000)),
    "a PNG in an icon": ("x.ico", ico_of(png_of(50_000, 50_000))),
    "a bitmap in an icon": ("x.ico", ico_of(BITMAP)),
    "a PNG in Apple's icon": (
        "x.icns",
        b"icns"
        + struct.pack(">I", 16 + len(ICNS))
        + b"ic09"
        + struct.pack(">I", 8 + len(ICNS))
        + ICNS,
    ),
    "a PPM": ("x.ppm", b"P6 100000 100000 255\n" + bytes(100)),
}


@pytest.mark.parametrize("which", CLAIMS)
def test_claims_are_looked_at_before_memory_is_taken(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture within an icon, too, whose own size is small."""
    name, content = CLAIMS[which]
    taken: list[Any] = []
    original = Image.core.new

    def new(mode: str, size: tuple[int, int]) -> Any:
        taken.append(size)
        assert size[0] * size[1] < 1e6
        return original(mode, size)

    monkeypatch.setattr(Image.core, "new", new)
    with pytest.raises(TooLarge, match="are [0-9,]{11,} pixels, and train.max_pixels is 500,000"):
        open_picture(content, name)


def test_no_limit_is_none_within_an_icon_either() -> None:
    inner = io.BytesIO()
    Image.new("RGB", (64, 64)).save(inner, "PNG")
    content = ico_of(inner.getvalue())
    assert open_picture(content, "x.ico", None).size == (64, 64)
    with pytest.raises(TooLarge):
        open_picture(content, "x.ico", 1000)
    assert open_picture(content, "x.ico").size == (64, 64)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(40, "Too many levels", "a/path"), "Too many levels"),
        (OSError("image file is truncated"), "image file is truncated"),
        (ValueError("a line\nand more"), "a line"),
        (MemoryError(), "it takes more memory than there is"),
        (KeyError(), "KeyError"),
    ],
)
def test_why(error: Exception, said: str) -> None:
    assert why(error) == said
