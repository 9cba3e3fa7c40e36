"""A split: every picture once, no class lost, groups together; the same whatever the order of the
files, and nearly so when there are more of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from hypothesis import assume
from hypothesis import strategies as st

from config import TrainConfig
from images import Sample
from layout.draw import assign_parts
from tests.properties.helpers import holds
from utils import UserError

NAMES = ("a", "b", "c")


@st.composite
def sets(draw: st.DrawFn) -> list[Sample]:
    """Pictures of three classes, some of them copies, some in groups of one class."""
    found = []
    for label in range(len(NAMES)):
        for i in range(draw(st.integers(4, 14))):
            digest = f"{label}{i if draw(st.integers(0, 9)) else 0:03}"
            path = Path(f"{NAMES[label]}/{i:03}.png")
            sample = Sample(path, label, "", digest)
            # Copies share their group, as layout.groups has it.
            grouped = draw(st.integers(0, 3)) == 0 and not digest.endswith("000")
            found.append(replace(sample, group=f"{label}000") if grouped else sample)
    return found


TRAINS = st.builds(
    TrainConfig,
    seed=st.integers(0, 10**9),
    val_fraction=st.floats(0.05, 0.4),
    test_fraction=st.one_of(st.none(), st.floats(0.05, 0.4)),
)


def drawn(samples: list[Sample], train: TrainConfig) -> list[Sample]:
    try:
        return assign_parts(samples, NAMES, train, [])
    except UserError:  # too few groups of a class
        assume(False)
        raise


@holds(60, 3000, samples=sets(), train=TRAINS)
def test_every_picture_is_in_one_part_and_every_class_in_each(
    samples: list[Sample], train: TrainConfig
) -> None:
    split = drawn(samples, train)
    assert [s.path for s in split] == [s.path for s in samples]
    parts = ["train", "val"] + ["test"] * bool(train.test_fraction)
    assert {s.part for s in split} <= {*parts}
    for label in range(len(NAMES)):
        assert {s.part for s in split if s.label == label} == {*parts}
    for key in ("group", "sha256"):
        where = {(getattr(s, key), s.part) for s in split}
        assert len(where) == len({name for name, _ in where}), f"a {key} is in two parts"


@holds(40, 2000, samples=sets(), train=TRAINS, data=st.data())
def test_the_order_of_the_files_is_nothing_to_it(
    samples: list[Sample], train: TrainConfig, data: st.DataObject
) -> None:
    one = {s.path: s.part for s in drawn(samples, train)}
    mixed = data.draw(st.permutations(samples))
    assert {s.path: s.part for s in drawn(mixed, train)} == one


@holds(40, 2000, samples=sets(), train=TRAINS, more=st.integers(1, 3))
def test_few_pictures_move_when_others_come(
    samples: list[Sample], train: TrainConfig, more: int
) -> None:
    before = {s.path: s.part for s in drawn(samples, train)}
    new = [Sample(Path(f"a/new{i}.png"), 0, "", f"new{i}") for i in range(more)]
    after = {s.path: s.part for s in drawn([*samples, *new], train)}
    moved = Counter(path.parts[0] for path in before if after[path] != before[path])
    sizes = Counter(s.group for s in samples)
    assert moved["b"] == moved["c"] == 0, "the other classes are as they were"
    # Each that comes takes the place of a group at most, in each part that is cut.
    assert moved["a"] <= 2 * more * max(sizes.values()) * (1 + bool(train.test_fraction))
