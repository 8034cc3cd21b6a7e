"""The recurrent ops of the Triton backend on numpy arrays: checked, copied to the device, and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vortex_engine.ops.reference_recurrent import check_finite
from vortex_engine.ops.scan_arguments import conv_shape, scan_shape

__all__ = ["causal_conv1d", "ssm_scan"]

F32 = NDArray[np.float32]


def ssm_scan(
    u: F32,
    delta: F32,
    A: F32,
    B: F32,
    C: F32,
    D: F32 | None,
    z: F32 | None,
    delta_bias: F32 | None,
    delta_softplus: bool,
    initial_state: F32 | None,
    last_state: F32 | None,
    cu_seqlens: NDArray[np.int64] | None,
    state_indices: NDArray[np.int64] | None,
) -> F32:
    states = {"initial_state": initial_state, "last_state": last_state}
    shape = scan_shape(u, delta, A, B, C, D, z, delta_bias, states, cu_seqlens, state_indices)
    inputs = map(_upload, (u, delta, A, B, C, D, z, delta_bias))
    initial, last, *indices = map(_upload, (initial_state, last_state, cu_seqlens, state_indices))
    y = _kernels("ssm_scan").ssm_scan(shape, *inputs, delta_softplus, initial, last, *indices)
    result = _download(y, last, last_state)
    if not np.isfinite(result).all():
        arrays = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
        check_finite("ssm_scan", arrays, initial_state, shape.spans(cu_seqlens, state_indices))
    return result


def causal_conv1d(
    x: F32,
    weight: F32,
    bias: F32 | None,
    activation: str | None,
    initial_state: F32 | None,
    last_state: F32 | None,
    cu_seqlens: NDArray[np.int64] | None,
    state_indices: NDArray[np.int64] | None,
) -> F32:
    states = {"initial_state": initial_state, "last_state": last_state}
    shape = conv_shape(x, weight, bias, activation, states, cu_seqlens, state_indices)
    inputs = map(_upload, (x, weight, bias))
    initial, last, *indices = map(_upload, (initial_state, last_state, cu_seqlens, state_indices))
    y = _kernels("causal_conv1d").causal_conv1d(shape, *inputs, activation, initial, last, *indices)
    result = _download(y, last, last_state)
    if not np.isfinite(result).all():
        arrays = {"x": x, "weight": weight, "bias": bias}
        check_finite("causal_conv1d", arrays, initial_state, shape.spans(cu_seqlens, state_indices))
    return result


def _kernels(module: str) -> Any:
    return import_module(f"vortex_engine.kernels.{module}")


def _upload(array: NDArray[Any] | None) -> Any:
    if array is None:
        return None
    # A copy in the array's own order, which the output will have too.
    return torch.from_numpy(np.array(array, order="K")).to(_kernels("tiles").device())


def _download(y: Tensor, last: Tensor | None, last_state: F32 | None) -> F32:
    if last is not None and last_state is not None:
        last_state[...] = last.cpu().numpy()
    return y.cpu().numpy()
