"""A run's folders."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import fail, train


def test_an_existing_run_is_never_overwritten(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    before = (config_file.parent / "logs/tiny/metrics.csv").read_bytes()
    assert "exists: go on with it by --config" in fail(config_file)
    assert (config_file.parent / "logs/tiny/metrics.csv").read_bytes() == before
