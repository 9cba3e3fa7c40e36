"""Files made wrong by a seed: no reader raises anything but what it documents."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from random import Random

import pytest

from benchmarks import fuzz
from benchmarks.mutations import mutated
from benchmarks.readers import READERS, Reader

SLOW = {"safetensors", "tools.show", "config.json", "preprocessor_config.json", "config.yaml"}
SLOW |= {reader.name for reader in READERS if reader.name.startswith(("npz", "PyTorch"))}


def reader_of(name: str) -> Reader:
    return next(reader for reader in READERS if reader.name == name)


@pytest.fixture(autouse=True)
def quiet() -> object:
    logging.disable()
    ways = (signal.SIGALRM, signal.SIGPROF)
    before = [signal.signal(way, fuzz.ring) for way in ways]
    yield
    for way, handler in zip(ways, before, strict=True):
        signal.signal(way, handler)
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_what_is_right_is_accepted(tmp_path: Path, name: str) -> None:
    reader = reader_of(name)
    path = tmp_path / "r" / reader.file
    path.parent.mkdir(parents=True)
    for seed in reader.seeds():
        path.write_bytes(seed)
        reader.read(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_what_is_wrong_ends_in_documented_errors(tmp_path: Path, name: str) -> None:
    reader, found = reader_of(name), []
    path = tmp_path / "r" / reader.file
    path.parent.mkdir(parents=True)
    seeds = reader.seeds()
    path.write_bytes(seeds[0])
    reader.read(path)
    for number in range(80 if name in SLOW else 300):
        path.write_bytes(fuzz.input_of(reader, seeds, 1, number))
        found.append(fuzz.outcome_of(reader, path))
    assert {outcome for outcome, _ in found} <= {"accepted", "documented"}, found
    assert "documented" in {outcome for outcome, _ in found} or name == "predictions.csv"


def test_an_input_is_the_same_again() -> None:
    for reader in (reader_of("npz"), reader_of("config.yaml")):
        seeds = reader.seeds()
        assert fuzz.input_of(reader, seeds, 0, 7) == fuzz.input_of(reader, seeds, 0, 7)
        assert len({fuzz.input_of(reader, seeds, 0, n) for n in range(20)}) > 10


def fragile(path: Path) -> None:
    """Fails, hangs and dies by what a file begins with."""
    import os
    import time

    start = path.read_bytes()[:1]
    if start < b"\x30":
        raise KeyError(start)
    if start == b"\x7f":
        time.sleep(60)
    if start == b"\xff":
        os._exit(3)


@pytest.mark.slow
def test_what_is_not_as_it_should_be_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "GRACE", 1)
    monkeypatch.setattr(fuzz, "MOST_KEPT", 200)
    reader = Reader("fragile", "f", lambda: [b"a"], (), fragile)
    tally = fuzz.fuzz(reader, 200, seed=0, keep=tmp_path)
    assert tally.inputs == 200 and tally.hangs and tally.deaths and tally.undocumented
    assert any(place.startswith("KeyError test_fuzz.py") for place in tally.places)
    wrong = tally.hangs + tally.deaths + tally.undocumented
    assert len(list(tmp_path.iterdir())) == wrong == sum(tally.places.values())
    assert tally.accepted + wrong == 200


def test_a_mutation_that_can_not_be_made_is_another() -> None:
    def never(rng: Random, content: bytes, seeds: object) -> bytes:
        raise ValueError

    found = {mutated(Random(i), [b"some bytes"], [never]) for i in range(30)}
    assert len(found) > 10
