"""Drafts from what the sequence holds already: earlier matches of its end, and the copy that it is writing."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Literal, Protocol

from vortex_engine import _native

__all__ = ["CorpusTable", "NgramDrafter"]

# Ids of context that a corpus table is asked with.
_TABLE_CONTEXT = 16
# A first draft less likely than this is weighed against the tables.
_SURE = 0.5


class CorpusTable(Protocol):
    """What follows a context in a corpus, as `vortex_engine.grams.GramTable`."""

    def next_ids(self, context: Sequence[int]) -> list[tuple[int, float]]:
        """Ids and probabilities, most likely first; empty if the table knows nothing."""
        ...


class NgramDrafter:
    """Proposes what followed the end of the sequence before; it runs no model.

    Matches come from an online suffix automaton over all verified ids. Where the sequence copies an earlier part of
    itself, the drafter follows it across insertions, deletions and replacements, and makes replacements again. Only
    verified ids are ever pushed, so there is nothing to roll back.

    Args:
        tables: corpus tables, asked in their order where the sequence itself says little.
        source: "prompt" drafts only spans of what the first `accept` brings; "all" those of the output too.
        max_draft: most tokens of one draft.
        max_tokens: memory is bounded by this many ids at about 120 bytes each; the older half is forgotten then.
    """

    name = "ngram"
    is_eager = True

    def __init__(
        self,
        tables: Sequence[CorpusTable] = (),
        source: Literal["all", "prompt"] = "all",
        max_draft: int = 32,
        max_tokens: int = 1 << 18,
    ) -> None:
        if source not in ("all", "prompt"):
            raise ValueError(f'source must be "all" or "prompt", got {source!r}')
        if max_draft < 1:
            raise ValueError(f"max_draft must be at least 1, got {max_draft}")
        self._index = _native.NgramDrafter(max_tokens)
        self._tables = tuple(tables)
        self._prompt_only = source == "prompt"
        self._max_draft = max_draft
        self._end: deque[int] = deque(maxlen=_TABLE_CONTEXT)

    def accept(self, token_ids: Sequence[int]) -> None:
        """These verified ids now follow; the first call brings the prompt.

        Raises:
            ValueError: an id is negative or above 2^31 - 1; nothing has changed then.
        """
        self._index.push(token_ids)
        if self._prompt_only:
            self._index.freeze()
        if self._tables:
            self._end.extend(token_ids)

    def draft(self) -> Generator[tuple[int, float]]:
        """Ids that may follow, each with the probability that it is right if those before it are."""
        ids, probabilities = self._index.draft(self._max_draft)
        if self._tables and (not ids or probabilities[0] < _SURE):
            found = self._ask(list(self._end))
            if found is not None and (not ids or found[1] > probabilities[0]):
                ids, probabilities = [], []
        yield from zip(ids, probabilities, strict=True)
        if not self._tables:
            return
        context = [*self._end, *ids]
        for _ in range(self._max_draft - len(ids)):
            found = self._ask(context)
            if found is None:
                return
            yield found
            context.append(found[0])

    def _ask(self, context: list[int]) -> tuple[int, float] | None:
        for table in self._tables:
            if found := table.next_ids(context[-_TABLE_CONTEXT:]):
                return found[0]
        return None
