"""Weights of an earlier run that has learned what is held out now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import summary, train


def test_what_the_weights_have_learned_is_said(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed draws other parts: what is held out was trained on."""
    train(finetune, "train.run_name=one", "train.refit=false", "train.max_epochs=1")
    capsys.readouterr()
    best = finetune.parent / "weights/one/best.safetensors"
    begun = (f"train.checkpoint={best}", "train.max_epochs=1", "train.refit=false")
    train(finetune, *begun, "train.run_name=same")
    assert "beware" not in capsys.readouterr().out
    assert "learned_before" not in summary(finetune, "same")["verdict_numbers"]
    for name in (best, best.parent):
        train(finetune, "--check", *begun, "train.seed=5", f"train.checkpoint={name}")
        said = capsys.readouterr()
        assert "of the 6 val pictures: what it gets right of them" in said.out + said.err
    split = finetune.parent / "logs/one/split.csv"
    whole = split.read_text()
    split.write_text("damaged")
    train(finetune, "--check", *begun, "train.seed=5")
    said = capsys.readouterr()
    assert "has learned is not known" in said.out + said.err
    split.write_text(whole)
    train(finetune, *begun, "train.seed=5", "train.run_name=other")
    found = summary(finetune, "other")
    known = found["verdict_numbers"]["learned_before"]
    assert 0 < known <= 6
    sentence = f"beware: {known} of the 6 pictures were learned before, in the run whose weights it"
    assert sentence in found["verdict_sentence"]
