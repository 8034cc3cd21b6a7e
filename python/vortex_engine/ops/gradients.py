"""What ops that are trained pass back, on arrays: autograd's half of them.

The `cpu` backend gives equal bits for every thread count and SIMD level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vortex_engine.ops.context import OpContext

__all__ = ["causal_conv1d_gradient", "rms_norm_gradient", "ssm_scan_gradient", "swiglu_gradient"]


def ssm_scan_gradient(
    ctx: OpContext,
    grad_y: NDArray[np.float32],
    grad_last: NDArray[np.float32] | None,
    u: NDArray[np.float32],
    delta: NDArray[np.float32],
    A: NDArray[np.float32],
    B: NDArray[np.float32],
    C: NDArray[np.float32],
    D: NDArray[np.float32] | None = None,
    z: NDArray[np.float32] | None = None,
    delta_bias: NDArray[np.float32] | None = None,
    delta_softplus: bool = False,
    initial_state: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32] | None, ...]:
    """What a scan with one decay a head passes back: of `ssm_scan` with A [H] and no `cu_seqlens`.

    Args:
        grad_y: of y, [B, D, L] float32, any strides; grad_last: of the last states, [B, D, N]; None for zeros.
        u … delta_softplus: as the scan has them; initial_state: [B, D, N], contiguous, not blocked.

    Returns:
        The gradients of u [B, L, D], delta [B, L, H], A [H], B and C [B, L, G, N], D as D is, z [B, L, D], delta_bias
        [H] and initial_state [B, D, N]: contiguous, time before channels; None where the argument is.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.

    Source: arXiv:2312.00752, equation 2, differentiated; states are kept at the start of chunks and computed again.
    """
    function = ctx.table["ssm_scan_gradient"]
    return function(grad_y, grad_last, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)


def causal_conv1d_gradient(
    ctx: OpContext,
    grad_y: NDArray[np.float32],
    grad_last: NDArray[np.float32] | None,
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    activation: str | None = None,
    initial_state: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32] | None, ...]:
    """What a causal convolution passes back: of `causal_conv1d` without `cu_seqlens`.

    Args:
        grad_y: of y, [B, D, L] float32, any strides; grad_last: of the last columns, [B, D, W - 1]; None for zeros.
        x, activation: as the convolution has them; weight [D, W], bias [D], initial_state [B, D, W - 1]: contiguous.

    Returns:
        The gradients of x [B, L, D], weight [D, W], bias [D] and initial_state [B, D, W - 1]: contiguous, time before
        channels; None where the argument is.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.

    Source: the convolution, differentiated.
    """
    function = ctx.table["causal_conv1d_gradient"]
    return function(grad_y, grad_last, x, weight, bias, activation, initial_state)


def rms_norm_gradient(
    ctx: OpContext, grad_y: NDArray[np.float32], x: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `rms_norm` passes back: the gradients of x [R, D] and of weight [D].

    Args:
        grad_y: of y, [R, D] float32; x, weight, eps: as the norm has them.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.

    Source: arXiv:1910.07467, equation 4, differentiated.
    """
    return ctx.table["rms_norm_gradient"](grad_y, x, weight, eps)


def swiglu_gradient(
    ctx: OpContext, grad_y: NDArray[np.float32], gate: NDArray[np.float32], up: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `swiglu` passes back: the gradients of gate and up, all [T, F] float32.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.
    """
    return ctx.table["swiglu_gradient"](grad_y, gate, up)
