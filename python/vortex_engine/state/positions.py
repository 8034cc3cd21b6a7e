"""Parts of a sequence that forget drafts by moving a length: rows of the newest positions, and the marks on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MarkedState", "PositionRows"]

Floats = NDArray[np.float32]


class MarkedState:
    """The length and the open marks of a part of a `SequenceState`."""

    def __init__(self) -> None:
        self.length = 0
        self._marks: list[int] = []

    @property
    def floor(self) -> int:
        """The first position that may still be forgotten; the length where no mark is open."""
        return self._marks[0] if self._marks else self.length

    @property
    def is_marked(self) -> bool:
        """Whether a mark is open."""
        return bool(self._marks)

    def end(self, n_rows: int) -> None:
        """A pass has gone over `n_rows` positions."""
        self.length += n_rows

    def snapshot(self) -> tuple[int, int]:
        """A mark to commit or roll back to: its depth and length."""
        self._marks.append(self.length)
        return len(self._marks) - 1, self.length

    def commit(self, mark: tuple[int, int], n_positions: int) -> None:
        """Keep the first `n_positions` since the mark and forget the rest."""
        depth, length = mark
        self.length = length + n_positions
        del self._marks[depth:]

    def rollback(self, mark: tuple[int, int]) -> None:
        """Be what it was at the mark."""
        self.commit(mark, 0)


class PositionRows:
    """float32 rows of the newest positions of a sequence, [n, width] in a row of memory.

    Rows at positions that were forgotten are overwritten by those that come in their place.
    """

    def __init__(self, width: int, n_rows: int) -> None:
        self._data = np.zeros((n_rows, width), np.float32)
        self._start = 0  # position of row 0

    @property
    def n_bytes(self) -> int:
        """Bytes that it holds."""
        return self._data.nbytes

    def put(self, position: int, rows: Floats, oldest: int) -> None:
        """Rows from `position` on; those before `oldest` are not needed again."""
        end = position + len(rows)
        if end - self._start > len(self._data):
            kept = self._data[oldest - self._start : position - self._start]
            n_needed = end - oldest
            if n_needed > len(self._data):
                grown = np.zeros((max(n_needed, 2 * len(self._data)), self._data.shape[1]), np.float32)
                grown[: len(kept)] = kept
                self._data = grown
            else:
                self._data[: len(kept)] = kept.copy()
            self._start = oldest
        self._data[position - self._start : end - self._start] = rows

    def rows(self, begin: int, end: int) -> Floats:
        """The rows of these positions; a view that the next `put` may change."""
        return self._data[begin - self._start : end - self._start]
