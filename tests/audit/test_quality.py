from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from audit.quality import faults, look, looks
from images import Sample
from utils import UserError, sha256_of


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


WAVE = (127 + 100 * np.sin(np.arange(300) / 40)).astype(np.uint8)
BAD = {
    "blank": np.full((120, 120, 3), 200, np.uint8),
    "tiny": textured(20, 20),
    "very dark": (textured(120, 120) // 12).astype(np.uint8),
    "a strip": textured(1200, 120),
    "blurred": np.tile(WAVE[None, :, None], (300, 1, 3)),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_teaches_little_is_named(kind: str) -> None:
    others = [look(blurred(textured(200, 150, i), 0.5 + 0.1 * i)) for i in range(12)]
    *fine, fault = faults([*others, look(BAD[kind])])
    assert fine == [None] * 12
    assert fault is not None
    assert fault[1].startswith(kind)
    assert fault[0] >= 1


def test_a_set_of_soft_pictures_is_not_blurred() -> None:
    soft = [look(blurred(textured(200, 150, i), 2 + 0.05 * i)) for i in range(12)]
    assert faults(soft) == [None] * 12


def test_no_pictures_have_no_faults() -> None:
    assert faults([]) == []


def test_what_was_looked_at_is_not_read_again(tmp_path: Path) -> None:
    samples = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(textured(60, 60, i)).save(path)
        samples.append(Sample(path, 0, "train", sha256_of(path)))
    found = looks(samples, tmp_path / "quality.csv")
    for sample in samples:
        sample.path.unlink()
    assert looks(samples, tmp_path / "quality.csv") == found
    (tmp_path / "quality.csv").unlink()
    with pytest.raises(UserError, match="png was changed while it was in use; run again"):
        looks(samples, tmp_path / "quality.csv")


@pytest.mark.parametrize("text", ["", "sha256\n1\n", "\x00\x00", "sha256,width\nx,y\n"])
def test_a_damaged_table_is_made_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(textured(60, 60)).save(path)
    (tmp_path / "quality.csv").write_text(text)
    [found] = looks([Sample(path, 0, "train", sha256_of(path))], tmp_path / "quality.csv")
    assert (found.width, found.height) == (60, 60)
