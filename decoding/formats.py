"""Which files are pictures, and a picture out of a file whatever its metadata is like.

Pillow refuses a whole picture for a broken comment. Here metadata that can't be read is left out,
and of EXIF the orientation is looked for alone; pixels that can't be read stay an error.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from decoding.halves import LOWER, lower_of, tiles_of_lower, turned

# They call a program to be drawn, hold no pictures that Pillow can draw, or open any other format.
NO_PICTURES = {"EPS", "PDF", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC"}
HEIC = (".heic", ".heif", ".hif")
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
ORIENTATION = 0x112
SAMPLE_FORMAT, NO_DATA = 339, 42113  # TIFF's: 1, unsigned; GDAL's value where nothing was measured
VALUE_TAGS = (SAMPLE_FORMAT, NO_DATA)  # kept in a picture's `info` as "tags"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MEGA = 1_000_000
MAX_PIXELS = 500 * MEGA  # of one picture, where nothing else is asked for
MOST_METADATA = 2 << 20  # bytes; Pillow's time for more grows with their square
LARGE, LARGE_ONES = 64 * MEGA, threading.RLock()  # pixels, and bytes of a file


class _Asked(threading.local):
    """What a thread's pictures may have: pixels at most."""

    most: int | None = None


ASKED = _Asked()
Image.init()


@cache
def _ours() -> None:
    """Pillow's own limit is ours, also for a picture within another, as icons have them; its
    warnings are of metadata, which is left out. Both are its module's, so it is done when the first
    is opened."""
    Image._decompression_bomb_check = lambda size, **_: check_size(size, ASKED.most)
    warnings.filterwarnings("ignore", module=r"PIL\.")


class TooLarge(ValueError):
    """A picture (width, height) with more pixels than `most`; `fact` says how many, the message
    also which key allows more."""

    def __init__(self, size: tuple[int, int], most: int) -> None:
        self.fact = f"{size[0]:,} x {size[1]:,} are {size[0] * size[1]:,} pixels"
        super().__init__(f"{self.fact}, and train.max_pixels is {most:,}")


def _read_by_pillow() -> dict[str, str]:
    """The formats by the extensions that stand for them."""
    known = {e: f for e, f in Image.registered_extensions().items() if f in Image.OPEN}
    return {e: f for e, f in sorted(known.items()) if f not in NO_PICTURES} | {".mpo": "JPEG"}


FORMATS = _read_by_pillow()
EXTENSIONS = tuple(sorted({*FORMATS, *HEIC}))


@cache
def _formats(extension: str) -> tuple[str, ...]:
    """Those to try on a file: the formats that are known by their first bytes, and that of its
    extension. The rest, TGA say, would take any file for theirs."""
    sure = [name for name, (_, accept) in Image.OPEN.items() if accept is not None]
    wanted = {*sure, FORMATS.get(extension)} - NO_PICTURES
    return tuple(name for name in Image.ID if name in wanted)  # Pillow's order


def begins_as_picture(beginning: bytes, name: str) -> bool:
    """Whether a file may be a picture by its first bytes; nothing of it is read."""
    known = (Image.OPEN[which][1] for which in _formats(Path(name).suffix.lower()))
    return is_heic(beginning) or any(
        not accept or accept(beginning[:16]) is True for accept in known
    )


def why(error: Exception) -> str:
    """Why a picture can't be read, in a few words: without the number and the path of the system's,
    without more than a line of a library's."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    return str(error).partition("\n")[0] or type(error).__name__


def open_picture(content: bytes, name: str = "", most: int | None = MAX_PIXELS) -> Image.Image:
    """A picture in its own mode, loaded, upright, the first of several.

    `name` is the file's. Raises OSError, SyntaxError or ValueError (TooLarge with more pixels than
    `most`) where it can't be read, and whatever else damaged files make Pillow raise.
    """
    if not content:
        raise ValueError("an empty file")
    bare = without_metadata(content) if len(content) > MOST_METADATA else content
    try:
        if len(content) - len(bare) > MOST_METADATA:
            raise ValueError("more than any picture needs to say")
        image = _loaded(content, name, most)
    except (TooLarge, MemoryError):
        raise
    except Exception:  # nearly anything
        bare = without_metadata(content)
        if bare == content:
            raise
        image, turn = _loaded(bare, name, most), scanned_orientation(content)
    else:
        turn = _orientation(image, content)
    image.info["tags"] = {tag: value for tag, value in _tags(image) if tag in VALUE_TAGS}
    return turned(image, TURNS[turn]) if turn in TURNS else image


def _tags(image: Image.Image) -> list[tuple[int, object]]:
    """A TIFF's tags, as far as they can be read; none of another file."""
    try:
        return list(getattr(image, "tag_v2", {}).items())
    except Exception:  # as above
        return []


def _loaded(content: bytes, name: str, most: int | None) -> Image.Image:
    _ours()
    formats = _formats(Path(name).suffix.lower())
    if is_heic(content):
        formats = (_heif(),)
    ASKED.most = most
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            check_size(image.size, most)
            with one_by_one(image.size):
                lower = tiles_of_lower(image)
                image.load()
                if lower and "transparency" not in image.info:
                    with contextlib.suppress(Exception):  # the upper ones are a picture, too
                        image.info[LOWER] = lower_of(content, formats, lower)
    finally:
        ASKED.most = None
    check_size(image.size, most)  # icons say it late
    return image


def one_by_one(size: tuple[int, int]) -> contextlib.AbstractContextManager:
    """Wait while another thread works on a large picture, if this one (width, height) is, too:
    several at once would need more memory than there is."""
    return LARGE_ONES if size[0] * size[1] > LARGE else contextlib.nullcontext()


def check_size(size: tuple[int, int], most: int | None) -> None:
    """Raise TooLarge for a picture (width, height) with more pixels than `most`."""
    if most is not None and size[0] * size[1] > most:
        raise TooLarge(size, most)


def is_heic(content: bytes) -> bool:
    """Whether a file is a HEIF picture that is no AVIF, by its brands (ISO/IEC 23008-12)."""
    if content[4:8] != b"ftyp":
        return False
    box = content[8 : min(int.from_bytes(content[:4], "big"), 512)]
    brands = {box[i : i + 4] for i in (0, *range(8, len(box), 4))}
    return bool(brands & HEIC_BRANDS) and not brands & {b"avif", b"avis"}


def _heif() -> str:
    """Pillow's name of HEIF; ValueError with the remedy where nothing reads it."""
    try:
        import pillow_heif
    except ImportError:
        raise ValueError(
            "a HEIC photo, as iPhones take them: pip install pillow-heif, or save it as JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    return "HEIF"


# -------------------------------------------------------------------------------------- orientation


def _orientation(image: Image.Image, content: bytes) -> int:
    """How a picture that could be loaded is to be turned: 1 to 8, as EXIF counts; 1: not."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # EXIF that is none
        found = 0
    if found is None and not image.info.get("exif"):  # else it may stand behind what is broken
        return 1
    if isinstance(found, int) and found in range(1, 9):
        return found
    return scanned_orientation(content)


def scanned_orientation(content: bytes) -> int:
    """The orientation that a file's EXIF says, if nothing else of it is right; 1 where none is."""
    for tiff in _exif(content):
        order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
        if order is None or len(tiff) < 10:
            continue
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        for at in range(start + 2, min(start + 2 + 12 * 512, len(tiff) - 11), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == ORIENTATION:
                value = tiff[at + 8 : at + 12]
                code = {1: f"{order}B", 4: f"{order}I"}.get(kind, f"{order}H")
                turn = int(value[:1]) if value[:1].isdigit() else struct.unpack_from(code, value)[0]
                return turn if 1 <= turn <= 8 else 1
    return 1


def _exif(content: bytes) -> Iterator[bytes]:
    """What a file holds as EXIF, from its TIFF header on."""
    found: Iterator[bytes] = iter(())
    if content.startswith(PNG):
        found = (d for kind, d, _ in _png_chunks(content) if kind == b"eXIf")
    elif content.startswith(JPEG):
        found = (d for marker, d, _ in _jpeg_segments(content) if marker == 0xE1)
    elif _is_webp(content):
        found = (d for kind, d, _ in _webp_chunks(content) if kind == b"EXIF")
    elif content[:2] in (b"II", b"MM"):
        found = iter((content,))
    for data in found:
        yield data.removeprefix(b"Exif\0\0")


# ------------------------------------------------------------------------------- without metadata


FILLING = re.compile(b"\xff+")
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
WEBP_METADATA, WEBP_FLAGS = {b"EXIF", b"XMP ", b"ICCP"}, 0x20 | 0x08 | 0x04
# What pixels are made of: size, layout, compression, colours, and the orientation.
TIFF_PIXELS = {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 301, 317}
TIFF_PIXELS |= {320, 322, 323, 324, 325, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 42113}


def without_metadata(content: bytes) -> bytes:
    """A file with what its pixels need alone; the same bytes where its format is not known here."""
    if content.startswith(PNG):
        colours = content[25:26]
        kept = [w for kind, d, w in _png_chunks(content) if _png_keeps(kind, d, colours)]
        return PNG + b"".join(kept)
    if content.startswith(JPEG):
        return _bare_jpeg(content)
    if _is_webp(content):
        return _bare_webp(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _bare_tiff(content)
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return _bare_gif(content)
    return content


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """A PNG's chunks: the kind, the data, and all of its bytes; none of a kind that pixels don't
    need where its checksum is wrong. https://www.w3.org/TR/png-3/#5Chunk-layout"""
    at = len(PNG)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        data, crc = content[at + 8 : end - 4], content[end - 4 : end]
        critical = not kind[0] & 0x20
        if critical or zlib.crc32(kind + data).to_bytes(4, "big") == crc:
            yield kind, data, content[at:end]
        at = end


def _png_keeps(kind: bytes, data: bytes, colours: bytes) -> bool:
    """Whether pixels need a chunk: the critical ones, and a transparency that fits the colours."""
    transparent = {b"\0": len(data) == 2, b"\2": len(data) == 6, b"\3": bool(data)}
    return not kind[0] & 0x20 or (kind == b"tRNS" and transparent.get(colours, False))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """A JPEG's segments: the marker, the data, and all of its bytes; the pictures' own data, from
    the first scan on, is the last."""
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            break
        marker = content[at + 1]
        if marker == 0xFF:  # fills up
            at = FILLING.match(content, at).end() - 1  # type: ignore[union-attr]  # it has some
            continue
        length = 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xDA or length < 4:
            break
        yield marker, content[at + 4 : at + length], content[at : at + length]
        at += length
    yield 0xDA, b"", content[at:]


def _bare_jpeg(content: bytes) -> bytes:
    """Without comments and applications' segments but two, whole ones, which tell the colours:
    JFIF's and Adobe's."""
    kept = [content[:2]]
    for marker, data, whole in _jpeg_segments(content):
        tells = marker == 0xE0 and data.startswith(b"JFIF\0") and len(data) >= 14
        tells = tells or (marker == 0xEE and data.startswith(b"Adobe") and len(data) >= 12)
        if tells or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(whole)
    return b"".join(kept)


def _is_webp(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """As a PNG's. https://developers.google.com/speed/webp/docs/riff_container"""
    at = 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        end = at + 8 + length + length % 2
        yield kind, content[at + 8 : at + 8 + length], content[at:end]
        at = end


def _bare_webp(content: bytes) -> bytes:
    chunks = []
    for kind, data, whole in _webp_chunks(content):
        if kind == b"VP8X" and data:  # it says what there is
            whole = whole[:8] + bytes([data[0] & ~WEBP_FLAGS]) + whole[9:]
        chunks += [] if kind in WEBP_METADATA else [whole]
    kept = b"".join(chunks)
    return b"RIFF" + (4 + len(kept)).to_bytes(4, "little") + b"WEBP" + kept


def _bare_tiff(content: bytes) -> bytes:
    """With the first picture's own tags alone, in their places.
    https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 2"""
    order = "<" if content[:2] == b"II" else ">"
    start = int.from_bytes(content[4:8], "little" if order == "<" else "big")
    if start + 2 > len(content):
        return content
    (count,) = struct.unpack_from(f"{order}H", content, start)
    end = start + 2 + 12 * count
    entries = [content[at : at + 12] for at in range(start + 2, min(end, len(content) - 11), 12)]
    kept = [e for e in entries if struct.unpack_from(f"{order}H", e)[0] in TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:start] + directory + content[start + len(directory) :]


def _bare_gif(content: bytes) -> bytes:
    """Without comments, texts and applications' blocks, and what of them is cut short.
    https://www.w3.org/Graphics/GIF/spec-gif89a.txt"""
    at = 13 + _gif_colours(content[10:11])
    kept = [content[:at]]
    while at < len(content):
        label = content[at : at + 2]
        if label[:1] == b"!":
            end = _gif_blocks_end(content, at + 2)
            kept += [content[at:end]] if content[at : at + 3] == b"!\xf9\4" else []
        elif label[:1] == b",":
            end = at + 10 + _gif_colours(content[at + 9 : at + 10]) + 1
            end = _gif_blocks_end(content, end)
            kept.append(content[at:end])
        else:
            return b"".join([*kept, content[at:]])
        at = end
    return b"".join(kept)


def _gif_colours(flags: bytes) -> int:
    """The bytes of the colour table that some flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _gif_blocks_end(content: bytes, at: int) -> int:
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1
