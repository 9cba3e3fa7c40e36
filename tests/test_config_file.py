"""config.yaml: types, overrides, and every fault at once."""

from __future__ import annotations

import argparse
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import model
from config import PRESETS, SECTIONS, SIZES, Config, ConfigError, TrainConfig
from config_file import dump_config, load_config
from overrides import arguments
from tests.helpers import REPO


def test_a_bare_on_or_off_is_understood(finetune: Path) -> None:
    for word, value in (("on", "on"), ("off", "off"), ("auto", "auto")):
        finetune.write_text(f"train: {{cache: {word}, mode: finetune}}\n")
        assert load_config(finetune)[0].train.cache == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["train.mode=pretrained", "train.cache=on"],
            "train.cache: on works in mode finetune only",
        ),
        (["vit.num_layers=4", "train.finetune_blocks=5"], "5 is more than num_layers"),
        (["train.cache=maybe"], "'maybe' is not auto or on or off"),
        (["train.views=0"], "train.views: 0 should be at least 1"),
    ],
)
def test_settings_that_can_not_be(finetune: Path, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(finetune, options)


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
    written = yaml.safe_load((REPO / "config.yaml").read_text())
    assert {name: set(keys) for name, keys in written.items()} == {
        name: set(part.model_fields) for name, part in SECTIONS.items()
    }


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
        "'lr=3': an override is written section.key=value; did you mean train.lr=3?",
    ):
        assert line in message, message


def test_the_faults_of_a_misspelt_section(tmp_path: Path) -> None:
    message = faults(tmp_path, "training:\n  mode: fintune\n  batch_size: x\n  flip: 0.1\n")
    assert message.splitlines()[1:] == [
        "  training: no such key; did you mean train? (line 1)",
        "  train.mode: 'fintune' is not scratch or pretrained or finetune; did you mean finetune? "
        "(line 2)",
        "  train.batch_size: 'x' is not a whole number (line 3)",
    ]
    for text in ("training: {lr: x}\ntrain: {lr: y}\n", "trian: {lr: y}\ntraining: {lr: x}\n"):
        message = faults(tmp_path, text)  # whose is which?
        assert "'y' is not" in message and "'x'" not in message and "training: no such" in message
    assert "'x' is not" in faults(tmp_path, "trian: {lr: x}\ntrain:\n")
    assert faults(tmp_path, "overfit:\n  overfit: true\n").splitlines()[1:] == [
        "  overfit: no such key; did you mean overfit_one_batch? (line 1)"
    ]


def test_a_path_with_a_space_is_to_be_quoted(tmp_path: Path) -> None:
    """As the shell cuts it; and what is meant can be pasted."""
    words = ["train.base_dir=/tmp/new", "comer/my", "photos", "train.lr=1e-3", "many"]
    *_, cut, rest, other = faults(tmp_path, "", words).splitlines()
    assert "'comer/my': an override is written section.key=value; " in cut
    assert rest.endswith("one with a space in quotes: 'train.base_dir=/tmp/new comer/my photos'")
    assert other.endswith("'many': an override is written section.key=value")
    said = faults(tmp_path, "", ["base_dir=/tmp/new comer"])
    assert said.endswith("did you mean 'train.base_dir=/tmp/new comer'?")


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
        ("vit: {input_channels: yes}", "vit.input_channels: True is not 1 or 3 or auto"),
        ("vit: {dim: 20000, patch_dim: 20000}", "vit.dim: 20000 should be at most 10,000"),
        ("vit: {num_layers: 1000000}", "vit.num_layers: 1000000 should be at most 1,000"),
        ("train: {num_workers: 1000000}", "train.num_workers: 1000000 should be at most 1,000"),
        ("train: {cutmix: 0.5}", "train.cutmix: cutmix blends images"),
        ("train: {mixup: 0.2, cutmix: 0.5}", "train.mixup: mixup and cutmix blend images"),
        ("train: {decay_epochs: 3}", "only wsd has a decay phase"),
        (
            "train: {scheduler_type: wsd, max_epochs: 20, decay_epochs: 21}",
            "are more than max_epochs (20)",
        ),
        (
            "train: {optim: sgd, use_bitsandbytes: true, momentum: 0}",
            "bitsandbytes has no SGD without momentum",
        ),
        (
            "{train: {from_checkpoint: true}, overfit_one_batch: {overfit: true}}",
            "a sanity check starts anew",
        ),
        ("train: {max_epochs: 20, eval_epoch: 30}", "nothing would be evaluated"),
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
    assert config.train.mode == "pretrained" and len(notes) == 2
    # The rate that the first version shipped with, for training all weights.
    assert notes[1].startswith("train.lr: 0.001 is far from 0.00011, which mode pretrained")
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


def test_dump_reads_back(tmp_path: Path) -> None:
    config, _ = load_config(REPO / "config.yaml", ["train.lr=1e-5", "vit.eps=1e-12"])
    assert load_config(write(tmp_path, dump_config(config)))[0] == config


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_published_configs_load(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.mode=pretrained", "train.lr=1e-3"], "diverges, or unlearns the weights"),
        (["train.mode=pretrained", "train.lr=1e-8"], "little is learned"),
        (["train.lr=1e-2"], "0.01 is far from 0.0002, which mode finetune trains well with"),
        (["train.mode=pretrained", "train.lr=5e-5"], None),
        (["train.mode=pretrained", "train.lr=3e-3", "train.optim=sgd"], None),
        (["train.lr=auto"], None),
    ],
)
def test_a_learning_rate_far_from_what_trains_is_said(overrides: list[str], words: Any) -> None:
    _, notes = load_config(REPO / "config.yaml", overrides)
    assert (words is None and not notes) or (words in notes[0] and len(notes) == 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {test_fraction: 0.5, val_fraction: 0.5}", "leave nothing to train"),
        ("train: {mixup: 0.2}", "modes pretrained and scratch only"),
        ("train: {keep: last, early_stopping: 3}", "leave one out"),
        (
            "train: {class_weights: balanced, balanced_sampler: true}",
            "count the rare classes twice",
        ),
        ("train: {lr: fast}", "train.lr: 'fast' is not a number or auto"),
    ],
)
def test_faults_of_the_recipe(tmp_path: Path, text: str, words: str) -> None:
    assert words in faults(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["my pics #2", "2024", "no", "1e-3", "[a]", "null", "on: x", "'q'"]
)
def test_text_is_taken_as_it_stands(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "train: {lr: 1}")
    train = load_config(path, [f"train.base_dir={text}", f"train.run_name={text}"])[0].train
    assert train.base_dir == text
    assert train.run_name == (None if text == "null" else text)


def test_an_empty_value_is_one(tmp_path: Path) -> None:
    said = faults(tmp_path, "train: {split: ' '}", ["train.base_dir="])
    assert "train.split: nothing is named; it takes text or null" in said
    assert "train.base_dir: nothing is named; it takes text" in said
    assert "None is not a number" in faults(tmp_path, "", ["train.val_fraction="])


def test_off_and_true_stay_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {run_name: 2024, base_dir: no, from_checkpoint: yes}")
    train = load_config(path)[0].train
    assert (train.run_name, train.base_dir, train.from_checkpoint) == ("2024", "no", True)
    train = load_config(path, ["train.from_checkpoint=false", "train.split=False"])[0].train
    assert train.from_checkpoint is None and train.split is None
    assert load_config(path, ["train.run_name=true"])[0].train.run_name == "true"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train.lr", "1e-3"], "'train.lr 1e-3'"),
        (["train.lr", "=", "1e-3"], "'train.lr = 1e-3'"),
        (["train.lr=", "1e-3"], "'train.lr= 1e-3'"),
        (["train.lr", "=1e-3"], "'train.lr =1e-3'"),
        (["lr=1e-3"], "'lr=1e-3'"),
        (["lr", "1e-3", "train.seed=1"], "'lr 1e-3'"),
        (["--lr", "1e-3"], "--lr: no such option; a setting is written section.key=value"),
        (["--lr=1e-3", "train.seed=1"], "--lr=1e-3: no such option"),
        (["train.seed=1", "--train.lr", "1e-3"], "--train.lr: no such option"),
    ],
)
def test_the_override_that_was_meant_is_named(tmp_path: Path, words: list[str], meant: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, ""), arguments(parser, words).overrides)
    message = str(caught.value)
    assert meant in message and "train.lr=1e-3" in message
    assert "1 problem" in message or "no such option" in message


def test_keys_of_the_network_are_the_weights_unless_named(tmp_path: Path) -> None:
    path = write(tmp_path, "vit: {hidden_dim: auto, num_heads: auto, dim: 112}")
    assert load_config(path)[0].vit.model_fields_set == {"dim"}
    assert "hidden_dim: auto" in dump_config(load_config(path)[0])
    config = load_config(path, ["vit.preset=S", "vit.ff_dim=100"])[0]
    assert (config.vit.hidden_dim, config.vit.num_heads, config.vit.ff_dim) == (384, 6, 100)
    assert config == load_config(write(tmp_path, dump_config(config)))[0]
    assert "'wide' is not a whole number or auto" in faults(tmp_path, "vit: {hidden_dim: wide}")
    assert "'XL' is not Ti or S or B or L or H or null" in faults(tmp_path, "vit: {preset: XL}")


def test_presets_are_what_model_py_says() -> None:
    rows = re.findall(r"^ +(Ti|[SBLH]) +(\d+) +(\d+) +(\d+) +(\d+) ", model.__doc__ or "", re.M)
    said = {name: dict(zip(SIZES, map(int, sizes), strict=True)) for name, *sizes in rows}
    assert said == PRESETS


def test_the_first_versions_own_file_loads(tmp_path: Path) -> None:
    text = OLD_FILE + "inference: {checkpoint: 'TRAINED-WEIGHTS'}\n"
    assert load_config(write(tmp_path, text))[0].inference.checkpoint == "TRAINED-WEIGHTS"
    assert load_config(write(tmp_path, OLD_FILE))[0].inference.checkpoint is None


def test_paths_are_those_of_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PICS", "pictures")
    monkeypatch.chdir(tmp_path)
    text = "train: {base_dir: ~/$PICS, log_path: '${PICS}/x', checkpoint: 'https://a/$PICS'}"
    train = load_config(write(tmp_path, text), ["train.data=~/$PICS"])[0].train
    assert (train.base_dir, train.data) == (f"{tmp_path}/pictures", f"{tmp_path}/pictures")
    assert (train.log_path, train.checkpoint) == ("pictures/x", "https://a/$PICS")
    (tmp_path / "~").mkdir()
    assert load_config(write(tmp_path, "train: {base_dir: '~'}"))[0].train.base_dir == "~"
    assert "train.data: $NOWHERE is not set" in faults(tmp_path, "train: {data: $NOWHERE/x}")
    made = Config(train=TrainConfig(base_dir=Path("~/a")))
    assert made.train.base_dir == f"{tmp_path}/a"


def test_it_runs_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config, notes = load_config("config.yaml")
    assert notes == [f"settings: {REPO / 'config.yaml'}"]
    Path("config.yaml").write_text("train: {seed: 3}")
    config, notes = load_config("config.yaml")
    assert config.train.seed == 3 and notes == [f"settings: {Path('config.yaml').absolute()}"]
    assert load_config("configs/quickstart.yaml")[0].train.run_name == "quickstart"
    path = write(tmp_path, "train: {base_dir: pics, split: s.csv, data: cache, log_path: l}")
    for name in ("pics", "s.csv", "cache"):
        (tmp_path / name).mkdir()
    train = load_config(path, ["train.save_path=pics"])[0].train
    assert (train.base_dir, train.split) == (str(tmp_path / "pics"), str(tmp_path / "s.csv"))
    assert (train.data, train.log_path) == (str(tmp_path / "cache"), "l")
    assert train.save_path == "pics", "what is named on the command line is of this folder"
    (tmp_path / "here" / "pics").mkdir()
    assert load_config(path)[0].train.base_dir == "pics"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {3: 4}", "train.3: no such key"),
        ("train: {on: 1}", "train.on: no such key"),
        ("train: {null: 1}", "train.null: no such key"),
        ("train: {[a]: 1}", "a key is a word"),
        ("train: {seed: !!int x}", "'x' is not a whole number (line 1)"),
        ("train: {seed: 2024-13-45}", "'2024-13-45' is not a whole number (line 1)"),
        ("train: {seed: !!timestamp x}", "'x' is not a whole number (line 1)"),
        ("train: " + "[" * 20_000, "not valid YAML"),
        ("train: {lr: 1, seed: 1, lr: 2}", "train.lr: it is given twice, on lines 1 and 1"),
        ("train: {seed: 1}\ntrain: {lr: 1}", "train: it is given twice, on lines 1 and 2"),
        ("3", "expected sections"),
    ],
)
def test_yaml_of_any_kind_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    message = faults(tmp_path, text)
    assert words in message and len(message) < 400


def test_what_stands_for_billions_is_not_written_out(tmp_path: Path) -> None:
    nested = "".join(f"  {c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in pairwise("abcdefghi"))
    message = faults(tmp_path, f"train: {{lr: &a [x]}}\nvit:\n{nested}  dim: *i\n")
    assert "vit.dim: " in message and len(message) < 2000
    many = faults(tmp_path, "train:\n" + "".join(f"  key{i}: 1\n" for i in range(3000)))
    assert "3000 problems" in many and "and 2970 more" in many


def test_a_path_that_is_not_utf8_is_written_and_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    config = load_config(write(tmp_path, ""), [f"train.base_dir={name}"])[0]
    assert load_config(write(tmp_path, dump_config(config)))[0].train.base_dir == name


def test_names_in_a_list_are_names(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {classes: [no, 2024, 1e3, 'a b']}")
    assert load_config(path)[0].train.classes == ("no", "2024", "1e3", "a b")
    config = load_config(path, ["train.classes=[yes, 007]"])[0]
    assert config.train.classes == ("yes", "007")
    assert load_config(write(tmp_path, dump_config(config)))[0] == config
    assert "is not a list of 2 or more names" in faults(tmp_path, "", ["train.classes=cat"])
    assert load_config(path, ["train.classes=null"])[0].train.classes is None


def test_where_a_fault_stands_is_said(tmp_path: Path) -> None:
    """A typing error on the command line is none of the file's."""
    path = tmp_path / "config.yaml"
    right, wrong = "train: {lr: 0.1}", "train: {lrr: 0.1}"
    both = f"{path} and the command line: 2 problems"
    for text, words, where in (
        (right, ["train.lrr=1"], "the command line: 1 problem"),
        (right, ["train.lr=fast", "x"], "the command line: 2 problems"),
        (wrong, [], f"{path}: 1 problem"),
        (wrong, ["train.seed=0"], f"{path}: 1 problem"),
        (wrong, ["train.lr=fast"], both),
        (wrong, ["x"], both),
        (wrong, ["train.lrr=1"], "the command line: 1 problem"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_config(path, words)
        assert str(error.value).splitlines()[0] == where
