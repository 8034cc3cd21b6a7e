"""The specification of the recurrent ops: a step at a time, in float64, rounded to float32 once at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import VortexError
from vortex_engine.ops.scan_arguments import BLOCK, ScanShape, Span, conv_shape, scan_shape

__all__ = ["causal_conv1d", "check_finite", "name_the_cause", "scan_blocks", "scan_steps", "ssm_scan"]

F32 = NDArray[np.float32]
Floats = NDArray[Any]


@np.errstate(over="ignore", invalid="ignore")
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
    arrays = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    states = {"initial_state": initial_state, "last_state": last_state}
    shape = scan_shape(u, delta, A, B, C, D, z, delta_bias, states, cu_seqlens, state_indices)
    spans = shape.spans(cu_seqlens, state_indices)
    check_finite("ssm_scan", arrays, initial_state, spans)
    y = scan_steps(shape, spans, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, last_state)
    return y.astype(np.float32)


def scan_steps(
    shape: ScanShape,
    spans: list[Span],
    u: Floats,
    delta: Floats,
    A: Floats,
    B: Floats,
    C: Floats,
    D: Floats | None,
    z: Floats | None,
    delta_bias: Floats | None,
    delta_softplus: bool,
    initial_state: Floats | None,
    last_state: Floats | None,
) -> NDArray[np.float64]:
    """The outputs of a scan whose arguments were checked; arrays of any float dtype."""
    n_heads = shape.heads or shape.channels
    per_head = shape.channels // n_heads
    wide = delta.astype(np.float64)
    if delta_bias is not None:
        wide = wide + delta_bias[:, None]
    if delta_softplus:
        wide = np.logaddexp(0.0, wide)
    wide = wide.repeat(per_head, axis=1)
    decay_rates = A.astype(np.float64).repeat(per_head)[:, None] if shape.heads else _plain(A, shape.channels)
    skip = None if D is None else D.astype(np.float64).repeat(shape.channels // D.shape[0])

    y = np.empty_like(u, np.float64)
    for span in spans:
        h = np.zeros((shape.channels, shape.n_state))
        if initial_state is not None and span.slot is not None:
            h = _plain(initial_state[span.slot], shape.channels)
        for t in range(span.begin, span.end):
            dt, x = wide[span.batch, :, t, None], u[span.batch, :, t].astype(np.float64)
            h = np.exp(dt * decay_rates) * h + dt * x[:, None] * _at(B, span.batch, t, shape.channels)
            out = (h * _at(C, span.batch, t, shape.channels)).sum(axis=1)
            if skip is not None:
                out = out + skip * x
            if z is not None:
                gate = z[span.batch, :, t].astype(np.float64)
                out = out * gate / (1.0 + np.exp(-gate))
            y[span.batch, :, t] = out
        if last_state is not None and span.slot is not None:
            last_state[span.slot] = h if last_state.ndim == 3 else scan_blocks(h.astype(np.float32))
    return y


@np.errstate(over="ignore", invalid="ignore")
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
    spans = shape.spans(cu_seqlens, state_indices)
    check_finite("causal_conv1d", {"x": x, "weight": weight, "bias": bias}, initial_state, spans)
    before = shape.width - 1
    y = np.empty_like(x, np.float64)
    for span in spans:
        window = np.zeros((shape.channels, before))
        if initial_state is not None and span.slot is not None:
            window = initial_state[span.slot].astype(np.float64)
        whole = np.concatenate([window, x[span.batch, :, span.begin : span.end]], axis=1)
        for t in range(span.begin, span.end):
            at = t - span.begin
            y[span.batch, :, t] = (whole[:, at : at + shape.width] * weight).sum(axis=1)
        if last_state is not None and span.slot is not None:
            last_state[span.slot] = whole[:, whole.shape[1] - before :]
    if bias is not None:
        y += bias[:, None]
    if activation is not None:
        y = y / (1.0 + np.exp(-y))
    return y.astype(np.float32)


def name_the_cause(op: str, arrays: dict[str, Any]) -> None:
    """Raise for the first value of these arguments that is not finite; finite ones may overflow.

    Raises:
        VortexError: names the argument, the place and the value.
    """
    for name, values in arrays.items():
        if values is not None and not np.isfinite(values).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise VortexError(f"[{op}] {name} must be finite, got {values[at]} at {list(at)}")


def scan_blocks(values: F32) -> F32:
    """[..., D, N] as [..., ceil(D / 16), N, 16], zeros where there is no channel."""
    *outer, channels, n_state = values.shape
    blocks = -(-channels // BLOCK)
    padded = np.zeros((*outer, blocks * BLOCK, n_state), np.float32)
    padded[..., :channels, :] = values
    return np.ascontiguousarray(padded.reshape(*outer, blocks, BLOCK, n_state).swapaxes(-1, -2))


def _plain(values: Floats, channels: int) -> NDArray[np.float64]:
    """[D, N] of an array that may be blocked, in float64."""
    wide = values.astype(np.float64)
    if values.ndim == 2:
        return wide
    return wide.swapaxes(-1, -2).reshape(-1, values.shape[-2])[:channels]


def check_finite(op: str, arrays: dict[str, Any], initial_state: F32 | None, spans: list[Span]) -> None:
    """Raise for the first value of these arguments, or of the states of these sequences, that is not finite.

    Raises:
        VortexError: names the argument and the place.
    """
    name_the_cause(op, arrays)
    for span in spans:
        if initial_state is not None and span.slot is not None and not np.isfinite(initial_state[span.slot]).all():
            raise VortexError(f"[{op}] initial_state must be finite, got a value that is not in slot {span.slot}")


def _at(values: Floats, batch: int, t: int, channels: int) -> NDArray[np.float64]:
    """B or C at one time, for every channel: [D, N]."""
    if values.ndim == 2:
        return values.astype(np.float64)
    grouped = values[:, None] if values.ndim == 3 else values
    one = grouped[batch, :, :, t].astype(np.float64)
    return one.repeat(channels // one.shape[0], axis=0)
