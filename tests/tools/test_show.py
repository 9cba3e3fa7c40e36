"""What a weights file is, of every layout that can be read, and a sentence for what is none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pretrained
from classifier import find_checkpoint
from config import PRESETS, Preprocessing, ViTConfig
from engine.job import Setting
from engine.trials import Trial
from model import VisionTransformer
from tests.helpers import COLOURS, FIXTURES, TINY_VIT, pictures_of, random_weights, small_run, train
from tools.show import __main__ as show
from tools.show.facts import KNOWN, facts_of
from tools.show.words import WIDTH, said
from tools.show.words import picture as in_words
from utils import UserError, command_line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs in `logs` and `weights`: `once`, and `all`, trained once more on all."""
    folder = tmp_path_factory.mktemp("home")
    config = small_run(folder, pictures_of(folder / "my images"), "once", head="both")
    config = config.rename(folder / "tiny.yaml")
    train(config, "train.run_name=all", "train.refit=true", "train.head=layers")
    train(config, "train.run_name=part", "train.save=trained", "train.head=class")
    return folder


@pytest.fixture
def shown(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`python -m tools.show ...` in the folder: what it prints."""
    monkeypatch.chdir(home)

    def call(*args: str) -> str:
        capsys.readouterr()
        assert show.main(list(args)) == 0
        return capsys.readouterr().out

    return call


def summary(home: Path, run: str) -> dict[str, Any]:
    return json.loads((home / f"logs/{run}/summary.json").read_text())


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_a_checkpoint_of_a_run(shown: Callable[..., str], home: Path) -> None:
    text, found = unwrapped(shown("once")), summary(home, "once")
    known = found["certainty"]
    assert (
        "this project's own, in timm's layout" in text
        and "a ViT of 4 blocks, width 48, 4 heads, MLP 96" in text
    )
    assert "the mean of two (both): on the class token, and linear over blocks 2, 3 and" in text
    assert "classes 3: blue, green, red" in text
    low, high = found["val_interval"]
    assert (
        f"validation accuracy {found['val_accuracy']:.4f} ({low:.3f} to {high:.3f}, 95 %)" in text
    )
    assert f"temperature {known['temperature']:.3g}, found on {known['temperature_by']}" in text
    before, after = (known[f"val_calibration_error{end}"] for end in ("", "_calibrated"))
    assert f"calibration error is {before:.3f} before and {after:.3f} after it" in text
    assert f"held out {known['held_out']} pictures, " in text
    assert (
        "finetune, the last block, norm and head, beside a head over layers" in text
        and f"{home}/my images" in text
    )
    assert f"from {home}/from.safetensors; seed 0; epoch {found['best_epoch']}" in text
    assert "learned: on these" not in text and "settled" not in text


@pytest.mark.parametrize("refit", ["false", "true"])
def test_a_block_that_the_search_left_frozen(
    refit: str, finetune: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def head_alone(finals: list[Trial], recipe: Setting) -> Trial:
        return next(trial for trial in finals if trial.setting.part == "head")

    grid = (("block", "sgd", (6e-3,), (0.01,)), ("head", "adamw", (1e-3, 1e-2), (0.01,)))
    monkeypatch.setattr("engine.trials.BOTH_GRID", grid)
    monkeypatch.setattr("engine.search.choose", head_alone)
    monkeypatch.setattr("engine.search.allowance", lambda train, images: None)
    monkeypatch.setattr("engine.search.LEAST_STEPS", 60)
    folder = finetune.parent
    train(finetune, "train.lr=auto", f"train.refit={refit}")
    capsys.readouterr()
    assert show.main([str(folder / "weights/tiny/best.safetensors")]) == 0
    text = unwrapped(capsys.readouterr().out)
    assert "finetune, norm and head; " in text and "last block" not in text


def test_one_that_was_trained_once_more(shown: Callable[..., str], home: Path) -> None:
    text, found = unwrapped(shown("all")), summary(home, "all")
    images = found["images"]
    assert (
        f"{images['train']} training and {images['val']} validation pictures learned: on these it "
        "can't be measured"
    ) in text
    assert f"accuracy {found['val_accuracy']:.4f}" in text
    assert f"of the same training on {images['train']} pictures" in text
    assert "(layers), instead of one on the class token" in text
    assert text.count("beware") == 0, "said in its own line"


@pytest.mark.parametrize("wanted", ["once", "logs/once", "weights/once", "last"])
def test_a_run_by_each_of_its_names(wanted: str, shown: Callable[..., str]) -> None:
    path = "weights/part" if wanted == "last" else "weights/once"
    (found,) = json.loads(shown(wanted, "--json"))
    assert Path(found["file"]).resolve() == Path(path, "best.safetensors").resolve()


def test_the_hash_the_size_and_the_json(shown: Callable[..., str], home: Path) -> None:
    path = home / "weights/once/best.safetensors"
    found = json.loads(shown("once", "all", "--json"))
    assert [one["head"] for one in found] == ["both", "layers"]
    (file,) = found[0]["files"]
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file["bytes"] == path.stat().st_size
    assert found[0]["classes"] == sorted(COLOURS) and found[0]["trained"]["mode"] == "finetune"
    net = pretrained.load_model(path)
    assert found[0]["parameters"] == sum(p.numel() for p in net.parameters())
    assert found[0]["preprocessing"] == net.preprocessing.model_dump(mode="json")
    assert net.certainty is not None
    right = net.certainty.held_out[:, 1].sum().item()
    assert found[0]["certainty"]["right"] == right


def test_the_files_own_commands_are_ready_for_a_shell(
    tmp_path: Path, shown: Callable[..., str]
) -> None:
    path = random_weights(tmp_path / "it's mine.safetensors")
    lines = shown(str(path)).splitlines()
    quoted = f"""'{tmp_path}/it'"'"'s mine.safetensors'"""
    assert lines[-3].endswith(f"python -m tools.predict PICTURES --checkpoint {quoted}")
    assert lines[-2].endswith(f"python -m tools.export {quoted} --to onnx --out EXPORTED")
    assert "python training.py train.base_dir=PICTURES 'train.checkpoint=" in lines[-1]
    headless = shown(str(random_weights(tmp_path / "plain.safetensors", num_classes=0)))
    assert "tools.predict" not in headless and "training.py" in headless
    assert "none: features come out" in headless


def test_only_what_was_trained(
    home: Path, tmp_path: Path, shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights that it was trained from, and where they are gone."""
    (with_rest,) = json.loads(shown("part", "--json"))
    assert with_rest["lacks"] is None and with_rest["commands"]
    gone = tmp_path / "best.safetensors"
    whole = home / "weights/part/best.safetensors"
    with safe_open(whole, "pt") as file:
        said = {k: v for k, v in file.metadata().items() if k != "checksums"}
    save_file(load_file(whole), gone, said | {"base": str(home / "away.safetensors")})
    (alone,) = json.loads(shown(str(gone), "--json"))
    assert "holds only what was trained from" in alone["lacks"] and not alone["commands"]
    for same in ("architecture", "parameters", "head", "classes", "certainty", "measured"):
        assert alone[same] == with_rest[same], same
    assert "tools.predict" not in shown(str(gone))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_layers": 10**9}, "architecture.num_layers is 1000000000"),
        ({"num_heads": "four"}, "architecture.num_heads is 'four'"),
        ({"hidden_dim": -1}, "architecture.hidden_dim is -1"),
        ({"dim": 10**9}, "architecture.dim is 1000000000"),
    ],
)
def test_only_what_was_trained_of_a_network_that_is_none(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=2))
    vit = net.vit.model_dump() | changes
    gone = {"base": str(tmp_path / "gone.safetensors"), "frozen": "0"}
    pretrained.save_model(tmp_path / "w.safetensors", net, architecture=json.dumps(vit), **gone)
    with pytest.raises(UserError) as caught:
        facts_of(tmp_path / "w.safetensors")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["train: 2026-13-45", "train: [", "- &a [*a]"])
def test_a_config_that_can_not_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    net = VisionTransformer(ViTConfig(**TINY_VIT, num_classes=2))
    pretrained.save_model(tmp_path / "w.safetensors", net, config=text)
    found = facts_of(tmp_path / "w.safetensors")
    assert found["trained"] is None and found["ours"]


# --------------------------------------------------------------------------------- other layouts


def test_googles(shown: Callable[..., str]) -> None:
    text = unwrapped(shown(str(FIXTURES / "google_tiny.npz")))
    assert "Google's layout" in text and "the file doesn't name them" in text
    assert "settled gelu tanh by the layout's rule" in text.replace("note gelu", "settled gelu")
    assert "certainty the file doesn't say" in text


@pytest.mark.parametrize("layout", ["timm", "torchvision", "huggingface-vit", "huggingface-dinov2"])
def test_layouts_of_others(layout: str, tmp_path: Path) -> None:
    net = pretrained.load_model(random_weights(tmp_path / "w.safetensors", hidden_dim=64))
    arrays = pretrained.export(net, layout)
    path = tmp_path / "w.pth"
    torch.save(arrays, path)
    found = facts_of(path)
    assert (found["layout"], found["ours"]) == (layout, False)
    assert found["architecture"]["hidden_dim"] == 64 and found["notes"]
    assert all(note.split()[0] in said(found) for note in found["notes"])


def test_a_folder_of_hugging_faces_in_shards(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 128, "image_size": 64, "patch_size": 16, "num_labels": 5}
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    facts = facts_of(find_checkpoint(str(tmp_path)))
    names = sorted(path.name for path in tmp_path.glob("model*"))
    assert len(names) > 2 and sorted(Path(f["file"]).name for f in facts["files"]) == names
    assert facts["architecture"]["num_heads"] == 4, "config.json's, not the rule's"
    text = said(facts)
    assert f"MB in {len(names)} files" in text and "Hugging Face's ViT layout" in text
    assert all(Path(f["file"]).name in text and f["sha256"] in text for f in facts["files"])


def test_a_last_pt_that_is_whole(config_file: Path) -> None:
    train(config_file, "train.max_epochs=1")
    facts = facts_of(config_file.parent / "weights/tiny/last.pt")
    assert facts["ours"] and facts["classes"] == sorted(COLOURS)


@pytest.mark.parametrize("preset", ["Ti", "S", "B", "L", "H"])
def test_presets_have_their_names(preset: str, tmp_path: Path) -> None:
    from tools.show.facts import architecture

    vit = ViTConfig(patch_dim=14, dim=224, eps=1e-6, gelu="exact", **PRESETS[preset])
    assert architecture(vit)["name"] == f"ViT-{preset}/14"
    assert architecture(vit.model_copy(update={"ff_dim": 7}))["name"] is None


def test_positions_of_another_size(tmp_path: Path, shown: Callable[..., str]) -> None:
    """DINOv2's: the table is of 518 px, and pictures of 224 px are shown."""
    net = pretrained.load_model(random_weights(tmp_path / "w.safetensors", num_classes=0))
    net.preprocessing = net.preprocessing.model_copy(update={"image_size": 16})
    pretrained.save_model(tmp_path / "v.safetensors", net)
    text = unwrapped(shown(str(tmp_path / "v.safetensors")))
    assert "at 32 px," in text and "a training resamples its positions to 16 px" in text
    assert "of that the central 16 x 16 px" in text


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"crop": 0.875}, "its shorter side resized to 256 px (bilinear), of that the central 224"),
        ({"fit": "pad", "interpolation": "bicubic"}, "longer side resized to 224 px (bicubic)"),
        ({"fit": "squash"}, "all of it resized to 224 x 224 px"),
        ({"greys": (0.0, 4095.0)}, "0 is black, 4095 white"),
        ({"mean": (0.485, 0.456, 0.406)}, "mean 0.485 0.456 0.406, std 0.5 0.5 0.5"),
    ],
)
def test_preprocessing_in_words(how: dict[str, Any], words: str) -> None:
    assert words in in_words(Preprocessing(**how))


def test_what_a_file_says_of_itself_steers_no_terminal(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "w.safetensors")
    arrays = load_file(path)
    net = pretrained.load_model(path)
    net.classes = ("\x1b[2Ja", "b\nc", *"defgh")
    own = pretrained.metadata_of(
        net, provenance="from\x1b]0;x", note="x" * 500, measured="{", seen="[1]"
    )
    save_file(arrays, path, {**own, "certainty": "5", "config": "[", "epoch": "no"})
    text = said(facts_of(path))
    assert "\x1b" not in text and "\\x1b[2Ja, b\\nc, d" in text
    assert "(500 characters)" in text and max(map(len, text.splitlines())) < 500
    prose = [line for line in text.splitlines() if "/" not in line and "xxx" not in line]
    assert all(len(line) <= WIDTH for line in prose)


def test_every_key_of_our_metadata_has_its_place(home: Path) -> None:
    for run in ("once", "all", "part"):
        assert facts_of(home / f"weights/{run}/best.safetensors")["metadata"] == {}
    assert len(set(KNOWN)) == len(KNOWN)


# ------------------------------------------------------------------------------ what is no weights


def a_picture(folder: Path) -> str:
    Image.new("RGB", (9, 9)).save(folder / "cat.jpg")
    return "cat.jpg"


def a_text(folder: Path) -> str:
    (folder / "text.jpg").write_text("not even a picture")
    return "text.jpg"


def an_empty_folder(folder: Path) -> str:
    (folder / "pictures").mkdir()
    return "pictures"


def an_empty_file(folder: Path) -> str:
    (folder / "empty.safetensors").touch()
    return "empty.safetensors"


def a_truncated(folder: Path) -> str:
    path = random_weights(folder / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    return path.name


def a_truncated_npz(folder: Path) -> str:
    (folder / "cut.npz").write_bytes((FIXTURES / "google_tiny.npz").read_bytes()[:-1000])
    return "cut.npz"


def another_network(folder: Path) -> str:
    save_file({"fc.weight": torch.zeros(3, 3)}, folder / "other.safetensors")
    return "other.safetensors"


def a_typo(folder: Path) -> str:
    random_weights(folder / "flowers.safetensors")
    return "flwers.safetensors"


def not_fetched(folder: Path) -> str:
    return "google-in21k"


def an_array(folder: Path) -> str:
    np.save(folder / "array.npy", np.zeros(3))
    return "array.npy"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (a_picture, "cat.jpg is not a weights file (.npz, .safetensors or PyTorch): it is a pict"),
        (a_text, "text.jpg is not a weights file (.npz, .safetensors or PyTorch): it begins with"),
        (an_empty_folder, "pictures is a folder without model.safetensors"),
        (an_empty_file, "it is empty"),
        (a_truncated, "cut.safetensors is damaged or cut short"),
        (a_truncated_npz, "cut.npz is damaged or cut short"),
        (another_network, "no Vision Transformer in a known layout"),
        (a_typo, "did you mean flowers.safetensors?"),
        (not_fetched, "google-in21k is not on this machine: a training that names it"),
        (an_array, "array.npy is not a weights file"),
        (lambda folder: "last", "holds no run with weights yet"),
        (lambda folder: "x" * 5000, "no such weights"),
    ],
)
def test_what_is_no_weights_file_is_one_sentence(
    make: Callable[[Path], str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pretrained.names.HOME", tmp_path)
    wanted = make(tmp_path)
    assert command_line(lambda: show.main([wanted])) == 2
    out, error = capsys.readouterr()
    assert sentence in error and error.count("\n") == 1 and out == ""


def test_one_bad_file_does_not_hide_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert show.main(["once", "tiny.yaml", "all"]) == 2
    out, error = capsys.readouterr()
    assert out.count("sha256") == 2 and "tiny.yaml is not a weights file" in error
    with pytest.raises(UserError):
        show.main(["tiny.yaml"])
