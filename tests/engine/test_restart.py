"""A job of torchrun that is started once more: what it had begun, and how that had ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from engine.restart import DONE, note_job, run_to_go_on_with
from utils import UserError


def test_a_summary_of_an_earlier_job_ends_nothing_and_a_loss_that_diverged_stays_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run that is trained for longer has a summary.json from before."""
    run, page = tmp_path / "logs" / "run", tmp_path / "page.yaml"
    run.mkdir(parents=True)
    page.write_text(yaml.safe_dump({"train": {"log_path": str(tmp_path / "logs")}}))
    for name in ("config.yaml", "summary.json"):
        (run / name).write_text("{}")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")

    assert run_to_go_on_with(str(page), []) is None  # no job's of torchrun
    note_job(run)
    begun = run_to_go_on_with(str(page), [])
    assert begun is not None and (begun.folder, begun.ended) == (run, "")
    note_job(run, DONE)
    begun = run_to_go_on_with(str(page), [])
    assert begun is not None and begun.ended == DONE
    note_job(run, "the loss is not finite")
    with pytest.raises(UserError, match="the loss is not finite"):
        run_to_go_on_with(str(page), [])
