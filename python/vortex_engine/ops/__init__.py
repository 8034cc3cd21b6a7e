"""Ops: pure functions on arrays with one contract and several backends (see `registry`).

The forward path of a model calls nothing else. Every function takes an `OpContext` first. Arrays are C-contiguous and
of exactly the dtype named; a numpy array goes straight to the context's backend, a torch tensor through
`torch.ops.vortex.*` (CPU, zero-copy). On the `cpu` backend the bits of every result are independent of threads, SIMD
level, the number of rows in a call and the pager's budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from numpy import ndarray

from vortex_engine.ops.context import OpContext, make_context, make_pager
from vortex_engine.ops.decoder_layer import DecoderLayer, Projections, composed
from vortex_engine.ops.dispatch import tensor_ops
from vortex_engine.ops.gradients import causal_conv1d_gradient, rms_norm_gradient, ssm_scan_gradient, swiglu_gradient
from vortex_engine.ops.lava import lava_read, lava_search
from vortex_engine.ops.recurrent import causal_conv1d, scan_blocks, ssm_scan, ssm_step
from vortex_engine.ops.registry import Impl, implementations, select
from vortex_engine.ops.sampling_law import MAX_SEED, SamplingLaw

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", NDArray[Any], Tensor)

__all__ = [
    "DecoderLayer",
    "Impl",
    "OpContext",
    "Projections",
    "SamplingLaw",
    "attend",
    "bad_verify",
    "causal_conv1d",
    "causal_conv1d_gradient",
    "composed",
    "decoder_layer",
    "embed_rows",
    "entropies",
    "implementations",
    "kv_append",
    "kv_move",
    "lava_read",
    "lava_search",
    "make_context",
    "make_pager",
    "paged_linear",
    "paged_linear_transposed",
    "rms_norm",
    "rms_norm_gradient",
    "rope",
    "rope_table",
    "scan_blocks",
    "select",
    "ssm_scan",
    "ssm_scan_gradient",
    "ssm_step",
    "swiglu",
    "swiglu_gradient",
    "tile_decode",
    "tile_encode",
    "token_surprises",
]


def paged_linear(
    ctx: OpContext,
    pager: Any,
    handles: Sequence[int],
    x: Array,
    biases: Sequence[Array | None],
    activations: str = "float",
    planes: str = "all",
) -> list[Array]:
    """x W^T + bias for several paged matrices that share x (q/k/v, gate/up).

    Args:
        pager: from `make_pager(ctx, ...)`; handles: its matrices, W of handle i is [N_i, K].
        x: [M, K] float32.
        biases: one [N_i] float32 or None for each handle.
        activations: "float", or "int8": for int8 and int4 tiles x is rounded to 8 bits in groups of 32 columns,
            scale = largest magnitude / 127; a group that is not finite makes the row's outputs NaN.
        planes: "all", or "prefix": tiles of codec exact are read without their residuals, a low-precision copy
            (csrc/c3/FORMAT.md section 5); or "resident": all of a tile where that is in RAM, else as "prefix". The
            last two leave what the pager reads ahead alone.

    Returns:
        One [M, N_i] float32 for each handle; each element is one chain over k whose order depends on the matrix alone.
    """
    if isinstance(x, ndarray):
        return ctx.table["paged_linear"](pager, handles, x, biases, activations, planes)
    return tensor_ops("paged_linear", "x", x).paged_linear(ctx, pager, handles, x, biases, activations, planes)


def paged_linear_transposed(ctx: OpContext, pager: Any, handle: int, x: Array) -> Array:
    """x W for a paged matrix W [N, K] as it is stored: GPT-2's Conv1D, and the gradient of a linear layer's input.

    Args:
        x: [M, N] float32.

    Returns:
        [M, K] float32; the rows of a tile are one fused-multiply-add chain, the tiles are added in their order.
    """
    if isinstance(x, ndarray):
        return ctx.table["paged_linear_transposed"](pager, handle, x)
    return tensor_ops("paged_linear_transposed", "x", x).paged_linear_transposed(ctx, pager, handle, x)


def embed_rows(ctx: OpContext, pager: Any, handle: int, ids: Array, planes: str = "all") -> Array:
    """Rows `ids` ([T] int64) of a paged matrix [N, K], as [T, K] float32; exact, or with other `planes` as
    `paged_linear` has them.
    """
    if isinstance(ids, ndarray):
        return ctx.table["embed_rows"](pager, handle, ids, planes)
    return tensor_ops("embed_rows", "ids", ids).embed_rows(ctx, pager, handle, ids, planes)


def rms_norm(ctx: OpContext, x: Array, weight: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Args:
        x: [R, D] float32; weight: [D] float32.

    Source: arXiv:1910.07467, equation 4.
    """
    if isinstance(x, ndarray):
        return ctx.table["rms_norm"](x, weight, eps)
    return tensor_ops("rms_norm", "x", x).rms_norm(ctx, x, weight, eps)


def rope_table(ctx: OpContext, positions: NDArray[Any], inv_freq: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """cos and sin of positions x inv_freq, computed in float64 and rounded once.

    Args:
        positions: [T] int64; inv_freq: [D/2] float64.

    Returns:
        cos, sin: [T, D/2] float32.
    """
    return ctx.table["rope_table"](positions, inv_freq)


def rope(ctx: OpContext, x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding, rotate-half: (x1*cos - x2*sin, x2*cos + x1*sin) with x1, x2 the halves of each head.

    Args:
        x: [T, H, D] float32; cos, sin: [T, D/2] float32.

    Source: arXiv:2104.09864, equation 34 (halves instead of pairs, as Hugging Face stores weights).
    """
    if isinstance(x, ndarray):
        return ctx.table["rope"](x, cos, sin)
    return tensor_ops("rope", "x", x).rope(ctx, x, cos, sin)


def kv_append(ctx: OpContext, k: Array, v: Array, k_cache: Array, v_cache: Array, pos: int) -> None:
    """Stores k and v at positions pos.. of a cache, in place; the padding of those rows becomes 0.

    Args:
        k, v: [T, KH, D] float32.
        k_cache, v_cache: [KH, C, Dp] float32, Dp = D rounded up to 16; pos + T <= C.
    """
    if isinstance(k, ndarray):
        return ctx.table["kv_append"](k, v, k_cache, v_cache, pos)
    return tensor_ops("kv_append", "k", k).kv_append(ctx, k, v, k_cache, v_cache, pos)


def kv_move(ctx: OpContext, k_cache: Array, v_cache: Array, source: int, target: int) -> None:
    """Copies the keys and values of position `source` to position `target` of a cache, in place.

    Args:
        k_cache, v_cache: [KH, C, Dp] float32 as `kv_append` takes them; 0 <= source, target < C.
    """
    if isinstance(k_cache, ndarray):
        return ctx.table["kv_move"](k_cache, v_cache, source, target)
    return tensor_ops("kv_move", "k_cache", k_cache).kv_move(ctx, k_cache, v_cache, source, target)


def attend(ctx: OpContext, q: Array, k_cache: Array, v_cache: Array, pos: int, window: int, scale: float) -> Array:
    """softmax(q K^T * scale) V over the cache positions each query sees.

    Args:
        q: [T, H, D] float32; token t is at position p = pos + t, and its own k and v are in the cache already.
        k_cache, v_cache: [KH, C, Dp] float32 as `kv_append` leaves them; head h reads KV head h // (H // KH).
        window: token t sees positions max(0, p - window + 1) .. p; 0 means all up to p.

    Returns:
        [T, H, D] float32; a row with a NaN score is NaN.

    Source: arXiv:1706.03762, equation 1; grouped queries arXiv:2305.13245; sliding window arXiv:2310.06825.
    """
    if isinstance(q, ndarray):
        return ctx.table["attend"](q, k_cache, v_cache, pos, window, scale)
    return tensor_ops("attend", "q", q).attend(ctx, q, k_cache, v_cache, pos, window, scale)


def swiglu(ctx: OpContext, gate: Array, up: Array) -> Array:
    """gate / (1 + e^-gate) * up, elementwise on [T, F] float32.

    Source: arXiv:2002.05202, equation 6 without its matrices.
    """
    if isinstance(gate, ndarray):
        return ctx.table["swiglu"](gate, up)
    return tensor_ops("swiglu", "gate", gate).swiglu(ctx, gate, up)


def token_surprises(ctx: OpContext, logits: Array, ids: Array) -> Array:
    """-log softmax(logits[t])[ids[t]] of every row, in nats.

    Args:
        logits: [T, V] float32, -inf allowed; ids: [T] int64, from 0 to V - 1.

    Returns:
        [T] float32: inf where the id has no probability, NaN where a row holds NaN or has no finite maximum.

    Raises:
        ValueError: an id out of range; names it.
    """
    if isinstance(logits, ndarray):
        return ctx.table["token_surprises"](logits, ids)
    return tensor_ops("token_surprises", "logits", logits).token_surprises(ctx, logits, ids)


def entropies(ctx: OpContext, logits: Array) -> Array:
    """Entropy in nats of softmax(logits[t]) of every row, [T] float32 from [T, V] float32; NaN as `token_surprises`."""
    if isinstance(logits, ndarray):
        return ctx.table["entropies"](logits)
    return tensor_ops("entropies", "logits", logits).entropies(ctx, logits)


def decoder_layer(
    ctx: OpContext,
    pager: Any,
    layer: DecoderLayer,
    h: NDArray[Any],
    rotation: tuple[NDArray[Any], NDArray[Any]],
    cache: tuple[NDArray[Any], NDArray[Any]],
    pos: int,
    depths: NDArray[Any] | None = None,
) -> None:
    """A whole layer on h, in place; bit for bit `composed` of the ops of this context.

    Args:
        layer: its matrices are the pager's.
        h: [T, hidden] float32: a chain of rows at positions pos.., then S siblings.
        rotation: cos, sin of `rope_table` at each row's position, [T, head_dim / 2] float32.
        cache: keys, values [KH, C, Dp] float32 as `kv_append` takes them; the rows' own are put at pos.., those of
            sibling s at pos + T - S + s; pos + T <= C.
        depths: [S] int64, or None for no siblings. Sibling s stands at position pos + depths[s] instead of the chain's
            row there and sees the cache and the chain before it: its bits are those of the last row of that path.
            From 1 to T - S - 1. `kv_move` brings its key and value to its position.
    """
    ctx.table["decoder_layer"](pager, layer, h, *rotation, *cache, pos, depths)


def bad_verify(
    ctx: OpContext, draft_ids: Array, target_logits: Array, law: SamplingLaw, seed: int, position: int
) -> tuple[int, int]:
    """How far a draft is what this law would have chosen, and the token that follows.

    Row i's token is t_i = argmax over the ids that the filters keep of logits_i / temperature - log(-log(u)), with u a
    hash of (seed, position + i, id); greedy at temperature 0; the lowest id on ties. A draft is accepted while it
    equals that token, so drafted and plain decoding (no draft, one row) give the same tokens.

    Args:
        draft_ids: [k] int64, k from 0.
        target_logits: [k + 1, V] float32; row i judges draft_ids[i]. Rows after the first rejection are not read.
        law: temperature and filters.
        seed: from 0 to 2^64 - 1.
        position: in the sequence, of the token that row 0 chooses.

    Returns:
        (n_accepted, next_id): next_id is t_n_accepted; equal on every backend, SIMD level and thread count.

    Raises:
        VortexError: a row that is reached holds NaN or has no finite maximum.

    Source: Gumbel-max, arXiv:1411.0030 section 2; SplitMix64, doi 10.1145/2714064.2660195.
    """
    if not 0 <= seed <= MAX_SEED or not 0 <= position <= 2**62:
        raise ValueError(
            f"[bad_verify] seed must be from 0 to 2^64 - 1 and position from 0 to 2^62, got {seed} and {position}"
        )
    if isinstance(target_logits, ndarray):
        return ctx.table["bad_verify"](draft_ids, target_logits, law, seed, position)
    module = tensor_ops("bad_verify", "target_logits", target_logits)
    return module.bad_verify(ctx, draft_ids, target_logits, law, seed, position)


def tile_decode(
    ctx: OpContext, codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes
) -> NDArray[Any]:
    """Bit patterns [n_rows, n_cols] of a tile: uint16 (bf16, fp16) or uint32 (fp32); equal on every backend."""
    return ctx.table["tile_decode"](codec, dtype, n_rows, n_cols, prefix, residual)


def tile_encode(
    ctx: OpContext,
    slab: NDArray[Any],
    rows: int,
    cols: int,
    dtype: int,
    codec: int,
    tiles: list[tuple[int, int, int, int]],
) -> list[tuple[bytes, bytes, int, int]]:
    """Encodes tiles (row0, n_rows, col0, n_cols) of a uint8 slab of rows x cols row-major weights.

    Returns:
        (prefix, residual, codec, dtype) for each tile; equal bytes on every backend.
    """
    return ctx.table["tile_encode"](slab, rows, cols, dtype, codec, tiles)
