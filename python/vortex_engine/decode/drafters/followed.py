"""A second model that follows a growing sequence and branches off its end to draft."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vortex_engine.decode.second_model import SecondModel
    from vortex_engine.state import SequenceState

__all__ = ["FollowedModel"]


class FollowedModel:
    """Sweeps over each settled id once; ids of a branch are forgotten when it ends."""

    def __init__(self, model: SecondModel) -> None:
        self._model = model
        self._state = model.new_state(model.context_length)
        self._settled: list[int] = []

    def has_room(self, n_tokens: int) -> bool:
        """Whether the second model's context holds so many tokens, one drafted one included."""
        return n_tokens < self._state.capacity

    def settle(self, token_ids: Sequence[int]) -> None:
        """These ids are the sequence so far and will stay; others than before make it start again."""
        n = len(self._settled)
        if list(token_ids[:n]) != self._settled:
            self._state = self._model.new_state(self._model.context_length)
            self._settled, n = [], 0
        new = np.array(token_ids[n:], np.int64)
        for start in range(0, len(new), self._model.prefill_chunk):
            chunk = new[start : start + self._model.prefill_chunk]
            self._model.sweep(chunk, self._state, "none")
            self._settled.extend(chunk.tolist())

    @contextmanager
    def branch(self) -> Generator[Branch]:
        """Ids after the settled ones, for as long as the context lasts."""
        mark = self._state.snapshot()
        try:
            yield Branch(self._model, self._state)
        finally:
            self._state.rollback(mark)


class Branch:
    """What follows the settled ids for a while."""

    def __init__(self, model: SecondModel, state: SequenceState) -> None:
        self._model = model
        self._state = state

    @property
    def room(self) -> int:
        """Tokens that the context still holds."""
        return self._state.capacity - self._state.length

    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [vocab] after these further ids, at most `room` of them."""
        return self._model.sweep(np.array(token_ids, np.int64), self._state, "last")[0]
