"""The next shards are fetched while a training reads those before them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Preprocessing, TrainConfig
from dataset import make_loaders
from shards.ahead import Ahead, ahead_of, following, how_many
from shards.fetch import Fetcher, Wanted
from shards.place import Source
from tests.file_server import Server, served
from tests.helpers import pictures_of
from tests.shards.helpers import shards_of, split_of
from utils import UserError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    yield from served(monkeypatch)


class Fetching:
    """What fetches nothing, and notes what it was asked for."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[int] = []
        self.fails = fails

    def __call__(self, number: int) -> None:
        self.asked.append(number)
        if self.fails:
            raise UserError("the server answered 503")


def soon(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize("fails", [False, True])
def test_so_many_before_they_are_reached(fails: bool) -> None:
    fetch = Fetching(fails)
    numbers = [4, 4, 2, 4, 2, 7, 7, 1, 1, 9]
    with Ahead(fetch, np.array(numbers, dtype=int), 2) as ahead:  # type: ignore[arg-type]
        assert soon(lambda: sorted(fetch.asked) == [2, 4, 7]), "the first, and two more"
        ahead.reached(1)
        time.sleep(0.05)
        assert len(fetch.asked) == 3
        ahead.reached(2)  # the second shard
        assert soon(lambda: sorted(fetch.asked) == [1, 2, 4, 7])
        ahead.reached(9)
        assert soon(lambda: sorted(fetch.asked) == [1, 2, 4, 7, 9])
    assert soon(lambda: not [t for t in threading.enumerate() if t.name.endswith("(_work)")])


def test_nothing_is_fetched_ahead_of_a_single_shard_or_of_none() -> None:
    fetch = Fetching()
    for numbers in ([], [3, 3, 3]):
        with Ahead(fetch, np.array(numbers, dtype=int), 2) as ahead:  # type: ignore[arg-type]
            ahead.reached(len(numbers))
    with ahead_of([]) as ahead:
        ahead.reached(5)
    assert not fetch.asked


def test_while_an_epoch_is_read(server: Server, tmp_path: Path) -> None:
    """Nothing is read here but the order; the next shards come all the same."""
    out = shards_of(pictures_of(tmp_path / "pictures", 8), tmp_path / "out")
    server.files |= {f"set/{path.name}": path.read_bytes() for path in out.iterdir()}
    address = f"{server.url}/set"
    split = split_of(address, tmp_path / "data")
    train = TrainConfig(base_dir=address, mode="scratch", batch_size=1, shuffle_buffer=1)
    loader = make_loaders(split, train, Preprocessing(image_size=16), 3, torch.device("cpu"))

    def fetched(part: str) -> set[str]:
        return {path.name for path in (tmp_path / "data" / "shards").rglob(f"{part}-*.tar")}

    def there(part: str) -> set[str]:
        return {path.name for path in out.glob(f"{part}-*.tar")}

    loader["train"].sampler.begin(1)  # type: ignore[attr-defined]
    samples, keys = split.part("train"), iter(loader["train"].sampler)
    first = samples[next(keys)[0]].path.parent.name
    assert soon(lambda: len(fetched("train")) == 3), "one stream: two more than what is read"
    assert first in fetched("train") and len(there("train")) > 3 and not fetched("val")
    for index, _ in keys:
        assert soon(lambda i=index: samples[i].path.parent.name in fetched("train"))  # type: ignore[misc]
    assert soon(lambda: fetched("train") == there("train"))
    places = iter(loader["val"].sampler)
    assert next(places) == 0 and soon(lambda: len(fetched("val")) == min(3, len(there("val"))))
    assert [0, *places] == [*range(len(split.part("val")))]


@pytest.mark.parametrize(
    ("room", "streams", "most"), [(4, 1, 0), (5, 1, 1), (9, 1, 2), (20, 16, 0), (99, 16, 17)]
)
def test_none_where_there_is_no_room_for_more(
    tmp_path: Path, room: int, streams: int, most: int
) -> None:
    wanted = [Wanted(Source(tmp_path / "a.tar"), bytes=size) for size in (10, 1_000_000)]
    fetch = Fetcher(wanted, tmp_path, room / 1_000)
    assert fetch.holds() == room and how_many(fetch, streams, 2 * streams) == most
    assert how_many(None, streams, 1) == how_many(Fetcher([], tmp_path, "auto"), streams, 1) == 0


@pytest.mark.parametrize("room", [3, 7])
def test_each_shard_is_fetched_once_where_there_is_room_for_what_is_read(
    server: Server, tmp_path: Path, room: int
) -> None:
    """One stream and a window of one; several threads fetch, and give up what was read."""
    out = shards_of(pictures_of(tmp_path / "pictures", 8), tmp_path / "out")
    server.files |= {f"set/{path.name}": path.read_bytes() for path in out.iterdir()}
    address, data = f"{server.url}/set", tmp_path / "data"
    largest = max(path.stat().st_size for path in out.glob("*.tar"))
    train = TrainConfig(
        base_dir=address, mode="scratch", batch_size=1, shuffle_buffer=1, data=str(data),
        shard_cache=room * largest / 1e9,
    )  # fmt: skip
    split = split_of(address, data, shard_cache=room * largest / 1e9)
    loader = make_loaders(split, train, Preprocessing(image_size=16), 3, torch.device("cpu"))
    server.asked.clear()
    assert sum(len(labels) for _, labels in loader["train"]) == len(split.part("train"))
    asked = [path for path, _ in server.asked if path.endswith(".tar")]
    assert sorted(asked) == sorted(f"set/{path.name}" for path in out.glob("train-*.tar"))
    kept = sum(path.stat().st_size for path in data.rglob("*.tar"))
    assert kept <= room * largest


def test_too_little_room_is_said(
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shards_of(pictures_of(tmp_path / "pictures", 8), tmp_path / "out")
    server.files |= {f"set/{path.name}": path.read_bytes() for path in out.iterdir()}
    split = split_of(f"{server.url}/set", tmp_path / "data", shard_cache=1e-5)
    monkeypatch.setattr("utils.log.propagate", True)
    following(split.part("train"), 2, 1)  # type: ignore[arg-type]
    assert "are read side by side: they are fetched again and again" in caplog.text
