"""Drafts from the model's multi-token heads (arXiv 2401.10774): one small product for a block.

The state of the last verified position has given the token after it already; the heads read from it those that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.drafters.choices import Choices
from vortex_engine.decode.sampler import Sampler
from vortex_engine.state import HiddenRows

__all__ = ["HeadsFn", "MultiTokenDrafter"]

# State [1, hidden] -> logits [k, vocab], as `MultiTokenHeads.logits`.
HeadsFn = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class MultiTokenDrafter:
    """As many drafts as there are heads, chosen with the sampler's own processors and noise.

    Args:
        rows: of the sequence's state.
    """

    name = "mtp"
    is_eager = False

    def __init__(self, heads: HeadsFn, rows: HiddenRows, sampler: Sampler) -> None:
        self._heads = heads
        self._rows = rows
        self._choices = Choices(sampler)

    def draft(self) -> Generator[tuple[int, float]]:
        last = self._rows.last
        if not len(last):
            return
        self._choices.clear()
        for logits in self._heads(last):
            yield self._choices.draft(logits)

    def others(self, depth: int, n: int) -> Sequence[tuple[int, float]]:
        return self._choices.others(depth, n)

    def accept(self, token_ids: Sequence[int]) -> None:
        """Nothing to learn: the state has moved on with the sweep that verified them."""
