"""Arrays in a safetensors file with what they are, a checksum over both, and whole replacement.

Metadata: `format` names the kind of file, `about` is a JSON object with the format number, what the writer says of the
arrays and the dtype and length of each, `crc32c` the checksum of `about` and of the arrays in the order of their names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vortex_engine import _native
from vortex_engine.c3.files import write_atomically
from vortex_engine.errors import MachineError, StateFileError

__all__ = ["Arrays", "read_checked", "write_checked"]

Arrays = dict[str, NDArray[Any]]


def write_checked(path: Path, kind: str, number: int, about: dict[str, Any], arrays: Arrays) -> None:
    """Replace `path`.

    Args:
        kind: "vortex_engine.KIND" is the file's format; number: of that format.
        arrays: of one dimension each.

    Raises:
        MachineError: it cannot be written; an older file is as it was.
    """
    kinds = {name: [str(array.dtype), len(array)] for name, array in sorted(arrays.items())}
    text = json.dumps({"number": number, **about, "arrays": kinds}, sort_keys=True)
    metadata = {"format": f"vortex_engine.{kind}", "about": text, "crc32c": str(_checksum(text, arrays))}
    try:
        write_atomically(path, _ordered(save(arrays, metadata)))
    except OSError as error:
        raise MachineError(f"[{kind}] cannot write {path}: {error}; what was there is as it was") from error


def read_checked(path: Path, kind: str, number: int) -> tuple[dict[str, Any], Arrays]:
    """What the writer said of the arrays, and they, all as it was written.

    Raises:
        StateFileError: it is missing, damaged, of another kind, or of another format number.
        MachineError: it cannot be read.
    """
    try:
        with cast("Any", safe_open)(os.fspath(path), framework="np") as file:  # it has no types
            metadata: dict[str, str] = file.metadata() or {}
            names = file.keys()  # safe_open is no mapping
            arrays: Arrays = {name: np.ascontiguousarray(file.get_tensor(name)) for name in names}
    except FileNotFoundError as error:
        raise StateFileError(f"[{kind}] there is no file {path}") from error
    except OSError as error:
        raise MachineError(f"[{kind}] cannot read {path}: {error}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise StateFileError(f"[{kind}] {path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != f"vortex_engine.{kind}":
        raise StateFileError(f"[{kind}] {path} must hold a {kind}, got format {metadata.get('format')!r}")
    text = metadata.get("about", "")
    if metadata.get("crc32c") != str(_checksum(text, arrays)):
        raise StateFileError(f"[{kind}] {path} is damaged: its checksum is not that of its contents")
    try:
        about: dict[str, Any] = dict(json.loads(text))
        found, kinds = about.pop("number"), about.pop("arrays")
    except (RecursionError, TypeError, KeyError, ValueError) as error:
        raise StateFileError(f"[{kind}] {path} does not say what it holds: {error!r}") from error
    if found != number:
        raise StateFileError(f"[{kind}] {path} has format number {found!r}, this version reads {number}; make it again")
    wanted = {name: [str(array.dtype), len(array)] for name, array in arrays.items() if array.ndim == 1}
    if kinds != wanted or len(wanted) != len(arrays):
        raise StateFileError(f"[{kind}] {path} contradicts itself: its arrays are not what it says")
    return about, arrays


def _ordered(data: bytes) -> bytes:
    """The same file with its header's keys in order: the library puts them down in another order every time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    return data[:8] + header.ljust(end - 8) + data[end:]


def _checksum(text: str, arrays: Arrays) -> int:
    crc = _native.crc32c(text.encode())
    for name in sorted(arrays):
        crc = _native.crc32c(cast("Any", arrays[name]), crc)
    return crc
