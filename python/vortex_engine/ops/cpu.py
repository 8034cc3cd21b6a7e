"""The native CPU backend: vortex_engine._native, whose results have equal bits at every SIMD level and thread count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from vortex_engine import _native
from vortex_engine.ops.decoder_layer import DecoderLayer
from vortex_engine.ops.sampling_law import SamplingLaw

__all__ = ["BINDERS", "Pager", "make_pool", "supports"]

Pager = _native.Pager


def supports(simd: str | None) -> str | None:
    """None, or the reason why the native ops cannot run at that SIMD level."""
    levels = _native.simd_levels()
    if simd is None or simd in levels:
        return None
    return f"SIMD level {simd!r} is not available here; this machine has {', '.join(levels)}"


def make_pool(n_threads: int, simd: str | None) -> _native.Pool:
    """A native pool; `simd` None means the fastest level of this machine."""
    return _native.Pool(n_threads, _native.simd_levels()[0] if simd is None else simd)


def _pooled(function: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda pool: partial(function, pool)


def _plain(function: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda pool: function


def _decoder_layer(pool: Any) -> Callable[..., None]:
    bound: WeakKeyDictionary[DecoderLayer, tuple[_native.Pager, _native.DecoderLayer]] = WeakKeyDictionary()

    def run(pager: _native.Pager, layer: DecoderLayer, *arguments: Any) -> None:
        known = bound.get(layer)
        if known is None or known[0] is not pager:
            known = bound[layer] = pager, _native.DecoderLayer(pager, layer)
        _native.decoder_layer(pool, pager, known[1], *arguments)

    return run


def _bad_verify(pool: Any) -> Callable[..., tuple[int, int]]:
    def run(draft_ids: Any, target_logits: Any, law: SamplingLaw, seed: int, position: int) -> tuple[int, int]:
        top_k, top_p, min_p = law.top_k or 0, 1.0 if law.top_p is None else law.top_p, law.min_p or 0.0
        return _native.bad_verify(pool, draft_ids, target_logits, law.temperature, top_k, top_p, min_p, seed, position)

    return run


def _over_bank(function: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    def bind(pool: Any) -> Callable[..., Any]:
        def run(bank: Any, *arguments: Any) -> Any:
            return function(pool, bank.native, *arguments)

        return run

    return bind


BINDERS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "paged_linear": _pooled(_native.paged_linear),
    "paged_linear_transposed": _pooled(_native.paged_linear_transposed),
    "embed_rows": _pooled(_native.embed_rows),
    "rms_norm": _pooled(_native.rms_norm),
    "rope_table": _plain(_native.rope_table),
    "rope": _pooled(_native.rope),
    "kv_append": _plain(_native.kv_append),
    "kv_move": _plain(_native.kv_move),
    "attend": _pooled(_native.attend),
    "swiglu": _pooled(_native.swiglu),
    "token_surprises": _pooled(_native.token_surprises),
    "entropies": _pooled(_native.entropies),
    "rms_norm_gradient": _pooled(_native.rms_norm_gradient),
    "swiglu_gradient": _pooled(_native.swiglu_gradient),
    "ssm_scan": _pooled(_native.ssm_scan),
    "ssm_scan_gradient": _pooled(_native.ssm_scan_gradient),
    "causal_conv1d": _pooled(_native.causal_conv1d),
    "causal_conv1d_gradient": _pooled(_native.causal_conv1d_gradient),
    "lava_search": _over_bank(_native.lava_search),
    "lava_read": _over_bank(_native.lava_read),
    "decoder_layer": _decoder_layer,
    "bad_verify": _bad_verify,
    "tile_decode": _plain(_native.decode_tile),
    "tile_encode": _pooled(_native.encode_tiles),
}
