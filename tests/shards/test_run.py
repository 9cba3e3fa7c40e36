"""Runs on shards: from the middle of an epoch, with cached tokens, and the pictures shown."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from images import read_image
from inspection.record import read_run
from inspection.thumbnails import thumbnail
from shards.place import root_of
from tests.engine.test_position import ends_alike
from tests.helpers import fail, small_run, train
from tests.shards.helpers import shards_of
from tools.audit import __main__ as audit
from utils import UserError


@pytest.fixture
def on_shards(config_file: Path) -> Path:
    """A small config whose pictures lie in shards."""
    home = config_file.parent
    raw = yaml.safe_load(config_file.read_text())
    raw["train"]["base_dir"] = str(shards_of(Path(raw["train"]["base_dir"]), home / "out"))
    raw["train"]["shuffle_buffer"] = 5
    config_file.write_text(yaml.safe_dump(raw))
    return config_file


@pytest.mark.slow
def test_from_the_middle_of_an_epoch(on_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_alike(on_shards, monkeypatch, {"mode": "scratch"}, "killed")


@pytest.mark.slow
def test_what_a_run_leaves_leads_back_to_its_pictures(on_shards: Path) -> None:
    train(on_shards, "train.max_epochs=1", "train.report=true")
    home = on_shards.parent
    logs = next((home / "logs").iterdir())
    with open(logs / "predictions.csv", encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    record = read_run(logs)
    assert record.pictures == home / "out" and all(".tar/" in path for path in paths)
    assert all(thumbnail(record.pictures, path).url for path in paths)
    assert read_image(record.pictures / paths[0]).shape == (40, 50, 3)
    assert (logs / "report.html").read_text().count("data:image/jpeg") > 3
    tar = home / "out" / "val-000000.tar"
    tar.rename(tar.with_suffix(".gone"))
    more = "train.max_epochs=2"
    assert "val-000000.tar is not there" in fail(on_shards, "--resume", str(logs), more)


def test_cached_tokens_are_the_folder_s(tmp_path: Path, image_folder: Path) -> None:
    small_run(tmp_path, image_folder, "folder", max_epochs=1)
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/tokens.bin")}
    out = shards_of(image_folder, tmp_path / "out")
    small_run(tmp_path, out, "shards", max_epochs=1)
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/tokens.bin")}
    assert kept == now and len([*(tmp_path / "cache").glob("*/tokens.bin")]) == 1


def test_an_audit_asks_for_the_folder(on_shards: Path) -> None:
    with pytest.raises(UserError, match="holds shards, and an audit is of a folder of pictures"):
        audit.main([str(on_shards)])


def test_the_root_of_what_is_named(tmp_path: Path) -> None:
    for named, root in (
        ("pictures", "pictures"),
        ("a/b/train-{000..009}.tar", "a/b"),
        ("a/{b,c}/train-{000..009}.tar", "a"),
        ("a/b/x-0*.tar::a/c/y-{0..2}.tar", "a"),
        ("x-0*.tar", "."),
        ("https://host/a/x-{0..9}.tar", "d/shards"),
        ("pipe:cat x-{0..9}.tar", "d/shards"),
    ):
        assert root_of(named, "d") == Path(root), named
