"""The final normalised state at the end of a sequence, which multi-token heads read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vortex_engine.state.sequence import SequenceState

__all__ = ["HiddenRows", "hidden_rows"]


class _Mark(NamedTuple):
    length: int
    rows: NDArray[np.float32]


class HiddenRows:
    """Rows of the newest positions of a sequence, as far as its last forward passes of full effort have them.

    A part of a `SequenceState`: it grows with the keys and values and forgets with them; nothing is copied but a row.
    """

    def __init__(self, hidden_size: int) -> None:
        self._none = np.empty((0, hidden_size), np.float32)
        self._length = 0
        self._rows = self._none
        self._siblings, self._first_slot = self._none, 0

    @property
    def n_bytes(self) -> int:
        """Bytes of its rows."""
        return self._rows.nbytes + self._siblings.nbytes

    @property
    def last(self) -> NDArray[np.float32]:
        """[1, hidden] of the last position; [0, hidden] where its pass kept none."""
        return self._rows[-1:]

    def append(self, n_positions: int, rows: NDArray[np.float32] | None, n_siblings: int = 0) -> None:
        """`n_positions` more, the newest of which have `rows` [R, hidden]; None where they are not exact.

        The last `n_siblings` rows are of siblings, which are no positions yet.
        """
        rows = self._none if rows is None else rows
        n_chain = max(0, len(rows) - n_siblings)
        self._length += n_positions
        self._rows, self._siblings, self._first_slot = rows[:n_chain], rows[n_chain:], self._length

    def adopt(self, slot: int) -> None:
        """Append a sibling of the pass before, as `LanguageModel.adopt`."""
        at = slot - self._first_slot
        self._rows = self._siblings[at : at + 1].copy()
        self._length += 1

    def snapshot(self) -> _Mark:
        """A mark to commit or roll back to."""
        return _Mark(self._length, self._rows)

    def commit(self, mark: _Mark, n_positions: int) -> None:
        """Keep the first `n_positions` since the mark and forget the rest."""
        if n_positions == 0:
            self.rollback(mark)
            return
        n_forgotten = self._length - mark.length - n_positions
        # A copy: the block's other rows are not worth their memory.
        self._rows = self._rows[: max(0, len(self._rows) - n_forgotten)][-1:].copy()
        self._length = mark.length + n_positions

    def rollback(self, mark: _Mark) -> None:
        """Be what it was at the mark."""
        self._length, self._rows = mark


def hidden_rows(state: SequenceState) -> HiddenRows | None:
    """The rows that a sequence keeps for multi-token heads; None where its model has none."""
    return next((part for part in state.parts if isinstance(part, HiddenRows)), None)
