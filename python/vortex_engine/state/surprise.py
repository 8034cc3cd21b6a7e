"""How surprised a model was by the newest tokens of a sequence: -log p of each under the logits before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.state.positions import PositionRows

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["Surprises"]

Floats = NDArray[np.float32]
_MIN_ROWS = 192


class Surprises:
    """Nats by position. The first position has nothing before it: its surprise is 0.

    A pass gives the logits of its rows; those after which a token may still come are kept: the last, and where marks
    are open those since the oldest.
    """

    def __init__(self, ctx: OpContext) -> None:
        self._ctx = ctx
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
            nats[:1, 0] = ops.token_surprises(self._ctx, before[None], token_ids[:1])
        nats[1:, 0] = ops.token_surprises(self._ctx, logits[:-1], token_ids[1:])
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
