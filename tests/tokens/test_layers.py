"""What a cache keeps of every block: right, of the plain images, never half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset import make_loaders
from model import cells, summaries
from tests.helpers import CPU, flip, picture, prepared
from tokens.builder import open_cache
from tokens.cache import TokenCache
from tokens.plan import Plan, damage

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.fixture
def made(finetune: Path) -> Callable[..., tuple[Plan, Any, Any, Any]]:
    """A function that makes a cache with layers: its plan, the config, the split, the network."""

    def make(*overrides: str) -> tuple[Plan, Any, Any, Any]:
        options = ["train.views=3", "train.max_epochs=3", "train.test_fraction=0.2", *overrides]
        config, split, net = prepared(finetune, *options)
        return Plan(net, split, config.train), config, split, net.eval()

    return make


def layers_of(plan: Plan, config: Any, split: Any, net: Any, part: str) -> Tensor:
    """In the order of a part's images."""
    cache = open_cache(plan, net, config.train, CPU)
    loader = cache.loaders(plan, split, config.train, CPU)[part]
    return torch.cat([tokens.layers for tokens, _ in loader.plain()])  # type: ignore[union-attr]


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_they_are_what_the_blocks_make_of_the_plain_images(made: Any, blocks: int) -> None:
    """Of each block that is frozen, but for the last, whose patches nothing computes."""
    plan, config, split, net = made(f"train.finetune_blocks={blocks}", "train.views=1")
    loaders = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    for part in ("val", "test"):
        found = layers_of(plan, config, split, net, part)
        images = torch.cat([images for images, _ in loaders[part]])
        with torch.no_grad():
            depths = range(1, min(4 - blocks, 3) + 1)
            seen = [net.forward_trunk(images, d) for d in depths]
            wanted = torch.cat([*map(summaries, seen), cells(seen[-1])], 1)
        assert found.shape == wanted.shape == (len(split.part(part)), 2 * len(depths) + 9, 48)
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_they_are_kept_of_each_view(made: Any) -> None:
    plan, config, _, net = made()
    cache = open_cache(plan, net, config.train, CPU)
    assert cache.layers is not None and len(cache.layers) == len(plan.draws) > 36
    np.testing.assert_array_equal(
        cache.layers[np.arange(len(cache.layers))], fresh((plan, config, None, net))
    )
    assert plan.bytes == sum(f.stat().st_size for f in plan.path.glob("*.bin"))
    assert plan.missing_bytes() == 0


def test_without_frozen_blocks_there_are_none(made: Any) -> None:
    plan, config, _, net = made("train.finetune_blocks=4", "train.views=1")
    assert "layers" not in plan.recipe
    assert plan.bytes == len(plan.draws) * (plan.record.itemsize + 8)
    cache = open_cache(plan, net, config.train, CPU)
    assert cache.layers is None and not (plan.path / "layers.bin").exists()


def test_beyond_half_precision_they_are_its_largest_number(made: Any) -> None:
    """A training that never reads them must not fail by them; standardised they tell as much."""
    plan, config, split, net = made("train.views=1", "train.cache_dtype=float16")
    with torch.no_grad():
        net.blocks[1].mlp.fc2.bias[:2] = torch.tensor([1e6, -1e6])
    plan = Plan(net, split, config.train)
    found = layers_of(plan, config, split, net, "val")
    leaving_block_2 = found[:, 2:4]
    assert (leaving_block_2[..., 0] == 65504).all() and (leaving_block_2[..., 1] == -65504).all()


def test_a_build_that_was_killed_goes_on(made: Any, seen: list[int]) -> None:
    """Whichever of the two files has more than the note of the progress says, or less."""
    plan, config, split, net = made()
    open_cache(plan, net, config.train, CPU)
    whole = {name: (plan.path / name).read_bytes() for name in ("tokens.bin", "layers.bin")}
    total, partial = sum(seen), plan.path.with_suffix(".partial")
    for done, tokens, layers, left in ((20, 25, 22, 20), (20, 20, 12, 12), (50, 50, 55, 50),
                                       (50, 50, 30, 30), (50, 55, 0, 0)):  # fmt: skip
        plan.path.rename(partial)
        (partial / "progress").write_text(str(done))
        sizes = {"tokens.bin": tokens * plan.record.itemsize,
                 "layers.bin": layers * plan.layers.itemsize}  # fmt: skip
        for name, size in sizes.items():
            (partial / name).write_bytes(whole[name][:size])
        del seen[:]
        open_cache(plan, net, config.train, CPU)
        assert sum(seen) == total - left
        assert whole == {name: (plan.path / name).read_bytes() for name in whole}


def test_only_what_is_new_is_computed(made: Any, seen: list[int]) -> None:
    plan, config, split, net = made()
    open_cache(plan, net, config.train, CPU)
    picture("red", 99).save(Path(config.train.base_dir) / "red" / "99.png")
    del seen[:]
    again = made()
    found = layers_of(*again, "val")
    assert 1 <= sum(seen) <= 12, "the new picture, and what moved to another part"
    folder = again[0].path
    kept = TokenCache(folder, again[0].record, again[0].layers)
    assert kept.layers is not None
    np.testing.assert_array_equal(kept.layers[np.arange(len(kept.layers))], fresh(again))
    assert len(found) == len(again[2].part("val"))


def fresh(made: tuple[Plan, Any, Any, Any]) -> Tensor:
    """The layers of a plan, computed again, in its cache's order."""
    plan, config, _, net = made
    ids = (plan.path / "records.txt").read_text().splitlines()
    images = torch.stack([plan.draws[id_][0][plan.draws[id_][1]][0] for id_ in ids])
    from tokens.trunk import Trunk

    layers = Trunk(net, CPU, layers=True)(images).layers
    assert layers is not None
    return layers.to(getattr(torch, config.train.cache_dtype))


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damage_is_found(made: Any, how: str) -> None:
    plan, config, _, net = made()
    open_cache(plan, net, config.train, CPU)
    file = plan.path / "layers.bin"
    if how == "cut":
        with open(file, "r+b") as open_file:
            open_file.truncate(100)
    else:
        file.unlink()
    assert "layers.bin has" in str(damage(plan.path))
    open_cache(plan, net, config.train, CPU)
    assert damage(plan.path) is None
    flip(plan.path / "header.json", 40)
    assert damage(plan.path)
