"""numpy's archives: each member's header against its size first, then its values."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from pretrained.claims import check_names, zip_members
from utils import UserError

HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
NUMBERS = "fiub"  # float, int, unsigned, bool: numpy's letters
BLOCK = 1 << 20


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of numbers in an npz, plain or compressed; texts are left out.

    Raises UserError where a member holds objects, which would have to be unpickled, and ValueError
    or zipfile's errors where one is damaged.
    """
    members = [member for member in zip_members(path) if member.filename.endswith(".npy")]
    names = [member.filename.removesuffix(".npy") for member in members]
    check_names(names, path)
    arrays: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        for name, member in zip(names, members, strict=True):
            with archive.open(member) as file:
                array = _read_member(file, member.file_size, name, path)
            if array is not None:
                arrays[name] = array
    return arrays


def _read_member(file: IO[bytes], size: int, name: str, path: Path) -> Tensor | None:
    shape, fortran, dtype = _header(file, name)
    if dtype.hasobject:
        raise UserError(
            f"{path}: {name} holds Python objects, and nothing but numbers is ever unpickled; "
            "write its arrays one by one: np.savez('weights.npz', **arrays)"
        )
    bfloat16 = dtype.str[1:] == "V2"  # JAX's, which numpy has not
    if dtype.kind not in NUMBERS and not bfloat16:
        return None
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - file.tell():
        raise ValueError(
            f"{name} claims {claimed:,} bytes of numbers, and has {size - file.tell():,}"
        )
    flat = np.empty(math.prod(shape), dtype)
    _fill(file, flat.view(np.uint8), name)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    if bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise UserError(
            f"{path}: {name} holds {dtype}, which PyTorch has not; write it as float32"
        ) from None


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array. ValueError for whatever is no such header."""
    try:
        shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # numpy evaluates and tokenises it, which raises nearly anything
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise ValueError(f"{name} has no header of numpy's: {reason}") from None
    if any(length < 0 for length in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return shape, fortran, dtype


def _fill(file: IO[bytes], view: np.ndarray, name: str) -> None:
    """Read a member's bytes (n,) to its end, where its CRC is checked."""
    place = 0
    while place < len(view):
        block = file.read(min(BLOCK, len(view) - place))
        if not block:
            raise EOFError(f"{name} ends after {place:,} of {len(view):,} bytes")
        view[place : place + len(block)] = np.frombuffer(block, np.uint8)
        place += len(block)
    file.read(1)
