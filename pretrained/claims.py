"""What a weights file says that it holds, looked at before memory or time is given for it.

A file comes from strangers: a few bytes may claim terabytes, a FIFO waits for ever, a zip inflates
to a thousand times its size. Whatever is refused here ends in a UserError of one sentence.
"""

from __future__ import annotations

import contextlib
import gc
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.plain_files import kind_of
from utils import UserError

MOST_ARRAYS = 20_000  # of a network: a ViT-H has 400, with its optimiser 1,200
MOST_LETTERS = 250  # of an array's name: the longest of a known layout has 70
MOST_HEADER = 8 << 20  # of a safetensors file: 100,000 classes by name are 4 MB
MOST_PICKLE = 4 << 20  # of a PyTorch file, beside its arrays: that of a ViT-H is 0.2 MB
MOST_JSON = 16 << 20  # of a description: the index of 100,000 arrays is 10 MB
MOST_DIRECTORY = 8 << 20  # of a zip: 20,000 members are 2 MB
# Arrays of what a file of this size can hold. Weights hardly compress, those that were bfloat16
# to half; what is smaller than this is no danger, however well it does.
SMALL, DENSEST = 256 << 20, 8


def special(path: Path) -> str | None:
    """What a path leads to that is no ordinary file: reading it may never end. None for a file, and
    for what is not there."""
    try:
        return kind_of(path.stat().st_mode)
    except (OSError, ValueError):
        return None


def ordinary(path: Path) -> None:
    """Raise UserError where a path leads to something other than a file."""
    if kind := special(path):
        raise UserError(f"{path} is {kind}, not a weights file; name the file itself")


def json_of(path: Path) -> Any:
    """What a JSON file holds. OSError where it can't be read, ValueError where it is none, or far
    too large for a description."""
    if kind := special(path):
        raise OSError(f"it is {kind}")
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"it is larger than {MOST_JSON >> 20} MB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_header(path: Path) -> None:
    """Raise UserError where a safetensors file says that it has a header of another size than a
    network's: it would be read whole, and each of its arrays made an object."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER and length <= path.stat().st_size:
        raise UserError(
            f"{path} has a header of {length / 1e6:,.0f} MB, and that of a network is under "
            f"{MOST_HEADER >> 20} MB; fetch or write the file again"
        )


def check_names(names: Mapping[str, Any] | list[str], path: Path) -> None:
    """Raise UserError where a file has more arrays, or longer names, than a network."""
    if len(names) > MOST_ARRAYS:
        raise UserError(
            f"{path} has {len(names):,} arrays, and a network of this kind under {MOST_ARRAYS:,}; "
            "name weights of an ordinary ViT"
        )
    if longest := next((name for name in names if len(name) > MOST_LETTERS), None):
        raise UserError(
            f"{path} has an array whose name is {len(longest):,} letters long "
            f"({longest[:40]!r}...), and a network's are under {MOST_LETTERS}; it is damaged, or "
            "no network: name other weights"
        )
    if unprinted := next((name for name in names if not name.isprintable()), None):
        raise UserError(
            f"{path} has an array {unprinted!r}, which is no network's; it is damaged: fetch it "
            "again"
        )


def check_size(size: int, path: Path) -> None:
    """Raise UserError where arrays of so many bytes are more than a file of its size can hold."""
    has = path.stat().st_size
    if size > max(SMALL, DENSEST * has):
        raise UserError(
            f"{path} has {has / 1e6:,.1f} MB and claims to hold {size / 1e6:,.0f} MB of arrays, "
            "which no network's weights do; nothing was unpacked: fetch the file again"
        )


def check_arrays(arrays: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError where tensors have no values of their own in memory, or share so few that
    they would take far more than the file."""
    check_names(arrays, path)
    for name, array in arrays.items():
        plain = array.layout == torch.strided and not array.is_quantized and not array.is_nested
        if not plain or array.device.type != "cpu":
            what = "quantised" if array.is_quantized else f"{array.layout}".rpartition(".")[2]
            what = what if array.device.type == "cpu" else f"on the device {array.device.type}"
            raise UserError(f"{path}: {name} is {what}, no plain array; name other weights")
    check_size(sum(array.numel() * array.element_size() for array in arrays.values()), path)


# -------------------------------------------------------------------------------------------- zips

END_OF_ZIP = b"PK\5\6"
ENDS_WITHIN = (1 << 16) + 22  # a comment of 64 kB, and the record itself
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip, by its directory, nothing inflated yet. Raises UserError where there
    are too many, two have one name, one is encrypted or packed in an unknown way, or they claim
    more than such a file can hold; BadZipFile where it is no whole zip."""
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (struct.error, ValueError, RuntimeError, OverflowError) as error:
        raise zipfile.BadZipFile(str(error)) from None
    if len(members) > MOST_ARRAYS:
        raise UserError(
            f"{path} is a zip of {len(members):,} members, and a network's has under "
            f"{MOST_ARRAYS:,}; fetch or write the file again"
        )
    names: set[str] = set()
    for member in members:
        if member.filename in names:
            raise UserError(f"{path} holds {member.filename[:80]} twice; write the file again")
        names.add(member.filename)
        if member.flag_bits & 0x1:
            raise UserError(f"{path} is encrypted ({member.filename[:80]}); decrypt it first")
        if member.compress_type not in PACKED:
            raise UserError(
                f"{path}: {member.filename[:80]} is compressed by method {member.compress_type}, "
                "and np.savez_compressed and PyTorch deflate; write the file again"
            )
    check_size(sum(member.file_size for member in members), path)
    return members


def _check_directory(path: Path) -> None:
    """The directory is read whole before anything can be asked of it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - ENDS_WITHIN))
        tail = file.read()
    last = len(tail) - 22  # without a comment
    end = last if tail[last:].startswith(END_OF_ZIP) else tail.rfind(END_OF_ZIP)
    length = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if end >= 76 and tail[end - 20 :].startswith(b"PK\6\7"):  # a zip64's own record, before it
        length = int.from_bytes(tail[end - 36 : end - 28], "little")
    if length > MOST_DIRECTORY and length <= size:
        raise UserError(
            f"{path} is a zip whose directory has {length / 1e6:,.0f} MB, and that of a network is "
            f"under {MOST_DIRECTORY >> 20} MB; fetch or write the file again"
        )


# ----------------------------------------------------------------------------------------- pickles

BESIDE_THE_ARRAYS = 256 << 20


@contextlib.contextmanager
def memory_for(size: int) -> Iterator[None]:
    """Let what is unpickled take the arrays' size and BESIDE_THE_ARRAYS, no more: a pickle of some
    bytes can build a value of any size out of plain texts and lists. MemoryError beyond.

    Where the system has no such limit (it is Linux's), nothing happens.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        before = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, OSError, IndexError, ValueError):
        yield
        return
    most = pages * resource.getpagesize() + size + BESIDE_THE_ARRAYS
    if before[0] != resource.RLIM_INFINITY:
        most = min(most, before[0])
    spare = bytearray(16 << 20)  # so that there is memory to give the limit back with
    # Looking for circles among millions of lists takes longer than making them.
    collects = gc.isenabled()
    gc.disable()
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        del spare
        resource.setrlimit(resource.RLIMIT_DATA, before)
        if collects:
            gc.enable()
