"""The selective scan in torch operations: differentiable, and sequential over chunks instead of over steps.

Decays are only ever multiplied, never divided by one another: a chunk in which one underflows is as exact as any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from vortex_engine.ops.scan_arguments import scan_shape

__all__ = ["SSD_CHUNK", "arithmetic", "spans_of", "ssm_scan_chunked"]

# Steps whose pairwise products are one matrix: those of a chunk grow with its square, the carries with their number.
SSD_CHUNK = 64


def arithmetic(*tensors: Tensor | None) -> torch.dtype:
    """The dtype in which these are computed: float64 if any of them has it, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def spans_of(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    """Begin and end of every sequence of a packed row."""
    bounds = [int(bound) for bound in cu_seqlens]
    return list(pairwise(bounds))


def ssm_scan_chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`vortex_engine.ops.ssm_scan` with gradients for every tensor.

    Args: as `ssm_scan` has them, of any floating dtype; float64 anywhere makes all of it float64, else it is float32.
        chunk: steps of a chunk; by default about sqrt(L), or SSD_CHUNK where A is [H].

    Returns:
        y [B, D, L] in u's dtype, and the states after the last step [S, D, N] in the dtype of the arithmetic.

    Raises:
        ValueError: a wrong shape or dtype; names the argument.

    Source: arXiv:2312.00752, algorithm 2; where A is [H] arXiv:2405.21060, section 6.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"[ssm_scan] chunk must be at least 1 step, got {chunk}")
    dtype = arithmetic(u, delta, A, B, C, D, z, delta_bias, initial_state)
    x, dt, rates, b, c = (value.to(dtype) for value in (u, delta, A, B, C))
    skip, gate, bias, h = (None if value is None else value.to(dtype) for value in (D, z, delta_bias, initial_state))
    shape = scan_shape(x, dt, rates, b, c, skip, gate, bias, {"initial_state": h}, cu_seqlens, None)
    if bias is not None:
        dt = dt + bias[:, None]
    if delta_softplus:
        dt = functional.softplus(dt, threshold=40.0)
    if h is None:
        h = x.new_zeros((shape.n_sequences, shape.channels, shape.n_state))
    scan = _scan_channels if shape.heads is None else _scan_heads
    if cu_seqlens is None:
        y, last = scan(x, dt, rates, b, c, h, chunk)
    else:
        outs, lasts = [x[..., :0]], [h[:0]]
        for s, (begin, end) in enumerate(spans_of(cu_seqlens)):
            part = slice(begin, end)
            b_part, c_part = (value if value.dim() == 2 else value[..., part] for value in (b, c))
            out, last = scan(x[..., part], dt[..., part], rates, b_part, c_part, h[s : s + 1], chunk)
            outs.append(out)
            lasts.append(last)
        y, last = torch.cat(outs, dim=2), torch.cat(lasts)
    if skip is not None:
        y = y + skip.repeat_interleave(shape.channels // skip.shape[0])[:, None] * x
    if gate is not None:
        y = y * functional.silu(gate)
    return y.to(u.dtype), last


def _scan_channels(
    x: Tensor, dt: Tensor, rates: Tensor, b: Tensor, c: Tensor, h: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """A decay for every channel and state: the steps of all chunks side by side, then the carries."""
    length, channels = x.shape[2], x.shape[1]
    if length == 0:
        return x, h
    chunk = min(chunk or math.isqrt(length - 1) + 1, length)
    # A step of a chunk each: [batch, chunk, ...].
    steps, inputs = (_chunks(value, chunk).permute(3, 0, 2, 1).unbind() for value in (dt, dt * x))
    b_steps, c_steps = (_channel_steps(value, chunk, channels) for value in (b, c))
    local = reach = None
    outs: list[Tensor] = []
    reaches: list[Tensor] = []
    for t in range(chunk):
        decay = torch.exp(steps[t][..., None] * rates)
        enters = inputs[t][..., None] * b_steps[t]
        local = enters if local is None else local * decay + enters
        reach = decay if reach is None else reach * decay
        outs.append((local * c_steps[t]).sum(-1))
        reaches.append(reach)
    assert local is not None and reach is not None
    carries: list[Tensor] = []
    for k in range(local.shape[1]):
        carries.append(h)
        h = reach[:, k] * h + local[:, k]
    carry = torch.stack(carries, dim=1)
    outs = [out + (carry * reaches[t] * c_steps[t]).sum(-1) for t, out in enumerate(outs)]
    return torch.stack(outs, dim=-1).permute(0, 2, 1, 3).flatten(2)[..., :length], h


def _scan_heads(
    x: Tensor, dt: Tensor, rates: Tensor, b: Tensor, c: Tensor, h: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """A decay for every head: inside a chunk matrix products, from chunk to chunk the carry of its state."""
    batch, channels, length = x.shape
    if length == 0:
        return x, h
    chunk = min(chunk or SSD_CHUNK, length)
    b, c = (_chunks(value[:, None] if value.dim() == 3 else value, chunk) for value in (b, c))  # [B, G, N, K, c]
    groups, n_state, n_chunks = b.shape[1:4]
    heads = rates.shape[0] // groups
    # g: group, h: head of it, p: channel of that, k: chunk, i and j: its steps, n: state.
    sizes = (batch, groups, heads, channels // rates.shape[0])
    x_dt = _chunks(x.reshape(*sizes, length) * dt.reshape(batch, groups, heads, 1, length), chunk)
    logs = _chunks((dt * rates[:, None]).reshape(batch, groups, heads, length), chunk)
    between = _decay_between(logs)
    since_start = torch.exp(logs.cumsum(-1))
    pairs = torch.einsum("bgnki,bgnkj->bgkij", c, b)[:, :, None] * between
    y = torch.einsum("bghkij,bghpkj->bghpki", pairs, x_dt)
    added = torch.einsum("bghpkj,bgnkj->bghpkn", x_dt * between[:, :, :, None, :, -1], b)
    h = h.reshape(*sizes, n_state)
    carries: list[Tensor] = []
    for k in range(n_chunks):
        carries.append(h)
        h = since_start[:, :, :, k, -1, None, None] * h + added[:, :, :, :, k]
    y = y + torch.einsum("bgnki,bghpkn->bghpki", c, torch.stack(carries, dim=4)) * since_start[:, :, :, None]
    return y.reshape(batch, channels, -1)[..., :length], h.reshape(batch, channels, n_state)


def _decay_between(logs: Tensor) -> Tensor:
    """[..., i, j]: the product of the decays after step j up to step i; 0 where j comes after i.

    Every column is a sum of its own: differences of one running sum would cancel after a large decay.
    """
    n = logs.shape[-1]
    below = torch.ones(n, n, dtype=torch.bool, device=logs.device).tril(-1)
    sums = logs[..., None].expand(*logs.shape, n).masked_fill(~below, 0.0).cumsum(-2)
    return torch.exp(sums.masked_fill(below.T, -math.inf))


def _chunks(value: Tensor, chunk: int) -> Tensor:
    """[..., L] as [..., chunks, chunk]; steps past the end have dt = 0, which leaves a state as it is."""
    padded = functional.pad(value, (0, -value.shape[-1] % chunk))
    return padded.reshape(*value.shape[:-1], padded.shape[-1] // chunk, chunk)


def _channel_steps(value: Tensor, chunk: int, channels: int) -> Sequence[Tensor]:
    """B or C at every step of a chunk, for every channel: [batch, chunk, D, N], or [D, N] where it is constant."""
    if value.dim() == 2:
        return [value] * chunk
    grouped = value[:, None] if value.dim() == 3 else value
    steps = _chunks(grouped, chunk).permute(4, 0, 3, 1, 2)
    per_group = 1 if steps.shape[3] == 1 else channels // steps.shape[3]
    return steps.repeat_interleave(per_group, dim=3).unbind()
