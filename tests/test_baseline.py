"""tools.baseline, tools.repeat, benchmarks.results: the same split, honest numbers, resumable."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import COLOURS, REPO, TINY_VIT, picture

import pretrained
import training
from benchmarks import results
from config import ViTConfig
from config_file import load_config
from model import VisionTransformer
from tools import repeat
from tools.baseline import __main__ as baseline
from tools.baseline import networks
from utils import UserError, command_line

pytestmark = pytest.mark.usefixtures("new_files_are_remembered")


@pytest.fixture
def finetune(config_file: Path) -> Path:
    """A config that fine-tunes a small random network whose tokens differ from image to image."""
    folder = config_file.parent
    torch.manual_seed(0)
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=7))
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    pretrained.save_model(folder / "random.safetensors", net)
    train = yaml.safe_load(config_file.read_text())["train"] | {
        "mode": "finetune",
        "checkpoint": str(folder / "random.safetensors"),
        "data": str(folder / "data"),
        "max_epochs": 10,
        "batch_size": 8,
        "lr": 3e-3,
        "test_fraction": 0.25,
        "verdict": False,
    }
    config_file.write_text(yaml.safe_dump({"train": train}))
    return config_file


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


# --------------------------------------------------------------------------------------- baselines


@pytest.mark.parametrize("name", ["logistic", "knn", "timm", "timm-adamw", "timm-full"])
def test_a_baseline_beats_chance(finetune: Path, name: str) -> None:
    # timm's rates are for hundreds of pictures: a batch of 4 gives them more steps.
    found = run(finetune, name, "train.batch_size=4", "train.max_epochs=20")
    assert found["mode"] == f"baseline {name}"
    assert sum(found["images"].values()) == 36 and found["images"]["test"] == 9
    for part in ("val", "test"):
        low, high = found[f"{part}_interval"]
        assert found[f"{part}_accuracy"] > 1 / 3 and low <= found[f"{part}_accuracy"] <= high
        assert found[f"{part}_balanced_accuracy"] > 1 / 3
    logs = finetune.parent / "logs" / name
    assert {p.name for p in logs.iterdir()} == {
        *("config.yaml", "run.log", "split.csv", "summary.json")
    }
    config, _ = load_config(logs / "config.yaml")
    assert config.train.run_name == name and config.train.max_epochs == 20
    log = (logs / "run.log").read_text()
    assert f"(baseline {name}: " in log and "test accuracy" in log


def test_the_split_and_the_cache_are_those_of_training(finetune: Path) -> None:
    options = ["train.seed=3", "train.run_name=ours"]
    training.main(["--config", str(finetune), *options])
    caches = sorted((finetune.parent / "data" / "cache").iterdir())
    run(finetune, "knn", "train.seed=3")
    run(finetune, "timm", "train.seed=3")
    run(finetune, "logistic", "train.seed=4")
    splits = {
        name: (finetune.parent / "logs" / name / "split.csv").read_text()
        for name in ("ours", "knn", "timm", "logistic")
    }
    assert splits["ours"] == splits["knn"] == splits["timm"] != splits["logistic"]
    assert set(caches) < set((finetune.parent / "data" / "cache").iterdir())
    # Only the other seed's images went through the trunk, and of them only the plain ones.
    (new,) = {p for p in (finetune.parent / "data" / "cache").iterdir() if p.is_dir()} - set(caches)
    assert json.loads((new / "header.json").read_text())["content"]["records"] == 36
    keys = {key for key in summary(finetune, "ours") if key.startswith(("val_", "test_"))}
    assert keys <= set(summary(finetune, "knn"))


def test_timm_holds_our_parameters(finetune: Path) -> None:
    import timm.optim

    net = pretrained.load_model(finetune.parent / "random.safetensors", num_classes=3)
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


def test_batch_norm_is_scored_with_its_final_statistics(finetune: Path) -> None:
    found = run(finetune, "mobilenet_v3_large", "train.max_epochs=8", "vit.dim=32")
    assert found["test_accuracy"] > 0.6, "a third is chance"


def test_mobilenet_from_scratch_and_from_weights(finetune: Path) -> None:
    short = ["train.max_epochs=1", "vit.dim=32"]
    found = run(finetune, "mobilenet_v3_large", *short)
    assert found["epochs"] == 1 and found["weights"] is None
    assert found["settings"] == {"lr": 1e-3} and 0 <= found["test_accuracy"] <= 1
    path = finetune.parent / "mobile.pth"
    torch.save(networks.mobilenet_v3(10, None).state_dict(), path)
    shutil.rmtree(finetune.parent / "logs" / "mobilenet_v3_large")
    found = run(finetune, "mobilenet_v3_large", *short, "--weights", str(path))
    assert found["settings"] == {"lr": 3e-4} and found["weights"] == str(path)


def test_what_cannot_be_run_is_one_sentence(
    finetune: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ["--config", str(finetune)]
    assert "invalid choice: 'tim'" in said(capsys, "tim", *config)
    answer = said(capsys, "mobilenet_v3_large", *config, "--weights", "no.pth")
    assert answer.startswith("error: no.pth: no such file")
    (finetune.parent / "not.pth").write_bytes(b"no weights")
    weights = ["--weights", str(finetune.parent / "not.pth")]
    assert "is no state dict" in said(capsys, "mobilenet_v3_large", *config, *weights)
    torch.save({"conv": torch.zeros(1)}, finetune.parent / "not.pth")
    assert "does not fit" in said(capsys, "mobilenet_v3_large", *config, *weights)
    assert "--weights goes with" in said(capsys, "knn", *config, "--weights", "no.pth")
    assert "set train.cache" in said(capsys, "knn", *config, "train.cache=off")
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    assert "pip install -r requirements-dev.txt" in said(capsys, "timm", *config)
    assert not (finetune.parent / "logs").exists()  # nothing is left of what failed
    run(finetune, "knn")
    assert "choose another train.run_name" in said(capsys, "knn", *config, "train.run_name=knn")


def test_imagenets_weights_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match="can't be reached .* --weights"):
        networks.mobilenet_weights("imagenet")


# ------------------------------------------------------------------------------------------ repeat


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What repeat runs; it is run in this process, which saves the imports."""
    found: list[list[str]] = []

    def here(command: list[str]) -> tuple[int, list[str]]:
        found.append(command)
        main, first = (baseline.main, 3) if command[1] == "-m" else (training.main, 2)
        return command_line(lambda: main(command[first:])), ["the last line"]

    monkeypatch.setattr(repeat, "run", here)
    return found


def test_repeat_draws_resumes_and_averages(
    finetune: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(finetune), "--seeds", "2", "train.max_epochs=2"]
    assert repeat.main(arguments) == 0
    out = capsys.readouterr().out
    logs = finetune.parent / "logs"
    found = [summary(finetune, f"tiny-seed{seed}") for seed in range(2)]
    splits = [(logs / f"tiny-seed{seed}" / "split.csv").read_text() for seed in range(2)]
    assert splits[0] != splits[1]
    result = json.loads((logs / "tiny-repeat.json").read_text())
    values = [one["test_accuracy"] for one in found]
    assert (result["part"], result["images"]) == ("test", found[0]["images"]["test"])
    assert result["accuracy"]["values"] == values
    assert result["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert result["accuracy"]["std"] == pytest.approx(statistics.stdev(values))
    assert f"accuracy {sum(values) / 2:.3f} ± {statistics.stdev(values):.3f}" in out
    assert all(f"{value:.3f}" in out for value in values)

    written = [path.stat().st_mtime_ns for path in sorted(logs.glob("*/summary.json"))]
    assert repeat.main(["--config", *arguments]) == 0
    assert capsys.readouterr().out.count("there already") == 2 and len(commands) == 2
    assert [p.stat().st_mtime_ns for p in sorted(logs.glob("*/summary.json"))] == written


def test_repeat_goes_on_with_a_stopped_training(finetune: Path, commands: list[list[str]]) -> None:
    arguments = [str(finetune), "--seeds", "1", "train.max_epochs=2"]
    repeat.main(arguments)
    (finetune.parent / "logs" / "tiny-seed0" / "summary.json").unlink()
    repeat.main(arguments)
    assert commands[1] == [*commands[0], "train.from_checkpoint=true"]
    assert summary(finetune, "tiny-seed0")["epochs"] == 2


def test_repeat_stops_at_a_failure(
    finetune: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="tiny-seed0 failed with status 2"):
        repeat.main([str(finetune), "--seeds", "2", "train.base_dir=nowhere"])
    assert "nowhere: no such folder" in capsys.readouterr().err and len(commands) == 1
    for wrong in (["train.seed=1"], ["--seeds", "0"], ["--weights", "x.pth"]):
        with pytest.raises(SystemExit):
            repeat.main([str(finetune), *wrong])


def test_repeat_runs_a_baseline_in_a_process_of_its_own(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(finetune), "--seeds", "1", "--baseline", "knn", "train.run_name=b"]
    assert repeat.main(arguments) == 0
    assert summary(finetune, "b-seed0")["mode"] == "baseline knn"
    assert json.loads((finetune.parent / "logs/b-repeat.json").read_text())["baseline"] == "knn"
    out = capsys.readouterr().out
    assert "b-seed0:\n" in out and "(baseline knn: neighbours" in out and "±" not in out


def test_ctrl_c_reaches_the_run_once_and_is_waited_for(tmp_path: Path) -> None:
    """The run saves on Ctrl-C, which takes a while; repeat ends after it, with one line."""
    saved = tmp_path / "saved"
    child = (
        "import sys, time\n"
        "print('up', flush=True)\n"
        f"try:\n    open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    time.sleep(0.3); open({str(saved)!r}, 'w').close()\n"
    )
    code = (
        "from tools import repeat; from utils import command_line; import sys\n"
        f"sys.exit(command_line(lambda: repeat.run([sys.executable, '-c', {child!r}])[0]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "up").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and saved.exists()
    assert err.strip() == "stopped"


# ----------------------------------------------------------------------------------------- results


def test_few_shot_folders(tmp_path: Path) -> None:
    for name in COLOURS:
        (tmp_path / "digits" / name).mkdir(parents=True)
        for i in range(8):
            picture(name, i).save(tmp_path / "digits" / name / f"{i}.png")

    def drawn(n: int, seed: int) -> dict[str, set[str]]:
        folder = results.few_shots(tmp_path / "digits", tmp_path / f"{n}-{seed}", n, seed)
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
        results.few_shots(tmp_path / "digits", tmp_path / "8-0", 8, 0)
    with pytest.raises(UserError, match="--data"):
        results.few_shots(tmp_path / "nothing", tmp_path / "n-0", 1, 0)
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
        if baseline_name == "timm" and len(ran) < 20:
            raise UserError("timm failed with status 2")
        done(config, overrides, baseline_name)

    monkeypatch.setattr(results, "finished", some_fail)
    arguments = ["--only", "hymenoptera", "--seeds", "2"]
    assert results.main(arguments) == 1
    out = capsys.readouterr().out
    assert "[5/16] failed: hymenoptera, timm, seed 0: timm failed with status 2" in out
    assert "[1/16] hymenoptera, ours, seed 0: 0.950; 15 to go, about" in out
    assert len(ran) == 16 and not list((places / "logs/hymenoptera/weights").iterdir())

    ran += ["another time"] * 4
    assert results.main(arguments) == 0 and ran[20:] == ["timm", "timm"]
    cells = results.read(places / "results.csv")
    assert len(cells) == 10
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
    assert rows[0].startswith("| pictures | part | ours | head alone | logistic regression |")
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| pilots", "| hymenoptera"]
    assert rows[2].split(" | ")[2] == "0.970 ± 0.016"
    assert results.shown(None, slow=False) == ""
    assert repeat.mean_and_std(0.98765, None) == "0.988"


@pytest.mark.parametrize("row", results.ROWS)
def test_every_cell_has_settings_that_are_valid(row: str) -> None:
    for key, column in results.COLUMNS.items():
        if not column.slow or key in results.ROWS[row].epochs:
            job = results.Job(row, key, 0)
            train = load_config(results.ROWS[row].config, results.settings(job))[0].train
            assert train.lr == "auto" and train.batch_size == 16
            assert train.mode == (key if key in ("pretrained", "scratch") else "finetune")


def test_the_imbalanced_folder_is_20_to_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import imbalance

    assert imbalance.sizes(10)[0] == 100 and imbalance.sizes(10)[-1] == 5
    monkeypatch.setattr(imbalance, "MOST", 8)
    monkeypatch.setattr(imbalance, "LEAST", 2)
    monkeypatch.setattr(imbalance, "TESTED", 3)
    for name in "abc":
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "source" / name / f"{i}.png").write_bytes(f"{name}{i}".encode())
    folder = imbalance.draw(tmp_path / "source", tmp_path / "drawn", seed=0)
    counts = {
        part: sorted(len(list((folder / part / name).iterdir())) for name in "abc")
        for part in ("train", "test")
    }
    assert counts == {"train": [2, 4, 8], "test": [3, 3, 3]}
    contents = [path.read_bytes() for path in folder.glob("*/*/*")]
    assert len(contents) == len(set(contents)) == 23
