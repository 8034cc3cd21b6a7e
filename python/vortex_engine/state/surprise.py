"""How surprised a model was by the newest tokens of a sequence: -log p of each under the logits before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vortex_engine.state.positions import PositionRows

__all__ = ["Surprises", "entropies"]

Floats = NDArray[np.float32]
_MIN_ROWS = 192


class Surprises:
    """Nats by position. The first position has nothing before it: its surprise is 0.

    A pass gives the logits of its rows; those after which a token may still come are kept: the last, and where marks
    are open those since the oldest.
    """

    def __init__(self) -> None:
        self._nats = PositionRows(1, _MIN_ROWS)
        self._logits: list[tuple[int, Floats]] = []  # (position of the first row, rows)

    @property
    def n_bytes(self) -> int:
        """Bytes of the surprises and of the logits kept."""
        return self._nats.n_bytes + sum(rows.nbytes for _, rows in self._logits)

    def of(self, begin: int, end: int) -> Floats:
        """Surprises [end - begin] of these positions."""
        return self._nats.rows(begin, end)[:, 0]

    def record(self, position: int, floor: int, oldest: int, token_ids: NDArray[np.int64], logits: Floats) -> None:
        """A pass over ids [T] from `position` on has given logits [T, vocab].

        Args:
            floor: the first position that may still be forgotten.
            oldest: the first position whose surprise is needed again.
        """
        nats = np.zeros((len(token_ids), 1), np.float32)
        before = self._row(position - 1)
        if before is not None:
            nats[0] = surprise(before, int(token_ids[0]))
        for i in range(1, len(token_ids)):
            nats[i] = surprise(logits[i - 1], int(token_ids[i]))
        self._nats.put(position, nats, oldest)
        # Of a block that was rolled back, and of what no rollback reaches, nothing is needed.
        self._logits = [
            (first, rows[: position - first])
            for first, rows in self._logits
            if first < position and first + len(rows) >= floor
        ]
        self._logits.append((position, logits))

    def settle(self, length: int) -> None:
        """Nothing before `length` is forgotten any more."""
        last = self._row(length - 1)
        # A copy: the block's other rows are not worth their memory.
        self._logits = [] if last is None else [(length - 1, last[None].copy())]

    def _row(self, position: int) -> Floats | None:
        for first, rows in reversed(self._logits):
            if first <= position < first + len(rows):
                return rows[position - first]
        return None


def surprise(logits: Floats, token_id: int) -> float:
    """-log softmax(logits)[token_id] of a row [vocab], in nats; computed in float64."""
    wide = logits.astype(np.float64)
    top = float(wide.max())
    return top + float(np.log(np.exp(wide - top).sum())) - float(wide[token_id])


def entropies(logits: Floats) -> NDArray[np.float64]:
    """Entropy in nats of each row's distribution, [T] from [T, vocab]; computed in float64, row by row."""
    found = np.empty(len(logits))
    for i, row in enumerate(logits):
        shifted = row.astype(np.float64) - float(row.max())
        weights = np.exp(shifted)
        total = float(weights.sum())
        found[i] = np.log(total) - float((weights * shifted).sum()) / total
    return found
