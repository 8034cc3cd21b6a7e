"""paged_linear over tiles in device memory: decode and multiply in registers, one order of additions for every shape.

Order of one output (row m, column n of x W^T). Columns k are cut into segments of 256 at multiples of 256. In a
segment eight chains run: chain j is fused multiply-adds over the columns k = j mod 8, ascending, from zero. Their sums
are added as ((0+1)+(2+3))+((4+5)+(6+7)); then the segments' sums are added to the first one after another, ascending,
and the bias last. That depends on K only: not on the number of rows, on where the tiles are cut, or on their codecs.
Fused multiply-adds are written out and nothing is contracted, so it holds whatever layout the compiler chooses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from vortex_engine.kernels.decode_block import decode_block, lane_rows, to_float32
from vortex_engine.kernels.launch import check_device, launch
from vortex_engine.kernels.tiles import COL0, N_COLS, N_FIELDS, VARIANT, DeviceMatrix

__all__ = ["SEGMENT_COLS", "paged_linear", "partial_kernel", "sum_kernel"]

SEGMENT_COLS = 256
MAX_BLOCK_ROWS = 16  # rows of x that share a decode; more take another program
_SUM_COLS = 128


@triton.jit
def _multiply_blocks(
    b_acc, p_arena, p_starts, p_strip, p_x, m_row, n_cols, first, last, VARIANT: tl.constexpr, BLOCK_M: tl.constexpr
):
    """b_acc [BLOCK_M, 8, 64] after the blocks first .. last - 1 of a strip; its middle dimension is k mod 8.

    p_x [BLOCK_M] points to the strip's first column in rows of x, of which m_row [BLOCK_M] says whether they exist.
    """
    for i_block in range(first, last):
        b_pattern = decode_block(p_arena, p_starts, p_strip, i_block, n_cols, VARIANT // 4, VARIANT % 4)
        o_column = i_block * 8 + tl.arange(0, 8)
        m_column = o_column < n_cols
        # Nobody checks what the padding of a tile's last block decodes to.
        b_weight = tl.where(m_column[:, None], to_float32(b_pattern, VARIANT % 4), 0.0)
        p_value = p_x[:, None] + o_column[None, :]
        b_x = tl.load(p_value, mask=m_row[:, None] & m_column[None, :], other=0.0)  # [BLOCK_M, 8]
        b_weight = tl.broadcast_to(b_weight[None, :, :], [BLOCK_M, 8, 64])
        b_acc = tl.fma(b_weight, tl.broadcast_to(b_x[:, :, None], [BLOCK_M, 8, 64]), b_acc)
    return b_acc


@triton.jit
def _add_neighbours(b_sums, BLOCK_M: tl.constexpr, N: tl.constexpr):
    """[BLOCK_M, 64, N] -> [BLOCK_M, 64, N / 2]: elements 2i and 2i + 1 of the last dimension added."""
    b_even, b_odd = tl.split(tl.reshape(b_sums, [BLOCK_M, 64, N // 2, 2]))
    return b_even + b_odd


@triton.jit(do_not_specialize=["n_rows"])
def partial_kernel(
    p_arena,
    p_strips,
    p_first_strip,
    p_starts,
    p_x,
    p_partial,
    n_rows,
    in_features,
    out_features,
    VARIANTS: tl.constexpr,
    VARIANT_LIMIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SEGMENT: tl.constexpr,
    FIELDS: tl.constexpr,
    FIELD_COL0: tl.constexpr,
    FIELD_N_COLS: tl.constexpr,
    FIELD_VARIANT: tl.constexpr,
):
    """One program: 64 rows of W by one segment of columns by BLOCK_M rows of x."""
    i_panel = tl.program_id(0)
    i_segment = tl.program_id(1).to(tl.int64)
    o_m = tl.program_id(2).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_row = o_m < n_rows
    p_row = p_x + o_m * in_features
    b_acc = tl.zeros([BLOCK_M, 8, 64], dtype=tl.float32)
    begin = i_segment * SEGMENT
    end = tl.minimum(begin + SEGMENT, in_features)
    for i_strip in range(tl.load(p_first_strip + i_panel), tl.load(p_first_strip + i_panel + 1)):
        p_strip = p_strips + tl.cast(i_strip, tl.int64) * FIELDS
        col0 = tl.load(p_strip + FIELD_COL0)
        n_cols = tl.load(p_strip + FIELD_N_COLS)
        variant = tl.load(p_strip + FIELD_VARIANT)
        # No blocks when the strip and the segment do not meet.
        first = (tl.maximum(begin - col0, 0) // 8).to(tl.int32)
        last = tl.cdiv(tl.maximum(tl.minimum(end - col0, n_cols), 0), 8).to(tl.int32)
        for i_variant in tl.static_range(VARIANT_LIMIT):
            if VARIANTS >> i_variant & 1:  # noqa: SIM102 - this is decided by the compiler, the next on the device
                if variant == i_variant:
                    b_acc = _multiply_blocks(
                        b_acc, p_arena, p_starts, p_strip, p_row + col0, m_row, n_cols, first, last, i_variant, BLOCK_M
                    )
    b_sums = tl.permute(b_acc, [0, 2, 1])
    b_sums = _add_neighbours(b_sums, BLOCK_M, 8)
    b_sums = _add_neighbours(b_sums, BLOCK_M, 4)
    b_sums = tl.reshape(_add_neighbours(b_sums, BLOCK_M, 2), [BLOCK_M, 64])
    o_n = i_panel.to(tl.int64) * 64 + lane_rows()
    m_out = m_row[:, None] & (o_n < out_features)[None, :]
    p_out = p_partial + (i_segment * n_rows + o_m)[:, None] * out_features + o_n[None, :]
    tl.store(p_out, b_sums, mask=m_out)


@triton.jit(do_not_specialize=["n_rows"])
def sum_kernel(
    p_partial, p_bias, p_out, n_rows, out_features, n_segments, HAS_BIAS: tl.constexpr, BLOCK_N: tl.constexpr
):
    """One program: BLOCK_N outputs of one row."""
    i_m = tl.program_id(0).to(tl.int64)
    o_n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = o_n < out_features
    b_sum = tl.load(p_partial + i_m * out_features + o_n, mask=m_n, other=0.0)
    for i_segment in range(1, n_segments):
        p_part = p_partial + (tl.cast(i_segment, tl.int64) * n_rows + i_m) * out_features + o_n
        b_sum += tl.load(p_part, mask=m_n, other=0.0)
    if HAS_BIAS:
        b_sum += tl.load(p_bias + o_n, mask=m_n, other=0.0)
    tl.store(p_out + i_m * out_features + o_n, b_sum, mask=m_n)


def paged_linear(matrix: DeviceMatrix, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias with W read from compressed tiles in device memory; decoded weights never leave registers.

    Args:
        x: [M, K] float32, contiguous, on the matrix's device; bias: [N] float32, likewise.

    Returns:
        [M, N] float32; the order of additions is the module's. Takes 4 M N ceil(K / 256) bytes of scratch.

    Raises:
        ValueError: a shape, dtype or device is wrong.
    """
    op = "paged_linear"
    check_device(op, "the arena", matrix.arena)
    _expect(op, "x", x, matrix, (x.shape[0] if x.dim() == 2 else 0, matrix.cols))
    if bias is not None:
        _expect(op, "bias", bias, matrix, (matrix.rows,))
    n_rows = x.shape[0]
    out = torch.empty((n_rows, matrix.rows), dtype=torch.float32, device=x.device)
    if n_rows == 0:
        return out
    n_segments = -(-matrix.cols // SEGMENT_COLS)
    partial = torch.empty((n_segments, n_rows, matrix.rows), dtype=torch.float32, device=x.device)
    block_rows = min(MAX_BLOCK_ROWS, triton.next_power_of_2(n_rows))
    launch(
        op,
        partial_kernel,
        (matrix.first_strip.numel() - 1, n_segments, -(-n_rows // block_rows)),
        matrix.arena,
        matrix.table,
        matrix.first_strip,
        matrix.starts,
        x,
        partial,
        n_rows,
        matrix.cols,
        matrix.rows,
        VARIANTS=matrix.variants,
        VARIANT_LIMIT=matrix.variants.bit_length(),
        BLOCK_M=block_rows,
        SEGMENT=SEGMENT_COLS,
        FIELDS=N_FIELDS,
        FIELD_COL0=COL0,
        FIELD_N_COLS=N_COLS,
        FIELD_VARIANT=VARIANT,
    )
    launch(
        op,
        sum_kernel,
        (n_rows, -(-matrix.rows // _SUM_COLS), 1),
        partial,
        bias,
        out,
        n_rows,
        matrix.rows,
        n_segments,
        HAS_BIAS=bias is not None,
        BLOCK_N=_SUM_COLS,
    )
    return out


def _expect(op: str, name: str, tensor: Tensor, matrix: DeviceMatrix, shape: tuple[int, ...]) -> None:
    good = tensor.shape == shape and tensor.dtype == torch.float32 and tensor.is_contiguous()
    if not good or tensor.device != matrix.arena.device:
        wanted = f"contiguous float32 {list(shape)} on {matrix.arena.device}"
        got = f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
        raise ValueError(f"[{op}] {name} must be {wanted}, got {got}")
