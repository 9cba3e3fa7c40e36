"""What values the settings take, each as YAML and a shell write it."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from system.filenames import name_of, shown


def false_is_none(value: Any) -> Any:
    """Off is written null; the old files also wrote False."""
    return None if value is False else value


def _no_bool(value: Any) -> Any:
    """Python takes True for 1; in a config file that is a slip."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def on_off(value: Any) -> Any:
    """YAML reads a bare on and off as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


def _path(value: Any) -> str:
    """A path as the system takes it: ~ and $VAR are what a shell makes of them, unless there is a
    file of that very name. One made by pathlib is a path, too."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a path")
    path = value if os.name == "nt" else name_of(shown(value))
    if "\0" in path:  # written \x00
        raise ValueError("not a path")
    if not path.strip():  # a shell's variable that is not set; "" would be the working directory
        raise ValueError("empty")
    if "://" in path or os.path.exists(path):
        return path
    return os.path.expanduser(os.path.expandvars(path)) or path


def _name(value: Any) -> Any:
    """YAML reads a class called 1 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# More than any is, and few enough for PyTorch's 64 bits.
Whole = Annotated[int, BeforeValidator(_no_bool), Field(le=10**18)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Whole, Field(ge=1)]
Size = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1_000_000)]  # of a network
Depth = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1_000)]  # blocks
Pixels = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=10_000)]  # an image's side
Channels = Annotated[Literal[1, 3], BeforeValidator(_no_bool)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
NotNegative = Annotated[Number, Field(ge=0)]
Mean = Annotated[Number, Field(ge=-10, le=10)]  # of values in [0, 1]: 123 is of those to 255
Deviation = Annotated[Number, Field(ge=1e-3, le=10)]
Auto = Literal["auto"]
OFF = BeforeValidator(false_is_none)
# As text in files, and as the system takes it in use: see system/filenames.py.
PathText = Annotated[str, PlainValidator(_path), PlainSerializer(shown)]
Names = Annotated[tuple[Annotated[str, BeforeValidator(_name)], ...], Field(min_length=2)]
