"""Greys of more than 8 bits: one scale for a set, the same wherever a file is shown."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import pretrained
from dataset import load_split
from images import FileIndex, ImageDataset, read_image
from tests.helpers import fail, plan, settings, train
from utils import UserError

RAMP = np.linspace(0, 1, 2000).reshape(40, 50)


def saved(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def colours(values: np.ndarray, path: Path, order: str = ">", packed: bool = False) -> Path:
    """Values (h, w, 3) as a PNG or TIFF of 16 bits a colour, which Pillow doesn't write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    h, w, _ = values.shape
    if path.suffix == ".png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0))]
        chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        written = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        ]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
        return path
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    tags = [(256, w), (257, h), (258, 134), (259, 8 if packed else 1), (262, 2), (273, 140)]
    tags += [(277, 3), (278, h), (279, len(data)), (284, 1)]
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        count = 3 if tag == 258 else 1
        kind = 3 if tag in (258, 259, 262, 277, 284) else 4
        cell = struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else None
        cell = cell or struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, count) + cell
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(mark + struct.pack(f"{order}I", 8) + directory + bytes(4) + bits + data)
    return path


def greys(pixels: np.ndarray) -> int:
    return len(np.unique(pixels))


@pytest.mark.parametrize(
    ("low", "high", "kind", "white"),
    [
        (0, 1, "float32", 255),
        (-1, 1, "float32", 255),
        (0, 255, "float32", 255),
        (0, 300, "float32", 255),
        (0, 0.01, "float32", 255),
        (-7, -3, "float32", 255),
        (0, 255, "uint16", 255),
        (0, 1023, "uint16", 255),
        (0, 4095, "uint16", 255),
        (3000, 3200, "uint16", 255),
        (0, 65535, "uint16", 255),
        (0, 2_000_000_000, "int32", 255),
        (-1000, 2000, "int32", 188),
    ],
)
def test_contrast_is_kept(tmp_path: Path, low: float, high: float, kind: str, white: int) -> None:
    values = (RAMP * (high - low) + low).round(6).astype(kind)
    extension = "png" if kind == "uint16" else "tif"
    pixels = read_image(saved(values, tmp_path / f"a.{extension}"))
    assert pixels.max() == white and greys(pixels) >= 180
    order = values.flatten().argsort(kind="stable")
    assert (np.diff(pixels[..., 0].flatten()[order].astype(int)) >= 0).all()


def test_16_bits_are_scaled_as_ever(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)
    values[0, 0] = 65535
    wanted = np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)
    assert (read_image(saved(values, tmp_path / "a.png"))[..., 0] == wanted).all()


def test_what_is_no_number_is_black_and_no_measure(tmp_path: Path) -> None:
    values = RAMP.astype("float32")
    values[0, :3] = np.nan, -np.inf, np.inf
    pixels = read_image(saved(values, tmp_path / "a.tif"))
    assert pixels[0, :3, 0].tolist() == [0, 0, 255] and greys(pixels) == 256
    assert (read_image(saved(np.full((4, 4), np.nan, "float32"), tmp_path / "b.tif")) == 0).all()


def test_a_hot_pixel_is_no_measure(tmp_path: Path) -> None:
    values = np.tile((RAMP * 4095).astype("uint16"), (6, 6))
    values[7, 7] = 65535
    assert greys(read_image(saved(values, tmp_path / "a.png"))) == 256


def test_unsigned_32_bits_and_nodata_of_a_tiff(tmp_path: Path) -> None:
    values = (RAMP * 4_000_000_000).astype(np.uint32)
    Image.fromarray(values.view(np.int32)).save(tmp_path / "a.tif")
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    content = (tmp_path / "a.tif").read_bytes()
    assert signed in content
    (tmp_path / "a.tif").write_bytes(content.replace(signed, unsigned))
    pixels = read_image(tmp_path / "a.tif")[..., 0]
    assert pixels[0, 0] == 0 and pixels[-1, -1] == 255 and greys(pixels) == 256
    heights = (RAMP * 900).astype("float32")
    heights[:5] = -9999
    Image.fromarray(heights).save(tmp_path / "b.tif", tiffinfo={42113: "-9999"})
    assert greys(read_image(tmp_path / "b.tif")) > 200


def deep_folder(root: Path, extension: str = "png") -> Path:
    """Bright and dim pictures of 12 bits: they differ by nothing else."""
    for label, top in (("bright", 4000), ("dim", 1000)):
        for i in range(12):
            noise = np.random.default_rng([i, top]).random((40, 50))
            saved((noise * top).astype(np.uint16), root / label / f"{i}.{extension}")
    return root


def test_a_set_has_one_scale(tmp_path: Path) -> None:
    split = load_split(settings(deep_folder(tmp_path / "p")))
    assert {sample.greys for sample in split.samples} == {(0.0, 4095.0)}
    bright = {split.classes[s.label]: int(split.decoded[s.path].max()) for s in split.samples}
    assert bright["bright"] > 240 and 55 < bright["dim"] < 70
    assert any("0 black and 4095 white" in note for note in split.notes)
    for sample in split.samples:
        pixels = read_image(sample.path, sample.greys)
        assert (split.decoded[sample.path].permute(1, 2, 0).numpy() == pixels).all()


def test_the_scale_is_of_the_training_part_or_as_the_config_says(tmp_path: Path) -> None:
    root = tmp_path / "p"
    for part, top in (("train", 250), ("val", 60000)):
        for label in ("a", "b"):
            for i in range(3):
                noise = np.random.default_rng([i, top, ord(label)]).random((40, 50))
                saved((noise * top).astype(np.uint16), root / part / label / f"{i}.png")
    split = load_split(settings(root))
    assert {sample.greys for sample in split.samples} == {(0.0, 255.0)}
    split = load_split(settings(root, greys=(100, 200)))
    assert {sample.greys for sample in split.samples} == {(100, 200)}
    with pytest.raises(UserError, match="train.greys: black, 5, must be less than white, 5"):
        load_split(settings(root, greys=(5, 5)))


def test_usual_pictures_have_no_scale(image_folder: Path) -> None:
    split = load_split(settings(image_folder))
    assert {sample.greys for sample in split.samples} == {None}
    assert not [note for note in split.notes if "greys" in note]


@pytest.mark.usefixtures("new_files_are_remembered")
def test_the_index_knows_the_values(tmp_path: Path) -> None:
    config = settings(deep_folder(tmp_path / "p"))
    index = FileIndex(tmp_path / "files.json")
    first = load_split(config, known=index)
    index.update(first.samples)
    second = load_split(config, known=FileIndex(tmp_path / "files.json"))
    assert not second.decoded and second.samples == first.samples
    assert second.samples[0].greys == (0.0, 4095.0)
    images = [ImageDataset(list(s.samples), lambda x: x, s.decoded, 0) for s in (first, second)]
    assert all((images[0][i][0] == images[1][i][0]).all() for i in range(len(first.samples)))
    with pytest.raises(UserError, match="train.max_pixels"):
        load_split(
            config.model_copy(update={"max_pixels": 1999}),
            known=FileIndex(tmp_path / "files.json"),
        )


def finetuned_on(folder: Path, config_file: Path, *overrides: str) -> None:
    assert train(config_file, f"train.base_dir={folder}", "train.max_epochs=1", *overrides) == 0


def test_the_scale_travels_with_the_run_and_its_weights(finetune: Path, tmp_path: Path) -> None:
    finetuned_on(deep_folder(tmp_path / "p"), finetune, "train.run_name=deep")
    config = yaml.safe_load((tmp_path / "logs/deep/config.yaml").read_text())
    assert config["train"]["greys"] == [0.0, 4095.0]
    net = pretrained.load_model(tmp_path / "weights/deep/best.safetensors")
    assert net.preprocessing.greys == (0.0, 4095.0)
    assert "0 black and 4095 white" in (tmp_path / "logs/deep/run.log").read_text()


def test_another_scale_is_another_token_cache(finetune: Path, tmp_path: Path) -> None:
    folder = f"train.base_dir={deep_folder(tmp_path / 'p')}"
    keys = [plan(finetune, folder, f"train.greys={g}").key for g in ("auto", "[0,4095]", "[0,99]")]
    assert keys[0] == keys[1] != keys[2]


def test_the_report_shows_what_the_network_saw(tmp_path: Path) -> None:
    from inspection.record import read_run
    from inspection.thumbnails import small

    root = deep_folder(tmp_path / "p")
    run = tmp_path / "logs" / "r"
    run.mkdir(parents=True)
    text = yaml.safe_dump({"train": {"base_dir": str(root), "greys": [0, 4095]}})
    (run / "config.yaml").write_text(text)
    record = read_run(run)
    shown = np.asarray(small(root / "dim" / "0.png", record.greys))
    assert (shown == read_image(root / "dim" / "0.png", (0, 4095))).all() and shown.max() < 70


def test_greys_in_the_config_are_two_numbers(config_file: Path) -> None:
    assert "train.greys: 'x' is not [a number, a number] or auto" in fail(
        config_file, "train.greys=x"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_and_colour_weights_and_the_other_way_round(
    finetune: Path, image_folder: Path, tmp_path: Path, channels: int
) -> None:
    from tests.helpers import random_weights

    for path in sorted(image_folder.glob("*/*"))[::2]:
        Image.open(path).convert("L").save(path)
    weights = random_weights(tmp_path / "w.safetensors", input_channels=channels)
    finetuned_on(image_folder, finetune, f"train.checkpoint={weights}", "train.run_name=c")
    net = pretrained.load_model(tmp_path / "weights/c/best.safetensors")
    assert net.vit.input_channels == channels
    assert json.loads((tmp_path / "logs/c/summary.json").read_text())["val_accuracy"] is not None


def test_a_large_picture_is_scaled_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    from decoding import greys as room

    values = (RAMP * 4095).astype(np.uint16)
    whole = room.shown(values, (0, 4095))
    monkeypatch.setattr(room, "ROWS", 170)
    assert (room.shown(values, (0, 4095)) == whole).all()


COLOURED = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], 2)
KINDS = [("a.png", ">", False), ("a.tif", "<", False), ("a.tif", ">", False), ("a.tif", "<", True)]


@pytest.mark.parametrize(("name", "order", "packed"), KINDS)
def test_colours_of_16_bits_have_one_scale_too(
    name: str, order: str, packed: bool, tmp_path: Path
) -> None:
    """A camera's 12 bits, of which the upper 8 of 16 are sixteen levels."""
    for label in "ab":
        for i in range(6):
            values = (COLOURED * (4095 if i else 2000)).round().astype("uint16")
            values[0, 0] = i, ord(label), 0  # no two are the same
            colours(values, tmp_path / "set" / label / f"{i}{name}", order, packed)
    split = load_split(settings(tmp_path / "set", group_duplicates=False))
    assert "12 pictures have greys or colours of more than 8 bits (" in " ".join(split.notes)
    (scale,) = {sample.greys for sample in split.samples}
    assert scale == (0, 4095)
    for sample in split.samples:
        pixels = read_image(sample.path, scale)
        assert (split.decoded[sample.path].permute(1, 2, 0).numpy() == pixels).all()
        most = 255 if sample.path.name[0] != "0" else 125
        assert abs(pixels - COLOURED * most)[1:].max() <= 1


def test_one_picture_s_colours_of_16_bits_use_all_of_them(tmp_path: Path) -> None:
    values = (COLOURED * 30000).astype("uint16")
    pixels = read_image(colours(values, tmp_path / "a.png"))
    assert abs(pixels - values / 257).max() <= 0.5


def test_colours_of_16_bits_are_turned_and_banded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = (COLOURED * 65535).astype("uint16")
    content = colours(values, tmp_path / "a.png").read_bytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
    exif = struct.pack(">I", len(tiff)) + b"eXIf" + tiff
    exif += struct.pack(">I", zlib.crc32(b"eXIf" + tiff))
    (tmp_path / "a.png").write_bytes(content[:33] + exif + content[33:])
    monkeypatch.setattr("images.BAND", 256)
    pixels = read_image(tmp_path / "a.png")
    assert abs(pixels - np.rot90(values, -1) / 257).max() <= 0.5


def test_values_of_two_kinds_are_said(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(6):
            values = (RAMP * 65535).astype("uint16")
            values[0, :2] = i, ord(label)
            saved(values, tmp_path / "set" / label / f"{i}.png")
        saved((RAMP ** ord(label)).astype("float32"), tmp_path / "set" / label / "float.tif")
    said = " ".join(load_split(settings(tmp_path / "set", group_duplicates=False)).notes)
    assert "beware: 2 of them have less than 1/32 of that, and are nearly of one grey" in said
    assert "float.tif" in said
