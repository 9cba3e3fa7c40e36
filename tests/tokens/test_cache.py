"""Reading a cache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import make_loaders
from tests.helpers import CPU, prepared
from tokens.builder import open_cache
from tokens.cache import TokenCache, TokenLoader
from tokens.plan import Plan
from tokens.trunk import Trunk

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def resident() -> tuple[int, int]:
    """This process's bytes in memory: pages of files, and its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}
    return sizes["RssFile:"], sizes["RssAnon:"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 MB of records (a sparse file: no disk is needed) pass through a few megabytes."""
    monkeypatch.setattr("tokens.cache.LARGE_SHARE", 0)
    record = np.dtype([("tokens", "float16", (197, 768)), ("cls", "float32", (768,))])
    (tmp_path / "records.txt").write_text("".join(f"{i}\n" for i in range(2000)))
    with open(tmp_path / "tokens.bin", "wb") as file:
        file.truncate(2000 * record.itemsize)
    cache = TokenCache(tmp_path, record)
    rows = np.arange(2000)[:, None]
    loader = TokenLoader(cache, rows, torch.zeros(2000, dtype=torch.long), 20)
    sizes = []
    for tokens, labels in loader:
        assert (
            tokens.tokens.shape == (20, 197, 768) and tokens.cls is not None and len(labels) == 20
        )
        sizes.append(resident())
    # The first batches warm the allocator up; 490 MB of the file, 970 MB of batches pass by after
    # that. The C library's heap grows by some batches of 12 MB (seen: 5) before it finds its size.
    (files, own), later = sizes[20], sizes[20:]
    assert max(f for f, _ in later) - files < 30e6
    assert max(o for _, o in later) - own < 120e6


def test_batches_are_those_of_the_images(finetune: Path) -> None:
    config, split, net = prepared(finetune, "train.views=3")
    wanted = Plan(net, split, config.train)
    cache = open_cache(wanted, net, config.train, CPU)
    tokens = cache.loaders(wanted, split, config.train, CPU)
    images = make_loaders(split, config.train, net.preprocessing, 3, CPU)
    for epoch in (1, 2, 5):
        for loader in (tokens["train"], images["train"]):
            loader.sampler.epoch = epoch  # type: ignore[union-attr]
        for (cached, labels), (pixels, plain) in zip(tokens["train"], images["train"], strict=True):
            again = Trunk(net, CPU)(pixels).tokens
            torch.testing.assert_close(cached.tokens, again, rtol=1e-4, atol=1e-4)
            assert torch.equal(labels, plain)
