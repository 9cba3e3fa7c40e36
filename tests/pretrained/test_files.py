"""What a weights file may hold beside its tensors, and files in shards."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import pretrained
from pretrained.read import convert
from tests.pretrained.helpers import images, randomise
from tests.pretrained.test_layouts import HF_SIZES, timm_model
from utils import UserError


class Ours:
    """A class of somebody's own project."""


BESIDE = {
    "Namespace": argparse.Namespace(lr=0.1, sizes=[1, 2], inner=argparse.Namespace(a=None)),
    "numpy scalar": np.float64(0.5),
    "other numpy scalars": [np.float32(1), np.int64(3), np.bool_(True)],
    "numpy array": np.random.default_rng(0).random(3),
    "numpy's random state": np.random.RandomState(0).get_state(),
    "path": Path("x"),
    "pure path": PurePosixPath("x/y"),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "types": {"kind": dict, "numbers": (int, float)},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_a_programs_own_values_beside_the_tensors(tmp_path: Path, kind: str) -> None:
    arrays = dict(timm_model().state_dict())
    torch.save({"model": arrays, "args": BESIDE[kind], "epoch": 3}, tmp_path / "w.pth")
    before = set(torch.serialization.get_safe_globals())
    found = pretrained.read(tmp_path / "w.pth")
    assert torch.equal(found.state["norm.weight"], arrays["norm.weight"])
    assert set(torch.serialization.get_safe_globals()) == before


def test_another_class_is_named_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"model": dict(timm_model().state_dict()), "args": Ours()}, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        pretrained.read(tmp_path / "w.pth")
    message = str(caught.value)
    assert f"holds a {Ours.__module__}.Ours beside its tensors" in message
    assert "nothing else is ever unpickled" in message and "write its arrays alone" in message
    assert "\x1b" not in message and "\n" not in message


def test_a_whole_module_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"torch.nn.modules.linear.Linear .*\.state_dict\(\)"):
        pretrained.read(tmp_path / "w.pth")


def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "w.pt")
    with pytest.raises(UserError, match="is a TorchScript program; write its arrays alone"):
        pretrained.read(tmp_path / "w.pt")


def test_an_npz_of_objects_is_not_called_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", params=np.array({"a": 1}, dtype=object))
    with pytest.raises(UserError, match="params holds Python objects"):
        pretrained.read(tmp_path / "w.npz")


def test_an_npz_with_texts_and_bfloat16(tmp_path: Path) -> None:
    theirs = timm_model()
    arrays = {name: array.numpy() for name, array in theirs.state_dict().items()}
    half = theirs.norm.weight.detach().bfloat16()
    arrays["norm.weight"] = half.view(torch.int16).numpy().view("V2")
    np.savez(tmp_path / "w.npz", **arrays, version=np.array("2.1"))
    found = pretrained.read(tmp_path / "w.npz")
    assert torch.equal(found.state["norm.weight"], half.float())


def test_a_quantised_network_is_refused() -> None:
    arrays = dict(timm_model().state_dict())
    arrays["blocks.0.mlp.fc1.weight"] = arrays["blocks.0.mlp.fc1.weight"].to(torch.int8)
    with pytest.raises(UserError, match=r"blocks.0.mlp.fc1.weight holds torch.int8"):
        convert(arrays)


# ------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize("given", ["folder", "index", "a shard"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path: Path, kind: str, given: str) -> None:
    theirs = randomise(transformers.ViTModel(transformers.ViTConfig(**HF_SIZES)))
    theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    index = tmp_path / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    assert len(set(listed.values())) > 1
    if kind == "bin":
        index = as_bin(tmp_path, listed)
    first = sorted(path for path in tmp_path.iterdir() if "-00001-of-" in path.name)[0]
    path = {"folder": tmp_path, "index": index, "a shard": first}[given]
    ours = pretrained.load_model(path)
    with torch.inference_mode():
        expected = theirs(images(64)).last_hidden_state[:, 0]
        torch.testing.assert_close(ours(images(64)), expected, rtol=1e-5, atol=1e-5)


def as_bin(folder: Path, listed: dict[str, str]) -> Path:
    """The same shards as PyTorch writes them."""
    renamed = {}
    for file in set(listed.values()):
        new = file.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        torch.save(load_file(folder / file), folder / new)
        (folder / file).unlink()
        renamed |= {name: new for name, held in listed.items() if held == file}
    (folder / "model.safetensors.index.json").unlink()
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": renamed}))
    return index


def split_in_two(folder: Path) -> Path:
    arrays = {k: v.contiguous() for k, v in timm_model().state_dict().items()}
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    held = {name: files[i % 2] for i, name in enumerate(arrays)}
    for file in files:
        save_file({n: a for n, a in arrays.items() if held[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": held}))
    return index


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    index = split_in_two(tmp_path)
    assert pretrained.read(index).vit.num_layers == 2
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"lists model-00002-of-00002.safetensors, not there"):
        pretrained.read(index)


def test_a_shard_without_its_index(tmp_path: Path) -> None:
    split_in_two(tmp_path).unlink()
    with pytest.raises(UserError, match=r"one of 2 shards, and model.safetensors.index.json"):
        pretrained.read(tmp_path / "model-00001-of-00002.safetensors")


def test_a_shard_that_lacks_an_array(tmp_path: Path) -> None:
    index = split_in_two(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"00001-of-00002.safetensors lacks .*norm1.weight"):
        pretrained.read(index)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": null}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../w.bin"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a\\nb": "a.safetensors"}}',
        '{"weight_map": {"a": "model.safetensors.index.json"}}',
        "[" * 100_000,
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json"):
        pretrained.read(tmp_path)


def test_a_folder_with_one_file_of_another_name(tmp_path: Path) -> None:
    torch.save(timm_model().state_dict(), tmp_path / "checkpoint-99.pth")
    assert pretrained.load_model(tmp_path).vit.num_layers == 2
    torch.save(timm_model().state_dict(), tmp_path / "checkpoint-100.pth")
    with pytest.raises(UserError, match=r"there: checkpoint-100.pth, checkpoint-99.pth"):
        pretrained.load_model(tmp_path)
