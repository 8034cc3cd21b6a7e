"""The ops on torch tensors: the same arguments as `vortex_engine.ops`, sent through `torch.ops.vortex.*`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vortex_engine.ops.context import OpContext
from vortex_engine.ops.sampling_law import SamplingLaw
from vortex_engine.ops.schema import id_of

__all__ = [
    "attend",
    "bad_verify",
    "embed_rows",
    "kv_append",
    "kv_move",
    "paged_linear",
    "paged_linear_transposed",
    "rms_norm",
    "rope",
    "swiglu",
]

_OPS: Any = torch.ops.vortex


def paged_linear(
    ctx: OpContext,
    pager: Any,
    handles: Sequence[int],
    x: Tensor,
    biases: Sequence[Tensor | None],
    activations: str = "float",
    planes: str = "all",
) -> list[Tensor]:
    out_features = [pager.shape(handle)[0] for handle in handles]
    return _OPS.paged_linear(
        x, list(biases), list(handles), out_features, id_of(pager), id_of(ctx), activations, planes
    )


def paged_linear_transposed(ctx: OpContext, pager: Any, handle: int, x: Tensor) -> Tensor:
    return _OPS.paged_linear_transposed(x, handle, pager.shape(handle)[1], id_of(pager), id_of(ctx))


def embed_rows(ctx: OpContext, pager: Any, handle: int, ids: Tensor, planes: str = "all") -> Tensor:
    return _OPS.embed_rows(ids, handle, pager.shape(handle)[1], id_of(pager), id_of(ctx), planes)


def rms_norm(ctx: OpContext, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _OPS.rms_norm(x, weight, eps, id_of(ctx))


def rope(ctx: OpContext, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _OPS.rope(x, cos, sin, id_of(ctx))


def kv_append(ctx: OpContext, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int) -> None:
    _OPS.kv_append(k, v, k_cache, v_cache, pos, id_of(ctx))


def kv_move(ctx: OpContext, k_cache: Tensor, v_cache: Tensor, source: int, target: int) -> None:
    _OPS.kv_move(k_cache, v_cache, source, target, id_of(ctx))


def attend(ctx: OpContext, q: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int, window: int, scale: float) -> Tensor:
    return _OPS.attend(q, k_cache, v_cache, pos, window, scale, id_of(ctx))


def swiglu(ctx: OpContext, gate: Tensor, up: Tensor) -> Tensor:
    return _OPS.swiglu(gate, up, id_of(ctx))


def bad_verify(
    ctx: OpContext, draft_ids: Tensor, target_logits: Tensor, law: SamplingLaw, seed: int, position: int
) -> tuple[int, int]:
    filters = (float(law.temperature), law.top_k, law.top_p, law.min_p)
    signed = int(seed) - (int(seed) >> 63 << 64)
    n_accepted, next_id = _OPS.bad_verify(draft_ids, target_logits, *filters, signed, position, id_of(ctx)).tolist()
    return n_accepted, next_id
