"""A finished run with more pictures, and with another class."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import training
from config_file import load_config
from dataset import load_split, write_split
from engine.again import _called, compare_with_run, settings_of_run
from filing.csv_files import read_csv
from tests.helpers import picture, quick, random_weights, summary
from utils import UserError


@pytest.fixture
def finished(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a run that is done; the working folder is that of its logs."""
    quick(monkeypatch)
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load(config_file.read_text())
    raw.pop("vit")
    path = random_weights(tmp_path / "from.safetensors", num_classes=0)
    raw["train"] |= {"mode": "finetune", "checkpoint": str(path), "data": str(tmp_path)}
    raw["train"] |= {"max_epochs": 2, "views": 1, "verdict": False, "lr": "auto", "head": "both"}
    config_file.write_text(yaml.safe_dump(raw))
    training.main(["--config", str(config_file)])
    return config_file


def parts(run: str) -> dict[str, tuple[str, str]]:
    with open(f"logs/{run}/split.csv", newline="") as file:
        return {row["path"]: (row["label"], row["part"]) for row in csv.DictReader(file)}


def test_more_pictures_of_its_classes(
    finished: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        picture("red", 100 + i).save(image_folder / "red" / f"new{i}.png")
    capsys.readouterr()
    training.main(["train.from_run=tiny", "train.run_name=more"])
    said = capsys.readouterr().out
    assert "settings: those of logs/tiny, and its split" in said
    assert "36 are copied from an older cache" in said
    assert "the setting is what tiny found (search.csv)" in said and "lr auto" not in said
    assert "on the 6 val pictures that tiny answered, too" in said
    before, after = parts("tiny"), parts("more")
    assert {p: after[p] for p in before} == before
    assert {after[p] for p in after.keys() - before.keys()} == {("red", "train")}
    tables = [read_csv(Path(f"logs/{run}/search.csv")) for run in ("tiny", "more")]
    [scale] = [float(row["scale"]) for row in tables[1] if row["chosen"] == "1"]
    for row in [*tables[0], *tables[1]]:
        row.pop("scale"), row.pop("temperature")
    assert tables[0] == tables[1]
    found = json.loads(Path("logs/more/summary.json").read_text())
    assert found["chosen"]["scale"] == pytest.approx(scale, abs=1e-3)
    assert found["certainty"]["temperature_by"] == "the training pictures, out of fold"
    rows = read_csv(Path("logs/more/out_of_fold.csv"))
    assert {row["path"] for row in rows} == {p for p in after if after[p][1] == "train"}


def test_corrected_labels_are_no_better_answers(
    finished: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both runs the answers are judged by the labels of today."""
    answers = read_csv(Path("logs/tiny/predictions.csv"))
    path, label = next((r["path"], r["predicted"]) for r in answers if r["part"] == "val")
    other = next(name for name in ("blue", "green", "red") if name != label)
    config = load_config("logs/tiny/config.yaml", ["train.from_run=logs/tiny"])[0]
    row = {"path": path, "part": "val", "label": other, "predicted": label}
    split = load_split(config.train)
    found = compare_with_run(config, "val", [row], split)
    assert found is not None and found["before"] == found["now"] == 0.0 and found["p"] == 1.0


@pytest.mark.parametrize("change", ["rename", "merge", "swap", "split"])
def test_classes_of_other_names_are_the_same_answers(
    finished: Path, image_folder: Path, change: str
) -> None:
    """A change of names alone is neither a gain nor a loss."""
    first = {
        r["path"]: r for r in read_csv(Path("logs/tiny/predictions.csv")) if r["part"] == "val"
    }
    red, blue, new = (image_folder / name for name in ("red", "blue", "scarlet"))
    names = {"red": "scarlet"}
    if change == "rename":  # and one label corrected
        red.rename(new)
        sorted(p for p in new.iterdir() if f"red/{p.name}" not in first)[0].rename(blue / "was.png")
    elif change == "merge":
        names = {"red": "blue"}
        for path in list(red.iterdir()):
            path.rename(blue / f"red {path.name}")
        red.rmdir()
    elif change == "swap":
        names = {"red": "blue", "blue": "red"}
        for one, two in ((red, new), (blue, red), (new, blue)):
            one.rename(two)
    else:
        red.rename(new)
        (image_folder / "crimson").mkdir()
        for path in sorted(new.iterdir())[::2]:
            path.rename(image_folder / "crimson" / path.name)
    config = settings_of_run(
        load_config("logs/tiny/config.yaml", ["train.from_run=logs/tiny"])[0], []
    )[0]
    split = load_split(config.train)
    old = {r["sha256"]: r["path"] for r in read_csv(Path("logs/tiny/split.csv"))}
    rows = []
    for sample in split.part("val"):
        said = first[old[sample.sha256]]["predicted"]
        label = split.classes[sample.label]
        rows.append({"path": split.path_of(sample), "part": "val", "label": label})
        rows[-1]["predicted"] = names.get(said, said)
    found = compare_with_run(config, "val", rows, split)
    assert found is not None
    if change == "split":  # which of the two it was not asked
        assert found["left_out"] == 2 and found["images"] == 4
    else:
        assert found["left_out"] == 0 and found["before"] == found["now"]
    assert found["only_now"] == found["only_before"] == 0


def test_what_is_called_otherwise_by_now_is_compared(
    finished: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that were renamed, and a class."""
    (image_folder / "red").rename(image_folder / "scarlet")
    for path, (label, part) in parts("tiny").items():
        file = image_folder / path.replace("red/", "scarlet/")
        if part == "val" and label != "red":
            file.rename(file.with_name(f"checked {file.name}"))
    first = json.loads(Path("logs/tiny/summary.json").read_text())
    found = more_of("tiny", "train.report=false")["against_run"]
    assert found["images"] == 6 and found["before"] == pytest.approx(first["val_accuracy"])
    assert set(found["classes"]) == {"blue", "green", "scarlet"}
    assert "on the 6 val pictures that tiny answered, too" in capsys.readouterr().out


def test_gone_on_with_and_resumed_is_the_run_that_was_begun(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that another split and other new images were asked for."""
    asked = ["train.from_run=tiny", "train.run_name=more", "train.report=false"]
    training.main(asked)
    Path("logs/more/summary.json").unlink()
    training.main([*asked, "train.from_checkpoint=true"])
    assert json.loads(Path("logs/more/summary.json").read_text())["against_run"]["images"] == 6


def more_of(run: str, *options: str) -> dict[str, Any]:
    """What a run reaches that goes on from another."""
    training.main([f"train.from_run={run}", "train.run_name=more", *options])
    return json.loads(Path("logs/more/summary.json").read_text())


@pytest.mark.slow
def test_what_is_named_is_not_taken_from_the_earlier_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = more_of("tiny", "train.lr=0.003", "train.optim=adamw")
    assert (found["lr"], found["optim"]) == (0.003, "adamw")
    said = capsys.readouterr().out
    assert "the setting is found anew: tiny had another train.optim, train.lr\n" in said
    assert "the setting is what tiny found" not in said
    shutil.rmtree("logs/more")
    shutil.rmtree("weights/more")
    found = more_of("tiny", "train.head=class", "train.views=2")
    assert found["head"] == "class"
    arrays = load_file("weights/more/best.safetensors")
    assert not [name for name in arrays if name.startswith("layers.")], "an ordinary ViT"


@pytest.mark.slow
def test_what_followed_the_number_of_pictures_does_so_again(
    finished: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["train.max_epochs=auto", "train.warmup_epochs=auto", "train.run_name=auto"]
    training.main(["--config", str(finished), *own])
    for i in range(60):
        picture("red", 200 + i).save(image_folder / "red" / f"more{i}.png")
    capsys.readouterr()
    training.main(["--check", "train.from_run=auto", "train.run_name=more"])
    epochs = [yaml.safe_load(Path("logs/auto/config.yaml").read_text())["train"]["max_epochs"]]
    said = capsys.readouterr().out
    epochs.append(int(re.findall(r"max_epochs: (\d+)", said)[0]))
    assert epochs == [300, 160], "of 30 and of 90 to learn, 900 steps of 16"
    assert "what was to be found: what logs/auto found" in said
    assert "to be found, by trying" not in said and "to be chosen" not in said
    training.main(["train.from_run=auto", "train.run_name=few", "train.max_epochs=1"])
    assert json.loads(Path("logs/few/summary.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_what_was_found_with_as_many_views_as_few_pictures_get_is_taken(
    finished: Path,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its config.yaml says the number, that of a run that goes on from it follows its own."""
    monkeypatch.setattr("config.FEW", 400)
    training.main(["--config", str(finished), "train.views=auto", "train.run_name=few"])
    capsys.readouterr()
    training.main(["train.from_run=few", "train.run_name=more"])
    said = capsys.readouterr().out
    assert "the setting is what few found" in said and "views auto: 2" in said
    training.main(["train.from_run=few", "train.run_name=other", "train.views=1"])
    assert "the setting is found anew: few had another train.views" in capsys.readouterr().out
    monkeypatch.setattr("config.FEW", 40)  # by now there are many: whether views pay is to be seen
    for i in range(60):
        picture("red", 200 + i).save(image_folder / "red" / f"more{i}.png")
    training.main(["train.from_run=few", "train.run_name=many"])
    said = capsys.readouterr().out
    assert "the setting is found anew: few had another train.views" in said


def test_check_counts_no_search_where_a_named_rate_goes_on(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training.main(["--config", str(finished), "train.lr=0.002", "train.run_name=named"])
    capsys.readouterr()
    training.main(["--check", "train.from_run=named", "train.run_name=more"])
    assert "what was to be found: what logs/named found" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_of_a_head_over_layers_goes_on_with_a_block(finished: Path) -> None:
    training.main(["--config", str(finished), "train.head=layers", "train.run_name=layers"])
    found = more_of("layers", "train.head=class", "train.lr=1e-3")
    assert found["head"] == "class"
    config = yaml.safe_load(Path("logs/more/config.yaml").read_text())
    assert config["train"]["finetune_blocks"] == 1


def test_a_setting_that_is_new_on_resume_is_used(finished: Path) -> None:
    training.main(["--config", str(finished), "train.optim=sgd", "train.run_name=sgd"])
    before = json.loads(Path("logs/sgd/summary.json").read_text())
    new = ["train.lr=0.0123", "train.weight_decay=0.5", "train.views=2", "train.max_epochs=3"]
    training.main(["--resume", "sgd", *new])
    found = json.loads(Path("logs/sgd/summary.json").read_text())
    assert before["lr"] != 0.0123
    assert (found["lr"], found["weight_decay"]) == (0.0123, 0.5)
    config = yaml.safe_load(Path("logs/sgd/config.yaml").read_text())["train"]
    assert (config["lr"], config["weight_decay"], config["views"]) == (0.0123, 0.5, 2)


def test_a_new_class_is_split_as_a_new_folder_is(finished: Path, image_folder: Path) -> None:
    (image_folder / "grey").mkdir()
    for i in range(10):
        picture("blue", 50 + i).convert("L").save(image_folder / "grey" / f"{i}.png")
    training.main(["train.from_run=logs/tiny", "train.run_name=more"])
    before, after = parts("tiny"), parts("more")
    assert {p: after[p] for p in before} == before
    new = [after[p] for p in after.keys() - before.keys()]
    assert sorted(new) == [("grey", "train")] * 8 + [("grey", "val")] * 2
    found = json.loads(Path("logs/more/summary.json").read_text())["against_run"]
    assert found["run"] == "tiny" and found["images"] == 6
    assert list(found["classes"]) == ["blue", "green", "red"], "the old ones alone"
    counts = [found["classes"][name] for name in found["classes"]]
    assert sum(c["right_before"] for c in counts) == round(found["before"] * 6)
    assert sum(c["right_now"] for c in counts) == round(found["now"] * 6)


def test_it_goes_on_after_a_stop(finished: Path) -> None:
    """What goes on is the new run, by its own config and split."""
    training.main(["train.from_run=last", "train.run_name=more"])
    config = "logs/more/config.yaml"
    training.main(["--config", config, "train.run_name=more", "train.from_checkpoint=true"])
    assert parts("more") == parts("tiny")


def test_a_run_without_a_name_gets_one_of_its_own(finished: Path) -> None:
    training.main(["train.from_run=tiny"])
    names = {path.name for path in Path("logs").iterdir() if path.is_dir()}
    assert len(names) == 2 and any(name.startswith("images-") for name in names)


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("summary.json", "is not a finished run, it has no summary.json"),
        ("", "tinny: no such run; did you mean tiny?"),
    ],
)
def test_what_is_no_finished_run_is_said(gone: str, sentence: str, finished: Path) -> None:
    if gone:
        Path("logs/tiny", gone).unlink()
    with pytest.raises(UserError) as caught:
        training.main([f"train.from_run={'tiny' if gone else 'tinny'}"])
    assert sentence in str(caught.value)


def test_what_is_gone_is_left_out_and_named(
    finished: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = parts("tiny")
    gone = next(path for path, (_, part) in before.items() if part == "train")
    (image_folder / gone).unlink()
    training.main(["train.from_run=tiny", "train.run_name=more"])
    assert parts("more") == {path: row for path, row in before.items() if path != gone}
    assert (
        f"{gone}: logs/tiny/split.csv has it, and it is gone"
        in Path("logs/more/run.log").read_text()
    )


def test_an_ordinary_run_is_compared_with_none(finished: Path) -> None:
    assert summary(finished)["against_run"] is None
    shutil.rmtree("logs/tiny")


def test_new_pictures_are_read_in_the_order_of_the_folder(
    finished: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Of a new class and of those that were: whoever goes on with the run, or repeats it, reads
    them so, and draws the same from the seed."""
    (image_folder / "cyan").mkdir()  # before green and red
    for i in range(6):
        picture("blue", 300 + i, (30, 30)).save(image_folder / "cyan" / f"{i}.png")
    picture("blue", 400).save(image_folder / "blue" / "000.png")
    more_of("tiny")
    first = Path("logs/more/split.csv").read_text()
    paths = [line.partition(",")[0] for line in first.splitlines()[1:]]
    assert len(paths) == 43 and paths == sorted(paths)
    config, _ = load_config(Path("logs/more/config.yaml"))
    write_split(tmp_path / "again.csv", load_split(config.train, Path("logs/more/split.csv")))
    assert (tmp_path / "again.csv").read_text() == first


def test_the_file_of_a_run_that_went_on_is_taken_as_it_stands(finished: Path) -> None:
    """It went on from the earlier one again: edits in it were lost, and an export's training of a
    class head got that one's settings."""
    more_of("tiny", "train.report=false")
    page = Path("logs/more/config.yaml")
    raw = yaml.safe_load(page.read_text())
    assert raw["train"]["from_run"] and raw["train"]["split"]
    raw["train"] |= {"label_smoothing": 0.25, "run_name": "again"}
    page.write_text(yaml.safe_dump(raw))
    asked = training.settings(["--config", str(page)])
    assert asked is not None
    assert (asked[0].train.label_smoothing, asked[0].train.run_name) == (0.25, "again")
    shutil.rmtree("logs/tiny")
    asked = training.settings(["--config", str(page)])
    assert asked is not None and asked[0].train.run_name == "again", "without the earlier run"


def test_a_file_that_names_a_run_goes_on_from_it(finished: Path) -> None:
    """Beside a split, too, which alone would leave out what is new; and a stopped run that it names
    is the one that goes on."""
    more_of("tiny", "train.report=false")
    raw = yaml.safe_load(finished.read_text())
    raw["train"] |= {"from_run": "tiny", "split": "logs/tiny/split.csv"}
    finished.write_text(yaml.safe_dump(raw))
    asked = training.settings(["--config", str(finished)])
    assert asked is not None and asked[0].train.new_images == "train"
    assert asked[0].train.run_name is None and "settings: those of" in asked[1][0]
    assert any("nothing else in them counts" in note for note in asked[1])
    shutil.copy("logs/tiny/split.csv", "other.csv")
    raw["train"]["split"] = "other.csv"
    finished.write_text(yaml.safe_dump(raw))
    asked = training.settings(["--config", str(finished)])
    assert asked is not None and asked[0].train.split == "other.csv", "which it has set itself"
    raw["train"] |= {"split": None, "from_checkpoint": True, "run_name": "more"}
    finished.write_text(yaml.safe_dump(raw))
    asked = training.settings(["--config", str(finished)])
    assert asked is not None and asked[0].train.from_checkpoint
    assert asked[0].train.run_name == "more" and asked[0].train.new_images == "train"


def test_which_classes_are_called_otherwise() -> None:
    def called(before: dict[str, str], today: dict[str, str]) -> dict[str, str | None]:
        classes = sorted(set(today.values()))
        samples = [SimpleNamespace(sha256=d, label=classes.index(n)) for d, n in today.items()]
        return _called(before, SimpleNamespace(classes=classes, samples=samples))  # type: ignore[arg-type]

    before = {f"cat{i}": "cat" for i in range(10)} | {f"dog{i}": "dog" for i in range(10)}
    dogs = {f"dog{i}": "dog" for i in range(10)}
    # One label corrected, all other old cats gone, and new ones there.
    assert "cat" not in called(before, dogs | {"cat0": "dog", "new": "cat"})
    assert called(before, dogs | {"cat0": "tabby"})["cat"] == "tabby", "no class is called cat now"
    swapped = {f"cat{i}": "dog" for i in range(6)} | {f"dog{i}": "cat" for i in range(6)}
    assert called(before, swapped) == {"cat": "dog", "dog": "cat"}, "and some are gone"
    several = {f"cat{i}": ("tabby", "siamese")[i % 2] for i in range(9)} | {"cat9": "cat"}
    assert called(before, dogs | several)["cat"] is None
