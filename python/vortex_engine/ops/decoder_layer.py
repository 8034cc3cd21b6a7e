"""A layer of a llama-like decoder as data, and what the op on it means in terms of the other ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecoderLayer", "Projections", "composed"]

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Projections:
    """Paged matrices that share one input: handles, and a bias [N_i] or None for each."""

    handles: tuple[int, ...]
    biases: tuple[F32 | None, ...]


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """h += o(attend(rope(q), rope(k), v)) with q, k, v of rms_norm(h); h += down(swiglu(gate, up)) of rms_norm(h).

    Attributes:
        attention_norm, mlp_norm: [hidden] float32; qk_norms: of each head's q and k, [head_dim] float32, or None.
        qkv, o, gate_up, down: 3, 1, 2 and 1 matrices.
        window: positions that a token sees; 0 means all before it.
        scale: of the scores.
        activations, planes: as `paged_linear` has them.
    """

    attention_norm: F32
    mlp_norm: F32
    eps: float
    qkv: Projections
    o: Projections
    gate_up: Projections
    down: Projections
    qk_norms: tuple[F32, F32] | None
    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int
    scale: float
    activations: str
    planes: str = "all"


def composed(table: Mapping[str, Callable[..., Any]]) -> Callable[..., None]:
    """The op `decoder_layer` by the ops of `table`: its definition, and what runs where one of those is replaced."""

    def attend_rows(
        layer: DecoderLayer, q: F32, k: F32, v: F32, k_cache: F32, v_cache: F32, pos: int, depths: NDArray[np.int64]
    ) -> F32:
        """Attention of a chain at pos.. and its siblings, each of which takes the chain's place for its turn."""
        n_chain = len(q) - len(depths)
        table["kv_append"](k, v, k_cache, v_cache, pos)
        parts = [table["attend"](q[:n_chain], k_cache, v_cache, pos, layer.window, layer.scale)]
        for row, depth in enumerate(depths.tolist(), n_chain):
            table["kv_move"](k_cache, v_cache, pos + row, pos + depth)
            parts.append(table["attend"](q[row : row + 1], k_cache, v_cache, pos + depth, layer.window, layer.scale))
            table["kv_append"](k[depth : depth + 1], v[depth : depth + 1], k_cache, v_cache, pos + depth)
        return np.concatenate(parts)

    def decoder_layer(
        pager: Any,
        layer: DecoderLayer,
        h: F32,
        cos: F32,
        sin: F32,
        k_cache: F32,
        v_cache: F32,
        pos: int,
        depths: NDArray[np.int64] | None = None,
    ) -> None:
        depths = np.zeros(0, np.int64) if depths is None else depths
        last = len(h) - len(depths) - 1
        for depth in depths[(depths < 1) | (depths > last)][:1]:
            raise ValueError(f"[decoder_layer] depths must be from 1 to the last row of the chain, {last}, got {depth}")

        def linear(group: Projections, x: F32) -> list[F32]:
            return table["paged_linear"](pager, group.handles, x, group.biases, layer.activations, layer.planes)

        n_tokens, dim = h.shape[0], layer.head_dim
        q, k, v = linear(layer.qkv, table["rms_norm"](h, layer.attention_norm, layer.eps))
        if layer.qk_norms is not None:
            q = table["rms_norm"](q.reshape(-1, dim), layer.qk_norms[0], layer.eps)
            k = table["rms_norm"](k.reshape(-1, dim), layer.qk_norms[1], layer.eps)
        q = table["rope"](q.reshape(n_tokens, layer.n_heads, dim), cos, sin)
        k = table["rope"](k.reshape(n_tokens, layer.n_kv_heads, dim), cos, sin)
        v = v.reshape(n_tokens, layer.n_kv_heads, dim)
        y = attend_rows(layer, q, k, v, k_cache, v_cache, pos, depths)
        h += linear(layer.o, y.reshape(n_tokens, -1))[0]
        gate, up = linear(layer.gate_up, table["rms_norm"](h, layer.mlp_norm, layer.eps))
        h += linear(layer.down, table["swiglu"](gate, up))[0]

    return decoder_layer
