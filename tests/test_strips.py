"""Long strips: what the centre crop can't see is not enlarged, and what it sees is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from config import Preprocessing, TrainConfig
from transforms import eval_transform, train_transform


def plain(preprocessing: Preprocessing) -> v2.Compose:
    """Resized whole, then cut."""
    size, how = preprocessing.image_size, InterpolationMode(preprocessing.interpolation)
    return v2.Compose(
        [
            v2.Resize(round(size / preprocessing.crop), how, antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def waves(h: int, w: int) -> Tensor:
    """A smooth picture, so that half a pixel is a small difference."""
    y, x = torch.meshgrid(torch.arange(h) / 90.0, torch.arange(w) / 70.0, indexing="ij")
    return (127 + 120 * torch.sin(torch.stack([x, y, x + y]))).to(torch.uint8)


@pytest.mark.parametrize("shape", [(40, 50), (224, 224), (31, 400), (300, 21), (64, 1024)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_usual_pictures_are_as_ever(shape: tuple[int, int], interpolation: str) -> None:
    preprocessing = Preprocessing(image_size=32, interpolation=interpolation)  # type: ignore[arg-type]
    picture = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert torch.equal(eval_transform(preprocessing)(picture), plain(preprocessing)(picture))


@pytest.mark.parametrize("shape", [(1000, 17_000), (17_000, 1000), (300, 6001), (333, 7000)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_strip_is_cut_first_and_looks_the_same(
    shape: tuple[int, int], interpolation: str
) -> None:
    preprocessing = Preprocessing(image_size=56, interpolation=interpolation)  # type: ignore[arg-type]
    picture = waves(*shape)
    differences = eval_transform(preprocessing)(picture) - plain(preprocessing)(picture)
    assert differences.abs().mean() < 0.05 and differences.abs().max() < 0.15


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1), (2, 300_000)])
def test_a_thin_line_takes_little(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []
    original = v2.Resize.forward

    def measured(self: v2.Resize, *inputs: Tensor) -> Tensor:
        result = original(self, *inputs)
        largest.append(result.numel())
        return result

    monkeypatch.setattr(v2.Resize, "forward", measured)
    preprocessing, picture = Preprocessing(image_size=224), torch.full((3, *shape), 200).byte()
    found = eval_transform(preprocessing)(picture)
    assert found.shape == (3, 224, 224) and (found == found[0, 0, 0]).all()
    assert max(largest, default=0) < 3 * 224 * 224 * 20
    found = train_transform(preprocessing, TrainConfig())(picture)
    assert found.shape == (3, 224, 224)


def test_a_cache_s_key_is_as_ever() -> None:
    preprocessing = Preprocessing(image_size=224)
    assert repr(eval_transform(preprocessing)) == repr(plain(preprocessing))
