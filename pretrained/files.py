"""A file, or the shards of one -> its arrays under its own names, and what it says of itself."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from pretrained.checksums import check_seal, check_sums
from pretrained.claims import (
    MOST_PICKLE,
    check_arrays,
    check_header,
    check_names,
    json_of,
    memory_for,
    ordinary,
    special,
    zip_members,
)
from pretrained.describe import brief, own_metadata
from pretrained.manifest import manifest_of
from pretrained.npz import read_npz
from pretrained.programs import ENDINGS as PROGRAMS
from pretrained.programs import program_kind
from pretrained.unwrap import unwrap
from utils import UserError, log, shell, some

WEIGHTS_FILES = (  # of a folder, the first that is there
    "best.safetensors",  # a run's
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.npz",  # of tools.export
    "last.pt",
)
MOST_SHARDS = 1000
ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
DAMAGE = (  # what zipfile, zlib, numpy, safetensors and PyTorch raise of a file that is not whole
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    SafetensorError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,
    OSError,
)


def weights_in(folder: Path) -> Path:
    """The weights file of a model's folder: by its usual name, or the only one; of an export that
    is a program, that. Of several the log says which."""
    entries = sorted(folder.iterdir())
    usual = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    others = [path for path in entries if path.suffix in ENDINGS and path.is_file()]
    programs = [path for path in entries if path.suffix in PROGRAMS and path.is_file()]
    if not usual and len(others) != 1 and (others or len(programs) != 1):
        there = some(path.name for path in others or entries)
        raise UserError(
            f"{folder} is a folder without model.safetensors or pytorch_model.bin; name the file "
            f"itself (there: {there})"
        )
    found = (usual or others or programs)[0]
    own = {found, found.with_name("last.pt"), *files_of(found)}
    rest = [path.name for path in others if path not in own]
    rest += [f"{path.name}/" for path in entries if path.is_dir() and holds_weights(path)]
    if rest and found.name != WEIGHTS_FILES[0]:
        log.warning("%s holds several: %s is taken, not %s", folder, found.name, some(rest, 4))
    return found


def holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS_FILES)


def read_arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's arrays under its own names, and the metadata that it carries, by its content.

    Of a checkpoint with several networks they are those of one; metadata's `notes` say which.
    """
    ordinary(path)
    if not is_there(path):
        raise UserError(f"{path}: no such weights file; fetch it, or name another")
    if index := _index_of(path):
        return _read_shards(index)
    return _read_one(path)


def is_there(path: Path) -> bool:
    """Whether it is a file. No name that a system can't have is that of one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def files_of(path: Path) -> list[Path]:
    """The files that a weights file's arrays lie in: itself, or an index and all its shards."""
    index = _index_of(path)
    return [index, *(index.parent / file for file in shards_of(index))] if index else [path]


def _read_one(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        arrays, metadata = _by_content(path, start)
    except PermissionError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except DAMAGE as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{path} is damaged or cut short ({reason}); remove it and fetch it again"
        ) from None
    check_arrays(arrays, path)
    return arrays, metadata


def _by_content(path: Path, start: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The file by what it begins with."""
    if kind := program_kind(path):
        raise UserError(_a_program(path, kind))
    if start[:2] == b"PK":
        members = zip_members(path)
        if any(member.filename.endswith(".npy") for member in members):
            return read_npz(path), {}
        for member in members:
            if member.filename.endswith(".pkl") and member.file_size > MOST_PICKLE:
                raise UserError(_a_large_pickle(path, member.file_size))
        return _read_torch(path, sum(member.file_size for member in members))
    if start[8:9] == b"{":
        check_header(path)
        with safe_open(path, "pt") as file:
            # Copies: the tensors are a mapping of the file, which another may overwrite.
            names = list(file.keys())
            check_names(names, path)
            arrays = {name: file.get_tensor(name).clone() for name in names}
            said = file.metadata() or {}
            check_sums(path, arrays, said)
            return arrays, own_metadata(said, str(path))
    if start[:1] == b"\x80":
        return _read_torch(path, path.stat().st_size)
    what = "is empty" if not start else f"begins with {start!r}"
    if kind := picture_kind(path):
        what = f"is a picture ({kind})"
    raise UserError(f"{path} is not a weights file (.npz, .safetensors or PyTorch): it {what}")


def _a_program(path: Path, kind: str) -> str:
    """Why a program's file is no weights file, and what to do."""
    if "TorchScript" in kind:
        return (
            f"{path} is {kind}; write its arrays alone: torch.save("
            f"torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    said = f"{path} is {kind}, which answers by itself and is no weights file"
    if run := manifest_of(path).get("run"):
        see = shell("python", "-m", "tools.show", path)
        return f"{said}: an export of the run {run}, whose weights take its place here ({see})"
    return f"{said}: name the weights that it was made of"


def picture_kind(path: Path) -> str | None:
    """The format of a picture, as Pillow calls it; None for what is none."""
    if special(path):
        return None
    try:
        with Image.open(path) as picture:
            return picture.format
    except Exception:  # what is no picture makes Pillow raise nearly anything
        return None


def _a_large_pickle(path: Path, size: int) -> str:
    return (
        f"{path} holds {size / 1e6:,.0f} MB beside its arrays, and a network's checkpoint under "
        f"{MOST_PICKLE >> 20}; write its arrays alone: torch.save(net.state_dict(), 'weights.pth')"
    )


# ----------------------------------------------------------------------------- what PyTorch wrote


class Unused:
    """Stands for what a checkpoint holds beside its tensors, such as a program's arguments.

    None of it is used, so none of it is made: the names below are read as this, and the classes
    that they name never run.
    """

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class PlainDict:
    """Stands for the kinds of dict of other programs; makes dicts."""

    def __new__(cls, *args: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


UNUSED = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{name}" for name in ("dtype", "ndarray")),
    *(
        f"numpy.{core}.multiarray.{f}"
        for core in ("core", "_core")
        for f in ("scalar", "_reconstruct")
    ),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(
        f"{module}.{pure}{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for kind in ("", "Posix", "Windows")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "uuid.UUID",
    "decimal.Decimal",
    "fractions.Fraction",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("range", "slice", "dict", "list", "tuple", "int", "float", "str", "bool")
    ),
    # Lightning keeps OmegaConf's settings as they are.
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata")),
    *(
        f"omegaconf.nodes.{kind}Node"
        for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum")
    ),
)
DICTS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)
ALLOWED = [*((Unused, name) for name in UNUSED), *((PlainDict, name) for name in DICTS)]


def _read_torch(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_seal(path)
    try:
        with safe_globals(ALLOWED), memory_for(size), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise UserError(
            f"{path} makes values far larger than its file beside its arrays, as no network's "
            "checkpoint does; write its arrays alone: torch.save(net.state_dict(), 'weights.pth')"
        ) from None
    except Exception as error:
        raise UserError(_not_loaded(path, str(error) or type(error).__name__)) from None
    if not isinstance(content, Mapping):
        if isinstance(content, Tensor) or not isinstance(content, (list, tuple)):
            raise UserError(f"{path} holds a {type(content).__name__}, not named arrays")
        content = dict(enumerate(content))
    metadata = own_metadata(content.get("metadata"), str(path))
    if metadata and isinstance(content.get("model"), Mapping):  # our own last.pt
        content = {"model": content["model"]}
        if "cls_token" not in content["model"]:
            best = path.with_name("best.safetensors")
            raise UserError(
                f"{path} keeps only what trains, for the run to go on with; "
                + (f"its network is {best}" if best.exists() else "it has no whole network yet")
            )
    arrays, notes = unwrap(content)
    return arrays, {**metadata, "notes": notes}


def _not_loaded(path: Path, message: str) -> str:
    """Why PyTorch refused a file, in one sentence."""
    if found := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message):
        return (
            f"{path} holds a {found[1]} beside its tensors, and nothing else is ever unpickled, as "
            "that can run a stranger's code; where you trust the file, write its arrays alone: "
            f"torch.save(torch.load({path.name!r}, weights_only=False)['model'], 'weights.pth'), "
            "with its own key for 'model', or .state_dict() where it is a whole module"
        )
    reason = message.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return (
        f"{path} can't be read as tensors alone, and nothing else is ever unpickled: {reason}; "
        "where it is damaged, fetch it again"
    )


# ------------------------------------------------------------------------------------------ shards


def _index_of(path: Path) -> Path | None:
    """An index itself, and that of a shard, model-00001-of-00002.safetensors; None for a file that
    is whole."""
    if path.name.endswith(".index.json"):
        return path
    shard = re.fullmatch(r"(.+?)-(\d{5})-of-(\d{5})(\.[a-z]+)", path.name)
    if shard is None or int(shard[3]) <= 1:
        return None
    index = path.with_name(f"{shard[1]}{shard[4]}.index.json")
    if not index.is_file():
        raise UserError(
            f"{path} is one of {int(shard[3])} shards, and {index.name}, which lists them, is not "
            "beside it; fetch it, too"
        )
    return index


def shards_of(index: Path) -> dict[str, list[str]]:
    """The files that an index lists, each with the names of its arrays.

    Raises UserError where it is no index, or names a file that is not beside it.
    """
    try:
        content = json_of(index)
        listed = dict(content["weight_map"])
    except OSError as error:
        raise UserError(f"{index} can't be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{index} is not an index of shards: it has no weight_map") from None
    files: dict[str, list[str]] = {}
    for name, file in listed.items():
        beside = isinstance(file, str) and Path(file).name == file and file != ".."
        if not beside or file.endswith(".index.json") or not f"{file}{name}".isprintable():
            raise UserError(
                f"{index}: {brief(name)} is in {brief(file)}, which is no file beside it"
            )
        files.setdefault(file, []).append(str(name))
    if not 1 <= len(files) <= MOST_SHARDS:
        raise UserError(f"{index} lists {len(files):,} shards; fetch it again")
    return files


def _read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    files = shards_of(index)
    if missing := [file for file in files if not is_there(index.parent / file)]:
        named = some(file[:80] for file in missing)
        raise UserError(f"{index} lists {named}, not there; fetch what is missing to it")
    arrays: dict[str, Tensor] = {}
    for file, names in files.items():
        path = index.parent / file
        found, _ = _read_one(path)
        if absent := sorted(set(names) - found.keys()):
            raise UserError(f"{path} lacks {some(absent)}, which {index.name} says it holds")
        arrays |= found
    return arrays, {"notes": (f"the arrays are of {len(files)} shards",)}


def digest_of(arrays: Mapping[str, Tensor]) -> str:
    """Of some arrays and their names, in whatever order."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode())
        digest.update(array.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def metadata_in(path: Path) -> dict[str, str]:
    """The header of a safetensors file; {} of others, and of one that can't be read."""
    return header_of(path)[0]


def header_of(path: Path) -> tuple[dict[str, str], set[str]]:
    """The same, and the names of its arrays."""
    try:
        ordinary(path)
        check_header(path)
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {}), set(file.keys())
    except Exception:  # `read_arrays` says what is wrong with it
        return {}, set()
