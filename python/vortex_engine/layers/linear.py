"""Linear maps of packed matrices that share one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["PagedLinear"]


class PagedLinear:
    """x [M, K] float32 -> [x @ W_i.T + b_i], float32 [M, N_i] each, in one call for all matrices of the group."""

    __slots__ = ("_activations", "_biases", "_ctx", "_handles", "_pager", "_planes")

    def __init__(
        self,
        ctx: OpContext,
        pager: Any,
        handles: Sequence[int],
        biases: Sequence[NDArray[np.float32] | None],
        activations: str,
        planes: str = "all",
    ) -> None:
        self._ctx = ctx
        self._pager = pager
        self._handles = list(handles)
        self._biases = list(biases)
        self._activations = activations
        self._planes = planes

    def __call__(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return ops.paged_linear(self._ctx, self._pager, self._handles, x, self._biases, self._activations, self._planes)
