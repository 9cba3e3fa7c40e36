"""Files of a run that are not as it wrote them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from engine.again import settings_of_run
from engine.written import CHECKSUMS, changed, rewriting
from filing.csv_files import read_csv
from inspection.record import read_run
from tests.helpers import fail, flip, quick, train
from utils import UserError, write_csv

ROWS = [{"path": "a/1.png", "label": "a"}, {"path": "b/ü;2.png", "label": "b"}]


def noted(folder: Path) -> Path:
    with rewriting(folder, "split.csv", "config.yaml", "gone"):
        write_csv(folder / "split.csv", ROWS)
        (folder / "config.yaml").write_text("train:\n  lr: 1\n")
    return folder / "split.csv"


def test_each_change_is_found(tmp_path: Path) -> None:
    path = noted(tmp_path)
    assert changed(tmp_path) == []
    whole = path.read_bytes()
    for position in range(len(whole)):
        if whole[position : position + 1] not in (b"\r", b"\n"):
            flip(path, position)
            assert changed(tmp_path) == ["split.csv"], position
            path.write_bytes(whole)
    path.unlink()
    (tmp_path / "config.yaml").write_text("train:\n  lr: 2\n")
    assert changed(tmp_path) == ["split.csv", "config.yaml"]


def test_the_same_cells_from_a_spreadsheet_are_the_same(tmp_path: Path) -> None:
    path = noted(tmp_path)
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerows([ROWS[0].keys(), *(row.values() for row in ROWS)])
    (tmp_path / "config.yaml").write_bytes(b"train:\r\n  lr: 1\r\n")
    assert changed(tmp_path) == []


def test_what_is_being_written_is_not_judged_and_damaged_notes_are_none(tmp_path: Path) -> None:
    path = noted(tmp_path)
    with pytest.raises(KeyboardInterrupt), rewriting(tmp_path, "split.csv"):
        path.write_text("half")
        raise KeyboardInterrupt
    (tmp_path / "config.yaml").write_text("other")
    assert changed(tmp_path) == ["config.yaml"]
    whole = (tmp_path / CHECKSUMS).read_bytes()
    for position in range(0, len(whole), 5):
        flip(tmp_path / CHECKSUMS, position)
        assert changed(tmp_path) in ([], ["config.yaml"])
        (tmp_path / CHECKSUMS).write_bytes(whole)


def cut(path: Path) -> list[dict[str, str]]:
    rows = read_csv(path)
    write_csv(path, rows[:-1])
    return rows


def test_a_split_that_is_cut_is_drawn_again(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_file, "train.max_epochs=1")
    split = config_file.parent / "logs/tiny/split.csv"
    rows = cut(split)
    train(config_file, "train.max_epochs=1", "train.from_checkpoint=true")
    assert "split.csv is not as the run wrote it: it is drawn again" in capsys.readouterr().out
    assert read_csv(split) == rows
    cut(split)
    first = config_file.parent / "images" / rows[0]["path"]
    shutil.copy2(first, first.with_name("more.png"))
    with open(first.with_name("more.png"), "ab") as file:
        file.write(b"another")
    said = fail(config_file, "train.from_checkpoint=true")
    assert "would not be in the same parts; put that file back" in said
    assert sorted(p.name for p in split.parent.glob(".*")) == []


@pytest.mark.slow
def test_what_a_search_left_is_made_again(
    untuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    train(untuned, "train.max_epochs=2")
    logs = untuned.parent / "logs/tiny"
    before = [(logs / name).read_bytes() for name in ("search.csv", "out_of_fold.csv")]
    (logs / "search.csv").write_bytes(before[0].replace(b"0.", b"x.", 1))
    capsys.readouterr()
    train(logs / "config.yaml", "train.from_checkpoint=true")
    assert "search.csv is not as the run wrote it" in capsys.readouterr().out
    assert [(logs / name).read_bytes() for name in ("search.csv", "out_of_fold.csv")] == before


def test_a_report_and_a_run_from_it_say_so(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    logs = config_file.parent / "logs/tiny"
    assert read_run(logs).notes == []
    cut(logs / "predictions.csv")
    (logs / "metrics.csv").write_bytes(b"\xff" * 99)
    said = "\n".join(read_run(logs).notes)
    assert "predictions.csv is not as the run wrote it" in said and "no curves" in said
    from tests.helpers import load_config

    config, _ = load_config(config_file, [f"train.from_run={logs}"])
    _, notes = settings_of_run(config, [f"train.from_run={logs}"])
    assert "predictions.csv of" in notes[1] and "not as that run wrote them" in notes[1]
    cut(logs / "split.csv")
    with pytest.raises(UserError, match=r"split.csv is not as that run wrote it"):
        settings_of_run(config, [])
