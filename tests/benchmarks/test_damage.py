"""The harness that damages a run: it must be able to tell."""

from __future__ import annotations

import faulthandler
import os
import random
from pathlib import Path

import pytest

from benchmarks.damage import hurt, judged
from benchmarks.disk_full import fill
from benchmarks.small_world import Outcome, in_a_child
from utils import UserError


def raises(error: BaseException) -> None:
    raise error


def aborts() -> None:
    faulthandler.disable()  # pytest's: its dump in a passing run looks like a crash of that
    os.abort()


def test_what_a_child_comes_to() -> None:
    assert in_a_child(lambda: [1, 2]).value == [1, 2]
    assert in_a_child(lambda: raises(UserError("so"))).kind == "sentence"
    assert in_a_child(lambda: raises(ValueError("so"))).kind == "traceback"
    assert in_a_child(lambda: raises(OSError(28, "full"))).kind == "sentence"
    assert in_a_child(aborts).kind == "killed"


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(value=1), "same result"),
        (Outcome(value=2), "silently other"),
        (Outcome(value=2, said="split.csv is not as the run wrote it"), "sentence"),
        (Outcome(kind="sentence", error="so"), "sentence"),
        (Outcome(kind="traceback", error="so"), "traceback"),
        (Outcome(kind="hangs"), "traceback"),
        (Outcome(kind="killed"), "traceback"),
    ],
)
def test_judged(outcome: Outcome, kind: str) -> None:
    assert judged(outcome, 1) == kind


def test_hurt_changes_one_byte_or_the_length(tmp_path: Path) -> None:
    path, whole = tmp_path / "a", bytes(range(100))
    for seed in range(20):
        path.write_bytes(whole)
        place = hurt(path, "flip", random.Random(seed))
        found = path.read_bytes()
        assert [i for i in range(100) if found[i] != whole[i]] == [place]
        path.write_bytes(whole)
        place = hurt(path, "cut", random.Random(seed))
        assert path.read_bytes() == whole[:place]


def test_fill_stops_where_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "not there" / "a")
    assert not list(tmp_path.iterdir())
