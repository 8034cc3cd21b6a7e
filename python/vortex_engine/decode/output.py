"""Ids to text as they come, up to an EOS, a stop string or the limit."""

from __future__ import annotations

from collections.abc import Sequence

from vortex_engine.decode.result import FinishReason
from vortex_engine.tok import StopSearch, TextStream

__all__ = ["OutputText"]


class OutputText:
    """What of the chosen ids belongs to the output, and its text.

    Attributes:
        finish: why it ended; None while it goes on.
        n_new_tokens: ids that belong to the output.
        n_chosen_tokens: with the EOS that ended it.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str], eos: frozenset[int], n_allowed: int) -> None:
        self._stream = stream
        self._search = StopSearch(stops)
        self._eos = eos
        self._n_allowed = n_allowed
        self.finish: FinishReason | None = None if n_allowed else "length"
        self.n_new_tokens = self.n_chosen_tokens = 0

    def push(self, token_ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Take ids; return the text that is now certain and those that belong to the output."""
        text: list[str] = []
        for i, token_id in enumerate(token_ids):
            self.n_chosen_tokens += 1
            if token_id in self._eos:
                self.finish = "stop"
                return "".join(text), tuple(token_ids[:i])
            self.n_new_tokens += 1
            text.append(self._search.push(self._stream.push(token_id)))
            if self._search.found or self._search.would_find(self._stream.held()):
                self.finish = "stop"
            elif self.n_new_tokens == self._n_allowed:
                self.finish = "length"
            if self.finish is not None:
                return "".join(text), tuple(token_ids[: i + 1])
        return "".join(text), tuple(token_ids)

    def end(self) -> str:
        """Nothing follows: what was held back for a longer character or stop string is text after all."""
        return self._search.push(self._stream.finish()) + self._search.finish()
