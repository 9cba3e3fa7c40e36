"""Runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inspection.record import read_run
from tests.tools.helpers import made_up, make_run
from tests.tools.test_report import Page, without_curves
from tools import compare


def compared(tmp_path: Path, *runs: Path) -> str:
    for run in runs:
        without_curves(run)
    compare.write_comparison([read_run(run) for run in runs], tmp_path / "out.html")
    return (tmp_path / "out.html").read_text()


def all_right_but(wrong: int) -> list[list[Any]]:
    rows = made_up(["a", "b"], 200, right=1)
    for row in rows[:wrong]:
        row[3] = "a" if row[2] == "b" else "b"
    return rows


def test_a_difference_is_named_only_where_it_is_more_than_chance(tmp_path: Path) -> None:
    right, five, six, also_six, half = (
        make_run(tmp_path / name, all_right_but(wrong), ["a", "b"])
        for name, wrong in (("right", 0), ("five", 5), ("six", 6), ("also", 6), ("half", 100))
    )
    page = compared(tmp_path, half, right)
    assert "right is better" in page and "p &lt; 0.001" in page and "200 pictures" in page
    page = compared(tmp_path, right, five)  # 5 coins fall alike once in 16 times
    assert "No difference beyond chance" in page and "p = 0.062" in page
    page = compared(tmp_path, right, six)
    assert "right is better" in page and "p = 0.031" in page
    page = compared(tmp_path, right, six, also_six)
    assert "No difference beyond chance" in page and "p = 0.062" in page and "Bonferroni" in page
    assert "not surely before all" in compared(tmp_path, right, six, half)


def test_other_pictures_are_compared_by_intervals_other_parts_not_at_all(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", made_up(["a", "b"], 200, right=0.2), ["a", "b"])
    two = make_run(tmp_path / "two", made_up(["c", "d"], 200, right=0.99), ["c", "d"])
    page = compared(tmp_path, one, two)
    assert "don&#39;t overlap" in page and "two is better" in page
    summary = json.loads((two / "summary.json").read_text())
    moved = {f"test_{k}": summary[f"val_{k}"] for k in ("accuracy", "interval")}
    (two / "summary.json").write_text(json.dumps(summary | moved))
    assert "can&#39;t be compared" in compared(tmp_path, one, two)


def test_settings_that_differ_and_no_others(browser: Any, tmp_path: Path) -> None:
    rows, root = made_up(["a", "b"], 20), tmp_path
    one = make_run(tmp_path / "one", rows, ["a", "b"], root, lr=1e-3, seed=1, run_name="one")
    two = make_run(tmp_path / "two", rows, ["a", "b"], root, lr=2e-3, seed=1, run_name="two")
    (tmp_path / "w").mkdir()
    compared(tmp_path, one, two)
    with Page(browser, tmp_path / "out.html") as page:
        script = "[...document.querySelector('#settings-table').tBodies[0].rows].map(r => "
        cells = page.run(script + "[...r.cells].map(c => c.textContent))")
    assert cells == [["train.lr", "0.001", "0.002"]]
    (two / "config.yaml").write_text("vit: {nothing: 1}")
    assert "The settings of two can&#39;t be read" in compared(tmp_path, one, two)


def test_runs_without_scores_are_named(tmp_path: Path) -> None:
    rows = made_up(["a", "b"], 20)
    one, two = (make_run(tmp_path / name, rows, ["a", "b"]) for name in ("one", "two"))
    (two / "summary.json").write_text('{"verdict": "not learned", "epochs": 1}')
    page = compared(tmp_path, one, two)
    assert "Nothing to compare yet" in page and "two has no scores" in page
