"""What the block loop asks of a drafter."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vortex_engine.models.effort import Effort
from vortex_engine.state import SequenceState

__all__ = ["BranchingDrafter", "DraftSweep", "Drafter"]


class Drafter(Protocol):
    """Guesses how one sequence goes on. Nothing it guesses can change what is generated, only how fast.

    Attributes:
        name: in options and statistics.
        is_eager: a whole proposal costs next to nothing, so it may be looked at before it is chosen.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_eager(self) -> bool: ...

    def draft(self) -> Generator[tuple[int, float]]:
        """Ids that may follow, one at a time, each with an estimate in (0, 1] of the probability that it is accepted
        if all before it were. Work is done as ids are asked for; closing the iterator leaves no trace in the state.
        """
        ...

    def accept(self, token_ids: Sequence[int]) -> None:
        """These ids follow, verified; the first call has the prompt and the token after it."""
        ...


@runtime_checkable
class BranchingDrafter(Drafter, Protocol):
    """A drafter that has second thoughts about each of its drafts."""

    def others(self, depth: int, n: int) -> Sequence[tuple[int, float]]:
        """In place of draft number `depth`, from 1 on, of the last `draft`: at most `n` other ids, each with an
        estimate of the probability that it is right if the draft is not.
        """
        ...


class DraftSweep(Protocol):
    """A sweep of less than the full effort over one more id: logits [1, vocab] float32."""

    def __call__(self, token_ids: NDArray[np.int64], state: SequenceState, effort: Effort) -> NDArray[np.float32]: ...
