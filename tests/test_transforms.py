"""A transform of one's own: found, checked, drawn alike each time, and part of a cache's key."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import training
from config import ConfigError, Fit, Preprocessing, TrainConfig
from config_file import load_config
from dataset import load_split
from engine.start import try_transform
from images import ImageDataset, Sample, read_all
from pretrained import load_model
from tests.helpers import TINY_VIT, fail, picture, plan, prepared, summary, train
from training import fit
from transforms import Own, eval_transform, train_transform
from utils import UserError, command_line, setup_log

SIZE = Preprocessing(image_size=32)
DARKER = """
import random
import numpy as np
import torch

LEVEL = 2

def darker(picture):
    return picture // LEVEL

def noisy(picture):
    shift = torch.randint(9, ()) + random.randint(0, 9) + int(np.random.randint(9))
    return (picture.int() + shift).clamp(0, 255).to(torch.uint8)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file my_transforms.py in the working folder, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "my_transforms.py"
    path.write_text(DARKER)
    yield path
    for name in ("my_transforms", "my_helpers"):
        sys.modules.pop(name, None)


def images(seed: int = 0) -> Tensor:
    return torch.randint(256, (3, 40, 50), generator=torch.Generator().manual_seed(seed)).byte()


def own(name: str) -> Any:
    return train_transform(SIZE, TrainConfig(transform=name))


def test_it_is_applied_then_fitted_and_normalised(module: Path) -> None:
    found = own("my_transforms:darker")(images())
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32
    assert found.min() >= -1 and found.max() <= 0, "half of the brightness, around a mean of 0.5"


def test_a_picture_of_the_right_size_is_left_as_it_is(module: Path) -> None:
    module.write_text("def f(picture):\n    return picture[:, :32, :32].float() / 255\n")
    wanted = (images()[:, :32, :32].float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(own("my_transforms:f")(images()), wanted)


@pytest.mark.parametrize("name", ["my_transforms:noisy", "torchvision.transforms.v2:AutoAugment"])
def test_a_draw_is_the_same_each_time(module: Path, tmp_path: Path, name: str) -> None:
    """Whatever random numbers it takes, and the caller's stay as they were."""
    path = tmp_path / "a.png"
    picture("red", 0).save(path)
    sample = Sample(path, 0, "train", read_all([path]).digests[path])
    dataset = ImageDataset([sample], own(name), {}, seed=0)
    np.random.seed(5)
    wanted = np.random.RandomState(5).rand()
    one, other, again = (dataset[0, draw][0] for draw in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert np.random.rand() == wanted


def test_its_source_is_in_the_key_of_the_cache(module: Path, finetune: Path) -> None:
    """Its function's, its constants', and that of another module of one's own that it uses."""
    options = ["train.views=2", "train.transform=my_transforms:darker"]
    keys = {plan(finetune, *options).key, plan(finetune, "train.views=2").key}
    assert len(keys) == 2 and plan(finetune, *options).key in keys, "the same source, the same key"
    for source in (
        DARKER.replace("picture // LEVEL", "picture // 4"),
        DARKER.replace("LEVEL = 2", "LEVEL = 3"),
    ):
        module.write_text(source)
        keys.add(plan(finetune, *options).key)
    module.with_name("my_helpers.py").write_text(HELPERS)
    module.write_text(
        DARKER.replace("LEVEL = 2", "from my_helpers import LEVEL; import my_helpers")
    )
    keys.add(plan(finetune, *options).key)
    assert len(keys) == 5
    module.with_name("my_helpers.py").write_text(HELPERS.replace("5", "6"))
    keys.add(plan(finetune, *options).key)
    assert len(keys) == 6


def test_a_picture_is_as_it_was_after_its_draw(module: Path, tmp_path: Path) -> None:
    """Decoded pictures are kept for the next epochs: a function may write into what it is given."""
    module.write_text("def f(picture):\n    picture[:] = 7\n    return picture\n")
    given = images()
    assert (Own("my_transforms:f")(given) == 7).all() and torch.equal(given, images())


def test_no_gradient_leaves_it(module: Path) -> None:
    module.write_text(
        "import torch\nlevel = torch.nn.Parameter(torch.tensor(0.5))\n"
        "def f(picture):\n    return picture / 255 * level\n"
        "def g(picture):\n    with torch.enable_grad():\n        return f(picture)\n"
    )
    assert not Own("my_transforms:f")(images()).requires_grad
    assert not Own("my_transforms:g")(images()).requires_grad


def test_one_that_draws_elsewhere_is_told_of(
    module: Path, finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its numbers are not the draw's: such a run can't be repeated."""
    module.write_text(
        "import numpy as np\nfrom numpy.random import default_rng\nrng = default_rng(0)\n"
        "def f(picture):\n    return picture // int(rng.integers(2, 100))\n"
        "def g(picture):\n    return picture // np.random.randint(2, 100)\n"
    )
    setup_log()
    split = load_split(load_config(finetune)[0].train)
    for name, said in ("f", True), ("g", False):
        found = try_transform(f"my_transforms:{name}", split, 0)
        assert ("no run with it can be repeated" in capsys.readouterr().out) == said
        assert found.startswith(f"my_transforms:{name}, source ")


def test_a_worker_has_what_the_run_began_with(module: Path) -> None:
    """Or says that it has not."""
    own = Own("my_transforms:darker")
    content = pickle.dumps(own)
    assert torch.equal(pickle.loads(content)(images()), own(images()))
    module.write_text(DARKER + "#")
    with pytest.raises(UserError, match=r"my_transforms.py was changed meanwhile; start anew"):
        pickle.loads(content)


def test_a_later_picture_that_it_fails_on_is_named(module: Path, finetune: Path) -> None:
    module.write_text(
        "def f(picture):\n    if picture.float().mean(0).std() > 60:\n"
        "        raise ValueError('too\\nlong')\n    return picture\n"
    )
    bad = finetune.parent / "images/red/zzz.png"
    halves = Image.new("RGB", (50, 40))
    halves.paste("white", (0, 0, 25, 40))
    halves.save(bad)
    config, _ = load_config(
        finetune,
        ["train.transform=my_transforms:f", "train.views=auto"]
        + ["train.mode=scratch"]
        + [f"vit.{key}={value}" for key, value in TINY_VIT.items()],
    )
    with pytest.raises(UserError) as caught:
        fit(config)
    said = str(caught.value)
    assert said.startswith("train.transform: my_transforms:f failed with ValueError: too (")
    assert said.endswith(f", line 3), on {bad}") and "\n" not in said


def test_a_resumed_run_says_that_it_was_changed(module: Path, config_file: Path) -> None:
    option = "train.transform=my_transforms:darker"
    assert train(config_file, "train.max_epochs=1", option) == 0
    log = config_file.parent / "logs/tiny/run.log"
    train(config_file, "train.max_epochs=2", "train.from_checkpoint=true", option)
    assert "other augmentation" not in log.read_text()
    module.write_text(DARKER.replace("LEVEL = 2", "LEVEL = 3"))
    train(config_file, "train.max_epochs=3", "train.from_checkpoint=true", option)
    assert "the epochs until now had another augmentation: my_transforms:darker, source " in (
        log.read_text()
    )


@pytest.mark.parametrize("mode", ["finetune", "scratch"])
def test_training_with_it(module: Path, finetune: Path, mode: str) -> None:
    """The first of three views is the plain picture, the others are what it makes of them."""
    module.write_text(DARKER + "\ndef black(picture):\n    return picture * 0\n")
    options = ["train.transform=my_transforms:black", f"train.mode={mode}", "train.lr=1e-3"]
    options += [f"vit.{key}={value}" for key, value in TINY_VIT.items() if mode == "scratch"]
    assert train(finetune, "train.views=3", "train.max_epochs=3", *options) == 0
    rows = (finetune.parent / "logs/tiny/metrics.csv").read_text().splitlines()[1:]
    accuracies = [float(row.split(",")[2]) for row in rows]
    assert max(accuracies[1:]) < 0.55 < accuracies[0], "black pictures teach nothing"
    assert summary(finetune)["epochs"] == 3
    log = (finetune.parent / "logs/tiny/run.log").read_text()
    assert "augmentation: my_transforms:black, source " in log


def test_worker_processes_find_it_too(module: Path, finetune: Path) -> None:
    options = ["train.transform=my_transforms:noisy", "train.views=2", "train.num_workers=1"]
    assert train(finetune, "train.max_epochs=2", *options) == 0


def test_from_another_working_folder(module: Path, finetune: Path) -> None:
    assert os.getcwd() not in sys.path
    option = "train.transform=my_transforms:darker"
    assert training.main(["--config", str(finetune), "--check", "train.views=2", option]) == 0


HELPERS = """
LEVEL = 5
"""
BROKEN = """
import torch
five = 5

def crashes(picture):
    return picture.nothing

def array(picture):
    return picture.numpy()

def batch(picture):
    return picture[None]

def grey(picture):
    return picture[:1]

def normalised(picture):
    return picture.float()

def long(picture):
    return picture.long()

class Needs:
    def __init__(self, level):
        self.level = level
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_transform:darker", "no module my_transform in "),
        ("my_transforms:darkr", "my_transforms.py) has no darkr; did you mean array"),
        ("my_transforms:crash", "has no crash; did you mean crashes?"),
        ("my_transforms:five", "is a int, not a function"),
        ("my_transforms:Needs", "can't be made without arguments"),
        ("my_transforms:crashes", "failed with AttributeError: .* line 6"),
        ("my_transforms:array", "gives a ndarray instead of a tensor"),
        ("my_transforms:batch", "gives a tensor (1, 3, 40, 50) instead of"),
        ("my_transforms:grey", "gives a tensor (1, 40, 50) instead of"),
        ("my_transforms:normalised", "gives floats from .* normalising comes after it"),
        ("my_transforms:long", "gives torch.int64 instead of"),
        ("my_transforms", "'my_transforms' is not package.module:function"),
        ("my_transforms.py:darker(2)", "is not package.module:function"),
    ],
)
def test_what_can_not_be_used_is_one_sentence_at_once(
    module: Path, finetune: Path, name: str, words: str
) -> None:
    module.write_text(BROKEN)
    said = fail(finetune, "train.views=2", f"train.transform={name}")
    pattern = re.escape(words).replace(r"\.\*", ".*")
    assert re.search(pattern, said) and "\n" not in said.removeprefix(said.splitlines()[0] + "\n")
    assert not (finetune.parent / "logs").exists(), "before anything is written"


def test_a_module_that_fails_and_one_that_lacks_a_package(module: Path, finetune: Path) -> None:
    option = ["train.views=2", "train.transform=my_transforms:darker"]
    module.write_text("import not_there_at_all\n")
    assert "can't be imported (ModuleNotFoundError: No module named 'not_there_at_all'" in fail(
        finetune, *option
    )
    module.write_text("1 / 0\n")
    assert "can't be imported (ZeroDivisionError: division by zero)" in fail(finetune, *option)
    module.write_text("def darker(:\n")
    assert "can't be imported (SyntaxError" in fail(finetune, *option)


def test_without_augmentation_it_would_never_be_used(finetune: Path) -> None:
    with pytest.raises(ConfigError, match="with views 1 no picture is augmented"):
        load_config(finetune, ["train.transform=a:b", "train.views=1"])


def test_its_failure_in_the_program_is_one_sentence(
    module: Path, finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.write_text(BROKEN)
    argv = ["--config", str(finetune), "train.views=2", "train.transform=my_transforms:crashes"]
    assert command_line(lambda: training.main(argv), ConfigError) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: train.transform: ")


# ------------------------------------------------------------------------- flips and turns


def shown(seed: int, **settings: Any) -> Tensor:
    """A picture with a bright upper edge, as one draw shows it."""
    picture = torch.zeros(3, 40, 40, dtype=torch.uint8)
    picture[:, :8] = 255
    plain = {"crop_scale": 1.0, "flip": 0.0, "color_jitter": 0.0} | settings
    torch.manual_seed(seed)
    return train_transform(SIZE, TrainConfig(**plain))(picture)


def test_a_vertical_flip_turns_a_picture_upside_down() -> None:
    up, down = shown(0), shown(0, vertical_flip=1.0)
    assert torch.equal(down, up.flip(1)) and not torch.equal(down, up)
    half = [torch.equal(shown(seed, vertical_flip=0.5), shown(seed)) for seed in range(40)]
    assert 8 < sum(half) < 32


def test_a_turn_fills_up_with_what_the_network_takes_for_nothing() -> None:
    assert torch.equal(shown(0, rotate=0.0), shown(0))
    turned = [shown(seed, rotate=45.0) for seed in range(20)]
    corners = torch.stack([picture[:, 0, 0] for picture in turned])
    assert ((corners.abs() < 0.02).all(1)).float().mean() > 0.5, "mean grey, 0 once normalised"
    assert len({round(float(picture.sum()), 2) for picture in turned}) == 20


def test_without_them_caches_made_before_are_used(finetune: Path) -> None:
    before = plan(finetune, "train.views=2").key
    assert plan(finetune, "train.views=2", "train.rotate=0").key == before
    assert plan(finetune, "train.views=2", "train.rotate=10").key != before
    assert plan(finetune, "train.views=2", "train.vertical_flip=0.5").key != before


# ------------------------------------------------------------------------------ train.fit


WIDE = torch.zeros(3, 40, 100, dtype=torch.uint8)
WIDE[0, :, :20], WIDE[2, :, 80:] = 255, 255  # red at the left end, blue at the right one


def square(fit: Fit, picture: Tensor = WIDE) -> Tensor:
    return eval_transform(SIZE.model_copy(update={"fit": fit}))(picture)


def test_a_crop_sees_the_middle_alone_and_the_others_see_all() -> None:
    grey = (0 / 255 - 0.5) / 0.5
    crop, pad, squash = (square(fit) for fit in ("crop", "pad", "squash"))
    assert crop.shape == pad.shape == squash.shape == (3, 32, 32)
    assert (crop == grey).all(), "neither end"
    for seen, rows in ((pad, slice(10, 22)), (squash, slice(None))):
        assert (seen[0, rows, :5] > 0.9).all() and (seen[2, rows, :5] < -0.9).all()
        assert (seen[2, rows, -5:] > 0.9).all() and (seen[0, rows, -5:] < -0.9).all()
    ground = torch.cat([pad[:, :9], pad[:, -9:]], 1)
    assert ground.abs().max() < 0.01, "the weights' mean, 0 once normalised"


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 60_000), (9000, 3), (32, 32), (33, 31), (1, 1)])
def test_a_square_of_any_picture(fit: Fit, size: tuple[int, int]) -> None:
    assert square(fit, torch.full((3, *size), 255, dtype=torch.uint8)).shape == (3, 32, 32)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_without_augmentation_a_picture_is_as_evaluation_sees_it(fit: Fit) -> None:
    """A crop of all of it was the whole picture, squashed."""
    plain, how = TrainConfig(crop_scale=1.0, flip=0.0, color_jitter=0.0), {"fit": fit}
    noise = torch.randint(256, (3, 44, 55), dtype=torch.uint8)
    trained = train_transform(SIZE.model_copy(update=how), plain)(noise)
    assert torch.equal(trained, eval_transform(SIZE.model_copy(update=how))(noise))


def test_without_augmentation_nothing_is_seen_twice(
    finetune: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["train.crop_scale=1", "train.flip=0", "train.color_jitter=0", "train.head=both"]
    train(finetune, "train.views=auto", "train.lr=auto", "train.report=false", *plain)
    said = capsys.readouterr().out
    assert "views auto: one of each picture, as no augmentation is on" in said
    assert "token cache: 36 records" in said and "a second view" not in said


def test_augmentation_sees_as_much_as_evaluation() -> None:
    plain = TrainConfig(crop_scale=0.999, flip=0.0, color_jitter=0.0)
    for how in ("pad", "squash"):
        way = train_transform(SIZE.model_copy(update={"fit": how}), plain)
        torch.manual_seed(0)
        seen = torch.stack([way(WIDE) for _ in range(10)])
        assert (seen[:, 0, 16, :2] > 0.5).all() and (seen[:, 2, 16, -2:] > 0.5).all(), how


def test_the_fit_belongs_to_the_weights(finetune: Path) -> None:
    before = plan(finetune).key
    assert plan(finetune, "train.fit=crop").key == before
    keys = {plan(finetune, f"train.fit={fit}").key for fit in ("crop", "pad", "squash")}
    assert len(keys) == 3
    train(finetune, "train.fit=squash", "train.lr=1e-3")
    best = finetune.parent / "weights/tiny/best.safetensors"
    assert load_model(best).preprocessing.fit == "squash"
    _, _, net = prepared(finetune, f"train.checkpoint={best}")
    assert net.preprocessing.fit == "squash", "auto: the weights' own"
    _, _, net = prepared(finetune, f"train.checkpoint={best}", "train.fit=pad")
    assert net.preprocessing.fit == "pad"
    _, _, net = prepared(finetune, "train.mode=scratch", "train.fit=pad", "train.head=class")
    assert net.preprocessing.fit == "pad"
