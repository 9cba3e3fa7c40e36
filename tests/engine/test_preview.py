"""--check says what a run would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import train


@pytest.mark.usefixtures("new_files_are_remembered")
def test_check_says_how_large_the_cache_will_be(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(finetune, "--check") == 0
    assert "token cache: 36 records, 0 MB in" in capsys.readouterr().out
    assert not (finetune.parent / "data").exists()
    train(finetune, "--check", "overfit_one_batch.overfit=true")
    assert "token cache" not in capsys.readouterr().out, "none is made"


def test_check_says_what_would_be_done_and_does_nothing(
    config_file: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "red" / "notes.txt").write_text("x")
    assert train(config_file, "--check", "train.lr=2e-3") == 0
    out = capsys.readouterr().out
    for part in (
        "lr: 0.002",
        "48,291 in all, 48,291 train (mode scratch)",
        "notes.txt: no image by its extension",
        "steps: 4 an epoch, 12 in 3 epochs",
        "memory: about",
    ):
        assert part in out
    assert "".join(out.split()).find("red1020") > 0
    assert not (config_file.parent / "logs").exists()
    train(config_file, "train.max_epochs=1")
    assert train(config_file, "--check") == 0, "also beside a run of that name"


def test_check_says_what_is_still_to_be_chosen(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(finetune, "--check", "train.head=auto", "train.views=auto", "train.refit=auto")
    said = capsys.readouterr().out
    assert "head: to be chosen on the training part: over layers alone, or both" in said
    assert "and up to 4 views of each picture that is learned, where they help" in said
    assert "in the end: the same once more on all pictures that are not test" in said
    train(finetune, "--check", "train.head=layers")
    said = capsys.readouterr().out
    assert "to be chosen" not in said and "where they help" not in said and "once more" not in said
