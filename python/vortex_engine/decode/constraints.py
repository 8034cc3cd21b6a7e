"""Constraints: which ids may follow, by a state that is a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Constraint"]


class Constraint(Protocol):
    """An automaton over ids. States are values that nobody changes, so a draft's states cost nothing to leave."""

    @property
    def name(self) -> str:
        """As errors call it."""
        ...

    def start(self, prompt_ids: Sequence[int]) -> Any:
        """The state after a prompt, which need not obey."""
        ...

    def after(self, state: Any, token_id: int) -> Any:
        """The state after one more id; it may be one that was not allowed."""
        ...

    def allowed(self, state: Any) -> NDArray[np.bool_] | None:
        """Which ids may follow, bool [V]; None for all."""
        ...
