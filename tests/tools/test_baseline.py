"""What others reach with the same pictures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pretrained
import training
from config_file import load_config
from engine.rivals import logistic_regression, rivals
from filing.csv_files import read_csv
from tools.baseline import __main__ as baseline
from tools.baseline import networks, ways
from tools.report.__main__ import write_report
from utils import UserError, command_line

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


def run(config_file: Path, name: str, *more: str) -> dict[str, Any]:
    """A baseline's summary.json."""
    arguments = [name, "--config", str(config_file), f"train.run_name={name}", *more]
    assert baseline.main(arguments) == 0
    return summary(config_file, name)


def summary(config_file: Path, name: str) -> dict[str, Any]:
    return json.loads((config_file.parent / "logs" / name / "summary.json").read_text())


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a baseline that can't be run says on the last line."""
    try:
        assert command_line(lambda: baseline.main([*arguments])) == 2
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["logistic", "knn", "timm", "timm-adamw", "timm-full"])
def test_a_baseline_beats_chance(held_out: Path, name: str) -> None:
    # timm's rates are for hundreds of pictures: a batch of 4 gives them more steps.
    found = run(held_out, name, "train.batch_size=4", "train.max_epochs=20")
    assert found["mode"] == f"baseline {name}"
    assert sum(found["images"].values()) == 36 and found["images"]["test"] == 9
    for part in ("val", "test"):
        low, high = found[f"{part}_interval"]
        assert found[f"{part}_accuracy"] > 1 / 3 and low <= found[f"{part}_accuracy"] <= high
        assert found[f"{part}_balanced_accuracy"] > 1 / 3
    logs = held_out.parent / "logs" / name
    assert {p.name for p in logs.iterdir()} == {
        *("config.yaml", "predictions.csv", "run.log", "split.csv", "summary.json")
    }
    rows = [row for row in read_csv(logs / "predictions.csv") if row["part"] == "test"]
    right = [row["label"] == row["predicted"] for row in rows]
    assert len(right) == 9 and sum(right) / 9 == pytest.approx(found["test_accuracy"])
    config, _ = load_config(logs / "config.yaml")
    assert config.train.run_name == name and config.train.max_epochs == 20
    assert config.vit.hidden_dim == 48 and config.vit.num_classes == 3, "its weights', not B/16"
    log = (logs / "run.log").read_text()
    assert f"(baseline {name}: " in log and "test accuracy" in log


@pytest.mark.parametrize("name", ["knn", "timm"])
def test_a_baseline_has_a_report_too(held_out: Path, name: str) -> None:
    run(
        held_out, name, "train.max_epochs=1", "vit.dim=16"
    )  # one of 8: of B/16 it would be an error
    page = write_report(held_out.parent / "logs" / name, looks=False).read_text()
    assert f"baseline {name}" in page and "of another version" not in page
    assert ("too sure of itself" in page or "as sure as it" in page) == (name != "knn")


def test_the_split_and_the_cache_are_those_of_training(held_out: Path) -> None:
    options = ["train.seed=3", "train.run_name=ours"]
    training.main(["--config", str(held_out), *options])
    caches = sorted((held_out.parent / "data" / "cache").iterdir())
    run(held_out, "knn", "train.seed=3")
    run(held_out, "timm", "train.seed=3")
    run(held_out, "logistic", "train.seed=4")
    splits = {
        name: (held_out.parent / "logs" / name / "split.csv").read_text()
        for name in ("ours", "knn", "timm", "logistic")
    }
    assert splits["ours"] == splits["knn"] == splits["timm"] != splits["logistic"]
    assert set(caches) < set((held_out.parent / "data" / "cache").iterdir())
    # Only the other seed's images went through the trunk, and of them only the plain ones.
    (new,) = {p for p in (held_out.parent / "data" / "cache").iterdir() if p.is_dir()} - set(caches)
    assert json.loads((new / "header.json").read_text())["content"]["records"] == 36
    keys = {key for key in summary(held_out, "ours") if key.startswith(("val_", "test_"))}
    assert keys <= set(summary(held_out, "knn"))


def test_the_verdicts_rivals_are_the_baselines(
    held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folds by which their settings are chosen hang on the order of the pictures."""
    given: list[tuple[Any, ...]] = []

    def noting(of: Any) -> Any:
        def noted(features: Any, labels: Any, queries: Any, *rest: Any) -> Any:
            groups = rest[-1]
            given.append((features, labels, queries, groups))
            return of(features, labels, queries, *rest)

        return noted

    monkeypatch.setattr("engine.verdict.rivals", noting(rivals))
    monkeypatch.setitem(ways.CLASSIFIERS, "logistic", (noting(logistic_regression), "C"))
    options = ["train.max_epochs=1", "train.verdict=true"]
    training.main(["--config", str(held_out), "train.run_name=ours", *options])
    run(held_out, "logistic", "train.max_epochs=1")
    (ours, labels, tested, groups), (theirs, same, both, also) = given
    assert (labels == same).all() and (groups == also).all()
    assert np.allclose(ours, theirs) and np.allclose(tested, both[-len(tested) :])


def test_timm_holds_our_parameters(held_out: Path) -> None:
    import timm.optim

    net = pretrained.load_model(held_out.parent / "random.safetensors", num_classes=3)
    theirs = networks.timm_model(net)
    ours = dict(net.named_parameters())
    assert all(parameter is ours[name] for name, parameter in theirs.named_parameters())
    torch.nn.init.normal_(net.head.weight)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(images), net(images), atol=1e-5)
    net.freeze_trunk(1)
    optimizer = timm.optim.create_optimizer_v2(theirs, "sgd", lr=1.0, weight_decay=0.1)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters() if p.requires_grad}


def test_the_learning_rates_scale_as_in_train_py() -> None:
    assert networks.TRAIN_PY.scaled(16) == pytest.approx(0.1 * 16 / 256)
    assert networks.AUGREG2.scaled(16) == pytest.approx(2e-4 * (16 / 512) ** 0.5)


def test_batch_norm_is_scored_with_its_final_statistics(held_out: Path) -> None:
    found = run(held_out, "mobilenet_v3_large", "train.max_epochs=8", "vit.dim=32")
    assert found["test_accuracy"] > 0.6, "a third is chance"


def test_mobilenet_from_scratch_and_from_weights(
    held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["train.max_epochs=1", "vit.dim=32"]
    found = run(held_out, "mobilenet_v3_large", *short)
    assert found["epochs"] == 1 and found["weights"] is None
    assert found["settings"]["lr"] == 1e-3 and 0 <= found["test_accuracy"] <= 1
    assert "train.lr" not in capsys.readouterr().out, "that is training.py's"
    path = held_out.parent / "mobile.pth"
    torch.save(networks.mobilenet_v3(10, None).state_dict(), path)
    shutil.rmtree(held_out.parent / "logs" / "mobilenet_v3_large")
    found = run(held_out, "mobilenet_v3_large", *short, "--weights", str(path))
    assert found["settings"]["lr"] == 3e-4 and found["weights"] == str(path)


def test_what_cannot_be_run_is_one_sentence(
    held_out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ["--config", str(held_out)]
    assert "invalid choice: 'tim'" in said(capsys, "tim", *config)
    answer = said(capsys, "mobilenet_v3_large", *config, "--weights", "no.pth")
    assert answer.startswith("error: no.pth: no such file")
    (held_out.parent / "not.pth").write_bytes(b"no weights")
    weights = ["--weights", str(held_out.parent / "not.pth")]
    assert "is no state dict" in said(capsys, "mobilenet_v3_large", *config, *weights)
    torch.save({"conv": torch.zeros(1)}, held_out.parent / "not.pth")
    assert "does not fit" in said(capsys, "mobilenet_v3_large", *config, *weights)
    assert "--weights goes with" in said(capsys, "knn", *config, "--weights", "no.pth")
    assert "set train.cache" in said(capsys, "knn", *config, "train.cache=off")
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    assert "pip install -r requirements-dev.txt" in said(capsys, "timm", *config)
    assert not (held_out.parent / "logs").exists()  # nothing is left of what failed
    run(held_out, "knn")
    assert "choose another train.run_name" in said(capsys, "knn", *config, "train.run_name=knn")


def test_a_baseline_of_a_run_has_a_folder_of_its_own(held_out: Path) -> None:
    """The settings of a finished run hold its name, and it was said to be in the way."""
    run(held_out, "knn")
    settings = held_out.parent / "logs/knn/config.yaml"
    assert baseline.main(["logistic", "--config", str(settings)]) == 0
    assert summary(held_out, "knn-logistic")["mode"] == "baseline logistic"


def test_imagenets_weights_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="can't be reached .* --weights"):
        networks.mobilenet_weights("imagenet")
