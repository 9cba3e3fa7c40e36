"""One image file of any kind, and the index of files already read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from config import Config
from dataset import load_split
from images import FileIndex, container_memory, read_image
from tests.helpers import flip, picture
from utils import UserError

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, image_folder: Path) -> None:
    config = load_config_of(image_folder)
    index = FileIndex(tmp_path / "files.json")
    first = load_split(config, known=index)
    index.update(first.samples)
    picture("red", 77).save(image_folder / "red" / "03.png")
    (image_folder / "red" / "05.png").write_bytes(b"no image")
    index = FileIndex(tmp_path / "files.json")
    with pytest.raises(UserError, match="05.png"):
        load_split(config, known=index)
    (image_folder / "red" / "05.png").unlink()
    second = load_split(config, known=FileIndex(tmp_path / "files.json"))
    assert set(second.decoded) == {image_folder / "red" / "03.png"}
    hashes = [
        {s.path.name: s.sha256 for s in x.samples if x.classes[s.label] == "red"}
        for x in (first, second)
    ]
    assert {n for n in hashes[1] if hashes[0][n] != hashes[1][n]} == {"03.png"}


def load_config_of(folder: Path) -> Any:
    return Config().train.model_copy(update={"base_dir": str(folder)})


def test_a_file_that_was_just_changed_is_read_again(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileIndex, "TICK_NS", 60 * 10**9)
    index = FileIndex(tmp_path / "files.json")
    index.update(load_split(load_config_of(image_folder), known=index).samples)
    second = load_split(load_config_of(image_folder), known=FileIndex(tmp_path / "files.json"))
    assert len(second.decoded) == 36


def test_a_damaged_index_is_no_trouble(tmp_path: Path, image_folder: Path) -> None:
    known = str(next(image_folder.glob("red/*")))
    some = ("", "[1]", json.dumps({known: 1}), json.dumps({known: [1, 2]}), "\0", "[" * 99_999)
    for content in some:
        (tmp_path / "files.json").write_text(content)
        split = load_split(load_config_of(image_folder), known=FileIndex(tmp_path / "files.json"))
        assert len(split.samples) == 36


def test_a_flipped_byte_of_the_index_changes_no_picture(tmp_path: Path, image_folder: Path) -> None:
    config, file = load_config_of(image_folder), tmp_path / "files.json"
    index = FileIndex(file)
    first = load_split(config, known=index)
    index.update(first.samples)
    whole = file.read_bytes()
    named = whole.index(bytes.fromhex(first.samples[0].sha256))
    for place in (*range(named - 40, named + 120, 3), *range(7, len(whole), len(whole) // 40)):
        file.write_bytes(whole)
        flip(file, place)
        assert load_split(config, known=FileIndex(file)).samples == first.samples


RED = (200, 40, 20)


def _save(image: Image.Image, path: Path, **options: Any) -> np.ndarray:
    image.save(path, **options)
    return read_image(path)


@pytest.mark.parametrize("extension", ["png", "PNG", "bmp", "gif", "tiff", "webp", "jpg", "JPEG"])
def test_formats(tmp_path: Path, extension: str) -> None:
    pixels = _save(Image.new("RGB", (9, 7), RED), tmp_path / f"a.{extension}")
    assert pixels.shape == (7, 9, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (50, 255), (50, 50, 50)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_modes_of_png(tmp_path: Path, mode: str, colour: Any, expected: Any) -> None:
    pixels = _save(Image.new(mode, (4, 4), colour), tmp_path / "a.png")
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_16_bit_greys_keep_their_gradation(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tiff"):
        pixels = _save(Image.fromarray(ramp), tmp_path / name)
        assert np.abs(pixels[..., 0].astype(int).flatten() - np.arange(256)).max() <= 1


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), RED).quantize(4)
    assert tuple(_save(image, tmp_path / "a.png")[0, 0]) == RED
    index = image.getpixel((0, 0))
    assert tuple(_save(image, tmp_path / "b.png", transparency=index)[0, 0]) == (255, 255, 255)


def test_cmyk(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), RED).convert("CMYK")
    pixels = _save(image, tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels.astype(int) - RED).max() <= 8


def test_exif_rotation(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    pixels = _save(image, tmp_path / "a.png", exif=exif)
    assert pixels.shape == (8, 4, 3) and tuple(pixels[0, 3]) == (255, 255, 255)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, "blue")]
    pixels = _save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.abs(pixels.astype(int) - RED).max() <= 4


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nslab 3\n")
    assert container_memory(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) == container_memory(tmp_path / "none") == sys.maxsize
