"""causal_conv1d in device memory: one program convolves a block of channels of one sequence, some columns at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from vortex_engine.kernels.launch import check_device, launch
from vortex_engine.kernels.ssm_scan import silu

if TYPE_CHECKING:
    from vortex_engine.ops.scan_arguments import ConvShape

__all__ = ["causal_conv1d", "causal_conv1d_kernel"]

MAX_CHANNELS = 64
MAX_COLUMNS = 32


@triton.jit
def _columns(p_x, p_initial, o_t, begin, end, m_d, m_state, x_time, initial_column, before, HAS_INITIAL: tl.constexpr):
    """[BLOCK_D, columns] float32 of the times o_t; those before `begin` come from the initial state, or are zero."""
    m_now = m_d[:, None] & ((o_t >= begin) & (o_t < end))[None, :]
    b_x = tl.load(p_x[:, None] + (o_t * x_time)[None, :], mask=m_now, other=0.0).to(tl.float32)
    if HAS_INITIAL:
        o_column = o_t - begin + before
        m_old = m_state[:, None] & ((o_column >= 0) & (o_t < begin))[None, :]
        b_old = tl.load(p_initial[:, None] + (o_column * initial_column)[None, :], mask=m_old, other=0.0)
        b_x += b_old.to(tl.float32)
    return b_x


@triton.jit
def causal_conv1d_kernel(
    p_x,
    p_weight,
    p_bias,
    p_initial,
    p_last,
    p_y,
    p_ends,
    p_slots,
    length,
    channels,
    width,
    x_batch,
    x_channel,
    x_time,
    weight_channel,
    weight_column,
    bias_stride,
    initial_slot,
    initial_channel,
    initial_column,
    last_slot,
    last_channel,
    last_column,
    y_batch,
    y_channel,
    y_time,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_LAST: tl.constexpr,
    IS_PACKED: tl.constexpr,
    IS_POOLED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program: channels of one sequence; an output is one chain of fused multiply-adds, its bias first."""
    n_blocks = tl.cdiv(channels, BLOCK_D)
    i_sequence = (tl.program_id(0) // n_blocks).to(tl.int64)
    o_d = (tl.program_id(0) % n_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < channels
    batch, begin, end = i_sequence, tl.cast(0, tl.int64), tl.cast(length, tl.int64)
    if IS_PACKED:
        batch = tl.cast(0, tl.int64)
        begin, end = tl.load(p_ends + i_sequence), tl.load(p_ends + i_sequence + 1)
    slot = i_sequence
    if IS_POOLED:
        slot = tl.load(p_slots + i_sequence)
    m_state = o_d < tl.where(slot >= 0, channels, 0)  # a sequence without a slot has no columns to read or leave
    p_row = p_x + batch * x_batch + o_d * x_channel
    p_before = p_initial + slot * initial_slot + o_d * initial_channel
    before = width - 1
    b_bias = tl.zeros([BLOCK_D], dtype=tl.float32)
    if HAS_BIAS:
        b_bias = tl.load(p_bias + o_d * bias_stride, mask=m_d, other=0.0).to(tl.float32)

    for start in range(begin, end, BLOCK_T):
        o_t = start + tl.arange(0, BLOCK_T)
        b_y = tl.broadcast_to(b_bias[:, None], [BLOCK_D, BLOCK_T])
        for w in range(width):
            b_tap = tl.load(p_weight + o_d * weight_channel + w * weight_column, mask=m_d, other=0.0).to(tl.float32)
            b_x = _columns(
                p_row, p_before, o_t - before + w, begin, end, m_d, m_state, x_time, initial_column, before, HAS_INITIAL
            )
            b_y = tl.fma(tl.broadcast_to(b_tap[:, None], [BLOCK_D, BLOCK_T]), b_x, b_y)
        if SILU:
            b_y = silu(b_y)
        p_out = p_y + batch * y_batch + (o_d * y_channel)[:, None] + (o_t * y_time)[None, :]
        tl.store(p_out, b_y, mask=m_d[:, None] & (o_t < end)[None, :])
    if HAS_LAST:
        o_w = tl.arange(0, BLOCK_W)
        b_last = _columns(
            p_row, p_before, end - before + o_w, begin, end, m_d, m_state, x_time, initial_column, before, HAS_INITIAL
        )
        # They may go where the initial ones are: every thread has read before one writes.
        tl.debug_barrier()
        p_out = p_last + slot * last_slot + (o_d * last_channel)[:, None] + (o_w * last_column)[None, :]
        tl.store(p_out, b_last, mask=m_state[:, None] & (o_w < before)[None, :])


def causal_conv1d(
    shape: ConvShape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    last_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state_indices: Tensor | None = None,
) -> Tensor:
    """The op of `vortex_engine.ops.causal_conv1d` on tensors in device memory, in float32 whatever their dtype.

    Args:
        shape: what `conv_shape` made of the other arguments, which is their check.
        x: and all others on its device, of any strides.

    Returns:
        [B, D, L] in x's dtype and memory order.

    Raises:
        ValueError: a tensor is on the wrong device.
    """
    inputs = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state, "last_state": last_state}
    inputs |= {"cu_seqlens": cu_seqlens, "state_indices": state_indices}
    for name, tensor in inputs.items():
        if tensor is not None:
            check_device("causal_conv1d", name, tensor)
    y = torch.empty_like(x)
    block_d = min(MAX_CHANNELS, triton.next_power_of_2(shape.channels))
    n_programs = triton.cdiv(shape.channels, block_d) * shape.n_sequences
    if n_programs == 0:
        return y
    pointers = (*inputs.values(),)
    launch(
        "causal_conv1d",
        causal_conv1d_kernel,
        (n_programs, 1, 1),
        *(x if tensor is None else tensor for tensor in (*pointers[:5], y, *pointers[5:])),
        shape.length,
        shape.channels,
        shape.width,
        *x.stride(),
        *weight.stride(),
        0 if bias is None else bias.stride(0),
        *((0, 0, 0) if initial_state is None else initial_state.stride()),
        *((0, 0, 0) if last_state is None else last_state.stride()),
        *y.stride(),
        HAS_BIAS=bias is not None,
        SILU=activation is not None,
        HAS_INITIAL=initial_state is not None and shape.width > 1,
        HAS_LAST=last_state is not None and shape.width > 1,
        IS_PACKED=cu_seqlens is not None,
        IS_POOLED=state_indices is not None,
        BLOCK_D=block_d,
        BLOCK_T=min(MAX_COLUMNS, triton.next_power_of_2(max(shape.length, 1))),
        BLOCK_W=triton.next_power_of_2(max(shape.width - 1, 1)),
    )
    return y
