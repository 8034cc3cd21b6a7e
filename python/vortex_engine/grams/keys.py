"""Windows of n tokens as integers that sort like the windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Keys", "WindowKeys"]

Keys = NDArray[np.uint64]

_WORD_BITS = 64


@dataclass(frozen=True, slots=True)
class WindowKeys:
    """Keys of windows of `n` symbols below `n_symbols`: whole symbols in 64-bit words, the first one highest."""

    n: int
    n_symbols: int

    @property
    def bits(self) -> int:
        """Bits of a symbol."""
        return max(1, (self.n_symbols - 1).bit_length())

    @property
    def n_words(self) -> int:
        """Words of a key."""
        return -(-self.n // (_WORD_BITS // self.bits))

    def _place(self, position: int) -> tuple[int, np.uint64]:
        per_word = _WORD_BITS // self.bits
        return position // per_word, np.uint64(self.bits * (per_word - 1 - position % per_word))

    def pack(self, symbols: NDArray[np.uint32]) -> Keys:
        """Every window of a stream, [N] to [N - n + 1, n_words]."""
        n_windows = max(0, len(symbols) - self.n + 1)
        keys = np.zeros((n_windows, self.n_words), np.uint64)
        for position in range(self.n):
            word, shift = self._place(position)
            keys[:, word] |= symbols[position : position + n_windows].astype(np.uint64) << shift
        return keys

    def unpack(self, keys: Keys) -> NDArray[np.uint32]:
        """The symbols of keys, [M, n_words] to [M, n]."""
        symbols = np.empty((len(keys), self.n), np.uint32)
        mask = np.uint64((1 << self.bits) - 1)
        for position in range(self.n):
            word, shift = self._place(position)
            symbols[:, position] = (keys[:, word] >> shift) & mask
        return symbols
