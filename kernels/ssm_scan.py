"""ssm_scan in device memory: one program carries the states of a block of channels of one sequence through its steps.

States stay in registers, so a step costs its own inputs and nothing else. A program does the same for every step and
knows nothing of the others: whole, in pieces or a step at a time, the bits are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from vortex_engine.kernels.launch import check_device, launch

if TYPE_CHECKING:
    from vortex_engine.ops.scan_arguments import ScanShape

__all__ = ["ssm_scan", "ssm_scan_kernel", "state_strides"]

LOG2E = tl.constexpr(1.4426950408889634)
LANES = 16  # channels side by side in a blocked array
MAX_BLOCK = 1024  # states of a program
MAX_CHANNELS = 64


@triton.jit
def softplus(x):
    """log(1 + e^x) without cancellation: log(w) / (w - 1) does not feel how w = 1 + e was rounded."""
    tail = tl.exp(-tl.abs(x))
    w = 1.0 + tail
    return tl.maximum(x, 0.0) + tl.where(w == 1.0, tail, tl.log(w) * (tail / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def ssm_scan_kernel(
    p_u,
    p_delta,
    p_A,
    p_B,
    p_C,
    p_D,
    p_z,
    p_bias,
    p_initial,
    p_last,
    p_y,
    p_ends,
    p_slots,
    length,
    channels,
    n_state,
    head_channels,
    group_channels,
    d_channels,
    u_batch,
    u_channel,
    u_time,
    delta_batch,
    delta_row,
    delta_time,
    a_block,
    a_lane,
    a_state,
    b_batch,
    b_group,
    b_state,
    b_time,
    c_batch,
    c_group,
    c_state,
    c_time,
    d_stride,
    z_batch,
    z_channel,
    z_time,
    bias_stride,
    initial_slot,
    initial_block,
    initial_lane,
    initial_state,
    last_slot,
    last_block,
    last_lane,
    last_state,
    y_batch,
    y_channel,
    y_time,
    HAS_HEADS: tl.constexpr,
    CONSTANT_B: tl.constexpr,
    CONSTANT_C: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_LAST: tl.constexpr,
    IS_PACKED: tl.constexpr,
    IS_POOLED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    """One program: channels of one sequence. A constant B or C has the stride of a channel in place of a group's."""
    n_blocks = tl.cdiv(channels, BLOCK_D)
    i_sequence = (tl.program_id(0) // n_blocks).to(tl.int64)
    o_d = (tl.program_id(0) % n_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    o_n = tl.arange(0, BLOCK_N).to(tl.int64)
    m_d = o_d < channels
    m_h = m_d[:, None] & (o_n < n_state)[None, :]
    batch, begin, end = i_sequence, tl.cast(0, tl.int64), tl.cast(length, tl.int64)
    if IS_PACKED:
        batch = tl.cast(0, tl.int64)
        begin, end = tl.load(p_ends + i_sequence), tl.load(p_ends + i_sequence + 1)
    slot = i_sequence
    if IS_POOLED:
        slot = tl.load(p_slots + i_sequence)
    # A sequence without a slot has no states to read or leave.
    m_state = m_d[:, None] & (o_n < tl.where(slot >= 0, n_state, 0))[None, :]
    o_row, o_group = o_d // head_channels, o_d // group_channels

    b_h = tl.zeros([BLOCK_D, BLOCK_N], dtype=tl.float32)
    if HAS_INITIAL:
        o_initial = slot * initial_slot + (o_d // LANES) * initial_block + (o_d % LANES) * initial_lane
        p_h = p_initial + o_initial[:, None] + (o_n * initial_state)[None, :]
        b_h = tl.load(p_h, mask=m_state, other=0.0).to(tl.float32)
        # The last states may go where these are: every thread has read before one writes.
        tl.debug_barrier()
    if HAS_HEADS:
        b_rate = tl.load(p_A + o_row * a_block, mask=m_d, other=0.0).to(tl.float32)[:, None]
    else:
        o_rate = (o_d // LANES) * a_block + (o_d % LANES) * a_lane
        b_rate = tl.load(p_A + o_rate[:, None] + (o_n * a_state)[None, :], mask=m_h, other=0.0).to(tl.float32)
    o_b = batch * b_batch + o_n[None, :] * b_state
    o_c = batch * c_batch + o_n[None, :] * c_state
    if CONSTANT_B:
        b_b = tl.load(p_B + o_b + o_d[:, None] * b_group, mask=m_h, other=0.0).to(tl.float32)
    else:
        o_b += o_group[:, None] * b_group
    if CONSTANT_C:
        b_c = tl.load(p_C + o_c + o_d[:, None] * c_group, mask=m_h, other=0.0).to(tl.float32)
    else:
        o_c += o_group[:, None] * c_group
    if HAS_BIAS:
        b_bias = tl.load(p_bias + o_row * bias_stride, mask=m_d, other=0.0).to(tl.float32)
    if HAS_D:
        b_skip = tl.load(p_D + (o_d // d_channels) * d_stride, mask=m_d, other=0.0).to(tl.float32)

    for t in range(begin, end):
        b_dt = tl.load(p_delta + batch * delta_batch + o_row * delta_row + t * delta_time, mask=m_d, other=0.0)
        b_dt = b_dt.to(tl.float32)
        if HAS_BIAS:
            b_dt += b_bias
        if SOFTPLUS:
            b_dt = softplus(b_dt)
        b_u = tl.load(p_u + batch * u_batch + o_d * u_channel + t * u_time, mask=m_d, other=0.0).to(tl.float32)
        if not CONSTANT_B:
            b_b = tl.load(p_B + o_b + t * b_time, mask=m_h, other=0.0).to(tl.float32)
        if not CONSTANT_C:
            b_c = tl.load(p_C + o_c + t * c_time, mask=m_h, other=0.0).to(tl.float32)
        b_decay = tl.broadcast_to(tl.exp2((b_dt * LOG2E)[:, None] * b_rate), [BLOCK_D, BLOCK_N])
        b_h = tl.fma(b_h, b_decay, (b_dt * b_u)[:, None] * b_b)
        b_y = tl.sum(b_h * b_c, axis=1)
        if HAS_D:
            b_y = tl.fma(b_skip, b_u, b_y)
        if HAS_Z:
            b_z = tl.load(p_z + batch * z_batch + o_d * z_channel + t * z_time, mask=m_d, other=0.0)
            b_y *= silu(b_z.to(tl.float32))
        tl.store(p_y + batch * y_batch + o_d * y_channel + t * y_time, b_y, mask=m_d)
    if HAS_LAST:
        o_last = slot * last_slot + (o_d // LANES) * last_block + (o_d % LANES) * last_lane
        tl.store(p_last + o_last[:, None] + (o_n * last_state)[None, :], b_h, mask=m_state)


def ssm_scan(
    shape: ScanShape,
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
    last_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state_indices: Tensor | None = None,
) -> Tensor:
    """The op of `vortex_engine.ops.ssm_scan` on tensors in device memory, in float32 whatever their floating dtype.

    Args:
        shape: what `scan_shape` made of the other arguments, which is their check.
        u: and all others on its device, of any strides.

    Returns:
        [B, D, L] in u's dtype and memory order.

    Raises:
        ValueError: a tensor is on the wrong device.
    """
    inputs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    inputs |= {"initial_state": initial_state, "last_state": last_state}
    inputs |= {"cu_seqlens": cu_seqlens, "state_indices": state_indices}
    for name, tensor in inputs.items():
        if tensor is not None:
            check_device("ssm_scan", name, tensor)
    y = torch.empty_like(u)
    block_n = triton.next_power_of_2(shape.n_state)
    block_d = min(max(MAX_BLOCK // block_n, 1), MAX_CHANNELS, triton.next_power_of_2(shape.channels))
    n_programs = triton.cdiv(shape.channels, block_d) * shape.n_sequences
    if n_programs == 0:
        return y
    pointers = (*inputs.values(),)
    launch(
        "ssm_scan",
        ssm_scan_kernel,
        (n_programs, 1, 1),
        *(u if tensor is None else tensor for tensor in (*pointers[:10], y, *pointers[10:])),
        shape.length,
        shape.channels,
        shape.n_state,
        shape.channels // (shape.heads or shape.channels),
        shape.channels // shape.groups,
        1 if D is None else shape.channels // D.shape[0],
        *u.stride(),
        *delta.stride(),
        *((A.stride(0), 0, 0) if shape.heads else state_strides(A)),
        *_readout_strides(B),
        *_readout_strides(C),
        0 if D is None else D.stride(0),
        *((0, 0, 0) if z is None else z.stride()),
        0 if delta_bias is None else delta_bias.stride(0),
        *_pool_strides(initial_state),
        *_pool_strides(last_state),
        *y.stride(),
        HAS_HEADS=shape.heads is not None,
        CONSTANT_B=B.dim() == 2,
        CONSTANT_C=C.dim() == 2,
        HAS_D=D is not None,
        HAS_Z=z is not None,
        HAS_BIAS=delta_bias is not None,
        SOFTPLUS=delta_softplus,
        HAS_INITIAL=initial_state is not None,
        HAS_LAST=last_state is not None,
        IS_PACKED=cu_seqlens is not None,
        IS_POOLED=state_indices is not None,
        BLOCK_D=block_d,
        BLOCK_N=block_n,
        LANES=LANES,
    )
    return y


def state_strides(values: Tensor) -> tuple[int, int, int]:
    """Strides of a block of 16 channels, of a channel in it and of a state: of [D, N], or blocked [D / 16, N, 16]."""
    if values.dim() == 3:
        return values.stride(0), values.stride(2), values.stride(1)
    return LANES * values.stride(0), values.stride(0), values.stride(1)


def _pool_strides(states: Tensor | None) -> tuple[int, int, int, int]:
    if states is None or states.shape[0] == 0:
        return 0, 0, 0, 0
    return (states.stride(0), *state_strides(states[0]))


def _readout_strides(x: Tensor) -> tuple[int, int, int, int]:
    """Strides of batch, group, state and time; of a channel in the group's place where B or C is constant."""
    if x.dim() == 2:
        return 0, x.stride(0), x.stride(1), 0
    if x.dim() == 3:
        return x.stride(0), 0, x.stride(1), x.stride(2)
    batch, group, state, time = x.stride()
    return batch, group, state, time
