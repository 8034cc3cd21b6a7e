"""The recurrent ops with gradients, the fastest way a device has: native on the CPU, elsewhere in torch operations."""

from __future__ import annotations

from functools import cache

from torch import Tensor

from vortex_engine import ops
from vortex_engine.ops.chunked_scan import ssm_scan_chunked
from vortex_engine.ops.shifted_conv import causal_conv1d_shifted

__all__ = ["convolve", "scan"]


@cache
def _context() -> ops.OpContext:
    return ops.make_context()


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor
) -> Tensor:
    """`ops.ssm_scan` of whole sequences with softplus, [B, D, L]."""
    if u.device.type == "cpu":
        return ops.ssm_scan(_context(), u, delta, A, B, C, D, z, delta_bias, True)
    return ssm_scan_chunked(u, delta, A, B, C, D, z, delta_bias, True)[0]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """`ops.causal_conv1d` of whole sequences, [B, D, L]."""
    if x.device.type == "cpu":
        return ops.causal_conv1d(_context(), x, weight, bias, activation)
    return causal_conv1d_shifted(x, weight, bias, activation)[0]
