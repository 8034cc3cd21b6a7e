"""Ops that carry a state along a sequence: the selective scan and the causal convolution before it.

Their arguments have the names and logical shapes of state-spaces/mamba and Dao-AILab/causal-conv1d, [batch, channel,
time], and any strides: a model passes transposed views of its [time, channel] rows and nothing is copied. What has
channels and states, [D, N], may also be blocked, [ceil(D / 16), N, 16] as `scan_blocks` makes it, which is how the
kernels read it.

Every output depends on its own sequence alone, step by step: whole, in pieces, as part of a batch or of a packed row,
the `cpu` backend gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import numpy as np
from numpy import ndarray

from vortex_engine.ops.dispatch import tensor_ops
from vortex_engine.ops.reference_recurrent import scan_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from vortex_engine.ops.context import OpContext

    Array = TypeVar("Array", NDArray[Any], Tensor)

__all__ = ["causal_conv1d", "scan_blocks", "ssm_scan", "ssm_step"]


@overload
def ssm_scan(
    ctx: OpContext,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    initial_state: Array | None = None,
    *,
    last_state: Array | None = None,
    cu_seqlens: Array | None = None,
    state_indices: Array | None = None,
) -> Array: ...
@overload
def ssm_scan(
    ctx: OpContext,
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    initial_state: Array | None = None,
    last_state: Array | None = None,
    cu_seqlens: Array | None = None,
    state_indices: Array | None = None,
) -> tuple[Array, Array]: ...
def ssm_scan(
    ctx: OpContext,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Any = None,
    *,
    last_state: Any = None,
    cu_seqlens: Any = None,
    state_indices: Any = None,
) -> Any:
    """The selective scan: h_t = exp(dt_t A) h_t-1 + dt_t B_t u_t, y_t = (C_t . h_t + D u_t) * silu(z_t).

    Args:
        u: [B, D, L] float32.
        delta: [B, D, L], or [B, H, L] where A is [H]; dt = delta + delta_bias, or its softplus.
        A: [D, N], a rate for every channel and state (Mamba-1), or the same blocked; or [H], one for each head of
            D / H channels (Mamba-2).
        B, C: [B, N, L]; or [B, G, N, L] with G groups of channels; or, constant in time, [D, N] where A is [D, N].
        D: [D], or [H] where A is [H]; delta_bias: as delta's channels; z: [B, D, L].
        return_last_state: give the states after the last step too.
        initial_state: [S, D, N], the state each of the S sequences starts from, or the same blocked, where heads are of
            a multiple of 16 channels; None for zeros.
        last_state: as `initial_state`, where the states after the last step are put; it may be the same array. What is
            in it after an error is not defined.
        cu_seqlens: [S + 1] int64, for B = 1: sequence s is the columns cu_seqlens[s] .. cu_seqlens[s + 1] - 1. By
            default every row of the batch is a sequence.
        state_indices: [S] int64: `initial_state` and `last_state` are pools [slots, D, N], and sequence s has the slot
            state_indices[s]; -1 for a sequence that starts from zeros and leaves nothing.

    Returns:
        y [B, D, L] float32, in u's memory order; with `return_last_state` (y, last_state).

    Raises:
        ValueError: a wrong shape, dtype or index; names the argument.
        VortexError: an argument holds a value that is not finite; names it and where.

    Source: arXiv:2312.00752, equations 2 to 4 and algorithm 2; arXiv:2405.21060, section 5 (one decay a head).
    """
    if return_last_state and last_state is None and state_indices is not None:
        raise ValueError("[ssm_scan] last_state must be given where state_indices names its slots, got None")
    if not isinstance(u, ndarray):
        module = tensor_ops("ssm_scan", "u", u)
        result = module.ssm_scan(
            ctx,
            u,
            delta,
            A,
            B,
            C,
            D,
            z,
            delta_bias,
            delta_softplus,
            initial_state,
            last_state,
            cu_seqlens,
            state_indices,
        )
        return result if return_last_state else result[0]
    if return_last_state and last_state is None:
        batch, channels, _ = cast("tuple[int, ...]", u.shape)
        n_sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
        n_state: int = A.shape[1] if A.ndim > 1 else B.shape[-2]
        last_state = np.zeros((n_sequences, channels, n_state), np.float32)
    y = ctx.table["ssm_scan"](
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, last_state, cu_seqlens, state_indices
    )
    return (y, last_state) if return_last_state else y


def ssm_step(
    ctx: OpContext,
    state: Array,
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    dt_bias: Array | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Array | None = None,
) -> Array:
    """One step of `ssm_scan` for every sequence of a batch, its state updated in place: the same bits as the scan.

    Args:
        state: [B, D, N] float32; or a pool [slots, D, N] with `state_batch_indices`, as `state_indices` of the scan.
        x, z: [B, D]; dt: [B, D], or [B, H] where A is [H]; A, D, dt_bias: as the scan has them.
        B, C: [B, N] or [B, G, N].

    Returns:
        [B, D] float32.

    Raises: as `ssm_scan`.

    Source: as `ssm_scan`; the names are those of `selective_state_update` (state-spaces/mamba).
    """
    y = ssm_scan(
        ctx,
        _one_step("x", x),
        _one_step("dt", dt),
        A,
        _one_step("B", B),
        _one_step("C", C),
        D,
        None if z is None else _one_step("z", z),
        dt_bias,
        dt_softplus,
        initial_state=state,
        last_state=state,
        state_indices=state_batch_indices,
    )
    return y[..., 0]


def causal_conv1d(
    ctx: OpContext,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    *,
    initial_state: Array | None = None,
    last_state: Array | None = None,
    cu_seqlens: Array | None = None,
    state_indices: Array | None = None,
) -> Array:
    """Depthwise convolution over the last W columns: y_t = act(bias + sum over w of weight_w x_t-W+1+w).

    Args:
        x: [B, D, L] float32; weight: [D, W]; bias: [D].
        activation: None, "silu" or "swish" (the same).
        initial_state: [S, D, W - 1], the columns before each sequence; None for zeros.
        last_state: [S, D, W - 1], where the last columns of each sequence are put; it may be `initial_state` itself.
        cu_seqlens, state_indices: as `ssm_scan` has them.

    Returns:
        [B, D, L] float32, in x's memory order.

    Raises: as `ssm_scan`.

    Source: arXiv:2312.00752, figure 3; the names are those of Dao-AILab/causal-conv1d.
    """
    arguments = (x, weight, bias, activation, initial_state, last_state, cu_seqlens, state_indices)
    if isinstance(x, ndarray):
        return ctx.table["causal_conv1d"](*arguments)
    return tensor_ops("causal_conv1d", "x", x).causal_conv1d(ctx, *arguments)


def _one_step(name: str, value: Any) -> Any:
    """An array or tensor [..., X] as [..., X, 1]."""
    if not hasattr(value, "ndim"):
        raise ValueError(f"[ssm_step] {name} must be a numpy array or a torch tensor, got {type(value).__name__}")
    return value[..., None]
