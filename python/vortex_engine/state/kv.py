"""Keys and values of one sequence."""

from __future__ import annotations

import contextlib
import math
import mmap

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import MachineError

__all__ = ["KVState"]

_HEAD_ALIGNMENT = 16  # floats: one 64-byte vector


class KVState:
    """Per layer a key and a value cache, float32 [n_kv_heads, capacity + n_spare, head_dim rounded up to 16], whose
    padding is zero.

    The arrays exist from the first use on, and their pages take memory only once positions are written to them.
    `length` counts the positions of complete forward passes: a pass that is interrupted leaves it as it was. Positions
    from `length` on are scratch: drafts write there, and the next pass overwrites them. Not safe for use from two
    threads at once.
    """

    def __init__(self, n_layers: int, n_kv_heads: int, head_dim: int, capacity: int, n_spare: int = 0) -> None:
        self._n_layers = n_layers
        self.capacity = capacity
        self._shape = (n_kv_heads, capacity + n_spare, -(-head_dim // _HEAD_ALIGNMENT) * _HEAD_ALIGNMENT)
        self._layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self.length = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the positions in use."""
        n_kv_heads, _, padded = self._shape
        return self._n_layers * 2 * n_kv_heads * self.length * padded * 4

    @property
    def layers(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(keys, values) of each layer."""
        if not self._layers:
            self._layers = [(_untouched(self._shape), _untouched(self._shape)) for _ in range(self._n_layers)]
        return self._layers

    def snapshot(self) -> int:
        """A mark to commit or roll back to: a length, nothing is copied."""
        return self.length

    def commit(self, mark: int, n_positions: int) -> None:
        """Keep the first `n_positions` written since the mark and forget the rest."""
        if not 0 <= n_positions <= self.length - mark:
            raise ValueError(f"n_positions must lie between 0 and {self.length - mark}, got {n_positions}")
        self.length = mark + n_positions

    def rollback(self, mark: int) -> None:
        """Forget every position written since the mark."""
        if mark > self.length:
            raise ValueError(f"mark must be at most the length {self.length}, got {mark}")
        self.length = mark


def _untouched(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Zeros whose pages take memory one by one, when written.

    numpy asks for huge pages, and a head's first position would then take 2 MiB.
    """
    try:
        if not hasattr(mmap, "MADV_NOHUGEPAGE"):
            return np.zeros(shape, np.float32)
        memory = mmap.mmap(-1, max(4 * math.prod(shape), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages refuses the advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    except (OSError, MemoryError) as error:
        raise MachineError(f"no memory for a KV cache of {shape[1]} positions: {error}") from error
    return np.frombuffer(memory, np.float32, math.prod(shape)).reshape(shape)
