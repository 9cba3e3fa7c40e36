"""Files that claim what they don't hold, or hold what no network does: a sentence for each, nothing
unpacked, nothing run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pretrained
from classifier import load_classifier
from pretrained import claims
from pretrained.files import read_arrays
from pretrained.programs import program_kind
from tests.pretrained.test_layouts import timm_model
from utils import UserError


def good() -> dict[str, torch.Tensor]:
    return {name: array.contiguous() for name, array in timm_model().state_dict().items()}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        pretrained.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def npy(shape: str, data: bytes = b"", dtype: str = "'<f4'") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def npz(path: Path, member: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", member)
    return path


def torch_zip(path: Path, pkl: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pkl)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/byteorder", "little")
    return path


# -------------------------------------------------------------------------------- no ordinary files


@pytest.mark.parametrize(
    "name", ["w.safetensors", "w.npz", "w.pth", "model.safetensors.index.json"]
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / name).symlink_to("/dev/zero")
    for path, kind in ((tmp_path / name, "a FIFO"), (tmp_path / "link" / name, "a device")):
        with pytest.raises(UserError, match=f"is {kind}, not a weights file"):
            read_arrays(path)
        with pytest.raises(UserError, match=f"is {kind}, not a weights file"):
            pretrained.load_model(path)
        assert program_kind(path) is None


def test_descriptions_beside_the_weights_that_are_no_files(tmp_path: Path) -> None:
    save_file(good(), tmp_path / "w.safetensors")
    for name in ("config.json", "manifest.json"):
        os.mkfifo(tmp_path / name)
    found = pretrained.read(tmp_path / "w.safetensors")
    assert any("config.json is no JSON that can be read" in note for note in found.notes)


def test_a_description_that_is_far_too_large(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than 16 MB"):
        claims.json_of(tmp_path / "config.json")


# -------------------------------------------------------------------------------------- safetensors


def test_a_header_that_is_far_too_large(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "w.safetensors", b"{}" + b" " * (claims.MOST_HEADER + 1))
    assert "has a header of 8 MB" in refused(path)
    assert pretrained.files.metadata_in(path) == {}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 18 << 40]}},
        {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 8]}},
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"},
        {"a": {"dtype": "F4096", "shape": [2], "data_offsets": [0, 8]}},
    ],
)
def test_offsets_that_are_not_the_arrays(tmp_path: Path, header: Any) -> None:
    path = safetensors(tmp_path / "w.safetensors", json.dumps(header).encode(), bytes(8))
    assert "is damaged or cut short" in refused(path)


def test_more_arrays_and_longer_names_than_a_network_has(tmp_path: Path) -> None:
    none = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = json.dumps({f"a{i}": none for i in range(claims.MOST_ARRAYS + 1)}).encode()
    assert "has 20,001 arrays" in refused(safetensors(tmp_path / "m.safetensors", many))
    save_file(good() | {"x_" * 5000: torch.zeros(1)}, tmp_path / "n.safetensors")
    save_file(good() | {"a\nb": torch.zeros(1)}, tmp_path / "l.safetensors")
    assert r"has an array 'a\nb'" in refused(tmp_path / "l.safetensors")
    assert "10,000 letters long ('x_x_" in refused(tmp_path / "n.safetensors")


def test_more_blocks_than_a_network_has(tmp_path: Path) -> None:
    blocks = {f"blocks.{i}.norm1.weight": torch.zeros(1) for i in range(1200)}
    save_file(good() | blocks, tmp_path / "w.safetensors")
    assert "arrays of 1,200 blocks" in refused(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([float("nan")] * 2, "norm.weight holds 2 NaN of its 128 values"),
        ([float("inf"), float("-inf")], "norm.weight holds 2 infinite of its 128 values"),
        ([float("nan"), float("inf")], "norm.weight holds 1 NaN and 1 infinite of its 128 values"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_no_numbers_are_named(
    tmp_path: Path, values: list[float], said: str, dtype: torch.dtype
) -> None:
    arrays = {name: array.to(dtype) for name, array in good().items()}
    arrays["norm.weight"][3:5] = torch.tensor(values).to(dtype)
    save_file(arrays, tmp_path / "w.safetensors")
    assert said in refused(tmp_path / "w.safetensors")


# --------------------------------------------------------------------------------------------- zips


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy("(4398046511104,)"), "x claims 17,592,186,044,416 bytes of numbers, and has 0"),
        (npy("(-1, 5)"), "x has the shape (-1, 5)"),
        (npy("(0, 9223372036854775807)"), "damaged or cut short"),
        (npy("(1,)", b"\0" * 8, "'|O'"), "x holds Python objects"),
        (npy("(1,)", b"\0" * 16, "'<f16'"), "x holds float128, which PyTorch has not"),
        (npy("(1,)", b"", "(" * 4000), "x has no header of numpy's"),
        (npy("(1,)", b"", "-" * 9000 + "1"), "x has no header of numpy's"),
        (b"", "x has no header of numpy's"),
        (b"\x93NUMPY\7\0\0\0", "x has no header of numpy's"),
    ],
)
def test_a_member_of_an_npz_that_is_no_array(tmp_path: Path, member: bytes, said: str) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert said in refused(npz(tmp_path / "w.npz", member, method))


def test_orders_of_an_npzs_numbers(tmp_path: Path) -> None:
    arrays = {name: array.numpy() for name, array in good().items()}
    name = "blocks.0.mlp.fc1.weight"
    changed = arrays | {name: np.asfortranarray(arrays[name]).astype(">f4")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **changed)
        found, _ = read_arrays(tmp_path / "w.npz")
        assert all(torch.equal(found[n], torch.from_numpy(a)) for n, a in arrays.items())


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = claims.SMALL + (1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(npy(f"({size // 4},)"))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    opened: list[object] = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, name: opened.append(name))
    assert "claims to hold 269 MB of arrays" in refused(tmp_path / "w.npz")
    assert not opened


def with_field(content: bytes, at: int, value: bytes) -> bytes:
    """Every entry of a zip's directory with another value, and its members' own headers."""
    found = bytearray(content)
    for mark, shift in ((b"PK\1\2", 0), (b"PK\3\4", -2)):
        place = found.find(mark)
        while place >= 0 and (mark == b"PK\1\2" or at < 12):
            found[place + at + shift : place + at + shift + len(value)] = value
            place = found.find(mark, place + 4)
    return bytes(found)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (8, b"\1\0", "is encrypted (x.npy)"),
        (10, b"\x63\0", "x.npy is compressed by method 99"),
        (10, b"\x0e\0", "x.npy is compressed by method 14"),
        (24, b"\xfe\xff\xff\xff", "claims to hold 4,295 MB"),
    ],
)
def test_a_zip_that_is_packed_otherwise(tmp_path: Path, at: int, value: bytes, said: str) -> None:
    path = npz(tmp_path / "w.npz", npy("(1,)", bytes(4)))
    path.write_bytes(with_field(path.read_bytes(), at, value))
    assert said in refused(path)


def test_a_zip_of_another_version(tmp_path: Path) -> None:
    path = npz(tmp_path / "w.npz", npy("(1,)", bytes(4)))
    path.write_bytes(with_field(path.read_bytes(), 6, b"\x63\0"))
    assert "zip file version 9.9" in refused(path)
    assert program_kind(path) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_too_many_or_double(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", npy("(1,)", bytes(4)))
    assert "holds x.npy twice" in refused(tmp_path / "twice.npz")
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"x.npy"
    for count, said in ((21_000, "is a zip of 21,000 members"), (200_000, "directory has 10 MB")):
        size = count * len(entry)
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count % 65536, count % 65536, size, 0, 0)
        (tmp_path / "many.npz").write_bytes(entry * count + end)
        with pytest.raises(UserError, match=said):
            claims.zip_members(tmp_path / "many.npz")


# ------------------------------------------------------------------------------------------ PyTorch


class Sly:
    """Unpickling this would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.mark}'",))


def forms(sly: Sly) -> dict[str, bytes]:
    """A payload in every form in which PyTorch, pickle and numpy write one."""
    found = {f"pickle {p}": pickle.dumps({"model": sly}, protocol=p) for p in range(6)}
    for as_zip in (True, False):
        file = io.BytesIO()
        torch.save({"model": good(), "x": sly}, file, _use_new_zipfile_serialization=as_zip)
        found[f"torch.save, zip {as_zip}"] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", found["torch.save, zip True"])
        archive.writestr("a/version", "3\n")
    found["a zip in a zip"] = file.getvalue()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(found["pickle 2"])
            archive.addfile(member, io.BytesIO(found["pickle 2"]))
    found["tar"] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, x=np.array([sly], dtype=object))
    found["npz"] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", found["pickle 4"])
    found["npz, a pickle"] = file.getvalue()
    return found


def test_a_payload_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = forms(Sly(mark))
    assert len(found) == 12
    for name, content in found.items():
        for ending in (".pth", ".pt", ".npz", ".safetensors"):
            path = tmp_path / f"w{ending}"
            path.write_bytes(content)
            refused(path)
            with pytest.raises(UserError):
                load_classifier(path)
            assert not mark.exists(), name


EXPONENTIAL = b"\x80\x02c_codecs\nencode\nX\x10\0\0\0aaaaaaaaaaaaaaaaX\x06\0\0\0latin1\x86R"
EXPONENTIAL += 40 * b"q\x01c_codecs\nencode\nh\x01X\x03\0\0\0hex\x86R" + b"."


@pytest.mark.parametrize(
    "pkl",
    [
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x08\x85R.",  # 32 GB
        EXPONENTIAL,
    ],
)
def test_a_pickle_that_builds_gigabytes(tmp_path: Path, pkl: bytes) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    assert "makes values far larger than its file" in refused(torch_zip(tmp_path / "w.pth", pkl))
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


def test_a_pickle_that_is_far_too_large(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "w.pth", b"\x80\x02" + b"]" * (claims.MOST_PICKLE + 1) + b".")
    assert "holds 4 MB beside its arrays" in refused(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (lambda: torch.zeros(1).expand(10**10), "claims to hold 40,001 MB"),
        (lambda: torch.zeros(10, device="meta"), "norm.weight is on the device meta"),
        (lambda: torch.eye(3).to_sparse(), "norm.weight is sparse_coo"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8), "is quantised"),
        (lambda: torch.zeros(128, dtype=torch.complex64), "norm.weight holds torch.complex64"),
    ],
)
def test_tensors_that_are_no_plain_arrays(
    tmp_path: Path, array: Callable[[], torch.Tensor], said: str
) -> None:
    torch.save(good() | {"norm.weight": array()}, tmp_path / "w.pth")
    assert said in refused(tmp_path / "w.pth")


def test_lists_in_lists_and_circles(tmp_path: Path) -> None:
    wide: list[Any] = []
    for _ in range(40):
        wide = [wide] * 100
    circle: dict[str, Any] = {"model": good(), "wide": wide}
    circle["self"] = circle
    torch.save(circle, tmp_path / "w.pth")
    assert pretrained.read(tmp_path / "w.pth").vit.num_layers == 2
