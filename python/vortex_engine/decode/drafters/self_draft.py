"""The model drafts for itself, with less effort: no second model, no training, no extra file.

Its rows stand on the positions after the verified ones, see the exact keys and values of those, and are overwritten by
the sweep that verifies them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from vortex_engine.decode.drafters.choices import Choices
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
        self._choices = Choices(sampler)
        self._last = 0

    def draft(self) -> Generator[tuple[int, float]]:
        state = self._state
        mark = state.snapshot()
        row = np.array([self._last], np.int64)
        self._choices.clear()
        try:
            while state.length < state.capacity:
                logits = self._sweep(row, state, self._effort)
                row[0], confidence = self._choices.draft(logits[0])
                yield int(row[0]), confidence
        finally:
            state.rollback(mark)

    def others(self, depth: int, n: int) -> Sequence[tuple[int, float]]:
        return self._choices.others(depth, n)

    def accept(self, token_ids: Sequence[int]) -> None:
        self._last = token_ids[-1]
