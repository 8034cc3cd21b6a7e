"""Root mean square norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["RMSNorm"]


class RMSNorm:
    """x [R, D] float32 -> x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467)."""

    __slots__ = ("_ctx", "_eps", "_weight")

    def __init__(self, ctx: OpContext, weight: NDArray[np.float32], eps: float) -> None:
        self._ctx = ctx
        self._weight = weight
        self._eps = eps

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ops.rms_norm(self._ctx, x, self._weight, self._eps)
