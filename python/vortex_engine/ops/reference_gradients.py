"""Gradients of ops that are trained, step by step in float64: what the native ones are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.ops.scan_arguments import conv_shape, scan_shape

__all__ = ["causal_conv1d_gradient", "rms_norm_gradient", "ssm_scan_gradient", "swiglu_gradient"]

F32 = NDArray[np.float32]


def ssm_scan_gradient(
    grad_y: F32,
    grad_last: F32 | None,
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
) -> tuple[F32, F32, F32, F32, F32, F32 | None, F32 | None, F32 | None, F32]:
    # With g_t the gradient of the state h_t: g_t = C_t gy_t + exp(dt_t+1 A) g_t+1.
    shape = scan_shape(u, delta, A, B, C, D, z, delta_bias, {"initial_state": initial_state}, None, None)
    if shape.heads is None:
        raise ValueError(f"[ssm_scan_gradient] A must have one rate for each head, got shape {A.shape}")
    per_head, n_groups = shape.channels // shape.heads, 1 if B.ndim == 3 else B.shape[1]
    per_group = shape.channels // n_groups
    batch, length, n_state = shape.batch, shape.length, shape.n_state

    def steps(value: F32 | None, n: int) -> Any:
        """[B, L, n] in float64; zeros for None."""
        return np.zeros((batch, length, n)) if value is None else value.astype(np.float64).transpose(0, 2, 1)

    def states(value: F32 | None) -> Any:
        return np.zeros((batch, shape.channels, n_state)) if value is None else value.astype(np.float64)

    def of_channels(value: F32) -> Any:
        """B or C as [B, L, D, N]."""
        grouped = value.reshape(batch, n_groups, n_state, length).astype(np.float64)
        return grouped.transpose(0, 3, 1, 2).repeat(per_group, axis=2)

    raw = steps(delta, shape.heads) + (0.0 if delta_bias is None else delta_bias.astype(np.float64))
    dt = (np.logaddexp(0.0, raw) if delta_softplus else raw).repeat(per_head, axis=2)
    slope = 1.0 / (1.0 + np.exp(-raw)) if delta_softplus else np.ones_like(raw)
    rates = A.astype(np.float64).repeat(per_head)
    skip = np.zeros(shape.channels) if D is None else D.astype(np.float64).repeat(shape.channels // len(D))
    x, b, c, decay = steps(u, shape.channels), of_channels(B), of_channels(C), np.exp(dt * rates)
    h = [states(initial_state)]
    for t in range(length):
        h.append(decay[:, t, :, None] * h[-1] + (dt[:, t] * x[:, t])[..., None] * b[:, t])
    y = np.stack([(h[t + 1] * c[:, t]).sum(-1) for t in range(length)], axis=1) + skip * x if length else x
    gate, gy = steps(z, shape.channels), steps(grad_y, shape.channels)
    opened = 1.0 / (1.0 + np.exp(-gate))
    grad_z = gy * y * opened * (1.0 + gate * (1.0 - opened))
    if z is not None:
        gy = gy * gate * opened

    grad_u, grad_dt, grad_rate = gy * skip, np.zeros_like(x), np.zeros_like(x)
    grad_b, grad_c = np.zeros_like(b), np.zeros_like(c)
    g = states(grad_last)
    for t in range(length - 1, -1, -1):
        g = g + c[:, t] * gy[:, t, :, None]
        grad_c[:, t] = h[t + 1] * gy[:, t, :, None]
        grad_b[:, t] = g * (dt[:, t] * x[:, t])[..., None]
        of_input, of_decay = (g * b[:, t]).sum(-1), (g * h[t]).sum(-1) * decay[:, t]
        grad_u[:, t] += dt[:, t] * of_input
        grad_dt[:, t] = x[:, t] * of_input + rates * of_decay
        grad_rate[:, t] = dt[:, t] * of_decay
        g = decay[:, t, :, None] * g

    def of_groups(value: Any) -> F32:
        return value.reshape(batch, length, n_groups, per_group, n_state).sum(3).astype(np.float32)

    def of_heads(value: Any) -> Any:
        return value.reshape(batch, length, shape.heads, per_head).sum(3)

    grad_delta = of_heads(grad_dt) * slope
    grad_skip = (gy * x).sum((0, 1))
    return (
        grad_u.astype(np.float32),
        grad_delta.astype(np.float32),
        of_heads(grad_rate).sum((0, 1)).astype(np.float32),
        of_groups(grad_b),
        of_groups(grad_c),
        None if D is None else grad_skip.reshape(len(D), -1).sum(1).astype(np.float32),
        None if z is None else grad_z.astype(np.float32),
        None if delta_bias is None else grad_delta.sum((0, 1)).astype(np.float32),
        g.astype(np.float32),
    )


def causal_conv1d_gradient(
    grad_y: F32,
    grad_last: F32 | None,
    x: F32,
    weight: F32,
    bias: F32 | None,
    activation: str | None,
    initial_state: F32 | None,
) -> tuple[F32, F32, F32 | None, F32]:
    shape = conv_shape(x, weight, bias, activation, {"initial_state": initial_state}, None, None)
    before, length, taps = shape.width - 1, x.shape[2], weight.astype(np.float64)
    start = np.zeros((len(x), shape.channels, before)) if initial_state is None else initial_state.astype(np.float64)
    columns = np.concatenate((start, x.astype(np.float64)), axis=2)
    slopes = grad_y.astype(np.float64)
    if activation is not None:
        y = sum(taps[:, w, None] * columns[..., w : w + length] for w in range(shape.width))
        y = y + (0.0 if bias is None else bias.astype(np.float64)[:, None])
        opened = 1.0 / (1.0 + np.exp(-y))
        slopes = slopes * opened * (1.0 + y * (1.0 - opened))
    grad = np.zeros_like(columns)
    grad_weight = np.zeros_like(taps)
    for w in range(shape.width):
        grad[..., w : w + length] += taps[:, w, None] * slopes
        grad_weight[:, w] = (slopes * columns[..., w : w + length]).sum((0, 2))
    if grad_last is not None:
        grad[..., length:] += grad_last
    return (
        np.ascontiguousarray(grad[..., before:].transpose(0, 2, 1), np.float32),
        grad_weight.astype(np.float32),
        None if bias is None else slopes.sum((0, 2)).astype(np.float32),
        grad[..., :before].astype(np.float32),
    )


def rms_norm_gradient(grad_y: F32, x: F32, weight: F32, eps: float) -> tuple[F32, F32]:
    _check("rms_norm_gradient", {"x": (x, (None, None)), "grad_y": (grad_y, x.shape), "weight": (weight, x.shape[1:])})
    if x.shape[1] < 1:
        raise ValueError("[rms_norm_gradient] the last dimension of x must be at least 1, got 0")
    if not 0.0 <= eps < np.inf:
        raise ValueError(f"[rms_norm_gradient] eps must be finite and not negative, got {eps}")
    wide, gy = x.astype(np.float64), grad_y.astype(np.float64)
    inverse = 1.0 / np.sqrt((wide**2).mean(axis=1, keepdims=True) + eps)
    g = gy * weight
    grad_x = inverse * (g - wide * inverse**2 * (g * wide).mean(axis=1, keepdims=True))
    return grad_x.astype(np.float32), (gy * wide * inverse).sum(axis=0).astype(np.float32)


def swiglu_gradient(grad_y: F32, gate: F32, up: F32) -> tuple[F32, F32]:
    _check("swiglu_gradient", {"gate": (gate, (None, None)), "grad_y": (grad_y, gate.shape), "up": (up, gate.shape)})
    wide, gy = gate.astype(np.float64), grad_y.astype(np.float64)
    with np.errstate(over="ignore"):
        opened = 1.0 / (1.0 + np.exp(-wide))
    to_gate = gy * up * opened * (1.0 + wide * (1.0 - opened))
    return to_gate.astype(np.float32), (gy * wide * opened).astype(np.float32)


def _check(op: str, arrays: dict[str, tuple[F32, tuple[int | None, ...]]]) -> None:
    for name, (array, shape) in arrays.items():
        if array.dtype != np.float32:
            raise ValueError(f"[{op}] {name} must be float32, got {array.dtype}")
        fits = array.ndim == len(shape) and all(b is None or a == b for a, b in zip(array.shape, shape, strict=True))
        if not fits or not array.flags.c_contiguous:
            raise ValueError(f"[{op}] {name} must be C-contiguous and have shape {shape}, got {array.shape}")
