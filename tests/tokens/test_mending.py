"""A finished cache that is not what was written is mended: a run ends as it would have ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import CPU, flip, plan, prepared, train
from tokens.builder import open_cache
from tokens.cache import TokenCache
from tokens.plan import Plan, damage
from tokens.records import SUMS, Damaged, Records, checksum
from utils import UserError

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def cut(file: Path, size: int) -> None:
    with open(file, "r+b") as opened:
        opened.truncate(size)


@pytest.fixture
def made(finetune: Path) -> tuple[Plan, Any]:
    """A plan with its cache made, and a way to open it again."""
    config, split, net = prepared(finetune)
    wanted = Plan(net, split, config.train)

    def opened() -> TokenCache:
        return open_cache(wanted, net, config.train, CPU)

    opened()
    return wanted, opened


def everything(cache: TokenCache) -> list[np.ndarray]:
    return [records[np.arange(len(records))] for records in cache.files().values()]


# With float32 and 36 records of 17 x 48: flips in several records, several of one, both ends.
@pytest.mark.parametrize("name", ["tokens.bin", "layers.bin", "sums.bin"])
def test_flipped_bytes_are_found_and_put_right(
    made: tuple[Plan, Any], seen: list[int], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, opened = made
    whole, clean = contents(wanted.path), everything(opened())
    file = wanted.path / name
    size = file.stat().st_size
    places = {0, size // 3, size // 3 + 1, size // 2, size - 1}
    for place in places:
        flip(file, place)
    each = size // 36
    rows = {place // each for place in places}
    before = torch.get_rng_state()
    for kept, again in zip(clean, everything(opened()), strict=True):
        assert np.array_equal(kept, again)
    assert contents(wanted.path) == whole
    assert f"{len(rows)} of its 36 records are not what was written" in caplog.text
    assert "png" in caplog.text and 0 < len(seen) <= 2 and len(rows) >= 3
    assert torch.equal(before, torch.get_rng_state()), "a run goes on as if nothing had been"


def test_a_run_over_a_damaged_cache_ends_as_over_a_whole_one(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "train.run_name=a")
    path = plan(finetune).path
    for name, place in (("tokens.bin", 40_000), ("layers.bin", 3_000), ("tokens.bin", 90_000)):
        flip(path / name, place)
    capsys.readouterr()
    train(finetune, "train.run_name=b")
    said = capsys.readouterr().out
    assert "they are computed again" in said and "bit by bit they are as they were" in said
    one, other = (finetune.parent / "weights" / run / "best.safetensors" for run in ("a", "b"))
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("head", ["layers", "both"])
def test_what_is_read_at_the_end_alone_is_put_right_then(
    finetune: Path, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    """The augmented views of a validation picture, by when a head over layers is frozen as well."""
    options = (f"train.head={head}", "train.refit=true", "train.views=2", "train.max_epochs=2")
    train(finetune, *options, "train.run_name=a")
    [path] = (finetune.parent / "data/cache").glob("*/tokens.bin")
    for name in ("tokens.bin", "layers.bin"):
        file = path.with_name(name)
        flip(file, file.stat().st_size - 5)
    capsys.readouterr()
    assert train(finetune, *options, "train.run_name=b") == 0
    assert "bit by bit they are as they were" in capsys.readouterr().out
    one, other = (finetune.parent / "weights" / run / "best.safetensors" for run in ("a", "b"))
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["header.json", "records.txt"])
def test_a_flip_in_what_describes_it_makes_it_anew(
    made: tuple[Plan, Any], seen: list[int], name: str
) -> None:
    wanted, opened = made
    whole = contents(wanted.path)
    for place in (0, len(whole[name]) // 2, len(whole[name]) - 1):
        del seen[:]
        flip(wanted.path / name, place)
        assert damage(wanted.path)
        opened()
        assert sum(seen) == 36 and contents(wanted.path) == whole


@pytest.mark.parametrize("name", ["tokens.bin", "layers.bin", "sums.bin"])
def test_of_a_cut_file_only_what_is_missing_is_made(
    made: tuple[Plan, Any], seen: list[int], name: str
) -> None:
    wanted, opened = made
    whole = contents(wanted.path)
    for share in (0, 0.4, 0.999):
        del seen[:]
        cut(wanted.path / name, int(share * len(whole[name])))
        opened()
        assert sum(seen) == 36 - int(share * 36) and contents(wanted.path) == whole
    del seen[:]
    (wanted.path / name).write_bytes(whole[name] + b"more")
    opened()
    assert not seen and contents(wanted.path) == whole


@pytest.mark.parametrize("name", ["tokens.bin", "layers.bin"])
def test_a_file_that_is_cut_while_it_is_in_use(made: tuple[Plan, Any], name: str) -> None:
    """A memory map would end the process by SIGBUS."""
    wanted, opened = made
    cache = opened()
    cache.read(np.arange(4))
    cut(wanted.path / name, 5000)
    with pytest.raises(UserError, match=f"{name} was cut while it was in use; run again"):
        cache.read(np.arange(36))


def test_an_older_cache_gets_its_checksums(
    made: tuple[Plan, Any], seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    wanted, opened = made
    whole = contents(wanted.path)
    as_it_was(wanted.path)
    assert opened().sums is not None and not seen and contents(wanted.path) == whole
    assert "has no checksums yet" in caplog.text
    flip(wanted.path / "tokens.bin", 7)
    everything(opened())
    assert contents(wanted.path) == whole


def as_it_was(folder: Path) -> None:
    """Make of a cache one of a version that had no checksums."""
    from tokens.plan import sha256

    (folder / "sums.bin").unlink()
    content = json.loads((folder / "header.json").read_text())["content"]
    del content["sums_bytes"]
    header = {"content": content, "sha256": sha256(content)}
    (folder / "header.json").write_text(json.dumps(header, indent=2) + "\n")


def test_an_older_cache_that_can_not_be_written_to_is_read_as_it_is(
    made: tuple[Plan, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, opened = made
    as_it_was(wanted.path)

    def closed(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "sums.bin")

    monkeypatch.setattr("tokens.mending._write_sums", closed)
    cache = opened()
    assert cache.sums is None and len(cache.read(np.arange(36)).tokens) == 36


def test_damage_that_can_not_be_written_over(
    made: tuple[Plan, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, opened = made
    flip(wanted.path / "tokens.bin", 7)

    def closed(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(wanted.path / "tokens.bin"))

    monkeypatch.setattr("tokens.mending._put", closed)
    with pytest.raises(UserError, match="tokens.bin can't be written to, and records of"):
        opened().read(np.arange(36))


def test_without_the_network_a_damaged_record_is_a_sentence(made: tuple[Plan, Any]) -> None:
    wanted, _ = made
    flip(wanted.path / "tokens.bin", 5 * wanted.record.itemsize)
    cache = TokenCache(wanted.path, wanted.record, wanted.layers)
    assert len(cache.read(np.array([4, 6])).tokens) == 2
    with pytest.raises(Damaged, match=f"record 5 is not what .* rm {wanted.key} --data"):
        cache.read(np.array([4, 5]))


def test_what_is_damaged_is_not_copied_into_another_cache(
    finetune: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "train.run_name=a")
    flip(plan(finetune).path / "tokens.bin", 500)
    (finetune.parent / "images/red/03.png").unlink()  # another set of records: another cache
    del seen[:]
    capsys.readouterr()
    train(finetune, "train.run_name=b")
    said = capsys.readouterr().out
    assert "what was to be copied of it is computed" in said, said
    assert sum(seen) == 35


def test_a_mended_record_that_differs_is_said(
    made: tuple[Plan, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As where another machine made the cache."""
    wanted, opened = made
    size = wanted.record.itemsize
    sums = np.fromfile(wanted.path / "sums.bin", SUMS)
    sums["tokens"][3] ^= 1
    sums.tofile(wanted.path / "sums.bin")
    flip(wanted.path / "tokens.bin", 3 * size + 8)
    opened().read(np.arange(36))
    assert "1 of them have another checksum" in caplog.text
    assert not list(
        Records(
            wanted.path / "tokens.bin",
            wanted.record,
            np.fromfile(wanted.path / "sums.bin", SUMS)["tokens"],
        ).damaged()
    )


@pytest.mark.parametrize("size", [1, 7, 255, 256, 3264, 305_664])
def test_every_flipped_bit_changes_the_checksum(size: int) -> None:
    record = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    before = checksum(record)
    for place in {*range(0, size, max(1, size // 97)), size - 1}:
        for bit in (1, 16, 128):
            record[place] ^= bit
            assert checksum(record) != before
            record[place] ^= bit
    assert checksum(record) == before == checksum(record.copy())
    assert checksum(np.zeros(size, np.uint8)) != 0, "a block that never came to the disk"


def test_a_build_goes_on_from_what_has_its_checksums(
    made: tuple[Plan, Any], seen: list[int]
) -> None:
    wanted, opened = made
    whole = contents(wanted.path)
    partial = wanted.path.with_suffix(".partial")
    os.replace(wanted.path, partial)
    (partial / "progress").write_text("20")
    cut(partial / "sums.bin", 12 * SUMS.itemsize + 3)
    opened()
    assert sum(seen) == 24 and contents(wanted.path) == whole
