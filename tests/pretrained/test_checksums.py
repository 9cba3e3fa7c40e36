"""Files of ours that are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pretrained
from pretrained.checksums import check_seal, of_array, seal
from tests.helpers import flip, random_weights
from utils import UserError


def test_a_flipped_byte_is_found_and_its_array_named(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:begin])
    for name, entry in header.items():
        if name != "__metadata__":
            flip(path, begin + entry["data_offsets"][0])
            with pytest.raises(UserError, match="is damaged") as caught:
                pretrained.load_model(path)
            assert name in str(caught.value) and "copy it again" in str(caught.value)
            path.write_bytes(whole)


def test_a_flipped_byte_in_the_header_is_found(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    own, _ = pretrained.read(path).vit, pretrained.read(path)
    for position in range(0, 8 + int.from_bytes(whole[:8], "little"), 41):
        flip(path, position)
        try:
            found = pretrained.read(path)
        except UserError:
            continue
        finally:
            path.write_bytes(whole)
        assert found.vit == own, "where it is read, nothing of it is another"


def test_what_has_no_checksums_is_read_as_before(tmp_path: Path) -> None:
    path = random_weights(tmp_path / "a.safetensors")
    net = pretrained.load_model(path)
    save_file(load_file(path), tmp_path / "b.safetensors", pretrained.metadata_of(net))
    flip(tmp_path / "b.safetensors", -5)
    assert pretrained.load_model(tmp_path / "b.safetensors").vit == net.vit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_of_arrays(dtype: torch.dtype) -> None:
    one = torch.zeros(6, dtype=dtype)
    assert of_array(one) == of_array(one.clone())
    assert of_array(one.reshape(2, 3)) != of_array(one), "the shape counts"
    assert of_array(one) != of_array(one.to(torch.float16))
    assert of_array(one[0]) and of_array(one[:0])


def test_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    check_seal(path)
    seal(path)
    check_seal(path)
    flip(path, 3)
    with pytest.raises(UserError, match="is damaged"):
        check_seal(path)
