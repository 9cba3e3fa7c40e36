"""Runs side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.helpers import made_up, make_run
from tests.tools.test_report import Page, unbroken, without_curves
from tools import compare
from utils import UserError, write_csv


def compared(tmp_path: Path, *runs: Path) -> str:
    for run in runs:
        without_curves(run)
    out = tmp_path / "out.html"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    return unbroken(tmp_path / "out.html")


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


def of_parts(folder: Path, parts: dict[str, str]) -> Path:
    """A run whose split.csv gives pictures these parts, the others train; only what was held out
    has an answer."""
    with open(folder / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["part"] = parts.get(row["path"], "train")
    write_csv(folder / "split.csv", rows)
    with open(folder / "predictions.csv", newline="") as file:
        answers = [row for row in csv.DictReader(file) if row["path"] in parts]
    write_csv(folder / "predictions.csv", answers)
    return folder


def test_of_the_same_data_other_pictures_are_compared_by_intervals(tmp_path: Path) -> None:
    rows = made_up(["a", "b"], 400, right=0.2)
    names = [row[1] for row in rows]
    one = of_parts(make_run(tmp_path / "one", rows, ["a", "b"]), dict.fromkeys(names[:200], "val"))
    good = made_up(["a", "b"], 400, right=0.99)
    two = of_parts(make_run(tmp_path / "two", good, ["a", "b"]), dict.fromkeys(names[200:], "val"))
    page = compared(tmp_path, one, two)
    assert "don&#39;t overlap" in page and "two is better" in page
    summary = json.loads((two / "summary.json").read_text())
    moved = {f"test_{k}": summary[f"val_{k}"] for k in ("accuracy", "interval")}
    (two / "summary.json").write_text(json.dumps(summary | moved))
    assert "can&#39;t be compared" in compared(tmp_path, one, two)


def test_equal_scores_of_other_pictures_are_no_lead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [row[1] for row in all_right_but(0)]
    for name, asked in (("one", names[:100]), ("two", names[100:])):
        of_parts(
            make_run(tmp_path / name, all_right_but(0), ["a", "b"]), dict.fromkeys(asked, "val")
        )
    compared(tmp_path, tmp_path / "one", tmp_path / "two")
    said = capsys.readouterr().out
    assert "reach the same, 1.000. They were not asked the same pictures." in said
    assert "chance" not in said.splitlines()[1]


def test_a_lead_by_other_pictures_is_none_on_those_of_both(tmp_path: Path) -> None:
    """Half of each run's pictures are the other's, too: there the other is right more often."""
    plain = made_up(["a", "b"], 400, right=1)
    names = [row[1] for row in plain]

    def wrong_at(places: range) -> list[list[Any]]:
        rows = [list(row) for row in plain]
        for i in places:
            rows[i][3] = "a" if rows[i][2] == "b" else "b"
        return rows

    one = make_run(tmp_path / "one", wrong_at(range(100, 114)), ["a", "b"])
    two = make_run(tmp_path / "two", wrong_at(range(200, 240)), ["a", "b"])
    of_parts(one, dict.fromkeys(names[:200], "val"))
    of_parts(two, dict.fromkeys(names[100:300], "val"))
    for folder, accuracy in ((one, 0.93), (two, 0.8)):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"val_accuracy": accuracy}))
    page = compared(tmp_path, one, two)
    assert "one leads, but on the pictures of both two is better" in page
    assert "one is 13.0 points ahead of two (0.930, 0.800), but by other pictures." in page
    assert (
        "Of the 100 pictures that both were asked (0.860 and 1.000 of them right), one alone got 0 "
        "right, two alone 14" in page
    )


def test_of_equal_runs_the_one_ahead_on_the_pictures_of_both_is_first(tmp_path: Path) -> None:
    """In whichever order they are named, and without a lead that is none."""
    plain = made_up(["a", "b"], 300, right=1)
    names = [row[1] for row in plain]
    one, two = ([list(row) for row in plain] for _ in range(2))
    for rows, wrong in ((one, range(100, 120)), (two, range(200, 220))):
        for i in wrong:
            rows[i][3] = "a" if rows[i][2] == "b" else "b"
    one_run, two_run = (
        make_run(tmp_path / name, rows, ["a", "b"]) for name, rows in (("one", one), ("two", two))
    )
    of_parts(one_run, dict.fromkeys(names[:200], "val"))
    of_parts(two_run, dict.fromkeys(names[100:300], "val"))
    pages = [compared(tmp_path, *runs) for runs in ((one_run, two_run), (two_run, one_run))]
    for page in pages:
        assert "two is better on the pictures of both" in page
        assert "reach the same, 0.933" in page and "leads" not in page


def test_a_run_without_answers_to_pictures_is_named(tmp_path: Path) -> None:
    one, two = (
        make_run(tmp_path / name, all_right_but(wrong), ["a", "b"])
        for name, wrong in (("one", 6), ("two", 20))
    )
    (two / "predictions.csv").unlink()
    page = compared(tmp_path, one, two)
    assert "two left no answers to single pictures (predictions.csv)" in page
    assert "They were not asked the same pictures" not in page
    three = make_run(tmp_path / "three", all_right_but(30), ["a", "b"])
    for run in (one, three):
        (run / "predictions.csv").unlink()
    page = compared(tmp_path, one, two, three)
    assert "intervals" in page and "Bonferroni" not in page, "no p is said"


def test_runs_on_other_data_are_not_weighed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by a name that both have, nor by accuracies; those on the same data are."""
    flowers, also, birds = (
        make_run(tmp_path / name, all_right_but(wrong), ["a", "b"])
        for name, wrong in (("flowers", 100), ("also", 10), ("birds", 0))
    )
    with open(birds / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shared = 60
    write_csv(
        birds / "split.csv",
        [row | {"sha256": f"bird {i}"} if i >= shared else row for i, row in enumerate(rows)],
    )
    page = compared(tmp_path, flowers, birds)
    said = (
        "flowers is not weighed against birds, as their data differ: 60 of 200 and 200 pictures "
        "are the same."
    )
    assert said in page and said in capsys.readouterr().out
    assert "Different data: not weighed" in page and "points ahead" not in page
    assert 'class="ours"' not in page, "no best one"
    page = compared(tmp_path, flowers, birds, also)
    assert "On the same data: also is better" in page and "p &lt; 0.001" in page
    assert "flowers and also are not weighed against birds, as" in page and "Bonferroni" not in page
    other = make_run(tmp_path / "other", made_up(["a", "c"], 200), ["a", "c"])
    said = "as their data differ: 100 of 200 and 200 pictures are the same; only flowers has b; "
    assert f"{said}only other has c." in compared(tmp_path, flowers, other)


def test_the_same_pictures_in_another_folder_are_the_same(tmp_path: Path) -> None:
    one, two = (
        make_run(tmp_path / n, all_right_but(w), ["a", "b"]) for n, w in (("x", 0), ("y", 6))
    )
    for name in ("split.csv", "predictions.csv"):
        with open(two / name, newline="") as file:
            rows = [row | {"path": f"copy/{row['path']}"} for row in csv.DictReader(file)]
        write_csv(two / name, rows)
    page = compared(tmp_path, one, two)
    assert "x is better" in page and "Of the 200 pictures" in page


def test_what_auto_came_to_is_shown(browser: Any, tmp_path: Path) -> None:
    rows, found = made_up(["a", "b"], 20), {}
    for name, lr in (("one", 6e-3), ("two", 1.2e-2), ("three", None)):
        folder = make_run(tmp_path / name, rows, ["a", "b"], tmp_path, lr="auto", seed=1)
        found = json.loads((folder / "summary.json").read_text()) | {"lr": lr}
        found["chosen"] = {"lr": lr} if lr else None
        found["head"] = "both" if lr else "layers"
        (folder / "summary.json").write_text(json.dumps(found))
    (tmp_path / "w").mkdir(exist_ok=True)
    compared(tmp_path, *(tmp_path / name for name in ("one", "two", "three")))
    with Page(browser, tmp_path / "out.html") as page:
        script = "[...document.querySelector('#settings-table').tBodies[0].rows].map(r => "
        cells = page.run(script + "[...r.cells].map(c => c.textContent))")
        scores = page.run("[...document.querySelectorAll('#scores tbody')][1].textContent")
    assert ["train.lr", "0.006 (auto)", "0.012 (auto)", "not needed (auto)"] in cells
    assert ["train.head", "both (auto)", "both (auto)", "layers (auto)"] in cells
    assert "0.006" in scores and "0.012" in scores


def test_other_parts_are_not_compared() -> None:
    runs = [
        ({"value": 1.0 if part == "val" else 0.9, "part": part}, part, None)
        for part in ("val", "test", "test")
    ]
    tone, _, title, sentences = compare.weigh(runs)
    assert (tone, title) == ("open", "Measured on different parts: that can't be compared")
    assert all("but on another part: that can't be compared" in said for said in sentences[:2])


def test_the_sentence_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (
        make_run(tmp_path / name, all_right_but(wrong), ["a", "b"])
        for name, wrong in (("one", 6), ("two", 6))
    )
    compared(tmp_path, one, two)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "No difference beyond chance."
    assert said[1].startswith("one and two reach the same, 0.970. Of the 200 pictures")
    assert said[-1] == f"comparison: {tmp_path / 'out.html'}"


def test_a_baselines_own_settings_stand_for_the_files(browser: Any, tmp_path: Path) -> None:
    """Its config.yaml has those of training.py, which it does not use."""
    rows = made_up(["a", "b"], 20)
    own = {"knn": {"neighbours": 5}, "timm": {"opt": "sgd", "lr": 0.025, "weight_decay": 2e-5}}
    for name in ("ours", *own):
        folder = make_run(tmp_path / name, rows, ["a", "b"], tmp_path, lr=6e-3, seed=1)
        if name in own:
            found = json.loads((folder / "summary.json").read_text())
            found |= {"mode": f"baseline {name}", "settings": own[name]}
            (folder / "summary.json").write_text(json.dumps(found))
    (tmp_path / "w").mkdir(exist_ok=True)
    compared(tmp_path, *(tmp_path / name for name in ("ours", *own)))
    with Page(browser, tmp_path / "out.html") as page:
        script = "[...document.querySelector('#settings-table').tBodies[0].rows].map(r => "
        cells = page.run(script + "[...r.cells].map(c => c.textContent))")
    assert ["train.lr", "0.006", "–", "0.025 (its own)"] in cells
    assert ["train.optim", "sgd (auto)", "–", "sgd (its own)"] in cells


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


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, all_right_but(0), ["a", "b"]) for name in ("one", "two")]
    for out, said in (
        (runs[0] / "summary.json", "let its name end in .html"),
        (tmp_path, "is a folder; name the page in it"),
        (tmp_path / "mine.html", "is there, and is no comparison"),
    ):
        if out.suffix == ".html":
            out.write_text("<p>mine</p>")
        before = out.read_bytes() if out.is_file() else None
        with pytest.raises(UserError, match=said):
            compare.main([*map(str, runs), "--out", str(out)])
        assert (out.read_bytes() if out.is_file() else None) == before
    page = tmp_path / "new.html"
    for _ in range(2):  # one's own is made anew
        compared(tmp_path, *runs)
        compare.main([*map(str, runs), "--out", str(page)])
