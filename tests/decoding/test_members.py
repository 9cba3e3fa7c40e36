"""Where the files in a tar lie: against Python's own reader, and tars that lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from decoding.files import content_of, is_there
from decoding.members import member_of, members
from images import read_image
from shards.write import header
from tests.shards.helpers import png, sample_files, tar_of

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def found_in(content: bytes, size: int | None = None) -> dict[str, bytes]:
    found = members(io.BytesIO(content), len(content) if size is None else size)
    return {name: content[offset : offset + length] for name, offset, length in found}


@pytest.mark.parametrize("kind", FORMATS)
def test_as_python_reads_it(tmp_path: Path, kind: str) -> None:
    files = {f"{'deep/' * 20}{number}.bin": bytes(number) for number in (0, 1, 511, 512, 513)}
    if kind != "ustar":
        files |= {"x" * 180 + ".png": b"long", "ü/日本.png": b"letters"}
    tar = tar_of(tmp_path / "a.tar", files, FORMATS[kind])
    with tarfile.open(tar) as reader:
        expected = {m.name: reader.extractfile(m).read() for m in reader}  # type: ignore[union-attr]
    assert found_in(tar.read_bytes()) == expected == files


def test_links_devices_and_folders_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"5"):
            info = tarfile.TarInfo("it")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert found_in((tmp_path / "a.tar").read_bytes()) == {}


def changed(field: slice, to: bytes) -> bytes:
    """A tar of one file with another header, whose checksum is right."""
    content = bytearray(header("a.png", 5))
    content[field] = to.ljust(field.stop - field.start, b"\0")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content) + b"12345".ljust(512, b"\0") + bytes(1024)


SIZE, KIND = slice(124, 136), slice(156, 157)
LIES = {
    "huge": (changed(SIZE, b"77777777777"), "it was cut, or is wrong"),
    "larger than any": (changed(SIZE, b"\x80" + b"\xff" * 11), "it was cut, or is wrong"),
    "below zero": (changed(SIZE, b"\xff" * 12), "a size below zero"),
    "no number": (changed(SIZE, b"5 pies"), "a size that is no number"),
    "no end": (changed(SIZE, b"00000000005")[:1024], "it was cut: no end after 1,024 bytes"),
    "half a header": (changed(SIZE, b"00000000005")[:1100], "it was cut"),
    "cut": (changed(SIZE, b"00000000005")[:515], "it was cut"),
    "no tar": (b"\x1f\x8b" + bytes(2000), "no tar: its header is not right"),
    "empty": (b"", "it was cut: no end after 0 bytes"),
    "pax": (changed(KIND, b"x"), "extended header that is not right|no end"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_end_in_a_few_words(lie: str) -> None:
    content, why = LIES[lie]
    if lie == "pax":  # records that say that they are longer than they are
        content = content[:512] + b"999 a=1\n".ljust(512, b"\0") + content[1024:]
        content = changed(KIND, b"x")[:512] + b"9 pa=".ljust(512, b"\0") + bytes(1024)
    with (
        pytest.raises(ValueError, match=why)
        if lie != "pax"
        else pytest.raises(ValueError, match="an extended header")
    ):
        found_in(content)


def test_a_long_header_is_not_read() -> None:
    content = bytearray(header("a", 1 << 20))
    content[156:157] = b"L"
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    with pytest.raises(ValueError, match="a header of 1,048,576 bytes"):
        found_in(bytes(content) + bytes(1 << 20))


def test_a_path_leads_into_a_tar(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "a b.tar", sample_files(2) | {"./here.png": png("red", 7)})
    assert content_of(tar / "red" / "001.png") == png("red", 1)
    assert read_image(tar / "here.png").shape == (12, 16, 3) and is_there(tar / "here.png")
    with pytest.raises(ValueError, match="not in a b.tar"):
        content_of(tar / "none.png")
    with pytest.raises(ValueError, match="a file of .* bytes, more than 9"):
        member_of(tar, "red/001.png", 9)
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tar" / "1.png").write_bytes(png("red", 1))
    assert content_of(tmp_path / "folder.tar" / "1.png") == png("red", 1)
