"""From picture files to answers: the same as training's own evaluation gives, whatever comes."""

from __future__ import annotations

import csv
import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import classifier as module
from classifier import Answer, Classifier, Unreadable
from tests.helpers import COLOURS, picture, pictures_of, random_weights, small_run
from utils import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, and a run in `logs` and `weights`."""
    folder = tmp_path_factory.mktemp("home")
    small_run(folder, pictures_of(folder / "images"), "tiny", head="both")
    return folder


@pytest.fixture
def classifier(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.chdir(trained)
    return Classifier("tiny", device="cpu")


def test_it_answers_as_the_run_did(classifier: Classifier, trained: Path) -> None:
    """predictions.csv is by training's own loaders and the cached tokens."""
    rows = list(csv.DictReader((trained / "logs/tiny/predictions.csv").open()))
    answers = classifier([trained / "images" / row["path"] for row in rows])
    assert [a.label for a in answers] == [row["predicted"] for row in rows]
    sure = [float(row["probability"]) for row in rows]
    assert [a.probability for a in answers] == pytest.approx(sure, abs=2e-3)  # float16 tokens


@pytest.mark.parametrize("blocks", [1, 2])
def test_it_answers_as_the_file_however_many_blocks_trained(blocks: int, tmp_path: Path) -> None:
    """The head over layers reads cells of what enters the first block that trained: of another
    block than the last. The exported graph's network is asked as well."""
    import pretrained
    from tools.export.graph import Answering

    images = pictures_of(tmp_path / "images")
    small_run(tmp_path, images, "tiny", head="both", finetune_blocks=blocks)
    path = tmp_path / "weights/tiny/best.safetensors"
    classifier, net = Classifier(path, device="cpu"), pretrained.load_model(path)
    pictures = [picture(name, i) for name in COLOURS for i in range(4)]
    inputs = torch.stack([classifier.input_of(one) for one in pictures])
    with torch.no_grad():
        wanted = net(inputs)
        found, unlike = classifier.logits(inputs)
        answering = Answering(net)
        mean, std = answering.mean, answering.std
        square = ((inputs * std + mean) * 255).round().byte()
        sure, *far = answering(square)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(sure, classifier.probabilities(inputs)[0], atol=1e-4)
    assert (unlike is not None) == bool(far)


def test_an_answer(classifier: Classifier, trained: Path) -> None:
    (answer,) = classifier(trained / "images/red/03.png")
    assert isinstance(answer, Answer) and answer.label == "red"
    assert list(answer.probabilities) == sorted(COLOURS)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer.probability == max(answer.probabilities.values())
    assert answer.unlike is not None and 0 <= answer.unlike <= 1
    assert answer.could_be[0] == "red"


@pytest.mark.parametrize("checkpoint", ["tiny", "last", "logs/tiny", "weights/tiny"])
def test_a_checkpoint_by_each_of_its_names(
    checkpoint: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    found = Classifier(checkpoint, device="cpu").checkpoint
    assert found.resolve() == (trained / "weights/tiny/best.safetensors").resolve()


def as_kinds(path: Path) -> dict[str, Any]:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return {
        "a path": path,
        "text": str(path),
        "PIL's": Image.open(path),
        "pixels": pixels,
        "a tensor": torch.from_numpy(pixels.copy()),
        "channels first": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        "with an alpha": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    }


KINDS = ["a path", "text", "PIL's", "pixels", "a tensor", "channels first", "with an alpha"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_every_kind(kind: str, classifier: Classifier, trained: Path) -> None:
    path = trained / "images/green/01.png"
    wanted = classifier(path)[0].probabilities
    assert classifier(as_kinds(path)[kind])[0].probabilities == pytest.approx(wanted, abs=1e-6)


def test_a_turned_picture_is_the_same_by_path_and_by_pil(
    classifier: Classifier, tmp_path: Path
) -> None:
    """The one path turns by EXIF and the other doesn't: a fault seen elsewhere."""
    upright = picture("red", 1, (60, 90))
    turned, exif = upright.rotate(90, expand=True), Image.Exif()
    exif[0x112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    wanted = classifier(tmp_path / "upright.png")[0].probabilities
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert classifier(given)[0].probabilities == pytest.approx(wanted, abs=1e-6)


def test_neither_order_nor_batches_matter(classifier: Classifier, trained: Path) -> None:
    paths = sorted((trained / "images").rglob("*.png"))
    wanted = {path: classifier(path)[0].probability for path in paths[::5]}
    found = dict(zip(paths, classifier(paths), strict=True))
    assert {p: found[p].probability for p in wanted} == pytest.approx(wanted, abs=1e-6)


def test_one_picture_several_times(classifier: Classifier, trained: Path) -> None:
    """PIL reads its file when it is first asked for pixels: by several threads at once it broke."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(trained / "noise.png")
    wanted = classifier(trained / "noise.png")[0].probabilities
    for _ in range(10):
        for answer in classifier([Image.open(trained / "noise.png")] * 4):
            assert answer.probabilities == pytest.approx(wanted, abs=1e-5)


def test_a_bad_picture_is_named(classifier: Classifier, trained: Path) -> None:
    (trained / "bad.jpg").write_bytes(b"no picture")
    good = trained / "images/red/03.png"
    with pytest.raises(UserError, match=r"bad\.jpg can't be read: not an image"):
        classifier([good, trained / "bad.jpg"])
    found = dict(classifier.stream([good, trained / "bad.jpg", trained / "nowhere.jpg", good]))
    assert found[trained / "bad.jpg"] == Unreadable("not an image")
    assert isinstance(found[trained / "nowhere.jpg"], Unreadable)
    assert isinstance(found[good], Answer)


@pytest.mark.parametrize(
    "given",
    [
        3.5,
        np.zeros((8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
    ],
)
def test_what_is_no_picture_is_said(given: Any, classifier: Classifier) -> None:
    with pytest.raises(UserError, match=r"no picture|pixels are uint8"):
        classifier([given])


def test_nothing_is_dropped_silently(classifier: Classifier, trained: Path) -> None:
    good = trained / "images/red/03.png"
    with pytest.raises(UserError, match=r"picture 2 can't be read: NoneType is no picture"):
        classifier([good, None, good])  # type: ignore[list-item]


@pytest.mark.parametrize("given", [None, 3, b"abc"])
def test_what_is_no_list_of_pictures_is_said(given: Any, classifier: Classifier) -> None:
    with pytest.raises(UserError, match=r"is no picture: give a path"):
        classifier(given)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"device": "gpu"}, "device: 'gpu' is none of auto, cuda, mps, cpu"),
        ({"unlike": -1}, "unlike is -1: it takes a number from 0 to 1; None is off"),
        ({"min_confidence": "0.5"}, "min_confidence is '0.5': it takes a number from 0 to 1"),
        ({"min_confidence": float("nan")}, "min_confidence is nan"),
    ],
)
def test_what_can_not_be_meant_is_said(
    keys: dict[str, Any], sentence: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(UserError) as caught:
        Classifier("tiny", **keys)
    assert sentence in str(caught.value)


def test_unlike_is_off_by_none(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    answer = Classifier("tiny", device="cpu", unlike=None)(picture("red", 1))[0]
    assert answer.unlike is not None and not answer.strange


def test_of_many_pictures_few_are_in_memory(
    classifier: Classifier, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most, lock = 0, 0, threading.Lock()
    own = Classifier._input_of
    monkeypatch.setattr(classifier._trunk, "batch_size", 4)

    def counted(self: Classifier, given: Any) -> Any:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return own(self, given)

    monkeypatch.setattr(Classifier, "_input_of", counted)
    path = trained / "images/red/03.png"
    for _ in classifier.stream(path for _ in range(60)):
        with lock:
            alive -= 1
    assert alive == 0 and most <= 4 * (module.AHEAD + 1)


def test_pictures_are_read_while_the_network_answers(
    classifier: Classifier, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier._trunk, "batch_size", 2)
    names: set[str] = set()
    own = Classifier._input_of

    def named(self: Classifier, given: Any) -> Any:
        names.add(threading.current_thread().name)
        return own(self, given)

    monkeypatch.setattr(Classifier, "_input_of", named)
    classifier([trained / "images/red/03.png"] * 20)
    assert threading.main_thread().name not in names and len(names) <= (os.cpu_count() or 1)


def test_stopping_early_leaves_no_work(classifier: Classifier, trained: Path) -> None:
    stream = classifier.stream(trained / "images/red/03.png" for _ in range(10_000))
    next(stream)
    stream.close()  # the pool's end, at once


def test_thresholds(classifier: Classifier, trained: Path) -> None:
    path = trained / "images/red/03.png"
    sure, far = classifier(path)[0].probability, classifier(path)[0].unlike
    assert far is not None
    classifier.min_confidence, classifier.unlike = sure, None
    assert classifier(path)[0].said == "red"
    classifier.min_confidence = sure + 1e-3
    assert classifier(path)[0].unsure and classifier(path)[0].said == "unsure"
    classifier.unlike = far
    assert classifier(path)[0].strange and classifier(path)[0].said == "unlike"


def test_the_mirror_image_has_its_say(
    classifier: Classifier, trained: Path, tmp_path: Path
) -> None:
    path = trained / "images/blue/02.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirror.png")
    one, other = (classifier(p)[0].probabilities for p in (path, tmp_path / "mirror.png"))
    both = Classifier("tiny", device="cpu", flip=True)(path)[0].probabilities
    assert both == pytest.approx({c: (one[c] + other[c]) / 2 for c in one}, abs=1e-5)


def test_weights_that_know_nothing_of_their_answers(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "plain.safetensors", num_classes=4)
    answer = Classifier(path, device="cpu")(picture("red", 1))[0]
    assert answer.unlike is None and not answer.strange
    assert list(answer.probabilities) == [f"class {i}" for i in range(4)]
    assert answer.could_be == (answer.label,)


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_short_network(blocks: int, tmp_path: Path) -> None:
    path = random_weights(tmp_path / "short.safetensors", num_classes=4, num_layers=blocks)
    assert Classifier(path, device="cpu")(picture("red", 1))[0].label


def test_it_answers_as_the_plain_network(tmp_path: Path) -> None:
    """Of oneDNN's products and the last block for one token: the same as PyTorch's own."""
    import pretrained

    path = random_weights(tmp_path / "plain.safetensors", num_classes=4)
    classifier = Classifier(path, device="cpu")
    images = torch.stack([classifier.input_of(picture(name, 1)) for name in COLOURS])
    with torch.no_grad():
        wanted = pretrained.load_model(path)(images)
    assert torch.allclose(classifier.logits(images)[0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("checkpoint", "sentence"),
    [
        ("nowhere", "nowhere: no such weights"),
        ("tny", "did you mean weights/tiny"),
        ("from.safetensors", "has no head"),
    ],
)
def test_what_is_no_classifier_is_said(
    checkpoint: str, sentence: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(UserError) as caught:
        Classifier(checkpoint, device="cpu")
    assert sentence in str(caught.value)


def test_bytes_in_a_buffer_by_pil(classifier: Classifier, trained: Path) -> None:
    content = io.BytesIO((trained / "images/red/03.png").read_bytes())
    assert classifier(Image.open(content))[0].label == "red"


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    import pretrained

    path = random_weights(tmp_path / "large.safetensors", num_classes=4)
    net = pretrained.load_model(path)
    net.norm.weight.data *= 1e30
    net.head.weight.data *= 1e30
    pretrained.save_model(path, net)
    with pytest.raises(UserError, match="answers with numbers that are not finite"):
        Classifier(path, device="cpu")(picture("red", 1))
