"""Keys and values of the last positions, for attention through a sliding window: their memory does not grow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vortex_engine.state.positions import MarkedState

__all__ = ["WindowLayer", "WindowState"]

Floats = NDArray[np.float32]

_HEAD_ALIGNMENT = 16  # floats: one 64-byte vector
# Positions that op `attend` works on together; a cache begins at a multiple of it, so that where it begins shows in no
# bit.
_BLOCK = 64


class WindowLayer:
    """One layer: a key and a value cache [n_kv_heads, C, head_dim rounded up to 16] as `ops.kv_append` takes them.

    Attributes:
        start: position of the caches' first place.
    """

    def __init__(self, n_kv_heads: int, head_dim: int, window: int) -> None:
        self._window = window
        self._shape = (n_kv_heads, -(-head_dim // _HEAD_ALIGNMENT) * _HEAD_ALIGNMENT)
        self.keys, self.values = self._room(_BLOCK), self._room(_BLOCK)
        self.start = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of its caches."""
        return self.keys.nbytes + self.values.nbytes

    def begin(self, position: int, n_rows: int, floor: int) -> None:
        """Make room for rows at `position`, forgetting what no row from `floor` on sees."""
        capacity = self.keys.shape[1]
        if position + n_rows - self.start <= capacity:
            return
        start = max(0, floor - self._window + 1) // _BLOCK * _BLOCK
        n_needed = position + n_rows - start
        if n_needed > capacity:
            capacity = max(2 * capacity, -(-n_needed // _BLOCK) * _BLOCK)
        kept = slice(start - self.start, position - self.start)
        self.keys, self.values = self._moved(self.keys[:, kept], capacity), self._moved(self.values[:, kept], capacity)
        self.start = start

    def _moved(self, rows: Floats, capacity: int) -> Floats:
        room = self._room(capacity)
        room[:, : rows.shape[1]] = rows
        return room

    def _room(self, capacity: int) -> Floats:
        n_kv_heads, padded = self._shape
        return np.zeros((n_kv_heads, capacity, padded), np.float32)


class WindowState(MarkedState):
    """The attention layers of a sequence, as a part of its `SequenceState`.

    A pass over T rows is `begin_layer` for each layer it goes through, whose rows are then put into the caches, and
    `end(T)`. What is said of `RecurrentState` holds of passes that are interrupted.
    """

    def __init__(self, layers: Sequence[WindowLayer]) -> None:
        super().__init__()
        self.layers = tuple(layers)

    @property
    def n_bytes(self) -> int:
        """Bytes that the layers hold."""
        return sum(layer.n_bytes for layer in self.layers)

    def begin_layer(self, index: int, n_rows: int) -> WindowLayer:
        """The layer, with room for the rows of the pass."""
        layer = self.layers[index]
        layer.begin(self.length, n_rows, self.floor)
        return layer
