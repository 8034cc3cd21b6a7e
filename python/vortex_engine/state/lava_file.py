"""A LAVA bank in a safetensors file: every array that decides what it answers, what it was made with, and a checksum.

Metadata: `format` names the kind of file, `bank` is a JSON object with the format number, the bank's sizes and the
dtype and length of every array, `crc32c` the checksum of `bank` and of the arrays in the order of their names.
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

__all__ = ["FORMAT_NUMBER", "read_bank", "write_bank"]

FORMAT = "vortex_engine.lava_bank"
FORMAT_NUMBER = 1
OPTIONS = {
    "dim": int,
    "value_dim": int,
    "capacity": int,
    "nlist": int,
    "contents": str,
    "ema": float,
    "half_life": float,
}

Arrays = dict[str, NDArray[Any]]


def write_bank(path: Path, options: dict[str, Any], arrays: Arrays) -> None:
    """Replace `path` by a file of a bank.

    Raises:
        MachineError: it cannot be written; an older file is as it was.
    """
    kinds = {name: [str(array.dtype), len(array)] for name, array in sorted(arrays.items())}
    bank = json.dumps({"number": FORMAT_NUMBER, "options": options, "arrays": kinds}, sort_keys=True)
    metadata = {"format": FORMAT, "bank": bank, "crc32c": str(_checksum(bank, arrays))}
    try:
        write_atomically(path, save(arrays, metadata))
    except OSError as error:
        raise MachineError(f"[lava_bank] cannot write {path}: {error}; what was there is as it was") from error


def read_bank(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Options and arrays of a file, which are what was written.

    Raises:
        StateFileError: it is damaged, no bank, or of another format number.
        MachineError: it cannot be read.
    """
    try:
        with cast("Any", safe_open)(os.fspath(path), framework="np") as file:  # it has no types
            metadata: dict[str, str] = file.metadata() or {}
            names = file.keys()  # safe_open is no mapping
            arrays: Arrays = {name: np.ascontiguousarray(file.get_tensor(name)) for name in names}
    except OSError as error:
        raise MachineError(f"[lava_bank] cannot read {path}: {error}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise StateFileError(f"[lava_bank] {path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise StateFileError(f"[lava_bank] {path} must hold a LAVA bank, got format {metadata.get('format')!r}")
    bank = metadata.get("bank", "")
    if metadata.get("crc32c") != str(_checksum(bank, arrays)):
        raise StateFileError(f"[lava_bank] {path} is damaged: its checksum is not that of its contents")
    return _options(path, bank, arrays), arrays


def _options(path: Path, text: str, arrays: Arrays) -> dict[str, Any]:
    try:
        bank: dict[str, Any] = json.loads(text)
        number, options, kinds = bank["number"], dict[str, Any](bank["options"]), bank["arrays"]
    except (RecursionError, TypeError, KeyError, ValueError) as error:
        raise StateFileError(f"[lava_bank] {path} does not say what it holds: {error!r}") from error
    if number != FORMAT_NUMBER:
        raise StateFileError(
            f"[lava_bank] {path} has format number {number!r}, this version reads {FORMAT_NUMBER}; save it again"
        )
    wanted = {name: [str(array.dtype), len(array)] for name, array in arrays.items() if array.ndim == 1}
    known = {name: type(value) for name, value in options.items()} == OPTIONS
    if kinds != wanted or len(wanted) != len(arrays) or not known:
        raise StateFileError(f"[lava_bank] {path} contradicts itself: its arrays or sizes are not what it says")
    return options


def _checksum(bank: str, arrays: Arrays) -> int:
    crc = _native.crc32c(bank.encode())
    for name in sorted(arrays):
        crc = _native.crc32c(cast("Any", arrays[name]), crc)
    return crc
