"""The model drafts for itself, with less effort: no second model, no training, no extra file.

Its rows stand on the positions after the verified ones, see the exact keys and values of those, and are overwritten by
the sweep that verifies them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from vortex_engine.decode.drafters.protocol import DraftSweep
from vortex_engine.decode.sampler import Sampler
from vortex_engine.models.effort import Effort
from vortex_engine.state import SequenceState

__all__ = ["SelfDrafter"]


class SelfDrafter:
    """Drafts by sweeps of one effort, with the sampler's own processors and noise."""

    is_eager = False

    def __init__(self, name: str, effort: Effort, sweep: DraftSweep, state: SequenceState, sampler: Sampler) -> None:
        self.name = name
        self._effort = effort
        self._sweep = sweep
        self._state = state
        self._sampler = sampler
        self._last = 0
        self._runners_up: list[tuple[int, float] | None] = []

    @property
    def runners_up(self) -> Sequence[tuple[int, float] | None]:
        return self._runners_up

    def draft(self) -> Generator[tuple[int, float]]:
        state, pending = self._state, list[int]()
        mark = state.snapshot()
        row = np.array([self._last], np.int64)
        self._runners_up = []
        try:
            while state.length < state.capacity:
                logits = self._sweep(row, state, self._effort)
                token_id, confidence = self._sampler.draft(logits[0], pending)
                self._runners_up.append(self._sampler.runner_up(logits[0], pending, token_id))
                pending.append(token_id)
                row[0] = token_id
                yield token_id, confidence
        finally:
            state.rollback(mark)

    def accept(self, token_ids: Sequence[int]) -> None:
        self._last = token_ids[-1]
