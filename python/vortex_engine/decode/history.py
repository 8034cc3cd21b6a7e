"""The ids of a sequence with the counts that processors ask for; a drafted id is pushed and popped again in O(1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["History"]


class History:
    """Prompt and output of one sequence.

    Args:
        prompt_ids: each from 0 to vocab_size - 1.
        penalty_window: how many of the last ids the two counts look at; None for all.
        ngram: the length of the n-grams to index; None for no index.

    Attributes:
        ids: all ids so far.
        sequence_counts: int32 [V], how often an id is in the window.
        output_counts: int32 [V], how often it is there after the prompt.
    """

    def __init__(
        self, prompt_ids: Sequence[int], vocab_size: int, *, penalty_window: int | None = None, ngram: int | None = None
    ) -> None:
        self.ids: list[int] = []
        self.sequence_counts: NDArray[np.int32] = np.zeros(vocab_size, np.int32)
        self.output_counts: NDArray[np.int32] = np.zeros(vocab_size, np.int32)
        self._n_prompt = len(prompt_ids)
        self._window = penalty_window
        self._ngram = ngram
        # The ids that followed each n - 1 ids, with how often they did, so that a pop knows when one is gone.
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}
        for token_id in prompt_ids:
            self.push(int(token_id))

    def __len__(self) -> int:
        return len(self.ids)

    def push(self, token_id: int) -> None:
        """This id follows."""
        self._count(token_id, len(self.ids), 1)
        leaving = self._leaving()
        if leaving is not None:
            self._count(self.ids[leaving], leaving, -1)
        context = self._context()
        if context is not None:
            followers = self._followers.setdefault(context, {})
            followers[token_id] = followers.get(token_id, 0) + 1
        self.ids.append(token_id)

    def pop(self) -> None:
        """Undo the last push."""
        token_id = self.ids.pop()
        self._count(token_id, len(self.ids), -1)
        leaving = self._leaving()
        if leaving is not None:
            self._count(self.ids[leaving], leaving, 1)
        context = self._context()
        if context is not None:
            followers = self._followers[context]
            followers[token_id] -= 1
            if not followers[token_id]:
                del followers[token_id]
                if not followers:
                    del self._followers[context]

    def followers(self) -> list[int]:
        """Ids that would complete an n-gram that is in the sequence already."""
        context = self._context()
        return [] if context is None else list(self._followers.get(context, ()))

    def _count(self, token_id: int, place: int, change: int) -> None:
        self.sequence_counts[token_id] += change
        if place >= self._n_prompt:
            self.output_counts[token_id] += change

    def _leaving(self) -> int | None:
        """The place of the id that one more id pushes out of the window."""
        if self._window is None or len(self.ids) < self._window:
            return None
        return len(self.ids) - self._window

    def _context(self) -> tuple[int, ...] | None:
        if self._ngram is None or len(self.ids) < self._ngram - 1:
            return None
        return tuple(self.ids[len(self.ids) - self._ngram + 1 :])
