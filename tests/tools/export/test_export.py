"""tools.export: what is written, the proof that ends it, and what is left where it fails."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from certainty import sure
from classifier import Classifier
from config import Config, ConfigError, Preprocessing
from config_file import dump_config, load_config
from tests.helpers import COLOURS, picture, pictures_of, random_weights, small_run
from tools.export import npz, pt2, timm_folder
from tools.export.card import as_text, as_word, results, training_command
from tools.export.given import Given, Written
from tools.export.golden import golden_pictures
from tools.export.ordinary import save_folded, temperature_of, with_class_head
from tools.export.proof import Picture, Proof
from tools.export.reading import deep_lines, pillow_reader
from utils import UserError, command_line

export = importlib.import_module("tools.export.__main__")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, with a space in its name, with pictures and a run of a class head."""
    folder = tmp_path_factory.mktemp("a home")
    pictures_of(folder / "images")
    random_weights(folder / "from.safetensors", num_classes=0, gelu="tanh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sure, "FEWEST", 5)  # six validate: a temperature to export
        small_run(folder, folder / "images", "class", head="class", test_fraction=0.2)
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def run(*arguments: str | Path) -> int:
    return command_line(lambda: export.main([str(a) for a in arguments]), ConfigError)


def given_of(checkpoint: Path, run: Path | None = None) -> Given:
    options = export.parse(["last", "--to", "npz", "--out", "x"])
    return Given(Classifier(checkpoint, device="cpu"), run, options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_and_its_proof(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "an export"
    (here / "empty.yaml").touch()
    assert run("class", "--to", "npz", "--out", out) == 0
    said = capsys.readouterr().out
    assert "proof: 32 golden pictures in a fresh process" in said
    assert said.rstrip().endswith(f"check again: python '{out}/golden/check.py'")
    assert left(tmp_path) == ["an export"]
    assert left(out) == ["README.md", "golden", "manifest.json", "model.npz"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["labels"] == sorted(COLOURS) and manifest["run"] == "class"
    assert manifest["proof"]["same_inputs"] <= 1e-5
    assert manifest["temperature"] != 1
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == entry["sha256"]
    card = (out / "README.md").read_text()
    summary = json.loads((here / "logs/class/summary.json").read_text())
    assert f"accuracy {summary['test_accuracy']:.3f}" in card
    assert "blue, green, red" in card and "train.head=class" in card
    assert f"are calibrated (temperature {manifest['temperature']:.3f}, already in" in card
    (words,) = (shlex.split(x) for x in card.splitlines() if x.startswith("python training.py "))
    again, _ = load_config(here / "empty.yaml", words[2:])
    config, _ = load_config(here / "logs/class/config.yaml")
    places = dict.fromkeys(("run_name", "log_path", "save_path", "data"))
    assert again.train.model_copy(update=places) == config.train.model_copy(update=places)


def test_expected_answers_are_the_classifiers(here: Path, tmp_path: Path) -> None:
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 0
    known = json.loads((tmp_path / "o/golden/expected.json").read_text())
    classifier = Classifier("class", device="cpu")
    for one in known["pictures"][::5]:
        (answer,) = classifier(tmp_path / "o/golden/pictures" / one["name"])
        wanted = list(answer.probabilities.values())
        assert one["from_file"] == pytest.approx(wanted, abs=1e-6)
        assert one["from_inputs"] == pytest.approx(wanted, abs=1e-6)


def test_one_that_answers_otherwise_leaves_nothing(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = npz.folded

    def wrong(*arguments: Any) -> Any:
        arrays = own(*arguments)
        return arrays | {"head/bias": arrays["head/bias"] + torch.tensor([0.01, 0, 0])}

    monkeypatch.setattr(npz, "folded", wrong)
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 2
    assert "answers otherwise than the run: on the same inputs" in capsys.readouterr().err
    assert left(tmp_path) == []


def test_one_that_its_library_cant_read_leaves_nothing(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(npz, "folded", lambda *_: {"head/bias": torch.zeros(3)})
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 2
    assert "can't be read by its own library: KeyError" in capsys.readouterr().err
    assert left(tmp_path) == []


def test_stopped_it_leaves_nothing(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(npz, "folded", stop)
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 130
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["class", "--to", "npz", "--out", "images"], "images is there already"),
        (["class", "--to", "npz", "--out", "class.yaml"], "class.yaml is there already"),
        (["clas", "--to", "npz", "--out", "new"], "did you mean weights/class"),
        (["from.safetensors", "--to", "npz", "--out", "new"], "has no head"),
        (["class.yaml", "--to", "npz", "--out", "new"], "class.yaml"),
        (["class", "--to", "npz", "--out", "new", "--push", "me/it"], "--push takes hf or timm"),
        (["class", "--to", "hf", "--out", "new", "--push", "it"], "give owner/name"),
        (["class", "--to", "npz", "--out", "a link"], "a link is there already"),
    ],
)
def test_mistakes_are_said(
    arguments: list[str], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "nothing").mkdir(exist_ok=True)
    if not (here / "a link").is_symlink():
        (here / "a link").symlink_to("nothing")
    before = left(here)
    assert run(*arguments) == 2
    assert sentence in capsys.readouterr().err
    assert left(here) == before


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--to hf needs nowhere_to_be_had: pip install nowhere"):
        export.need(("nowhere_to_be_had",), "hf")


# --------------------------------------------------------------------------- the golden pictures


def test_the_golden_pictures(home: Path) -> None:
    found = dict(
        golden_pictures(given_of(home / "weights/class/best.safetensors", home / "logs/class"))
    )
    assert len(found) == 32
    # 12 a class, a fifth of them test and another val: fewer than 23, and noise fills them up.
    plain = [name.split("-")[1].split(".")[0] for name in list(found)[:23]]
    assert set(plain) == {*COLOURS, "noise"} and plain.count("red") >= 3
    pictures = {name: Image.open(io.BytesIO(content)) for name, content in found.items()}
    of = {name.split("-")[1].split(".")[0]: p for name, p in pictures.items()}
    assert of["exif"].getexif()[0x112] == 6
    assert of["cmyk"].mode == "CMYK" and of["grey"].mode == "L"
    assert of["grey16"].mode == "I;16" and np.asarray(of["grey16"]).max() > 30_000
    assert of["alpha"].mode == "RGBA" and of["palette"].mode == "P"
    assert of["wide"].width == 16 * of["wide"].height and of["tiny"].size == (5, 3)


def test_weights_without_a_run_have_noise_alone(home: Path) -> None:
    names = [n for n, _ in golden_pictures(given_of(home / "weights/class/best.safetensors"))]
    assert len(names) == 32 and all("noise" in name for name in names[:23])


def test_none_of_ones_own_pictures_travels_where_it_must_not(home: Path) -> None:
    given = given_of(home / "weights/class/best.safetensors", home / "logs/class")
    given.options.no_pictures = True
    assert all("noise" in name for name, _ in golden_pictures(given)[:23])


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_alone_reads_nearly_the_same(fit: Any, channels: int, tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=3, input_channels=channels)
    classifier = Classifier(path, device="cpu")
    preprocessing = Preprocessing(image_size=32, crop=0.9, fit=fit, interpolation="bicubic")
    classifier.preprocessing = preprocessing
    from transforms import eval_transform

    classifier._transform = eval_transform(preprocessing, channels)
    space: dict[str, Any] = {}
    exec(pillow_reader(classifier), space)
    for name, content in golden_pictures(given_of(path)):
        file = tmp_path / name
        file.write_bytes(content)
        wanted, found = classifier.input_of(file).numpy(), space["picture_input"](file)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < 0.02, name  # of a range of 2


# ----------------------------------------------------------------------------------- the targets


@pytest.mark.slow
def test_pt2_takes_any_head_and_batch(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=3)
    classifier = Classifier(path, device="cpu")
    program = pt2.exported(pt2.Probabilities(classifier), 3, 32).module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        assert torch.allclose(program(images), classifier.probabilities(images)[0], atol=1e-5)


@pytest.mark.parametrize(("size", "crop"), [(224, 0.875), (32, 0.9), (224, 0.95), (518, 0.9)])
def test_timm_resizes_to_what_torchvision_does(size: int, crop: float) -> None:
    found = timm_folder.pretrained_cfg(Preprocessing(image_size=size, crop=crop), ("a", "b"))
    assert int(size / found["crop_pct"]) == round(size / crop)


def test_what_timm_cuts_off_is_the_mlps_width(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=3, hidden_dim=36, ff_dim=97)
    found = timm_folder.model_config(Classifier(path, device="cpu"))
    assert int(36 * found["model_args"]["mlp_ratio"]) == 97


@pytest.mark.parametrize("loss", ["nan", "-1", "1.5", "inf"])
def test_a_loss_that_is_none(loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        export.parse(["last", "--to", "onnx", "--out", "o", f"--most-loss={loss}"])
    assert "a share of the pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [("onnx",), ("onnx", "--precision=fp16"), ("web", "--precision=fp32")]
)
def test_a_loss_of_what_loses_nothing(
    more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export.parse(["last", "--out", "o", "--most-loss=0.1", "--to", *more])
    assert "--most-loss goes with --precision int8, and this is fp" in capsys.readouterr().err
    export.parse(["last", "--to", "web", "--out", "o", "--most-loss=0.1"])


def test_names_are_no_more_than_text() -> None:
    said = as_text("<img src=x> `a` *b* [c](d) | e_f")
    assert said == r"&lt;img src=x&gt; \`a\` \*b\* \[c\](d) \| e\_f"
    assert as_text("Ayanami Rei, 2") == "Ayanami Rei, 2"


def test_the_card_s_code_runs_whatever_the_folder_is_called(here: Path, tmp_path: Path) -> None:
    out = tmp_path / 'my "bees" \\ 2'
    assert run("class", "--to", "npz", "--out", out) == 0
    card = (out / "README.md").read_text()
    compile(card.partition("```python\n")[2].partition("```")[0], "card", "exec")


def test_a_card_says_what_was_not_calibrated(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path, here / "images", "few", mode="pretrained", head="class")
    assert run("few", "--to", "npz", "--out", tmp_path / "o") == 0
    card = (tmp_path / "o/README.md").read_text()
    assert "are not calibrated: the validation part's 6 pictures are too few to find" in card
    assert "(val part)" in card and "others' temperature" not in card


def test_what_a_killed_export_left_goes(here: Path, tmp_path: Path) -> None:
    for name in (".o.4194304.tmp", ".o.1.tmp", ".other.4194304.tmp"):  # no process; alive; another
        (tmp_path / name).mkdir()
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 0
    assert left(tmp_path) == [".o.1.tmp", ".other.4194304.tmp", "o"]


def test_one_that_reads_no_file_is_no_export(
    here: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    how = npz.write

    def blind(given: Given, folder: Path) -> Written:
        written = how(given, folder)
        return replace(written, how=written.how + "\n\ndef of_files(paths):\n    return {}['a']\n")

    monkeypatch.setattr(npz, "write", blind)
    assert run("class", "--to", "npz", "--out", tmp_path / "o") == 2
    assert "can't answer picture files: can't be read: KeyError: 'a'" in capsys.readouterr().err
    assert left(tmp_path) == []


@pytest.mark.slow
def test_transformers_gives_every_class(tmp_path: Path) -> None:
    """Its pipeline gives five, if nobody asks for more."""
    path = random_weights(tmp_path / "w.safetensors", num_classes=7, gelu="tanh")
    assert run(path, "--to", "hf", "--out", tmp_path / "o") == 0
    proof = json.loads((tmp_path / "o/manifest.json").read_text())["proof"]
    assert all(p["difference"] is not None for p in proof["from_files"])
    assert sum(p["same"] for p in proof["from_files"]) > 16


@pytest.mark.slow
@pytest.mark.parametrize("target", ["hf", "timm", "pt2"])
def test_each_target_is_proved(
    target: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    assert run("class", "--to", target, "--out", out) == 0
    proof = json.loads((out / "manifest.json").read_text())["proof"]
    assert proof["same_inputs"] <= 1e-5
    by_name = {p["name"].split("-")[1].split(".")[0]: p for p in proof["from_files"]}
    assert len(proof["from_files"]) == 32
    # 32 pixels of noise tell more of the resizing than a picture does.
    assert by_name["exif"]["difference"] < 0.02 and by_name["cmyk"]["difference"] < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_transformers_fits_pictures_as_we_do(fit: Any, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    from tools.export.hf import processor
    from transforms import eval_transform

    how = Preprocessing(image_size=32, crop=0.9, fit=fit, mean=(0.4, 0.5, 0.6))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor(how)))
    given = picture("red", 1, (60, 41))
    found = AutoImageProcessor.from_pretrained(tmp_path)(given, return_tensors="pt")
    wanted = eval_transform(how)(torch.from_numpy(np.array(given)).permute(2, 0, 1))
    close = 0.05 if fit == "pad" else 1e-5  # it pads first, and its edges are mixed
    assert (found["pixel_values"][0] - wanted).abs().mean() < close


@pytest.mark.slow
def test_where_transformers_crops_one_pixel_off(tmp_path: Path) -> None:
    """Exactly where the middle lies between two pixels of which the even one is the second."""
    from transformers import AutoImageProcessor

    from tools.export.causes import between
    from tools.export.hf import processor
    from transforms import eval_transform

    how = Preprocessing(image_size=32, crop=0.9, mean=(0.4, 0.5, 0.6))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor(how)))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    apart = []
    for width in range(36, 48):
        given = picture("red", 1, (width, 36))  # the shorter side as it is resized to
        found = theirs(given, return_tensors="pt")["pixel_values"][0]
        wanted = eval_transform(how)(torch.from_numpy(np.array(given)).permute(2, 0, 1))
        assert ((found - wanted).abs().max().item() > 1e-4) == between((width, 36), how), width
        apart += [width] if between((width, 36), how) else []
    assert apart == [39, 43, 47]


def test_the_lines_for_greys_of_16_bits_show_what_training_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from images import read_image

    monkeypatch.chdir(tmp_path)
    ramp = np.linspace(100, 65_000, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save("deep.png")
    for greys in (None, (0.0, 4095.0), (-1024.0, 30_000.0)):
        exec(deep_lines(greys), {})
        wanted = read_image(Path("deep.png"), greys)
        assert np.array_equal(np.asarray(Image.open("picture.png").convert("RGB")), wanted)


@pytest.mark.parametrize("greys", [None, (0.0, 4095.0)])
@pytest.mark.parametrize("most", [3, 200, 4095, 9000, 65_535])
def test_the_golden_reader_takes_16_bits_as_training_does(
    greys: Any, most: int, tmp_path: Path
) -> None:
    path = random_weights(tmp_path / "w.safetensors", num_classes=3)
    classifier = Classifier(path, device="cpu")
    classifier.preprocessing = classifier.preprocessing.model_copy(update={"greys": greys})
    values = np.random.default_rng(0).integers(0, most + 1, (32, 32)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    space: dict[str, Any] = {}
    exec(pillow_reader(classifier), space)
    found = space["eight_bits"](Image.open(tmp_path / "a.png"))
    from images import read_image

    assert np.array_equal(np.asarray(found), read_image(tmp_path / "a.png", greys)[..., 0])


# ------------------------------------------------------------------------- a head over layers


@pytest.mark.slow
def test_a_head_over_layers_is_replaced_and_said(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run(here, here / "images", "layers", head="layers", test_fraction=0.2)
    capsys.readouterr()
    assert run("layers", "--to", "npz", "--out", tmp_path / "o") == 0
    said = capsys.readouterr().out
    assert "note: the run's head over layers has no place in an ordinary ViT: the class" in said
    assert said.count("test part") >= 2
    manifest = json.loads((tmp_path / "o/manifest.json").read_text())
    assert manifest["run"] == "layers" and manifest["proof"]["same_inputs"] <= 1e-5
    assert left(here / "logs") == ["class", "layers"]


def test_without_its_pictures_it_says_what_takes_any_head(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.heads import read_depths
    from model import LayersHead
    from pretrained.build import load_model
    from pretrained.write import save_model

    monkeypatch.chdir(tmp_path)
    net = load_model(home / "weights/class/best.safetensors")
    net.freeze_trunk(net.vit.num_layers - 1)
    net.certainty = None
    net.layers = LayersHead(read_depths(net), net.vit.hidden_dim, 3)
    net.head = torch.nn.Identity()
    net.vit = net.vit.model_copy(update={"num_classes": 0})
    save_model(tmp_path / "weights/both/best.safetensors", net)
    assert run("weights/both", "--to", "npz", "--out", "o") == 2
    assert "config.yaml and split.csv are not there; --to pt2" in capsys.readouterr().err
    shutil.copytree(home / "logs/class", tmp_path / "logs/both")
    text = (tmp_path / "logs/both/config.yaml").read_text()
    gone = text.replace(f"{home}/images", f"{home}/moved")
    (tmp_path / "logs/both/config.yaml").write_text(gone)
    assert run("both", "--to", "npz", "--out", "o") == 2
    assert "moved any more; --to pt2 and --to onnx take any head" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_of_two_heads_the_one_on_the_class_token_answers(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As sure as it is in the mean of both, and nothing is trained."""
    from engine.heads import read_depths
    from model import LayersHead
    from pretrained.build import load_model
    from pretrained.write import save_model

    monkeypatch.chdir(tmp_path)
    net = load_model(home / "weights/class/best.safetensors")
    alone = load_model(home / "weights/class/best.safetensors")
    net.freeze_trunk(net.vit.num_layers - 1)
    net.layers = LayersHead(read_depths(net), net.vit.hidden_dim, 3)
    torch.nn.init.constant_(net.layers.scale, 2.5)
    net.certainty = None
    save_model(tmp_path / "weights/two/best.safetensors", net)
    shutil.copytree(home / "logs/class", tmp_path / "logs/two")
    given = Given(Classifier("two", device="cpu"), tmp_path / "logs/two", argparse.Namespace())
    found, (note,) = with_class_head(given, tmp_path)
    by_val = json.loads((tmp_path / "logs/two/summary.json").read_text())["val_accuracy"]
    assert found.alone is not None and f"the class head alone {found.alone}; both" in note
    assert f"{by_val:.3f}" not in found.alone or "test part" in found.alone
    assert temperature_of(found.classifier) == pytest.approx(0.4)
    images = torch.randn(2, 3, net.vit.dim, net.vit.dim)
    with torch.no_grad():
        wanted = (2.5 * alone(images)).softmax(1)
    assert torch.allclose(found.classifier.probabilities(images)[0], wanted, atol=1e-4)


def test_the_card_leads_with_the_head_that_is_exported(home: Path) -> None:
    path = home / "weights/class/best.safetensors"
    given = replace(given_of(path, home / "logs/class"), alone="0.123 of 4 pictures, test part")
    lines = results(given, Written("numpy", "")).splitlines()
    assert lines[2] == (
        "- accuracy of what is exported, the class head alone: 0.123 of 4 pictures, test part"
    )
    rest = lines[3:]
    assert rest and all(
        "of the run, whose two heads answer together" in line or "of both heads" in line
        for line in rest
        if "accuracy" in line or "error" in line
    )


@pytest.mark.parametrize("mode", ["scratch", "finetune"])
def test_a_training_command_is_the_same_training(mode: str, tmp_path: Path) -> None:
    """With names that a shell, YAML and a list would take otherwise."""
    odd = tmp_path / "it's a folder; $5"
    (odd / "pictures").mkdir(parents=True)
    train = {
        "mode": mode,
        "base_dir": str(odd / "pictures"),
        "checkpoint": "weights/my net.npz" if mode == "finetune" else None,
        "classes": ["a, b", "no", "c: 'd'", "1e3", "null", "é ü"],
        "lr": 1e-4,
        "views": 3,
        "report": False,
    }
    vit = {"dim": 96, "patch_dim": 8, "hidden_dim": 48, "num_heads": 4, "dropout": 0.1}
    config = Config.model_validate(
        {"train": train, "vit": vit if mode == "scratch" else {"dim": 96, "dropout": 0.1}}
    )
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = training_command(tmp_path)
    assert command is not None
    (tmp_path / "empty.yaml").touch()
    again, _ = load_config(tmp_path / "empty.yaml", shlex.split(command)[2:])
    assert again.train == config.train and again.vit.model_dump() == config.vit.model_dump()


@pytest.mark.parametrize(
    ("difference", "differs"),
    [(0.0, False), (1e-5, False), (2e-5, True), (float("nan"), True), (None, True)],
)
def test_which_pictures_differ(difference: float | None, differs: bool) -> None:
    proof = Proof(0.0, (Picture("a.jpg", difference, True),), 1e-5)
    assert bool(proof.other) == differs


def test_a_temperature_is_in_the_head(home: Path) -> None:
    classifier = Classifier(home / "weights/class/best.safetensors", device="cpu")
    temperature = temperature_of(classifier)
    bias = npz.folded(classifier, "google")["head/bias"]
    assert temperature != 1
    assert torch.allclose(bias * temperature, classifier.net.head.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "word"), [(1, "1"), (True, "true"), (0, "0"), (None, "null"), ([0, 9.5], "[0,9.5]")]
)
def test_a_setting_as_the_command_line_takes_it(value: Any, word: str) -> None:
    assert as_word(value) == word


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback of safetensors'."""
    classifier = Classifier(random_weights(tmp_path / "w.safetensors", num_classes=3), device="cpu")
    monkeypatch.setattr("utils.free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match="no disk space for .*model.safetensors"):
        save_folded(tmp_path / "model.safetensors", classifier, "timm")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
