"""Files made wrong, by a seed: bytes, cuts and splices, and faults that a format's own shell hides.

A zip whose bytes are flipped ends at its CRC, and a safetensors file at its header; so zips are
packed again after a member was changed, headers get their new length, and JSON, tables and YAML are
changed where they say something.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]

SIZES = [0, 1, 7, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
ODD: list[Any] = [None, True, False, 0, -1, 0.5, 3, 10**9, 10**400, float("nan"), float("inf"), ""]
ODD += ["a", "\0", "ä" * 300, "1", "..", "/dev/zero", [], [1], [[]], [None] * 3, {}, {"a": 1}]
WORDS = ["&a", "*a", "<<", "!!python/object:os.system", "!!binary", "!x", "[", "]", "{", "}", "- "]
WORDS += ["? ", ": ", "#", "|", ">", "'", '"', "\t", "2026-13-45", "2026-11-26", "on", "null", "~"]
WORDS += [
    ".nan",
    "1e999",
    "-1",
    "0x",
    "1:30",
    "9" * 400,
    "\0",
    "\ufeff",
    "---",
    "...",
    "%YAML 9",
    ",",
]
WORDS += [";", "=", "\r", "\n", "NaN", "inf", "1_0", "[" * 300, "a: {b: " * 40]


def mutated(rng: Random, seeds: Sequence[bytes], aware: Sequence[Mutation]) -> bytes:
    """One of the seeds with a few faults in it."""
    content = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        own = aware and rng.random() < 0.6
        try:
            content = rng.choice(aware if own else PLAIN)(rng, content, seeds)
        except Exception:  # what is no longer a file of its kind can be changed as bytes alone
            content = rng.choice(PLAIN)(rng, content, seeds)
    return content


# ------------------------------------------------------------------------------------------- bytes


def _span(rng: Random, content: bytes, longest: int = 4096) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 2, 4, 16, 64, 512, longest)))


def flip(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if found:
            found[rng.randrange(len(found))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    return bytes(found)


def cut(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def drop(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def double(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 30)) + content[end:]


def splice(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def insert(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    start, _ = _span(rng, content)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 8, 100))) + content[start:]


def number(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A field of 2, 4 or 8 bytes, of either order."""
    kind = rng.choice("HIQ")
    size = struct.calcsize(kind)
    start = rng.randrange(max(1, len(content) - size))
    value = rng.choice([*SIZES, len(content)]) % 2 ** (8 * size)
    return content[:start] + struct.pack(rng.choice("<>") + kind, value) + content[start + size :]


def digits(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A number that is written out."""
    places = list(re.finditer(rb"\d+", content))
    if not places:
        return flip(rng, content, seeds)
    place = rng.choice(places)
    value = rng.choice([str(rng.choice(SIZES)), "-1", "1e999", "0.5", "nan", "9" * 30]).encode()
    return content[: place.start()] + value + content[place.end() :]


PLAIN: tuple[Mutation, ...] = (flip, flip, cut, drop, double, splice, insert, number, digits)

# --------------------------------------------------------------------------------------- JSON, text


def odd(rng: Random, found: Any) -> Any:
    """A value with one of its parts another, gone or double."""
    if isinstance(found, dict) and found and rng.random() < 0.9:
        key = rng.choice(list(found))
        ways = rng.random()
        if ways < 0.1:
            return {k: v for k, v in found.items() if k != key}
        if ways < 0.2:
            return {**found, rng.choice(["", "a", key * 2, key[:-1], "__metadata__"]): found[key]}
        return {**found, key: odd(rng, found[key])}
    if isinstance(found, list) and found and rng.random() < 0.7:
        place = rng.randrange(len(found))
        more = [odd(rng, found[place])] * rng.choice((0, 1, 1, 2))
        return [*found[:place], *more, *found[place + 1 :]]
    if isinstance(found, str) and found[:1] in ("{", "[") and rng.random() < 0.9:
        return json.dumps(odd(rng, json.loads(found)))  # a text that is JSON itself
    if isinstance(found, int) and rng.random() < 0.4:
        return found + rng.choice((-1, 1, 4, -found, 2 * found))
    deep = rng.choice((3, 90, 600, 20_000))
    return rng.choice([*ODD, "[" * deep, rng.choice(WORDS)])


def changed_json(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    return json.dumps(odd(rng, json.loads(content))).encode()


def nested(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Brackets in the place of a value."""
    places = list(re.finditer(rb"(?<=[:,=\[ ])[^:,\[\]{}\n]+", content))
    place = rng.choice(places)
    deep = rng.choice((b"[", b"{", b'{"a":')) * rng.choice((3, 90, 600, 20_000))
    return content[: place.start()] + deep + content[place.end() :]


def words(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Words that mean something to YAML or to a table, somewhere or instead of a value."""
    text = content.decode("utf-8", "surrogateescape")
    places = list(re.finditer(r"(?<=[:,; ])[^:,;\n]+", text))
    word = rng.choice(WORDS)
    if places and rng.random() < 0.7:
        place = rng.choice(places)
        text = text[: place.start()] + word + text[place.end() :]
    else:
        start = rng.randrange(len(text) + 1)
        text = text[:start] + word + text[start:]
    return text.encode("utf-8", "surrogateescape")


def lines(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A line gone, double, elsewhere, or further in."""
    found = content.split(b"\n")
    place = rng.randrange(len(found))
    line = found.pop(place)
    more = rng.choice(([], [line, line], [b"  " + line], [line.lstrip()], [line.upper()]))
    return b"\n".join([*found[:place], *more, *found[place:]])


# -------------------------------------------------------------------------- zips, safetensors, npy


def repacked(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A zip with a member changed, and every CRC right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    info, data = members[place]
    change = rng.random()
    if change < 0.05:
        members.pop(place)
    elif change < 0.1:
        members.insert(rng.randrange(len(members)), (info, data))
    elif change < 0.15:
        info.filename = rng.choice([info.filename[:-1], "../x.npy", "a.npy", info.filename * 9])
    elif data[:6] == b"\x93NUMPY" and change < 0.7:
        members[place] = info, changed_npy(rng, data, seeds)
    else:
        members[place] = info, rng.choice(PLAIN)(rng, data, [member for _, member in members])
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        for info, data in members:
            archive.writestr(info.filename, data, compress_type=info.compress_type)
    return found.getvalue()


def changed_npy(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A header of numpy's that says something else, with its length right."""
    length = int.from_bytes(content[8:10], "little")
    header, rest = content[10 : 10 + length], content[10 + length :]
    shapes = [
        "(-1,)",
        "(0, 9223372036854775807)",
        "()",
        "(4398046511104,)",
        "(True,)",
        "'a'",
        "((1,),)",
    ]
    types = [
        "'<f2'",
        "'|V2'",
        "'>f4'",
        "'<f16'",
        "'<c8'",
        "'|O'",
        "'<U4'",
        "'|b1'",
        "'<i8'",
        "'M8'",
    ]
    types += ["[('a', '<f4')]", "'<f999'", "'|S9999999999'", "-" * 400 + "1", "(" * 90]
    if rng.random() < 0.4:
        header = re.sub(rb"\(.*?\)", rng.choice(shapes).encode(), header, count=1)
    elif rng.random() < 0.7:
        header = re.sub(rb"'[<>|]..'", rng.choice(types).encode(), header, count=1)
    else:
        header = rng.choice(PLAIN)(rng, header, [header])
    version = content[6:8] if rng.random() < 0.9 else bytes([rng.randrange(5), rng.randrange(2)])
    return content[:6] + version + struct.pack("<H", len(header) % 65536) + header + rest


def directory(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A field of a zip's directory, or of a member's own header."""
    places = [m.start() for m in re.finditer(rb"PK(\1\2|\3\4|\5\6|\6\6|\6\7)", content)]
    place = rng.choice(places) + rng.randrange(4, 46)
    kind = rng.choice("HI")
    value = rng.choice([*SIZES, rng.randrange(100)]) % 2 ** (8 * struct.calcsize(kind))
    return (
        content[:place] + struct.pack(f"<{kind}", value) + content[place + struct.calcsize(kind) :]
    )


def header(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """A safetensors header that says something else, with its length right."""
    length = int.from_bytes(content[:8], "little")
    text, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.7:
        text = json.dumps(odd(rng, json.loads(text)), allow_nan=True).encode()
    else:
        text = rng.choice(PLAIN)(rng, text, [text])
    return struct.pack("<Q", len(text)) + text + data


def said(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Our own metadata of a safetensors file, in one of its values."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    own = found["__metadata__"]
    key = rng.choice(list(own))
    value = odd(rng, own[key])
    own[key] = value if isinstance(value, str) else json.dumps(value)
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def values(rng: Random, content: bytes, seeds: Sequence[bytes]) -> bytes:
    """Numbers of an array that are none, or far too large."""
    value = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38, -1.0, 0.0, 1e-40)))
    start = len(content) - 4 * rng.randrange(1, max(2, len(content) // 8))
    return content[:start] + value + content[start + 4 :]
