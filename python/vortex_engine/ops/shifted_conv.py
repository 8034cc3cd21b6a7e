"""The causal depthwise convolution in torch operations, differentiable: a sum of shifted products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vortex_engine.ops.chunked_scan import arithmetic, spans_of
from vortex_engine.ops.scan_arguments import conv_shape

__all__ = ["causal_conv1d_shifted"]


def causal_conv1d_shifted(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`vortex_engine.ops.causal_conv1d` with gradients for every tensor.

    Args: as `causal_conv1d` has them, of any floating dtype; float64 anywhere makes all of it float64, else it is
        float32.

    Returns:
        y [B, D, L] in x's dtype, and the last W - 1 columns of each sequence [S, D, W - 1] in the dtype of the
        arithmetic.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.
    """
    dtype = arithmetic(x, weight, bias, initial_state)
    wide, taps = x.to(dtype), weight.to(dtype)
    offset, before = (None if value is None else value.to(dtype) for value in (bias, initial_state))
    shape = conv_shape(wide, taps, offset, activation, {"initial_state": before}, cu_seqlens, None)
    if before is None:
        before = wide.new_zeros((shape.n_sequences, shape.channels, shape.width - 1))
    if cu_seqlens is None:
        y, last = _convolve(wide, taps, before)
    else:
        outs, lasts = [wide[..., :0]], [before[:0]]
        for s, (begin, end) in enumerate(spans_of(cu_seqlens)):
            out, last = _convolve(wide[..., begin:end], taps, before[s : s + 1])
            outs.append(out)
            lasts.append(last)
        y, last = torch.cat(outs, dim=2), torch.cat(lasts)
    if offset is not None:
        y = y + offset[:, None]
    if activation is not None:
        y = functional.silu(y)
    return y.to(x.dtype), last


def _convolve(x: Tensor, taps: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    length = x.shape[2]
    columns = torch.cat([before, x], dim=2)
    y = torch.zeros_like(x)
    for w, tap in enumerate(taps.unbind(1)):
        y = y + tap[:, None] * columns[..., w : w + length]
    return y, columns[..., length:]
