"""The ops on torch tensors: the same arguments as `vortex_engine.ops`, sent through `torch.ops.vortex.*`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vortex_engine.ops.context import OpContext
from vortex_engine.ops.sampling_law import SamplingLaw
from vortex_engine.ops.schema import id_of
from vortex_engine.ops.schema_recurrent import conv_sizes, scan_sizes

__all__ = [
    "attend",
    "bad_verify",
    "causal_conv1d",
    "embed_rows",
    "entropies",
    "kv_append",
    "kv_move",
    "paged_linear",
    "paged_linear_transposed",
    "rms_norm",
    "rope",
    "ssm_scan",
    "swiglu",
    "token_surprises",
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


def token_surprises(ctx: OpContext, logits: Tensor, ids: Tensor) -> Tensor:
    return _OPS.token_surprises(logits, ids, id_of(ctx))


def entropies(ctx: OpContext, logits: Tensor) -> Tensor:
    return _OPS.entropies(logits, id_of(ctx))


def bad_verify(
    ctx: OpContext, draft_ids: Tensor, target_logits: Tensor, law: SamplingLaw, seed: int, position: int
) -> tuple[int, int]:
    filters = (float(law.temperature), law.top_k, law.top_p, law.min_p)
    signed = int(seed) - (int(seed) >> 63 << 64)
    n_accepted, next_id = _OPS.bad_verify(draft_ids, target_logits, *filters, signed, position, id_of(ctx)).tolist()
    return n_accepted, next_id


def ssm_scan(
    ctx: OpContext,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    last_state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_indices: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(y, the last states): `last_state` itself, written, where it is given; else those of the sequences."""
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    if last_state is not None or state_indices is not None:
        scan_sizes(*inputs, {"initial_state": initial_state, "last_state": last_state}, cu_seqlens, state_indices)
    start = _start(initial_state, last_state, state_indices)
    y, last = _OPS.ssm_scan(*inputs, start, cu_seqlens, delta_softplus, id_of(ctx))
    return y, _put(last, last_state, state_indices)


def causal_conv1d(
    ctx: OpContext,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    last_state: Tensor | None,
    cu_seqlens: Tensor | None,
    state_indices: Tensor | None,
) -> Tensor:
    inputs = (x, weight, bias)
    if last_state is not None or state_indices is not None:
        states = {"initial_state": initial_state, "last_state": last_state}
        conv_sizes(*inputs, activation, states, cu_seqlens, state_indices)
    start = _start(initial_state, last_state, state_indices)
    y, last = _OPS.causal_conv1d(*inputs, start, cu_seqlens, activation, id_of(ctx))
    _put(last, last_state, state_indices)
    return y


def _start(initial: Tensor | None, last: Tensor | None, state_indices: Tensor | None) -> Tensor | None:
    """The states the sequences start from: the rows of a pool, zeros for index -1."""
    if initial is None or state_indices is None:
        # Backward reads the states that were there before `last`, which may be the same tensor, is written.
        return initial.clone() if initial is not None and last is not None and torch.is_grad_enabled() else initial
    if initial.shape[0] == 0:
        return None
    rows = initial.index_select(0, state_indices.clamp(min=0))
    return torch.where(state_indices[:, None, None] >= 0, rows, 0.0)


@torch.no_grad()
def _put(states: Tensor, last: Tensor | None, state_indices: Tensor | None) -> Tensor:
    """`last` with the sequences' states in it, or those states where no place for them was given."""
    if last is None:
        return states
    if state_indices is None:
        return last.copy_(states)
    kept = state_indices >= 0
    return last.index_copy_(0, state_indices[kept], states[kept].to(last.dtype))
