"""Ops with gradients, the fastest way a device has: native on the CPU, elsewhere in torch operations."""

from __future__ import annotations

import threading
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vortex_engine import ops
from vortex_engine.ops.chunked_scan import ssm_scan_chunked
from vortex_engine.ops.shifted_conv import causal_conv1d_shifted

__all__ = ["convolve", "gated", "normalise", "scan"]


_contexts: dict[tuple[int, int], ops.OpContext] = {}


def _context() -> ops.OpContext:
    """One of as many threads as torch may use, the caller's own: a pool runs one op at a time, and those who train side
    by side shall not wait for each other."""
    key = (threading.get_ident(), torch.get_num_threads())
    if key not in _contexts:
        _contexts[key] = ops.make_context(key[1])
    return _contexts[key]


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


def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`ops.rms_norm` over the last dimension of x [..., D] with weight [D]."""
    if _is_native(x, weight):
        return cast("Tensor", _Normalise.apply(x, weight, eps))
    return functional.rms_norm(x, weight.shape, weight, eps)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """`ops.swiglu`, silu(gate) * up, of equal shapes [..., F]."""
    if _is_native(gate, up):
        return cast("Tensor", _Gated.apply(gate, up))
    return functional.silu(gate) * up


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return torch.from_numpy(ops.rms_norm(_context(), _rows(x), _array(weight), eps)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (x, weight) = grad_outputs, ctx.saved_tensors
        of_x, of_weight = ops.rms_norm_gradient(_context(), _rows(grad), _rows(x), _array(weight), ctx.eps)
        return torch.from_numpy(of_x).view(x.shape), torch.from_numpy(of_weight), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.from_numpy(ops.swiglu(_context(), _rows(gate), _rows(up))).view(gate.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (gate, up) = grad_outputs, ctx.saved_tensors
        of_gate, of_up = ops.swiglu_gradient(_context(), _rows(grad), _rows(gate), _rows(up))
        return torch.from_numpy(of_gate).view(gate.shape), torch.from_numpy(of_up).view(up.shape)


def _is_native(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _rows(x: Tensor) -> Any:
    return _array(x.reshape(-1, x.shape[-1]))


def _array(x: Tensor) -> Any:
    # By DLPack: `numpy()` marks the storage as never to be resized, which is how FSDP frees gathered parameters.
    return np.from_dlpack(x.detach().contiguous())
