"""Pictures are read whatever their metadata is like; what is no picture file is not opened."""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import images
from dataset import load_split
from decoding import formats
from images import read_image
from tests.helpers import picture, settings
from utils import UserError

PICTURE = picture("red", 5, (24, 16))


def encoded(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return read_image(io.BytesIO(content))


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png_with(extra: bytes, content: bytes | None = None, at: int = 33) -> bytes:
    """A PNG with more chunks behind its header, or before its end."""
    content = content or encoded("PNG")
    at = at if at > 0 else len(content) + at
    return content[:at] + extra + content[at:]


def exif(*tags: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF with orientation 6 and more tags: (tag, type, count, the value's 4 bytes)."""
    both = sorted([(0x112, 3, 1, struct.pack(f"{order}HH", 6, 0)), *tags])
    rows = b"".join(struct.pack(f"{order}HHI", *t[:3]) + t[3] for t in both)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(both)) + rows + bytes(4)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    content = encoded("JPEG")
    return content[:2] + b"".join(segments) + content[2:]


BIG = zlib.compress(b"a" * 1_500_000)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + BIG),
        chunk(b"iTXt", b"k\0\1\0\0\0" + BIG),
        chunk(b"iCCP", b"k\0\0" + BIG),
        chunk(b"zTXt", b"k\0\0no zlib at all"),
        chunk(b"iTXt", b"k\0\1"),
        chunk(b"gAMA", b"\0\0"),
        chunk(b"cHRM", b"\0" * 5),
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b"\0" * 3),
        chunk(b"tEXt", b"k\0v", crc=1),
        chunk(b"tIME", b"", crc=1),
        chunk(b"prVt", b"of somebody's own", crc=1),
        chunk(b"tRNS", b"\0"),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0\0"),
        chunk(b"eXIf", b"no TIFF header"),
        chunk(b"eXIf", b""),
    ],
    ids=lambda extra: f"{extra[4:8].decode()}-{len(extra)}",
)
@pytest.mark.parametrize("at", [33, -12], ids=["before", "behind"])
def test_a_chunk_that_can_not_be_read_leaves_a_png_its_pixels(extra: bytes, at: int) -> None:
    assert (read(png_with(extra, at=at)) == np.asarray(PICTURE)).all()


def test_broken_pixels_of_a_png_stay_an_error() -> None:
    content = encoded("PNG")
    start = content.index(b"IDAT") + 20
    for damaged in (content[: start + 30], content[:start] + b"\xff\0" * 9 + content[start + 18 :]):
        with pytest.raises((OSError, SyntaxError, ValueError)):
            read(damaged)
        with pytest.raises((OSError, SyntaxError, ValueError)):
            read(png_with(chunk(b"gAMA", b"\0"), damaged))


def test_a_png_keeps_its_transparency_beside_a_broken_chunk() -> None:
    image = Image.new("L", (4, 4), 7)
    content = encoded("PNG", image, transparency=7)
    assert (read(png_with(chunk(b"gAMA", b"\0"), content)) == 255).all()


ODD = {
    "a width that is text": (0x100, 2, 1, b"1\0\0\0"),
    "a resolution of bytes": (0x11A, 7, 1, b"\1\0\0\0"),
    "a maker that is a number": (0x10F, 5, 1, b"\x08\0\0\0"),
    "a sub-directory out of the file": (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
    "a type that does not exist": (0x131, 99, 5, b"\1\2\3\4"),
    "a value out of the file": (0x132, 2, 9999, b"\xff\xff\xff\x7f"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_photo_is_turned_whatever_else_its_exif_says(name: str, order: str) -> None:
    wanted = read(encoded("JPEG")).transpose(1, 0, 2)[:, ::-1]
    content = exif(ODD[name], order=order)
    assert (read(jpeg_with(segment(0xE1, b"Exif\0\0" + content))) == wanted).all()
    pixels = np.asarray(PICTURE).transpose(1, 0, 2)[:, ::-1]
    assert (read(png_with(chunk(b"eXIf", content))) == pixels).all()
    webp = encoded("WEBP", lossless=True, exif=content)
    assert (read(webp) == pixels).all()


@pytest.mark.parametrize(
    "value",
    [(3, 2, struct.pack("<HH", 6, 0)), (4, 1, struct.pack("<I", 6)), (2, 2, b"6\0\0\0")],
    ids=["two", "long", "text"],
)
def test_an_orientation_of_another_type_is_one_too(value: tuple[int, int, bytes]) -> None:
    content = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x112, *value[:2]) + value[2] + bytes(4)
    assert read(jpeg_with(segment(0xE1, b"Exif\0\0" + content))).shape == (24, 16, 3)


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE0, b"JFIF"),
        segment(0xE1, b"Exif\0\0garbage"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"\xff" * 50),
    ],
    ids=["JFIF", "EXIF", "MPF", "ICC", "Photoshop", "Adobe", "comment"],
)
def test_a_segment_that_can_not_be_read_leaves_a_jpeg_its_pixels(extra: bytes) -> None:
    assert (read(jpeg_with(extra)) == read(encoded("JPEG"))).all()


def test_metadata_of_other_formats() -> None:
    pixels = np.asarray(PICTURE)
    webp = encoded("WEBP", lossless=True, exif=b"garbage!", icc_profile=b"none", xmp=b"\xff<")
    assert (read(webp) == pixels).all()
    for order in ("<", ">"):
        for tag in ODD.values():
            assert (read(tiff(tag, order)) == 77).all()


@pytest.mark.parametrize(
    "block",
    [b"!\xff\x0bNETSCAPE2.0\0", b"!\xff\0", b"!\xf9\0", b"!\xf9\1\0\0", b"!\xfe\3a\xffb\0"],
    ids=["loops", "application", "control", "short control", "comment"],
)
def test_a_block_that_can_not_be_read_leaves_a_gif_its_pixels(block: bytes) -> None:
    content = encoded("GIF")
    start = 13 + (3 << ((content[10] & 7) + 1))
    assert (read(content[:start] + block + content[start:]) == read(content)).all()


def tiff(tag: tuple[int, int, int, bytes], order: str) -> bytes:
    """A grey TIFF of 3 x 2 pixels with one more tag."""
    tags = {0x100: 3, 0x101: 2, 0x102: 8, 0x103: 1, 0x106: 1, 0x111: 200, 0x116: 2, 0x117: 6}
    rows = [(t, 3, 1, struct.pack(f"{order}HH", v, 0)) for t, v in tags.items()]
    both = sorted([*rows, (0x11B, *tag[1:]) if tag[0] in tags else tag])  # the width is needed
    body = b"".join(struct.pack(f"{order}HHI", *row[:3]) + row[3] for row in both)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    whole = head + struct.pack(f"{order}H", len(both)) + body + bytes(4)
    return whole.ljust(200, b"\0") + bytes([77] * 6)


# --------------------------------------------------------------------------------- what is opened


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(tmp_path / "s.png"))
    for name, reason in {"fifo": "a FIFO", "s": "a socket", "gone": "a link to nothing"}.items():
        with pytest.raises(ValueError, match=reason):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="a device"):
        read_image(Path("/dev/null"))
    there.close()


def test_a_fifo_in_the_folder_is_named(image_folder: Path) -> None:
    os.mkfifo(image_folder / "red" / "pipe.png")
    assert load_split(settings(image_folder)).unused == (
        (image_folder / "red" / "pipe.png", "not a file"),
    )


def test_a_format_is_known_by_its_content_and_by_its_extension(tmp_path: Path) -> None:
    for kind, name in {"PNG": "a.jpg", "QOI": "a.qoi", "PPM": "a.pnm", "TGA": "a.tga"}.items():
        PICTURE.save(tmp_path / name, kind)
        assert (read_image(tmp_path / name) == np.asarray(PICTURE)).all()
    PICTURE.save(tmp_path / "b.jpg", "TGA")  # nothing but its extension tells a TGA
    with pytest.raises(Image.UnidentifiedImageError):
        read_image(tmp_path / "b.jpg")


def test_what_calls_programs_is_no_picture(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png", "EPS")
    with pytest.raises(Image.UnidentifiedImageError):
        read_image(tmp_path / "a.png")


def test_every_format_of_pillow_s_is_found_in_a_folder(image_folder: Path) -> None:
    for name in ("x.ppm", "x.tga", "x.qoi", "x.sgi", "x.pcx", "x.ico", "x.jp2", "x.dds"):
        PICTURE.save(image_folder / "red" / name)
    for name in ("x.pdf", "x.eps"):
        PICTURE.save(image_folder / "red" / name)
    split = load_split(settings(image_folder))
    assert len(split.samples) == 36 + 8
    assert {path.name for path, _ in split.unused} == {"x.pdf", "x.eps"}


def test_an_iphone_s_photo_is_read_or_the_remedy_is_said(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + encoded("PNG")
    (image_folder / "red" / "a.heic").write_bytes(content)
    (image_folder / "red" / "b.jpg").write_bytes(content)  # phones rename them
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"a\.heic .*pip install pillow-heif.*b\.jpg"):
        load_split(settings(image_folder))

    def register_heif_opener() -> None:
        from PIL.PngImagePlugin import PngImageFile

        def opened(file: Any, name: Any = None) -> Image.Image:
            return PngImageFile(io.BytesIO(file.read()[24:]), name)

        Image.register_open("HEIF", opened)

    fake = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert (read_image(image_folder / "red" / "a.heic") == np.asarray(PICTURE)).all()


# ------------------------------------------------------------------------------------ large ones


def test_a_picture_may_have_as_many_pixels_as_the_config_says(
    image_folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("1", (9500, 9500)).save(image_folder / "red" / "map.png")  # 90 megapixels
    assert len(load_split(settings(image_folder)).samples) == 37
    assert not [w for w in recwarn if issubclass(w.category, Image.DecompressionBombWarning)]
    said = r"map\.png .9,500 x 9,500 are 90,250,000 pixels, and train\.max_pixels is 90,000,000.; "
    said += r"raise train\.max_pixels .null: no limit., make them smaller, or remove them"
    with pytest.raises(UserError, match=said):
        load_split(settings(image_folder, max_pixels=90_000_000))
    assert len(load_split(settings(image_folder, max_pixels=None)).samples) == 37


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_a_large_picture_is_converted_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60)
    else:
        image = PICTURE.convert(mode)
        if mode == "P":
            image.info["transparency"] = image.getpixel((0, 0))
    wanted = images.pixels_of(image)
    monkeypatch.setattr(images, "BAND", 100)
    assert (images.pixels_of(image) == wanted).all()


def test_pillow_s_own_limit_is_not_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("PNG", Image.new("1", (18_000, 10_000)))  # 180 megapixels, above its limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    formats._ours.cache_clear()
    assert read(content).shape == (10_000, 18_000, 3)


def many_comments(kind: str) -> bytes:
    """A picture with 4 MB of metadata in as many parts as there can be; 64 KB each is a JPEG's."""
    plain = encoded(kind)
    if kind == "JPEG":
        orientation = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
        part = b"\xff\xe1" + struct.pack(">H", len(orientation) + 2) + orientation
        return plain[:2] + part * (4_000_000 // len(part)) + b"\xff" * 4_000_000 + plain[2:]
    if kind == "PNG":
        return plain[:33] + chunk(b"tEXt", b"k\0v") * 300_000 + plain[33:]
    at = 13 + 3 * 256  # behind the colours
    return plain[:at] + b"!\xfe" + (b"\xff" + b"c" * 255) * 16_000 + b"\0" + plain[at:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_more_than_any_picture_says_is_not_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes minutes for 200 MB of EXIF: it adds each part to those before."""
    given: list[int] = []
    original = formats._loaded

    def loaded(content: bytes, *more: Any) -> Image.Image:
        given.append(len(content))
        return original(content, *more)

    monkeypatch.setattr(formats, "_loaded", loaded)
    content = many_comments(kind)
    found = read(content)
    assert given == [pytest.approx(len(encoded(kind)), abs=50)] and len(content) > 4_000_000
    wanted = read(encoded(kind))
    assert np.array_equal(found, np.rot90(wanted, -1) if kind == "JPEG" else wanted)
