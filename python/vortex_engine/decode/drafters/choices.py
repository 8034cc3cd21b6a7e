"""Drafts chosen from logits, and second thoughts about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vortex_engine.decode.sampler import Sampler

__all__ = ["Choices"]


class Choices:
    """A block's drafts so far, chosen with the sampler's own processors and noise.

    The logits of each are kept until the next block, so that other ids cost nothing before they are asked for.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._logits: list[NDArray[np.float32]] = []
        self._ids: list[int] = []

    def clear(self) -> None:
        """Begin another block."""
        self._logits, self._ids = [], []

    def draft(self, logits: NDArray[np.float32]) -> tuple[int, float]:
        """The next draft from float32 logits [V], which the caller leaves as they are, and how sure they are."""
        token_id, confidence = self._sampler.draft(logits, self._ids)
        self._logits.append(logits)
        self._ids.append(token_id)
        return token_id, confidence

    def others(self, depth: int, n: int) -> Sequence[tuple[int, float]]:
        """As `BranchingDrafter.others`."""
        before = self._ids[: depth - 1]
        return self._sampler.others(self._logits[depth - 1], before, self._ids[depth - 1], n)
