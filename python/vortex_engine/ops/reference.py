"""The specification of every op: slow, obvious numpy in float64, rounded to float32 once at the end.

Other backends are compared with it by tolerance, and exactly where an op only moves or decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.ops.decoder_layer import composed
from vortex_engine.ops.reference_codec import decode_tile as tile_decode
from vortex_engine.ops.reference_codec import encode_tiles as tile_encode
from vortex_engine.ops.reference_gradients import (
    causal_conv1d_gradient,
    rms_norm_gradient,
    ssm_scan_gradient,
    swiglu_gradient,
)
from vortex_engine.ops.reference_integers import INTEGER_CODECS, round_activations
from vortex_engine.ops.reference_lava import lava_read, lava_search
from vortex_engine.ops.reference_pager import ReferencePager
from vortex_engine.ops.reference_recurrent import causal_conv1d, ssm_scan
from vortex_engine.ops.reference_sampling import bad_verify

__all__ = [
    "attend",
    "bad_verify",
    "causal_conv1d",
    "causal_conv1d_gradient",
    "decoder_layer",
    "embed_rows",
    "entropies",
    "kv_append",
    "kv_move",
    "lava_read",
    "lava_search",
    "paged_linear",
    "paged_linear_transposed",
    "rms_norm",
    "rms_norm_gradient",
    "rope",
    "rope_table",
    "ssm_scan",
    "ssm_scan_gradient",
    "swiglu",
    "swiglu_gradient",
    "tile_decode",
    "tile_encode",
    "token_surprises",
]

F32 = NDArray[np.float32]


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    _expect("rms_norm", "x", x, np.float32, (None, None))
    _expect("rms_norm", "weight", weight, np.float32, (x.shape[1],))
    _require("rms_norm", "the last dimension of x must be at least 1", x.shape[1] >= 1, x.shape[1])
    _require("rms_norm", "eps must be finite and not negative", bool(0.0 <= eps < np.inf), eps)
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + eps) * weight).astype(np.float32)


def rope_table(positions: NDArray[np.int64], inv_freq: NDArray[np.float64]) -> tuple[F32, F32]:
    _expect("rope_table", "positions", positions, np.int64, (None,))
    _expect("rope_table", "inv_freq", inv_freq, np.float64, (None,))
    _require("rope_table", "the length of inv_freq must be at least 1", inv_freq.size >= 1, inv_freq.size)
    angles = positions.astype(np.float64)[:, None] * inv_freq
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rope(x: F32, cos: F32, sin: F32) -> F32:
    _expect("rope", "x", x, np.float32, (None, None, None))
    _expect("rope", "cos", cos, np.float32, (x.shape[0], None))
    _expect("rope", "sin", sin, np.float32, cos.shape)
    half = cos.shape[1]
    _require("rope", "x must have twice the columns of cos", 0 < 2 * half == x.shape[2], x.shape)
    x1, x2 = x[:, :, :half].astype(np.float64), x[:, :, half:].astype(np.float64)
    c, s = cos[:, None, :].astype(np.float64), sin[:, None, :].astype(np.float64)
    return np.concatenate([x1 * c - x2 * s, x2 * c + x1 * s], axis=2).astype(np.float32)


def kv_append(k: F32, v: F32, k_cache: F32, v_cache: F32, pos: int) -> None:
    _expect("kv_append", "k", k, np.float32, (None, None, None))
    n_tokens, kv_heads, dim = k.shape
    _expect("kv_append", "v", v, np.float32, k.shape)
    _expect("kv_append", "k_cache", k_cache, np.float32, (kv_heads, None, _padded(dim)))
    _expect("kv_append", "v_cache", v_cache, np.float32, k_cache.shape)
    _check_position("kv_append", pos, n_tokens, k_cache.shape[1])
    for cache, values in ((k_cache, k), (v_cache, v)):
        cache[:, pos : pos + n_tokens, :dim] = values.transpose(1, 0, 2)
        cache[:, pos : pos + n_tokens, dim:] = 0.0


def kv_move(k_cache: F32, v_cache: F32, source: int, target: int) -> None:
    _expect("kv_move", "k_cache", k_cache, np.float32, (None, None, None))
    _expect("kv_move", "v_cache", v_cache, np.float32, k_cache.shape)
    _require("kv_move", "k_cache must have rows of a multiple of 16", k_cache.shape[2] % 16 == 0, k_cache.shape)
    last = k_cache.shape[1] - 1
    for position in (source, target):
        rule = f"source and target must be from 0 to capacity - 1 = {last}"
        _require("kv_move", rule, 0 <= position <= last, position)
    for cache in (k_cache, v_cache):
        cache[:, target] = cache[:, source]


def attend(q: F32, k_cache: F32, v_cache: F32, pos: int, window: int, scale: float) -> F32:
    _expect("attend", "q", q, np.float32, (None, None, None))
    n_tokens, heads, dim = q.shape
    _expect("attend", "k_cache", k_cache, np.float32, (None, None, _padded(dim)))
    _expect("attend", "v_cache", v_cache, np.float32, k_cache.shape)
    kv_heads, capacity = k_cache.shape[:2]
    fits = kv_heads > 0 and heads > 0 and heads % kv_heads == 0
    _require("attend", f"query heads must be a multiple of the {kv_heads} KV heads", fits, heads)
    _check_position("attend", pos, n_tokens, capacity)
    _require("attend", "window must be 0 or more", window >= 0, window)
    _require("attend", "scale must be finite and positive", bool(0.0 < scale < np.inf), scale)
    out = np.empty(q.shape, np.float32)
    for token in range(n_tokens):
        end = pos + token + 1
        begin = max(0, end - window) if window else 0
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            keys = k_cache[kv_head, begin:end, :dim].astype(np.float64)
            scores = keys @ q[token, head].astype(np.float64) * np.float64(np.float32(scale))
            values = v_cache[kv_head, begin:end, :dim].astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinite scores give NaN, as they do natively
                weights = np.exp(scores - scores.max())
                out[token, head] = weights @ values / weights.sum()
    return out


def swiglu(gate: F32, up: F32) -> F32:
    _expect("swiglu", "gate", gate, np.float32, (None, None))
    _expect("swiglu", "up", up, np.float32, gate.shape)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return (wide / (1.0 + np.exp(-wide)) * up).astype(np.float32)


def token_surprises(logits: F32, ids: NDArray[np.int64]) -> F32:
    _expect("token_surprises", "logits", logits, np.float32, (None, None))
    _expect("token_surprises", "ids", ids, np.int64, (len(logits),))
    vocab = logits.shape[1]
    _require("token_surprises", "the last dimension of logits must be at least 1", vocab >= 1, vocab)
    for wrong in ids[(ids < 0) | (ids >= vocab)][:1]:
        _require("token_surprises", f"ids must be from 0 to {vocab - 1}", False, wrong)
    shifted, mass = _softmax(logits)
    return (np.log(mass) - np.take_along_axis(shifted, ids[:, None], axis=1)[:, 0]).astype(np.float32)


def entropies(logits: F32) -> F32:
    _expect("entropies", "logits", logits, np.float32, (None, None))
    _require("entropies", "the last dimension of logits must be at least 1", logits.shape[1] >= 1, logits.shape[1])
    shifted, mass = _softmax(logits)
    # What has no probability has no part in the entropy: 0 times -inf would be NaN.
    moment = (np.exp(shifted) * np.maximum(shifted, -1e6)).sum(axis=1)
    return (np.log(mass) - moment / mass).astype(np.float32)


def _softmax(logits: F32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits less their row's maximum, and each row's sum of their exponentials; NaN without a finite maximum."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shifted = wide - wide.max(axis=1, keepdims=True)
    return shifted, np.exp(shifted).sum(axis=1)


def paged_linear(
    pager: ReferencePager,
    handles: Sequence[int],
    x: F32,
    biases: Sequence[F32 | None],
    activations: str = "float",
    planes: str = "all",
) -> list[F32]:
    _expect("paged_linear", "x", x, np.float32, (None, None))
    _require("paged_linear", "biases must have one entry a handle", len(biases) == len(handles), len(biases))
    _require("paged_linear", "activations must be float or int8", activations in ("float", "int8"), activations)
    _check_planes("paged_linear", planes)
    wide = x.astype(np.float64)
    rounded = _rounded(x) if activations == "int8" else wide
    results: list[F32] = []
    for handle, bias in zip(handles, biases, strict=True):
        rows, cols = pager.shape(handle)
        _require("paged_linear", f"x must have {cols} columns", x.shape[1] == cols, x.shape[1])
        out = np.zeros((len(x), rows), np.float64)
        if bias is not None:
            _expect("paged_linear", "bias", bias, np.float32, (rows,))
            out += bias
        for tile in pager.tiles(handle, planes=planes):
            n_rows, n_cols = tile.weights.shape
            rows_of_x = rounded if tile.codec in INTEGER_CODECS else wide
            part = rows_of_x[:, tile.col0 : tile.col0 + n_cols] @ tile.weights.astype(np.float64).T
            out[:, tile.row0 : tile.row0 + n_rows] += part
        results.append(out.astype(np.float32))
    return results


def _rounded(x: F32) -> NDArray[np.float64]:
    """x as integer tiles take it with activations of 8 bits."""
    values, scales = round_activations(x)
    return (values * scales[..., None].astype(np.float64)).reshape(len(x), -1)[:, : x.shape[1]]


def paged_linear_transposed(pager: ReferencePager, handle: int, x: F32) -> F32:
    rows, cols = pager.shape(handle)
    _expect("paged_linear_transposed", "x", x, np.float32, (None, None))
    _require("paged_linear_transposed", f"x must have {rows} columns", x.shape[1] == rows, x.shape[1])
    wide, out = x.astype(np.float64), np.zeros((len(x), cols), np.float64)
    for tile in pager.tiles(handle):
        n_rows, n_cols = tile.weights.shape
        part = wide[:, tile.row0 : tile.row0 + n_rows] @ tile.weights.astype(np.float64)
        out[:, tile.col0 : tile.col0 + n_cols] += part
    return out.astype(np.float32)


def embed_rows(pager: ReferencePager, handle: int, ids: NDArray[np.int64], planes: str = "all") -> F32:
    _check_planes("embed_rows", planes)
    _expect("embed_rows", "ids", ids, np.int64, (None,))
    rows, cols = pager.shape(handle)
    for wrong in ids[(ids < 0) | (ids >= rows)][:1]:
        _require("embed_rows", f"ids must be from 0 to {rows - 1}", False, wrong)
    out = np.empty((len(ids), cols), np.float32)
    for tile in pager.tiles(handle, ids, planes):
        n_rows, n_cols = tile.weights.shape
        inside = (ids >= tile.row0) & (ids < tile.row0 + n_rows)
        out[inside, tile.col0 : tile.col0 + n_cols] = tile.weights[ids[inside] - tile.row0]
    return out


def _padded(dim: int) -> int:
    return -(-dim // 16) * 16


def _require(op: str, rule: str, good: bool, value: object) -> None:
    if not good:
        raise ValueError(f"[{op}] {rule}, got {value}")


def _check_planes(op: str, planes: str) -> None:
    _require(op, "planes must be all, prefix or resident", planes in ("all", "prefix", "resident"), planes)


def _check_position(op: str, pos: int, n_tokens: int, capacity: int) -> None:
    _require(
        op, f"pos must be from 0 to capacity - tokens = {capacity - n_tokens}", 0 <= pos <= capacity - n_tokens, pos
    )


decoder_layer = composed(
    {
        "attend": attend,
        "kv_append": kv_append,
        "kv_move": kv_move,
        "paged_linear": paged_linear,
        "rms_norm": rms_norm,
        "rope": rope,
        "swiglu": swiglu,
    }
)


def _expect(op: str, name: str, array: NDArray[Any], dtype: type[np.generic], shape: Sequence[int | None]) -> None:
    if array.dtype != dtype:
        raise ValueError(f"[{op}] {name} must be {np.dtype(dtype)}, got {array.dtype}")
    fits = array.ndim == len(shape) and all(b is None or a == b for a, b in zip(array.shape, shape, strict=False))
    if not fits or not array.flags.c_contiguous:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        contiguous = "" if array.flags.c_contiguous else " (not C-contiguous)"
        raise ValueError(f"[{op}] {name} must be C-contiguous and have shape ({wanted}), got {array.shape}{contiguous}")
