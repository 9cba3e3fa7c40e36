"""head: auto and views: auto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from config_file import load_config
from engine.heads import some_of_each
from engine.kinds import KINDS, Unseen
from tests.helpers import quick, summary, train


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """These pictures are as many as those whose views are probed."""
    monkeypatch.setattr("config.FEW", 0)


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "views"), [(0.2, 4), (-0.2, 1)])
def test_a_second_view_of_all_is_made_where_some_gained_by_it(
    finetune: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[int],
    capsys: pytest.CaptureFixture[str],
    gain: float,
    views: int,
) -> None:
    """And of val, too, where it is learned in the end. Three epochs use three of four."""
    quick(monkeypatch)
    monkeypatch.setattr("engine.look.PROBED", 9)
    monkeypatch.setattr("engine.look.LEAST_WRONG", -1)
    rounds = iter(
        (0.0, 0.0, gain, 0.0, gain)
    )  # all pictures, then some with one view, with two, ...

    def answers(net: Any, loader: Any, *rest: Any) -> Unseen:
        uneven = torch.linspace(0.9, 1.1, len(loader.dataset))
        losses = (1 - next(rounds)) * uneven
        likely = torch.full((len(losses), 3), -9.0)
        likely[torch.arange(len(losses)), loader.dataset] = -losses
        return Unseen(dict.fromkeys(KINDS, likely), loader.dataset, 1.0)

    monkeypatch.setattr("engine.look.unseen_answers", answers)
    options = ("train.head=both", "train.lr=auto", "train.views=auto", "train.refit=auto")
    train(finetune, *options)
    trained, val = (summary(finetune)["images"][part] for part in ("train", "val"))
    more = 2 * (trained + val) - 9 if views == 4 else 0  # those tried are not computed again
    assert sum(seen) == trained + val + 9 + more
    assert summary(finetune)["chosen"]["views"] == views
    said = capsys.readouterr().out
    assert (": all get 4" in said) == (views == 4) and (": one does" in said) == (views == 1)


@pytest.mark.slow
def test_where_nearly_all_is_right_no_views_are_tried(
    finetune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    monkeypatch.setattr("engine.look.LEAST_WRONG", 1.0)
    monkeypatch.setattr("engine.look.views_that_pay", lambda work: pytest.fail("tried"))
    train(finetune, "train.head=both", "train.lr=auto", "train.views=auto")
    assert summary(finetune)["chosen"]["views"] == 1


def test_each_class_has_its_share() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    chosen = some_of_each(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [11, 6, 3]
    assert len(some_of_each(labels, 500)) == 100 and list(chosen) == sorted(chosen)
    rare = np.array([0] * 900 + [1] * 98 + [2] * 2)  # all folds need each class
    assert np.bincount(rare[some_of_each(rare, 20)]).tolist()[1:] == [3, 2]
    assert np.bincount(rare[some_of_each(rare, 4)]).tolist() == [3, 3, 2]


@pytest.mark.slow
def test_no_room_for_more_views_is_said(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any is made, and one is what summary.json says then."""
    quick(monkeypatch)
    monkeypatch.setattr("engine.look.LEAST_WRONG", -1)
    monkeypatch.setattr(
        "tokens.plan.Plan.lacks_room", lambda plan: "9 GB of 1" * (len(plan.draws) > 36)
    )
    train(finetune, "train.head=both", "train.lr=auto", "train.views=auto")
    assert "views auto: one, as the tokens of 4 would take 9 GB of 1" in capsys.readouterr().out
    assert summary(finetune)["chosen"]["views"] == 1


@pytest.mark.slow
def test_of_few_pictures_views_are_made_at_once(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And looked at; where the disk has no room for them, half as many, or one."""
    quick(monkeypatch)
    monkeypatch.setattr("config.FEW", 400)
    monkeypatch.setattr("engine.look.views_that_pay", lambda work: pytest.fail("tried"))
    options = ("train.head=both", "train.lr=1e-3", "train.views=auto", "train.max_epochs=16")
    train(finetune, *options)
    assert views_of(finetune, "tiny") == 16
    assert "views auto: 16 of each picture that is learned" in capsys.readouterr().out
    for room, views in ((36 * 5, 4), (36, 1)):
        lacks = lambda plan, room=room: "9 GB of 1" * (len(plan.draws) > room)  # noqa: E731
        monkeypatch.setattr("tokens.plan.Plan.lacks_room", lacks)
        train(finetune, *options, f"train.run_name=room{room}")
        assert views_of(finetune, f"room{room}") == views
        said = capsys.readouterr().out
        assert f"as the tokens of {2 * views} would take 9 GB of 1" in said


@pytest.mark.parametrize(
    "head, epochs, views", [("layers", 1, 16), ("both", 3, 3), ("class", 3, 3)]
)
def test_an_epoch_uses_one_view_and_a_head_that_is_solved_for_all(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, head: str, epochs: int, views: int
) -> None:
    quick(monkeypatch)
    monkeypatch.setattr("config.FEW", 400)
    options = (f"train.head={head}", "train.lr=1e-3", "train.views=auto")
    train(finetune, *options, f"train.max_epochs={epochs}", "train.refit=false")
    said = views_of(finetune, "tiny")
    assert said == ("auto" if head == "class" else views)
    [cache] = (finetune.parent / "data/cache").glob("*/records.txt")
    learned, held_out = (summary(finetune)["images"][part] for part in ("train", "val"))
    assert len(cache.read_text().split()) == learned * views + held_out


def views_of(config_file: Path, run: str) -> int | str:
    return load_config(config_file.parent / f"logs/{run}/config.yaml")[0].train.views


@pytest.mark.slow
def test_a_transform_of_ones_own_is_used(
    finetune: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    """Whoever names one wants more than one view."""
    quick(monkeypatch)
    monkeypatch.setattr("engine.look.leads", lambda unseen: False)
    own = "train.transform=torchvision.transforms.v2:RandomHorizontalFlip"
    train(finetune, "train.head=auto", "train.lr=auto", "train.views=auto", own)
    assert sum(seen) == 36 + 2 * summary(finetune)["images"]["train"]
