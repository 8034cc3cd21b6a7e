"""Root mean square norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["GroupedRMSNorm", "RMSNorm"]


class RMSNorm:
    """x [R, D] float32 -> x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467)."""

    __slots__ = ("_ctx", "_eps", "_weight")

    def __init__(self, ctx: OpContext, weight: NDArray[np.float32], eps: float) -> None:
        self._ctx = ctx
        self._weight = weight
        self._eps = eps

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ops.rms_norm(self._ctx, x, self._weight, self._eps)


class GroupedRMSNorm:
    """`RMSNorm` of each of `n_groups` equal parts of the columns, with a weight of every column."""

    __slots__ = ("_ctx", "_eps", "_n_groups", "_ones", "_weight")

    def __init__(self, ctx: OpContext, weight: NDArray[np.float32], eps: float, n_groups: int) -> None:
        self._ctx = ctx
        self._weight = weight
        self._eps = eps
        self._n_groups = n_groups
        self._ones = np.ones(len(weight) // n_groups, np.float32)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._n_groups == 1:
            return ops.rms_norm(self._ctx, x, self._weight, self._eps)
        parts = ops.rms_norm(self._ctx, x.reshape(len(x) * self._n_groups, -1), self._ones, self._eps)
        return parts.reshape(x.shape) * self._weight
