"""The table of results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.folders import few_shots
from config_file import load_config
from tests.helpers import COLOURS, picture
from tools import repeat
from utils import UserError


def test_few_shot_folders(tmp_path: Path) -> None:
    for name in COLOURS:
        (tmp_path / "digits" / name).mkdir(parents=True)
        for i in range(8):
            picture(name, i).save(tmp_path / "digits" / name / f"{i}.png")

    def drawn(n: int, seed: int) -> dict[str, set[str]]:
        folder = few_shots(tmp_path / "digits", tmp_path / f"{n}-{seed}", n, seed)
        found: dict[str, set[str]] = {}
        for part in ("train", "test"):
            for path in folder.glob(f"{part}/*/*.png"):
                found.setdefault(part, set()).add(f"{path.parent.name}/{path.name}")
                assert (
                    path.read_bytes()
                    == (tmp_path / "digits" / path.parent.name / path.name).read_bytes()
                )
        for name in COLOURS:
            assert len(list((folder / "train" / name).iterdir())) == n
        return found

    three = drawn(3, 0)
    assert not three["train"] & three["test"] and len(three["train"] | three["test"]) == 24
    assert three["train"] != drawn(3, 1)["train"]
    assert drawn(2, 0)["train"] < three["train"]
    assert three == drawn(3, 0)  # there already
    with pytest.raises(UserError, match="8 images"):
        few_shots(tmp_path / "digits", tmp_path / "8-0", 8, 0)
    with pytest.raises(UserError, match="--data"):
        few_shots(tmp_path / "nothing", tmp_path / "n-0", 1, 0)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(results, "SHOTS", tmp_path / "shots")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def done(config: str, overrides: list[str], baseline_name: str | None) -> None:
    """Stands for a run: a summary.json at its place."""
    train = load_config(config, overrides)[0].train
    accuracy = {None: 0.95, "knn": 0.9}.get(baseline_name, 0.8) + 0.01 * train.seed
    found = {"val_accuracy": accuracy, "test_accuracy": None, "epochs": 5, "seconds": 2.0}
    path = Path(train.log_path) / str(train.run_name) / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found | {"images": {"val": 153, "test": 0}, "cache_seconds": 1.0}))
    (Path(train.save_path) / str(train.run_name)).mkdir(parents=True)


def test_a_failed_cell_does_not_lose_the_others(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def some_fail(config: str, overrides: list[str], baseline_name: str | None = None) -> None:
        ran.append(str(baseline_name))
        if baseline_name == "timm" and len(ran) < 26:
            raise UserError("timm failed with status 2")
        done(config, overrides, baseline_name)

    monkeypatch.setattr(results, "finished", some_fail)
    arguments = ["--only", "hymenoptera", "--seeds", "2"]
    assert results.main(arguments) == 1
    out = capsys.readouterr().out
    assert "[7/22] failed: hymenoptera, timm, seed 0: timm failed with status 2" in out
    assert "[1/22] hymenoptera, ours, seed 0: 0.950; 21 to go, about" in out
    assert len(ran) == 22 and not list((places / "logs/hymenoptera/weights").iterdir())

    ran += ["another time"] * 4
    assert results.main(arguments) == 0 and ran[26:] == ["timm"] * 4
    cells = results.read(places / "results.csv")
    assert len(cells) == 13
    ours = cells["hymenoptera", "ours"]
    assert (ours["part"], ours["images"], ours["n"]) == ("val", "153", "2")
    assert (ours["mean"], ours["std"]) == ("0.9550", "0.0071")
    assert (ours["scores"], ours["seconds"]) == ("0.9500 0.9600", "3")
    text = (places / "results.md").read_text()
    assert "| hymenoptera | val (153) | 0.955 ± 0.007 (seeds: 2) |" in text
    assert "0.950 (5 epochs)" in text and "--only hymenoptera" in text


def test_the_table_and_what_other_rows_hold(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "finished", done)
    assert results.main(["--only", "hymenoptera", "--fast"]) == 0
    shutil.rmtree(places / "logs")  # the logs are not kept in the repository, the csv is
    assert results.main(["--only", "pilots", "--fast"]) == 0
    lines = (places / "results.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[0].startswith("| pictures | part | ours | the last block alone | ridge over")
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| pilots", "| hymenoptera"]
    assert rows[2].split(" | ")[2] == "0.970 ± 0.016"
    assert results.shown(None, slow=False) == ""
    assert repeat.mean_and_std(0.98765, None) == "0.988"


@pytest.mark.parametrize("row", results.ROWS)
def test_every_cell_has_settings_that_are_valid(row: str) -> None:
    for key, column in results.COLUMNS.items():
        if not column.by_row or key in results.ROWS[row].epochs:
            job = results.Job(row, key, 0)
            train = load_config(results.ROWS[row].config, results.settings(job))[0].train
            assert train.lr == "auto" and train.batch_size == 16
            assert train.mode == (key if key in ("pretrained", "scratch") else "finetune")
