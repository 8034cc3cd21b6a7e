"""LAVA banks in files: one bank, or what a sequence has left in the banks of all layers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vortex_engine.errors import StateFileError
from vortex_engine.state.checked_file import Arrays, read_checked, write_checked

__all__ = ["MEMORY", "BankParts", "MemoryFile", "read_bank", "read_memory", "write_bank", "write_memory"]

BANK, MEMORY = "lava_bank", "lava_memory"
_NUMBER = 2
_OPTIONS = {
    "dim": int,
    "value_dim": int,
    "capacity": int,
    "nlist": int,
    "contents": str,
    "ema": float,
    "half_life": float,
}

BankParts = tuple[dict[str, Any], Arrays]  # what a bank was made with, and every array that decides what it answers


def write_bank(path: Path, options: dict[str, Any], arrays: Arrays) -> None:
    """Replace `path` by a file of a bank.

    Raises:
        MachineError: it cannot be written; an older file is as it was.
    """
    write_checked(path, BANK, _NUMBER, {"options": options}, arrays)


def read_bank(path: Path) -> BankParts:
    """Options and arrays of a file, which are what was written.

    Raises:
        StateFileError: it is missing, damaged, no bank, or of another format number.
        MachineError: it cannot be read.
    """
    about, arrays = read_checked(path, BANK, _NUMBER)
    return _options(path, BANK, about.get("options")), arrays


@dataclass(frozen=True, eq=False)
class MemoryFile:
    """What sequences have left in a model's banks.

    Attributes:
        model_crc32c: of the weights that wrote it.
        n_positions: of all the sequences.
        banks: of the layers that have one, in order.
    """

    model_crc32c: int
    n_positions: int
    banks: tuple[BankParts, ...]


def write_memory(path: Path, memory: MemoryFile) -> None:
    """Replace `path`.

    Raises:
        MachineError: it cannot be written; an older file is as it was.
    """
    about = {
        "model_crc32c": memory.model_crc32c,
        "n_positions": memory.n_positions,
        "banks": [options for options, _ in memory.banks],
    }
    arrays = {f"{i}.{name}": array for i, (_, bank) in enumerate(memory.banks) for name, array in bank.items()}
    write_checked(path, MEMORY, _NUMBER, about, arrays)


def read_memory(path: Path) -> MemoryFile:
    """As it was written.

    Raises:
        StateFileError: it is missing, damaged, no memory, or of another format number.
        MachineError: it cannot be read.
    """
    about, arrays = read_checked(path, MEMORY, _NUMBER)
    crc, n_positions, banks = (about.get(name) for name in ("model_crc32c", "n_positions", "banks"))
    # 2^52: the most that a bank takes for a position.
    if type(crc) is not int or type(n_positions) is not int or not 0 <= n_positions < 2**52 or type(banks) is not list:
        raise StateFileError(f"[{MEMORY}] {path} contradicts itself: its sizes are not what it says")
    parts: list[BankParts] = [(_options(path, MEMORY, options), {}) for options in cast("list[Any]", banks)]
    for name, array in arrays.items():
        layer, dot, rest = name.partition(".")
        if not dot or not layer.isascii() or not layer.isdigit() or int(layer) >= len(parts):
            raise StateFileError(f"[{MEMORY}] {path} contradicts itself: it has no bank for {name!r}")
        parts[int(layer)][1][rest] = array
    return MemoryFile(crc, n_positions, tuple(parts))


def _options(path: Path, kind: str, options: Any) -> dict[str, Any]:
    found = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
    if {name: type(value) for name, value in found.items()} != _OPTIONS:
        raise StateFileError(f"[{kind}] {path} contradicts itself: the sizes of a bank are not what they must be")
    return found
