"""Weights and groups that are others by the time a run goes on."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from safetensors.torch import load_file

import pretrained
import training
from config import Preprocessing
from tests.helpers import fail, random_weights, summary, train


def weights_of(config_file: Path) -> Path:
    return config_file.parent / "random.safetensors"


@pytest.fixture
def home(finetune: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a run; the working folder is its own."""
    monkeypatch.chdir(finetune.parent)
    return finetune


def stop_at(monkeypatch: pytest.MonkeyPatch, place: str, config_file: Path, *options: str) -> None:
    """Begin a run that is stopped where a function is called."""

    def stop(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, stop)
        with pytest.raises(KeyboardInterrupt):
            train(config_file, *options)


def shown_otherwise(path: Path) -> None:
    """The same arrays with another normalisation."""
    net = pretrained.load_model(path)
    net.preprocessing = Preprocessing(mean=(0.4, 0.4, 0.4), image_size=net.vit.dim)
    before = load_file(path)
    pretrained.save_model(path, net)
    assert all(array.equal(before[name]) for name, array in load_file(path).items())


def other_arrays(path: Path) -> None:
    random_weights(path, seed=5)


@pytest.mark.parametrize("mode", ["finetune", "pretrained"])
@pytest.mark.parametrize("other", [shown_otherwise, other_arrays])
@pytest.mark.parametrize(
    "place", ["training.Job", "training.evaluate_together"]
)  # before a step; after 4
def test_other_weights_under_the_same_name_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, mode: str, other: object, place: str
) -> None:
    stop_at(monkeypatch, place, home, f"train.mode={mode}", "train.lr=1e-3")
    kept = weights_of(home).read_bytes()
    other(weights_of(home))  # type: ignore[operator]
    said = fail(home, "--resume")
    assert "logs/tiny began with other weights than" in said and "random.safetensors holds" in said
    weights_of(home).write_bytes(kept)
    assert training.main(["--resume"]) == 0 and summary(home)["epochs"] == 3


def test_other_groups_are_refused(
    home: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers that leave out a picture leave out its group."""
    table = home.parent / "groups.csv"
    paths = sorted(p.relative_to(image_folder) for p in image_folder.glob("red/*.png"))
    rows = [f"{path},{'one' if i < 2 else f'own{i}'}" for i, path in enumerate(paths)]
    table.write_text("\n".join(["path,group", *rows]))
    options = [f"train.groups={table}", "train.lr=1e-3"]
    stop_at(monkeypatch, "training.Job", home, *options)
    kept = table.read_text()
    table.write_text(kept.replace("own2", "one"))
    assert "stay together otherwise by now (train.groups)" in fail(home, "--resume")
    table.write_text(kept)
    assert training.main(["--resume"]) == 0


def test_near_duplicates_that_are_others_are_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another Pillow may decode otherwise: nobody can put that back."""
    stop_at(monkeypatch, "training.Job", home, "train.lr=1e-3")
    path = home.parent / "logs/tiny/began.json"
    path.write_text(path.read_text().replace('"groups": "', '"groups": "0'))
    assert training.main(["--resume"]) == 0
    assert "began are taken for near-duplicates" in capsys.readouterr().out


def test_a_run_of_an_older_version_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, "training.Job", home, "train.lr=1e-3")
    (home.parent / "logs/tiny/began.json").unlink()
    assert training.main(["--resume"]) == 0


def test_names_that_are_spelt_otherwise_are_the_same(
    home: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another system writes them."""
    first = image_folder / "red" / "00.png"
    decomposed, composed = (unicodedata.normalize(form, "é.png") for form in ("NFD", "NFC"))
    first.rename(first.with_name(decomposed))
    stop_at(monkeypatch, "training.Job", home, "train.lr=1e-3")
    first.with_name(decomposed).rename(first.with_name(composed))
    assert training.main(["--resume"]) == 0
