"""The trunk's pass gives what the network gives."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from config import ViTConfig
from model import Tail, VisionTransformer
from tests.helpers import CPU, DEEP, TINY_VIT
from tokens.trunk import HalfBlock, PackedBlock, Trunk, in_turn, packed

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def frozen(depth: int) -> tuple[VisionTransformer, Tensor]:
    """A small network whose first blocks are frozen, and images for it."""
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**DEEP, num_classes=3)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    net.freeze_trunk(depth)
    images = torch.randn(5, 3, 32, 32)
    return net, images


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_bfloat16_is_the_same_from_the_cache(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        single, half = (Trunk(net, CPU, bf16)(images) for bf16 in (False, True))
        with torch.autocast("cpu", torch.bfloat16):
            plain, cached = net(images), Tail(net)(half)
    assert plain.dtype == torch.bfloat16 and not torch.equal(single.tokens, half.tokens)
    torch.testing.assert_close(cached, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_packed_blocks_equal_the_plain_ones(gelu: str) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(num_classes=3, hidden_dim=192, num_heads=3, num_layers=3, ff_dim=768, gelu=gelu)
    blocks: list[Any] = list(VisionTransformer(vit).blocks)
    quick = packed(blocks, 4, 197, CPU)
    if torch.backends.mkldnn.is_available():
        assert all(isinstance(block, PackedBlock) for block in quick)
    x = y = torch.randn(3, 197, 192)
    with torch.no_grad():
        for plain, block in zip(blocks, quick, strict=True):
            x, y = plain(x), block(y)
    assert (x - y).norm() < 2e-6 * x.norm()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN's products")
@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_half_blocks_are_as_near_to_float32_as_autocast_is(
    monkeypatch: pytest.MonkeyPatch, gelu: str
) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(num_classes=3, hidden_dim=192, num_heads=3, num_layers=3, ff_dim=768, gelu=gelu)
    blocks: list[Any] = list(VisionTransformer(vit).blocks)
    half = packed(blocks, 4, 197, CPU, bf16=True)
    assert all(isinstance(block, HalfBlock) for block in half)
    x = y = z = given = torch.randn(5, 197, 192)
    before = given.clone()
    with torch.no_grad():
        for plain, block in zip(blocks, half, strict=True):
            x, y = plain(x), block(y)
            with torch.autocast("cpu", torch.bfloat16):
                z = plain(z)
        monkeypatch.setattr("tokens.trunk.SCORES_BYTES", 1)
        one_by_one = given
        for block in half:
            one_by_one = block(one_by_one)
    assert torch.equal(given, before), "what came in is as it was"
    apart, autocast_apart = (x - y).norm() / x.norm(), (x - z).norm() / x.norm()
    assert 1e-4 < apart < 1.2 * autocast_apart < 1e-2 and y.dtype == torch.float32
    torch.testing.assert_close(one_by_one, y, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fault", ["absent", "wrong"])
def test_without_packed_products_the_plain_blocks_are_used(
    monkeypatch: pytest.MonkeyPatch, fault: str, bf16: bool
) -> None:
    def call(self: Any, x: Tensor) -> Tensor:
        if fault == "absent":
            raise NotImplementedError("no such operator")
        return (1.05 if bf16 else 1.001) * self.block(x)

    monkeypatch.setattr(HalfBlock if bf16 else PackedBlock, "__call__", call)
    blocks: list[Any] = list(VisionTransformer(ViTConfig(**TINY_VIT, num_classes=3)).blocks)
    assert packed(blocks, 4, 17, CPU, bf16) is blocks


@pytest.mark.parametrize("depth", [0, 3, 4])
def test_the_tail_of_the_trunk_is_the_network(depth: int) -> None:
    net, images = frozen(depth)
    with torch.no_grad():
        torch.testing.assert_close(
            Tail(net)(Trunk(net, CPU)(images)), net(images), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [0, 3, 4, 8, 11, 12, 22, 28])
def test_batches_at_once_give_what_they_give_one_by_one(
    cores: Callable[[int], None], threads: int, images: int
) -> None:
    net, _ = frozen(3)
    trunk = Trunk(net, CPU, layers=True)
    trunk.batch_size = 4
    batches = list(torch.randn(images, 3, 32, 32).split(4)) if images else []
    cores(threads)
    found = list(in_turn(trunk, iter(batches), images))
    assert torch.get_num_threads() == threads and len(found) == len(batches)
    for tokens, each in zip(found, batches, strict=True):
        alone = trunk(each)
        for name in ("tokens", "cls", "layers"):
            assert torch.equal(getattr(tokens, name), getattr(alone, name)), name


def threads_of(trunk: Trunk, images: Tensor, count: int) -> list[int]:
    """How many each batch takes."""
    found: list[tuple[int, int]] = []

    def counted(x: Tensor) -> Tensor:
        found.append((len(x), torch.get_num_threads()))
        return x

    trunk.blocks = [counted]
    list(in_turn(trunk, images[:1].expand(count, -1, -1, -1).split(trunk.batch_size), count))
    return [threads for _, threads in sorted(found, reverse=True)]


def test_each_core_takes_batches_of_its_own(cores: Callable[[int], None]) -> None:
    """What is left over for one core alone takes all of them, as do one batch and one that is not
    whole, wherever it comes: of few rows a product's last bits are others by the threads."""
    net, images = frozen(3)
    trunk = Trunk(net, CPU)
    trunk.batch_size = 5
    for threads, count, wanted in (
        (2, 25, [2, 1, 1, 1, 1]),
        (2, 23, [1, 1, 1, 1, 2]),
        (2, 18, [2, 1, 1, 2]),
        (2, 5, [2]),
        (2, 8, [2, 2]),
        (4, 10, [2, 2]),
        (8, 25, [8, 2, 2, 2, 2]),
        (24, 200, [24] * 4 + [2] * 36),
        (1, 15, [1, 1, 1]),
    ):
        cores(threads)
        assert sorted(threads_of(trunk, images, count)) == sorted(wanted), (threads, count)
    cores(2)
    assert threads_of(trunk, images, 13)[-1] == 2, "the short one"


def test_where_rows_are_few_each_batch_takes_all_cores(cores: Callable[[int], None]) -> None:
    net, images = frozen(4)  # the last block, too, whose products have a row a picture
    cores(2)
    trunk = Trunk(net, CPU)
    assert trunk.by_core
    net.vit = net.vit.model_copy(update={"ff_dim": 38 << 18})
    trunk = Trunk(net, CPU)
    assert trunk.batch_size < 16 and not trunk.by_core
    assert threads_of(trunk, images, 3 * trunk.batch_size) == [2] * 3


def test_what_was_read_before_a_picture_that_can_t_be_read_is_given(
    cores: Callable[[int], None],
) -> None:
    net, _ = frozen(3)
    trunk = Trunk(net, CPU)
    trunk.batch_size = 4
    cores(2)
    images = torch.randn(28, 3, 32, 32)

    def reading() -> Iterator[Tensor]:
        yield from images[:20].split(4)
        raise OSError("gone")

    found = in_turn(trunk, reading(), 28)
    got = [next(found) for _ in range(5)]
    with pytest.raises(OSError, match="gone"):
        next(found)
    assert all(
        torch.equal(tokens.tokens, trunk(batch).tokens)
        for tokens, batch in zip(got, images[:20].split(4), strict=True)
    )
    assert torch.get_num_threads() == 2


def test_a_stop_waits_for_no_batch(cores: Callable[[int], None]) -> None:
    """Those that are begun end behind the block that they are in; what was to come is not begun."""
    net, images = frozen(3)
    trunk = Trunk(net, CPU)
    trunk.batch_size = 5
    cores(2)
    begun, number = threading.Semaphore(0), itertools.count()
    passed: list[int] = []
    plain = trunk.blocks[0]

    def held(x: Tensor) -> Tensor:
        passed.append(0)
        if next(number):  # not the first
            begun.release()
            until = time.monotonic() + 10
            while not trunk.is_left and time.monotonic() < until:
                time.sleep(0.01)
        return plain(x)

    def later(x: Tensor) -> Tensor:
        passed.append(1)
        return x

    def stopping() -> Iterator[Tensor]:
        yield from [images] * 3
        assert begun.acquire(timeout=10) and begun.acquire(timeout=10)
        raise KeyboardInterrupt

    trunk.blocks = [held, later, later]
    with pytest.raises(KeyboardInterrupt):
        list(in_turn(trunk, stopping(), 40))
    assert passed.count(0) == 3 and passed.count(1) == 2, "of the first batch alone"
    assert torch.get_num_threads() == 2 and not trunk.is_left


def test_what_fails_in_a_batch_is_raised(cores: Callable[[int], None]) -> None:
    net, images = frozen(3)
    trunk = Trunk(net, CPU)
    trunk.batch_size = 5
    cores(2)
    with pytest.raises(RuntimeError, match="size"):
        list(in_turn(trunk, [images, images[..., :16], images, images], 20))
    assert torch.get_num_threads() == 2
