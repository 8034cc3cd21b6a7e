"""Which of the newest rows of a sequence were shallow, for models whose depth follows their certainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vortex_engine.state.positions import MarkedState, PositionRows

__all__ = ["GateState"]

_MIN_ROWS = 64


class GateState(MarkedState):
    """A switch with hysteresis over the positions, as a part of a `SequenceState`; a sequence begins deep."""

    def __init__(self) -> None:
        super().__init__()
        self._shallow = PositionRows(1, _MIN_ROWS)

    @property
    def n_bytes(self) -> int:
        """Bytes of the switch's newest positions."""
        return self._shallow.n_bytes

    def decide(self, entropies: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
        """Which rows of a pass are shallow, [T]: to `low` they are, above `high` not, between as the row before.

        Args:
            entropies: [T] of the rows.
        """
        start = self.length
        is_shallow = bool(self._shallow.rows(start - 1, start)[0, 0]) if start else False
        found = np.empty(len(entropies), np.bool_)
        for i, entropy in enumerate(entropies.tolist()):
            is_shallow = entropy <= low or (is_shallow and entropy <= high)
            found[i] = is_shallow
        self._shallow.put(start, found[:, None].astype(np.float32), max(0, self.floor - 1))
        return found
