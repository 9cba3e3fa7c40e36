"""The schema is frozen, and what `auto` stands for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config import Config, TrainConfig
from config_file import check_config, dump_config, load_config
from config_rules import advice


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mode", "images", "epochs"),
    [
        ("finetune", 600, 24),  # 900 steps of 16
        ("finetune", 400, 144),  # few, with views: four times as many steps
        ("finetune", 40, 1200),  # a tiny set: the most epochs
        ("finetune", 50_000, 12),  # a large one: the fewest
        ("pretrained", 600, 16),
        ("scratch", 600, 107),
    ],
)
def test_epochs_are_counted_in_steps(mode: str, images: int, epochs: int) -> None:
    settled = TrainConfig(mode=mode).settled(images)  # type: ignore[arg-type]
    assert settled.max_epochs == epochs and settled.warmup_epochs == round(0.05 * epochs, 2)
    left = [name for name in TrainConfig.model_fields if getattr(settled, name) == "auto"]
    own = ["head", "cache", "fit", "greys", "num_workers", "shard_cache"]
    own += ["views"] if mode != "finetune" or images > 400 else []  # few pictures
    own += ["clip_grad", "refit", "device"]
    assert left == [*own, "log_epoch", "save_epoch", "save_steps"]


def test_what_is_written_is_not_settled_otherwise() -> None:
    own = {"max_epochs": 7, "lr": 1e-3, "weight_decay": 0.0, "label_smoothing": 0.0, "ema": None}
    settled = TrainConfig(mode="pretrained", **own).settled(600)  # type: ignore[arg-type]
    assert {name: getattr(settled, name) for name in own} == own
    assert settled.layer_decay == 0.75 and settled.keep == "best"
    assert TrainConfig().settled(600).keep == "last"
    assert TrainConfig(early_stopping=3).settled(600).keep == "best"


@pytest.mark.parametrize(
    ("images", "views"),
    [(20, 16), (50, 16), (100, 8), (160, 5), (200, 4), (400, 4), (401, "auto"), (0, 16)],
)
def test_few_pictures_get_more_views(images: int, views: int | str) -> None:
    assert TrainConfig().settled(images).views == views
    assert TrainConfig(head="both").settled(images).views == views
    assert TrainConfig(views=3).settled(images).views == 3
    for other in ({"head": "class"}, {"mode": "pretrained"}, {"cache": "off"}):
        assert TrainConfig.model_validate(other).settled(images).views == "auto"
    assert ("views" in TrainConfig(views=7).by_images(images)) is False
    assert "views" in TrainConfig().settled(images).by_images(images)


PLAIN = {"crop_scale": 1.0, "flip": 0.0, "color_jitter": 0.0}


@pytest.mark.parametrize("mode", ["scratch", "pretrained", "finetune"])
@pytest.mark.parametrize("head", ["auto", "layers", "both", "class"])
def test_without_augmentation_each_picture_is_seen_once(mode: str, head: str) -> None:
    """Sixteen passes made the same tokens sixteen times."""
    for images in (50, 600):
        plain = TrainConfig.model_validate({"mode": mode, "head": head} | PLAIN)
        assert plain.draws == plain.settled(images).draws == 1
        assert plain.settled(images).views == 1 and "views" in plain.settled(images).by_images(
            images
        )
        assert plain.model_copy(update={"transform": "mine:old_photo"}).augments, "who knows?"
        for name, value in (("crop_scale", 0.9), ("rotate", 5.0), ("vertical_flip", 0.5)):
            other = plain.model_copy(update={name: value})
            usual = TrainConfig.model_validate({"mode": mode, "head": head})
            assert other.settled(images).views == usual.settled(images).views


def test_views_that_are_alike_are_said() -> None:
    alike = TrainConfig.model_validate(PLAIN | {"views": 4})
    (said,) = advice(alike)
    assert said.startswith("train.views: 4 of a picture are the same picture") and alike.draws == 4
    assert not advice(TrainConfig(views=4)) and not advice(TrainConfig.model_validate(PLAIN))


def test_few_pictures_with_views_train_longer() -> None:
    """But for heads and blocks of which it was not measured; and less than half of the recipe's
    steps is short, not of these."""
    assert TrainConfig().settled(200).max_epochs == 288
    others = ({"head": "class"}, {"views": 1}, {"finetune_blocks": 2}, {"cache": "off"})
    for other in others:
        assert TrainConfig.model_validate(other).settled(200).max_epochs == 72
    assert TrainConfig().steps(200) == (3744, 936)
    assert TrainConfig(max_epochs=36).steps(200) == (468, 936)
    assert "max_epochs" in TrainConfig().settled(200).by_images(200)


def test_the_last_block_is_for_sgd() -> None:
    plain = TrainConfig()
    assert plain.settled(40).optim == "sgd" and plain.settled(40).lr == pytest.approx(6e-3)
    assert plain.settled(40).clip is None and TrainConfig(lr=3e-4).settled(40).clip == 1
    assert TrainConfig(clip_grad=0.5, optim="sgd").clip == 0.5
    assert TrainConfig(lr=3e-4).settled(40).optim == "adamw", "a rate of one's own is AdamW's"
    assert TrainConfig(use_bitsandbytes=True).settled(40).optim == "adamw"
    head = TrainConfig(finetune_blocks=0).settled(40)
    assert head.optim == "adamw" and head.lr == pytest.approx(3e-3)
    assert TrainConfig(optim="adamw").settled(40).lr == pytest.approx(2e-4)
    assert TrainConfig(mode="pretrained").settled(40).optim == "adamw"


def test_rates_follow_the_batch_and_the_optimiser() -> None:
    assert TrainConfig(batch_size=64, optim="adamw").recipe_lr == pytest.approx(2 * 2e-4)
    assert TrainConfig(optim="sgd").recipe_lr == pytest.approx(6e-3)


def test_a_path_of_any_bytes_is_written_and_read_back(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/pictures/caf\xe9\n")
    file = tmp_path / "c.yaml"
    file.write_text("train: {classes: [1, cat]}")
    config, _ = load_config(file, [f"train.base_dir={odd}", "train.log_path=caf\u00e9"])
    assert config.train.base_dir == odd and config.train.classes == ("1", "cat")
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file)[0] == config == check_config(config)[0]
    assert Config(train=TrainConfig(base_dir=Path(odd))).train.base_dir == odd  # type: ignore[arg-type]
    assert r"caf\xe9" in config.flat()["train.base_dir"]
