"""What tells that a file of ours is as it was written: a checksum of each array, or of all of it.

CRC-32 finds every flipped byte, and of larger damage all but one in 4 billion; it is no proof
against a forger. A B/16's 343 MB take 0.05 s, and 0.17 s by SHA-256 on a processor that has
instructions for it (0.9 s on one that has not).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, uint8

from utils import UserError, some

CHECKSUMS = "checksums"  # in the metadata of best.safetensors
SEAL = re.compile(rb"\ncrc32 ([0-9a-f]{8})\n")  # behind a zip's end, where its readers don't look
SEAL_BYTES = len("\ncrc32 01234567\n")


def with_checksums(arrays: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata, with a checksum of each array and of the metadata itself."""
    found = {name: of_array(array) for name, array in arrays.items()}
    text = json.dumps({"arrays": found, "metadata": of_texts(metadata)}, sort_keys=True)
    return {**metadata, CHECKSUMS: text}


def check_sums(path: Path, arrays: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise UserError that names the arrays of a file that are not what was written; of a file
    without checksums, another program's or an older version's, nothing is said."""
    if CHECKSUMS not in metadata:
        return
    own = {name: text for name, text in metadata.items() if name != CHECKSUMS}
    try:
        written = json.loads(metadata[CHECKSUMS])
        known, of_own = dict(written["arrays"]), written["metadata"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(damaged(path, "its checksums can't be read")) from None
    wrong = [n for n, array in arrays.items() if known.get(n) != of_array(array)]
    wrong += sorted(known.keys() - arrays.keys())
    if of_own != of_texts(own):
        wrong.append("its metadata")
    if wrong:
        raise UserError(damaged(path, f"not what was written: {some(wrong, 4)}"))


def damaged(path: Path, what: str) -> str:
    """The sentence on a damaged file, and what to do."""
    way = "copy it again from where it is whole, or train again"
    if path.suffix == ".safetensors" and (path.parent / "last.pt").exists():
        way += "; train.from_checkpoint goes on with its run, which writes it anew"
    return f"{path} is damaged ({what}): {way}"


def of_array(array: Tensor) -> str:
    """Of an array's kind, shape and numbers."""
    values = array.detach().cpu().contiguous()
    kind = zlib.crc32(f"{values.dtype} {tuple(values.shape)}".encode())
    return f"{zlib.crc32(values.reshape(-1).view(uint8).numpy().data, kind):08x}"


def of_texts(texts: Mapping[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(sorted(texts.items())).encode()):08x}"


def seal(path: Path) -> None:
    """Write a file's checksum behind its end."""
    with open(path, "r+b") as file:
        found, _ = _crc_of(path, 0)
        file.seek(0, 2)
        file.write(f"\ncrc32 {found:08x}\n".encode())


def check_seal(path: Path) -> None:
    """Raise UserError where a file is not as `seal` found it; of one without a seal, nothing is
    said: of ours it is the seal itself that is cut, or an older version has written it."""
    found, end = _crc_of(path, SEAL_BYTES)
    if (known := SEAL.fullmatch(end)) and int(known[1], 16) != found:
        raise UserError(damaged(path, "not what was written"))


def _crc_of(path: Path, without: int) -> tuple[int, bytes]:
    """The checksum of a file but for its last bytes, and these."""
    left, found = max(0, path.stat().st_size - without), 0
    with open(path, "rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            found = zlib.crc32(block, found)
            left -= len(block)
        return found, file.read()
