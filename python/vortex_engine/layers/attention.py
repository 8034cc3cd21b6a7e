"""Causal grouped-query attention with rotary positions over a KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers.linear import PagedLinear
from vortex_engine.layers.norm import RMSNorm

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["Attention", "AttentionShape"]


@dataclass(frozen=True)
class AttentionShape:
    """Heads of one layer; `window` 0 attends to every position before, `score_factor` multiplies the scores."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int = 0
    score_factor: float = 1.0


class Attention:
    """o(attend(rope(q), rope(k), v)), with q and k normed per head where a model does that."""

    __slots__ = ("_ctx", "_k_norm", "_o", "_q_norm", "_qkv", "_scale", "_shape")

    def __init__(
        self,
        ctx: OpContext,
        shape: AttentionShape,
        qkv: PagedLinear,
        o: PagedLinear,
        norms: tuple[RMSNorm, RMSNorm] | None,
    ) -> None:
        self._ctx = ctx
        self._shape = shape
        self._qkv = qkv
        self._o = o
        self._q_norm, self._k_norm = norms if norms is not None else (None, None)
        self._scale = shape.head_dim**-0.5 * shape.score_factor

    def __call__(
        self,
        x: NDArray[np.float32],  # [T, hidden]
        rotation: tuple[NDArray[np.float32], NDArray[np.float32]],  # cos, sin [T, head_dim / 2]
        cache: tuple[NDArray[np.float32], NDArray[np.float32]],  # keys, values [n_kv_heads, capacity, padded head_dim]
        position: int,
    ) -> NDArray[np.float32]:
        """Append the rows' keys and values to the cache at `position` and attend."""
        ctx, shape = self._ctx, self._shape
        n_rows, dim = x.shape[0], shape.head_dim
        q, k, v = self._qkv(x)
        if self._q_norm is not None and self._k_norm is not None:
            q = self._q_norm(q.reshape(-1, dim))
            k = self._k_norm(k.reshape(-1, dim))
        cos, sin = rotation
        keys, values = cache
        q = ops.rope(ctx, q.reshape(n_rows, shape.n_heads, dim), cos, sin)
        k = ops.rope(ctx, k.reshape(n_rows, shape.n_kv_heads, dim), cos, sin)
        ops.kv_append(ctx, k, v.reshape(n_rows, shape.n_kv_heads, dim), keys, values, position)
        y = ops.attend(ctx, q, keys, values, position, shape.window, self._scale)
        return self._o(y.reshape(n_rows, -1))[0]
