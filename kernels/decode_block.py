"""One block of a tile (8 columns of 64 rows) decoded into registers: one device function a codec.

Every function gives bit patterns [8, 64] as uint32, column by lane. Lane y is the row whose byte is byte y of a 64-byte
vector of the `exact` codec (csrc/c3/FORMAT.md section 5), so that its loads are contiguous; `lane_rows` names that row.
Exponents are base + code, without a table. Escapes are added by one-hot products: 16 entries of a block's list make a
column matrix [8, 16] that holds exponents and a row matrix [16, 64] of ones, whose product is the exponents in their
places. A block without escapes does no step of that loop, and no thread of a program ever takes a path of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["decode_block", "lane_rows", "to_float32"]

RAW = tl.constexpr(0)
EXACT = tl.constexpr(1)
INT8 = tl.constexpr(2)
BF16 = tl.constexpr(1)
F16 = tl.constexpr(2)
PREFIX_BLOCK_BYTES = tl.constexpr(320)
ESCAPES_A_STEP = tl.constexpr(16)  # the inner dimension of one matrix instruction


@triton.jit
def lane_rows():
    """Row of each lane: lane 16i + 8h + 2t + u is row 32h + 16u + 4i + t."""
    o_lane = tl.arange(0, 64)
    return (o_lane >> 3 & 1) * 32 + (o_lane & 1) * 16 + (o_lane >> 4) * 4 + (o_lane >> 1 & 3)


@triton.jit
def to_float32(b_pattern, DTYPE: tl.constexpr):
    """The float32 values of bit patterns; exact."""
    if DTYPE == BF16:
        return (b_pattern << 16).to(tl.float32, bitcast=True)
    elif DTYPE == F16:
        return b_pattern.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return b_pattern.to(tl.float32, bitcast=True)


@triton.jit
def decode_raw(p_arena, planes, i_block, n_cols, DTYPE: tl.constexpr):
    """A raw block: the weights of a column lie together in row order; columns past the tile's last are zero."""
    o_column = i_block * 8 + tl.arange(0, 8)
    o_weight = o_column[:, None].to(tl.int64) * 64 + lane_rows()[None, :]
    m_column = (o_column < n_cols)[:, None]
    if DTYPE == BF16 or DTYPE == F16:  # noqa: SIM109 - Triton knows no `in`
        p_weight = (p_arena + planes).to(tl.pointer_type(tl.uint16)) + o_weight
    else:
        p_weight = (p_arena + planes).to(tl.pointer_type(tl.uint32)) + o_weight
    return tl.load(p_weight, mask=m_column, other=0).to(tl.uint32)


@triton.jit
def decode_int(p_arena, planes, i_block, BITS: tl.constexpr):
    """An integer block: float32 patterns of (unit * scale) * (u - zero), as the specification rounds them.

    The u of a row lie in words of 32 bits; a byte of one holds a whole u of 8 bits or two of 4.
    """
    PARAMETER_BYTES: tl.constexpr = 64 if BITS == 8 else 128
    o_row = lane_rows()
    o_place = i_block % 4 * 8 + tl.arange(0, 8)  # in the group of 32 columns
    o_bit = o_place * BITS % 32
    p_panel = p_arena + planes
    p_group = p_panel + 256 + tl.cast(i_block // 4, tl.int64) * (PARAMETER_BYTES + 32 * BITS * 8)
    p_byte = p_group + PARAMETER_BYTES + (o_place * BITS // 32 * 256 + o_bit // 8)[:, None] + (o_row * 4)[None, :]
    b_u = tl.load(p_byte).to(tl.uint32) >> (o_bit % 8).to(tl.uint32)[:, None] & ((1 << BITS) - 1)
    b_scale = tl.load(p_panel.to(tl.pointer_type(tl.float32)) + o_row) * tl.load(p_group + o_row).to(tl.float32)
    if BITS == 8:
        b_centred = b_u.to(tl.float32) - 128.0
    else:
        b_centred = b_u.to(tl.float32) - (tl.load(p_group + 64 + o_row).to(tl.float32) * 0.0625)[None, :]
    return (b_scale[None, :] * b_centred).to(tl.uint32, bitcast=True)


@triton.jit
def _escape_exponents(b_exponent, position, value, m_entry):
    """ORs 16 exponents into their places of a block; position = column * 64 + row."""
    b_column = ((position >> 6 & 7)[None, :] == tl.arange(0, 8)[:, None]) & m_entry[None, :]
    b_values = tl.where(b_column, (value & 255)[None, :], 0).to(tl.float16)  # [8, 16]
    b_ones = ((position & 63)[:, None] == lane_rows()[None, :]).to(tl.float16)  # [16, 64]
    return b_exponent | tl.dot(b_values, b_ones, out_dtype=tl.float32).to(tl.uint32)


@triton.jit
def _low_six_bits(p_rest):
    """Six bits of each weight: of four columns, the fourth lies in the top bits of the vectors of the other three."""
    o_column = tl.arange(0, 8)
    o_lane = tl.arange(0, 64)
    p_group = p_rest + (o_column // 4 * 192)[:, None] + o_lane[None, :]
    m_fourth = (o_column % 4 == 3)[:, None] & (o_lane >= 0)[None, :]
    o_own = (tl.where(o_column % 4 == 3, 0, o_column % 4) * 64)[:, None]
    b_own = tl.load(p_group + o_own).to(tl.uint32)
    b_second = tl.load(p_group + 64, mask=m_fourth, other=0).to(tl.uint32)
    b_third = tl.load(p_group + 128, mask=m_fourth, other=0).to(tl.uint32)
    b_fourth = (b_own >> 6) | (b_second >> 6) << 2 | (b_third >> 6) << 4
    return tl.where(m_fourth, b_fourth, b_own & 63)


@triton.jit
def decode_exact(p_arena, p_starts, planes, rest, near, far, start, base, i_block, DTYPE: tl.constexpr):
    """An exact block: signs, codes and mantissas from byte planes, then the block's near and far escapes."""
    o_column = tl.arange(0, 8)
    o_lane = tl.arange(0, 64)
    p_prefix = p_arena + planes + tl.cast(i_block, tl.int64) * PREFIX_BLOCK_BYTES
    b_pair = tl.load(p_prefix + (o_column // 2 * 64)[:, None] + o_lane[None, :]).to(tl.uint32)
    b_nibble = b_pair >> (o_column % 2 * 4).to(tl.uint32)[:, None]
    b_code = b_nibble & 7
    b_top = tl.load(p_prefix + 256 + o_lane).to(tl.uint32)[None, :] >> o_column.to(tl.uint32)[:, None] & 1
    if DTYPE == BF16:
        p_rest = p_arena + rest + tl.cast(i_block, tl.int64) * 384
        b_mantissa = b_top << 6 | _low_six_bits(p_rest)
    elif DTYPE == F16:
        p_rest = p_arena + rest + tl.cast(i_block, tl.int64) * 576
        b_low = tl.load(p_rest + (o_column * 64)[:, None] + o_lane[None, :]).to(tl.uint32)
        b_ninth = tl.load(p_rest + 512 + o_lane).to(tl.uint32)[None, :] >> o_column.to(tl.uint32)[:, None] & 1
        b_mantissa = b_top << 9 | b_ninth << 8 | b_low
    else:
        p_rest = p_arena + rest + tl.cast(i_block, tl.int64) * 1408
        p_bytes = p_rest + (o_column * 128)[:, None] + o_lane[None, :]
        b_low = tl.load(p_bytes).to(tl.uint32) | tl.load(p_bytes + 64).to(tl.uint32) << 8
        b_mantissa = b_top << 22 | _low_six_bits(p_rest + 1024) << 16 | b_low

    b_exponent = tl.where(b_code == 0, 0, b_code + base.to(tl.uint32))
    o_entry = tl.arange(0, ESCAPES_A_STEP)
    p_start = p_starts + (start + i_block) * 2
    near_end = tl.load(p_start + 2)
    for i_near in range(tl.load(p_start), near_end, ESCAPES_A_STEP):
        m_entry = i_near + o_entry < near_end
        p_near = (p_arena + near).to(tl.pointer_type(tl.uint16)) + tl.cast(i_near, tl.int64) + o_entry
        b_near = tl.load(p_near, mask=m_entry, other=0).to(tl.int32)
        b_exponent = _escape_exponents(b_exponent, b_near & 511, base.to(tl.int32) - (b_near >> 9), m_entry)
    far_end = tl.load(p_start + 3)
    for i_far in range(tl.load(p_start + 1), far_end, ESCAPES_A_STEP):
        m_entry = i_far + o_entry < far_end
        p_far = (p_arena + far).to(tl.pointer_type(tl.uint32)) + tl.cast(i_far, tl.int64) + o_entry
        b_far = tl.load(p_far, mask=m_entry, other=0)
        b_exponent = _escape_exponents(b_exponent, (b_far & 511).to(tl.int32), (b_far >> 24).to(tl.int32), m_entry)

    b_sign = b_nibble >> 3 & 1
    if DTYPE == F16:
        return b_sign << 15 | (b_exponent & 31) << 10 | b_mantissa
    elif DTYPE == BF16:
        return b_sign << 15 | (b_exponent & 255) << 7 | b_mantissa
    else:
        return b_sign << 31 | (b_exponent & 255) << 23 | b_mantissa


@triton.jit
def decode_block(
    p_arena, p_starts, p_strip, i_block, n_cols, CODEC: tl.constexpr, DTYPE: tl.constexpr
):  # fields of p_strip: tiles.py
    """Bit patterns [8, 64] of block i_block of a strip."""
    planes = tl.load(p_strip)
    if CODEC == RAW:
        return decode_raw(p_arena, planes, i_block, n_cols, DTYPE)
    elif CODEC != EXACT:
        return decode_int(p_arena, planes, i_block, 8 if CODEC == INT8 else 4)
    else:
        rest = tl.load(p_strip + 1)
        near = tl.load(p_strip + 2)
        far = tl.load(p_strip + 3)
        start = tl.load(p_strip + 4)
        base = tl.load(p_strip + 5)
        return decode_exact(p_arena, p_starts, planes, rest, near, far, start, base, i_block, DTYPE)
