"""The schema: faults are found all at once, old files still load, a round trip changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPO

from config import Config, ConfigError, dump_config, load_config

OLD_FILE = """\
vit: {patch_dim: 16, input_channels: 3, num_classes: 5, hidden_dim: 768, num_heads: 12, \
num_layers: 12, dropout: 0.1, eps: 1e-05, ff_dim: 3072, dim: 224}
train: {data: 'data', batch_size: 20, eval_batch_size: 4, scheduler_type: 'warmup-cosine', \
max_epochs: 50, warmup_epochs: 5, use_bitsandbytes: True, optim: 'adamw', lr: 1e-3, \
device: 'cuda', save_path: 'weights', eval_epoch: 1, log_epoch: 1, save_epoch: 3, \
log_path: 'logs', early_stopping: 50, base_dir: 'Data-Dir', finetuning: True, \
checkpoint: 'Pretrained-Weights', freeze_model: False, from_checkpoint: False}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def faults(tmp_path: Path, text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return str(caught.value)


def test_every_key_of_config_yaml_is_there_commented_and_the_default() -> None:
    config, notes = load_config(REPO / "config.yaml")
    assert config == Config() and not notes
    for section in ("vit", "train", "overfit_one_batch"):
        part = getattr(config, section)
        assert set(type(part).model_fields) == part.model_fields_set


def test_all_faults_at_once(tmp_path: Path) -> None:
    message = faults(
        tmp_path,
        "vit: {num_head: 12, dim: 225, patch_dim: 16}\n"
        "train: {lr: fast, warmup_epochs: 80, max_epochs: 50, early_stopping: true}\n"
        "tran: {}\n",
        ["train.bf16=maybe", "lr=3"],
    )
    assert message.splitlines()[0].endswith("8 problems")
    for line in (
        "vit.num_head: no such key; did you mean num_heads?",
        "vit.dim: 225 is not a multiple of patch_dim (16); the nearest is 224",
        "train.lr: 'fast' is not a number",
        "train.warmup_epochs: 80 is more than max_epochs (50)",
        "train.early_stopping: True is not a whole number or null",
        "train.bf16: 'maybe' is not true or false",
        "tran: no such key; did you mean train?",
        "'lr=3': an override is written section.key=value; did you mean train.lr?",
    ):
        assert line in message, message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{vit: {num_heads: 5}, train: {mode: scratch}}",
            "vit.num_heads: 5 does not divide hidden_dim (768)",
        ),
        ("train: {checkpoint: null}", "mode finetune needs weights"),
        ("vit: {representation_size: 8}", "only with mode scratch"),
        ("vit: {num_classes: 1}", "a classifier needs 2 or more"),
        ("train: {decay_epochs: 3}", "only wsd has a decay phase"),
        ("train: {scheduler_type: wsd, decay_epochs: 20}", "are more than max_epochs (20)"),
        (
            "train: {optim: sgd, use_bitsandbytes: true, momentum: 0}",
            "bitsandbytes has no SGD without momentum",
        ),
        (
            "{train: {from_checkpoint: true}, overfit_one_batch: {overfit: true}}",
            "a sanity check starts anew",
        ),
        ("train: {eval_epoch: 30}", "nothing would be evaluated"),
        ("train: {early_stopping: 2, eval_epoch: 5}", "is less than eval_epoch (5)"),
        ("train: {run_name: a/b}", "not a plain folder name"),
        ("train: {val_fraction: 2}", "2 should be less than 1"),
        ("train: {lr: -1}", "-1 should be more than 0"),
        ("train: {lr: .nan}", "train.lr: nan is not a number"),
        ("train: {batch_size: 2.5}", "2.5 is not a whole number"),
        ("train: {optim: adam}", "'adam' is not adamw or sgd"),
        ("train: 3", "train: 3 is not a section"),
        ("- a", "expected sections"),
        ("a: [", "line 1: not valid YAML"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert message in faults(tmp_path, text)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    config, _ = load_config(write(tmp_path, "train: {lr: 1e-3}"), ["train.weight_decay=5e-2"])
    assert config.train.lr == 1e-3 and config.train.weight_decay == 5e-2


def test_overrides_are_typed_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {lr: 1}")
    config, _ = load_config(path, ["train.lr=2e-4", "train.clip_grad=null", "vit.dim=32"])
    assert (config.train.lr, config.train.clip_grad, config.vit.dim) == (2e-4, None, 32)


def test_the_old_file_means_the_same(tmp_path: Path) -> None:
    config, notes = load_config(write(tmp_path, OLD_FILE))
    assert config.train.mode == "pretrained" and len(notes) == 1
    assert config.train.lr == 1e-3 and config.vit.eps == 1e-5
    assert config.train.from_checkpoint is None and config.train.use_bitsandbytes


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ("finetuning: False, freeze_model: False", "scratch"),
        ("finetuning: False", "scratch"),
        ("finetuning: True, freeze_model: False", "pretrained"),
        ("finetuning: True, freeze_model: True", "finetune"),
    ],
)
def test_the_old_flags(tmp_path: Path, flags: str, mode: str) -> None:
    assert load_config(write(tmp_path, f"train: {{{flags}}}"))[0].train.mode == mode


def test_old_flags_that_contradict_mode(tmp_path: Path) -> None:
    assert "contradicts" in faults(tmp_path, "train: {mode: scratch, finetuning: True}")


def test_off_is_none_however_written(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {early_stopping: False, clip_grad: null}")
    train = load_config(path)[0].train
    assert train.early_stopping is None and train.clip_grad is None


def test_an_emptied_section_is_none_at_all(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "vit:\ntrain:\n"))[0] == Config()


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = 1  # type: ignore[misc]


def test_dump_reads_back(tmp_path: Path) -> None:
    config, _ = load_config(REPO / "config.yaml", ["train.lr=1e-5", "vit.eps=1e-12"])
    assert load_config(write(tmp_path, dump_config(config)))[0] == config


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_published_configs_load(path: Path) -> None:
    load_config(path)
