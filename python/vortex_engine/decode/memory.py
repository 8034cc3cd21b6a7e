"""What a model keeps of texts it has read, in a file: its LAVA banks, for sequences to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vortex_engine.errors import StateFileError
from vortex_engine.state import LavaBank, LavaState, SequenceState, find_part
from vortex_engine.state.lava_file import MEMORY, MemoryFile, read_memory, write_memory

if TYPE_CHECKING:
    from vortex_engine.decode.load import LoadedParts

__all__ = ["check_memory", "keep_memory", "open_memory", "recall_memory"]


def open_memory(parts: LoadedParts, path: str | os.PathLike[str]) -> MemoryFile:
    """A file that this model has written.

    Raises:
        StateFileError: it is missing, damaged, no memory, or of other weights or another packing of them.
        MachineError: it cannot be read.
        ValueError: the model has no LAVA layers.
    """
    check_memory(parts, parts.decoder.new_state(1))
    memory = read_memory(Path(path))
    if memory.model_crc32c != parts.directory.weights_crc32c:
        raise StateFileError(
            f"[{MEMORY}] {os.fspath(path)} is of another model than {parts.directory.path}, or of another packing of "
            "it; make it again with `vortex memorize`"
        )
    return memory


def recall_memory(parts: LoadedParts, state: SequenceState, memory: MemoryFile) -> None:
    """Let an empty sequence begin with what is remembered.

    Raises:
        StateFileError: the banks are none that the model's layers make.
    """
    lava = check_memory(parts, state)
    of_layers = [layer.bank.parts()[0] for layer in lava.layers]
    if [options for options, _ in memory.banks] != of_layers:
        raise StateFileError(f"[{MEMORY}] its banks are not those of {parts.directory.path}; make it again")
    banks = [LavaBank.from_parts(parts.ctx, bank, MEMORY) for bank in memory.banks]
    lava.recall(banks, memory.n_positions)


def keep_memory(parts: LoadedParts, state: SequenceState, path: str | os.PathLike[str]) -> int:
    """Write what a sequence leaves; it does not go on. Returns the slots in use.

    Raises:
        MachineError: the file cannot be written; an older one is as it was.
        ValueError: the model has no LAVA layers.
    """
    banks, n_positions = check_memory(parts, state).finish()
    kept = tuple(bank.parts() for bank in banks)
    write_memory(Path(path), MemoryFile(parts.directory.weights_crc32c, n_positions, kept))
    return sum(len(bank) for bank in banks)


def check_memory(parts: LoadedParts, state: SequenceState) -> LavaState:
    """The memories of a sequence.

    Raises:
        ValueError: the model has no LAVA layers.
    """
    lava = find_part(state, LavaState)
    if lava is None:
        raise ValueError(f"memory needs a model with LAVA layers, and {parts.directory.path} has none")
    return lava
