"""The tile codec in numpy: the executable form of csrc/c3/FORMAT.md, as plain as it gets and slow.

Weights are bit patterns: uint16 for bf16 and fp16, uint32 for fp32. Inside this file a tile is an array
[panel, block, column of the block, row of the panel].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine.ops import reference_dense, reference_exact12, reference_lz4
from vortex_engine.ops.reference_integers import decode_integers
from vortex_engine.ops.reference_vectors import BYTE_OF_ROW, ROW_OF_BYTE

__all__ = ["EXACT", "decode_prefix", "decode_tile", "encode_tile", "encode_tiles", "to_float32"]

Patterns = NDArray[Any]
EncodedTile = tuple[bytes, bytes, int, int]

RAW, EXACT, INT8, INT4, LZ4, EXACT12, DENSE = range(7)
BF16, F16, F32 = 1, 2, 3
PANEL_ROWS, BLOCK_COLS, BLOCK_WEIGHTS = 64, 8, 512
PREFIX_BLOCK_BYTES = 320
WINDOW = 7
MAX_NEAR_DISTANCE, MAX_NEAR_PER_BLOCK = 127, 255


@dataclass(frozen=True)
class _Layout:
    exponent_bits: int
    mantissa_bits: int

    @property
    def item(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.exponent_bits + self.mantissa_bits == 15 else "<u4")

    @property
    def residual_bits(self) -> int:
        return self.mantissa_bits - 1

    @property
    def sign_shift(self) -> int:
        return self.exponent_bits + self.mantissa_bits


_LAYOUTS = {BF16: _Layout(8, 7), F16: _Layout(5, 10), F32: _Layout(8, 23)}


def _layout(op: str, codec: int, dtype: int) -> _Layout:
    if not RAW <= codec <= DENSE:
        names = "0 (raw), 1 (exact), 2 (int8), 3 (int4), 4 (lz4), 5 (exact12) or 6 (dense)"
        raise ValueError(f"[{op}] codec must be {names}, got {codec}")
    if dtype not in _LAYOUTS:
        raise ValueError(f"[{op}] dtype must be 1 (bf16), 2 (f16) or 3 (f32), got {dtype}")
    return _LAYOUTS[dtype]


def to_float32(patterns: Patterns, dtype: int) -> NDArray[np.float32]:
    """The exact float32 values of bit patterns of `dtype` (1 bf16, 2 fp16, 3 fp32)."""
    if dtype == BF16:
        return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == F16:
        return np.ascontiguousarray(patterns, np.uint16).view(np.float16).astype(np.float32)
    return np.ascontiguousarray(patterns, np.uint32).view(np.float32)


def decode_tile(codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes) -> Patterns:
    """Bit patterns [n_rows, n_cols] of a tile.

    Raises:
        ValueError: the bytes do not have the structure that codec, dtype and shape promise.
    """
    layout = _layout("tile_decode", codec, dtype)
    if n_rows < 1 or n_cols < 1:
        raise ValueError(f"[tile_decode] the shape must be positive, got {n_rows} x {n_cols}")
    panels, blocks = -(-n_rows // PANEL_ROWS), -(-n_cols // BLOCK_COLS)
    if codec in (INT8, INT4):
        return decode_integers(codec, dtype, n_rows, n_cols, prefix, residual)
    if codec != EXACT:
        columns = _decode_columns(codec, dtype, n_rows, n_cols, prefix, residual)
        return columns.transpose(0, 2, 1).reshape(-1, n_cols)[:n_rows].astype(layout.item)

    table_bytes, n_blocks = _table_bytes(panels), panels * blocks
    planes_end = table_bytes + n_blocks * PREFIX_BLOCK_BYTES
    residual_planes_end = n_blocks * layout.residual_bits * 64
    if len(prefix) < planes_end:
        _expect_sizes(prefix, residual, planes_end, residual_planes_end)
    table = np.frombuffer(prefix, "<u4", panels * 4).reshape(panels, 4).astype(np.int64)
    base, n_far, n_near = table[:, 0], table[:, 1], table[:, 2]
    if (base > (1 << layout.exponent_bits) - 1 - WINDOW).any() or table[:, 3].any():
        raise ValueError("[tile_decode] a panel's table entry is not valid")
    counts_end = residual_planes_end + n_blocks + n_blocks % 2
    _expect_sizes(prefix, residual, planes_end + 4 * int(n_far.sum()), counts_end + 2 * int(n_near.sum()))

    signs_codes, top = _read_prefix(np.frombuffer(prefix, np.uint8)[table_bytes:planes_end], panels, blocks)
    low = _read_residual(np.frombuffer(residual, np.uint8)[:residual_planes_end], panels, blocks, layout)
    codes = signs_codes & 7
    exponents = np.ascontiguousarray(np.where(codes != 0, base[:, None, None, None] + codes, 0))

    flat = exponents.reshape(panels, -1)  # [panel, block*512 + column*64 + row]
    counts = np.frombuffer(residual, np.uint8, n_blocks, residual_planes_end).astype(np.int64)
    if (counts.reshape(panels, blocks).sum(1) != n_near).any():
        raise ValueError("[tile_decode] the near escapes of a panel do not add up")
    near = np.frombuffer(residual, "<u2", offset=counts_end).astype(np.int64)
    of_block = np.repeat(np.arange(n_blocks), counts)
    panel_of_near = of_block // blocks
    place_of_near = of_block % blocks * BLOCK_WEIGHTS + (near & 511)
    # An escaped weight has code 0, hence exponent 0 so far; OR says what happens where hostile bytes break that.
    np.bitwise_or.at(flat, (panel_of_near, place_of_near), base[panel_of_near] - (near >> 9))
    far = np.frombuffer(prefix, "<u4", offset=planes_end).astype(np.int64)
    panel_of_far = np.repeat(np.arange(panels), n_far)
    places = far & 0xFFFFFF
    ordered = panel_of_far[1:] != panel_of_far[:-1]
    if (places >= blocks * BLOCK_WEIGHTS).any() or not (ordered | (places[1:] > places[:-1])).all():
        raise ValueError("[tile_decode] a far escape is out of order or range")
    np.bitwise_or.at(flat, (panel_of_far, places), far >> 24)

    mask = (1 << layout.exponent_bits) - 1
    weights = (signs_codes >> 3) << layout.sign_shift | (exponents & mask) << layout.mantissa_bits
    weights = weights | top << layout.residual_bits | low
    return weights.transpose(0, 3, 1, 2).reshape(panels * PANEL_ROWS, -1)[:n_rows, :n_cols].astype(layout.item)


def decode_prefix(dtype: int, n_rows: int, n_cols: int, prefix: bytes) -> Patterns:
    """Bit patterns [n_rows, n_cols] that the prefix of an `exact` tile stands for without its residual."""
    layout = _layout("tile_decode", EXACT, dtype)
    panels, blocks = -(-n_rows // PANEL_ROWS), -(-n_cols // BLOCK_COLS)
    table_bytes = _table_bytes(panels)
    planes_end = table_bytes + panels * blocks * PREFIX_BLOCK_BYTES
    if len(prefix) < planes_end:
        raise ValueError(f"[tile_decode] the prefix must hold at least {planes_end} bytes, got {len(prefix)}")
    table = np.frombuffer(prefix, "<u4", panels * 4).reshape(panels, 4).astype(np.int64)
    if len(prefix) != planes_end + 4 * int(table[:, 1].sum()):
        raise ValueError("[tile_decode] the far escapes of a prefix do not add up")
    signs_codes, top = _read_prefix(np.frombuffer(prefix, np.uint8)[table_bytes:planes_end], panels, blocks)
    codes = signs_codes & 7
    exponents = np.ascontiguousarray(np.where(codes != 0, table[:, 0, None, None, None] + codes, 0))
    known = np.ascontiguousarray(codes != 0)
    far = np.frombuffer(prefix, "<u4", offset=planes_end).astype(np.int64)
    places = np.repeat(np.arange(panels), table[:, 1]), far & 0xFFFFFF
    if (places[1] >= blocks * BLOCK_WEIGHTS).any():
        raise ValueError("[tile_decode] a far escape is out of range")
    exponents.reshape(panels, -1)[places] = far >> 24
    known.reshape(panels, -1)[places] = True

    mask = (1 << layout.exponent_bits) - 1
    middle = top << layout.residual_bits | 1 << layout.residual_bits - 1
    weights = (signs_codes >> 3) << layout.sign_shift
    weights = weights | np.where(known, (exponents & mask) << layout.mantissa_bits | middle, 0)
    return weights.transpose(0, 3, 1, 2).reshape(panels * PANEL_ROWS, -1)[:n_rows, :n_cols].astype(layout.item)


def _decode_columns(codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes) -> Patterns:
    """Weights [panel, column, row of the panel] of a codec that keeps whole weights together."""
    item = _LAYOUTS[dtype].item
    panels, panel_bytes = -(-n_rows // PANEL_ROWS), n_cols * PANEL_ROWS * item.itemsize
    _expect_sizes(prefix, residual, panels * panel_bytes if codec == RAW else len(prefix), 0)
    if codec == DENSE:
        return reference_dense.decode_panels(prefix, dtype, n_rows, n_cols)
    if codec == EXACT12:
        return reference_exact12.decode_panels(prefix, dtype, panels, n_cols)
    raw = reference_lz4.decode_blocks(prefix, panels, panel_bytes) if codec == LZ4 else prefix
    return np.frombuffer(raw, item).reshape(panels, n_cols, PANEL_ROWS)


def _table_bytes(panels: int) -> int:
    return -(-panels * 16 // 64) * 64


def _expect_sizes(prefix: bytes, residual: bytes, prefix_bytes: int, residual_bytes: int) -> None:
    if (len(prefix), len(residual)) != (prefix_bytes, residual_bytes):
        raise ValueError(
            f"[tile_decode] ranges must hold {prefix_bytes} + {residual_bytes} bytes, "
            f"got {len(prefix)} + {len(residual)}"
        )


def _read_prefix(planes: NDArray[np.uint8], panels: int, blocks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nibbles (sign << 3 | code) and top mantissa bits."""
    vectors = planes.reshape(panels, blocks, 5, 64)[..., BYTE_OF_ROW].astype(np.int64)
    nibbles = np.stack([vectors[:, :, :4] & 15, vectors[:, :, :4] >> 4], axis=3).reshape(panels, blocks, 8, 64)
    top = vectors[:, :, 4:] >> np.arange(BLOCK_COLS)[:, None] & 1
    return nibbles, top


def _read_residual(planes: NDArray[np.uint8], panels: int, blocks: int, layout: _Layout) -> NDArray[np.int64]:
    """Mantissa bits below the top one."""
    n_bytes, rest_bits = divmod(layout.residual_bits, 8)
    vectors = planes.reshape(panels, blocks, layout.residual_bits, 64)[..., BYTE_OF_ROW].astype(np.int64)
    whole = vectors[:, :, : BLOCK_COLS * n_bytes].reshape(panels, blocks, BLOCK_COLS, n_bytes, 64)
    low = (whole << 8 * np.arange(n_bytes)[:, None]).sum(axis=3)
    rest = vectors[:, :, BLOCK_COLS * n_bytes :]
    if rest_bits == 1:
        high = rest >> np.arange(BLOCK_COLS)[:, None] & 1
    else:
        groups = rest.reshape(panels, blocks, 2, 3, 64)
        fourth = (groups >> 6 << np.array([0, 2, 4])[:, None]).sum(axis=3, keepdims=True)
        high = np.concatenate([groups & 63, fourth], axis=3).reshape(panels, blocks, BLOCK_COLS, 64)
    return low | high << 8 * n_bytes


def encode_tiles(
    slab: NDArray[np.uint8],
    rows: int,
    cols: int,
    dtype: int,
    codec: int,
    tiles: list[tuple[int, int, int, int]],
) -> list[EncodedTile]:
    """Tiles (row0, n_rows, col0, n_cols) of a slab of row-major weights, as (prefix, residual, codec, dtype) each."""
    layout = _layout("tile_encode", codec, dtype)
    if slab.size < rows * cols * layout.item.itemsize:
        raise ValueError(f"[tile_encode] slab must hold {rows} x {cols} weights, got {slab.size} bytes")
    weights = slab.reshape(-1)[: rows * cols * layout.item.itemsize].view(layout.item).reshape(rows, cols)
    encoded: list[EncodedTile] = []
    for row0, n_rows, col0, n_cols in tiles:
        if row0 < 0 or n_rows < 1 or row0 + n_rows > rows or col0 < 0 or n_cols < 1 or col0 + n_cols > cols:
            raise ValueError(f"[tile_encode] a tile must lie inside the slab, got {(row0, n_rows, col0, n_cols)}")
        encoded.append(encode_tile(weights[row0 : row0 + n_rows, col0 : col0 + n_cols], dtype, codec))
    return encoded


def encode_tile(weights: Patterns, dtype: int, codec: int) -> EncodedTile:
    """(prefix, residual, codec, dtype) of bit patterns [n_rows, n_cols].

    fp32 weights whose low 16 bits are all zero become bf16; a tile that its codec does not make smaller than raw is
    stored raw.
    """
    _layout("tile_encode", codec, dtype)
    if codec in (INT8, INT4):
        raise ValueError(f"[tile_encode] the reference writes lossless tiles only, got codec {codec}")
    if dtype == F32 and not (weights & 0xFFFF).any():
        weights, dtype = (weights >> 16).astype("<u2"), BF16
    raw = _encode_raw(weights, dtype)
    panels = -(-weights.shape[0] // PANEL_ROWS)
    if codec == RAW or (codec == LZ4 and len(raw[0]) > reference_lz4.MAX_RAW_BYTES):
        return raw
    if codec == EXACT or (codec == EXACT12 and dtype != BF16):
        tile = _encode_exact(weights, dtype)
    elif codec == EXACT12:
        columns = np.frombuffer(raw[0], "<u2").reshape(panels, -1, PANEL_ROWS)
        prefix = reference_exact12.encode_panels(columns)
        if prefix is None:
            return raw
        tile = prefix, b"", EXACT12, dtype
    elif codec == LZ4:
        tile = reference_lz4.encode_blocks(raw[0], panels), b"", LZ4, dtype
    else:
        columns = np.frombuffer(raw[0], _LAYOUTS[dtype].item).reshape(panels, -1, PANEL_ROWS)
        tile = reference_dense.encode_panels(columns, dtype, weights.shape[0]), b"", DENSE, dtype
    return tile if len(tile[0]) + len(tile[1]) < len(raw[0]) else raw


def _encode_raw(weights: Patterns, dtype: int) -> EncodedTile:
    n_rows, n_cols = weights.shape
    panels = -(-n_rows // PANEL_ROWS)
    padded = np.zeros((panels * PANEL_ROWS, n_cols), _LAYOUTS[dtype].item)
    padded[:n_rows] = weights
    return padded.reshape(panels, PANEL_ROWS, n_cols).transpose(0, 2, 1).tobytes(), b"", RAW, dtype


def _encode_exact(weights: Patterns, dtype: int) -> EncodedTile:
    layout = _LAYOUTS[dtype]
    n_rows, n_cols = weights.shape
    panels, blocks = -(-n_rows // PANEL_ROWS), -(-n_cols // BLOCK_COLS)
    padded = np.zeros((panels * PANEL_ROWS, blocks * BLOCK_COLS), np.int64)
    padded[:n_rows, :n_cols] = weights
    w = padded.reshape(panels, PANEL_ROWS, blocks, BLOCK_COLS).transpose(0, 2, 3, 1)  # [panel, block, column, row]
    exponent = w >> layout.mantissa_bits & (1 << layout.exponent_bits) - 1
    mantissa = w & (1 << layout.mantissa_bits) - 1

    base = np.array([_window_base(exponent[panel]) for panel in range(panels)])[:, None, None, None]
    distance = exponent - base
    code = np.where((distance >= 1) & (distance <= WINDOW), distance, 0)
    escaped = (code == 0) & ((exponent != 0) | ((mantissa != 0) & (dtype == F16)))
    near = escaped & (distance <= 0) & (distance >= -MAX_NEAR_DISTANCE)
    # Positions ascend column by column, so a running count over the last two axes ranks a block's near escapes.
    rank = near.reshape(panels, blocks, BLOCK_WEIGHTS).cumsum(axis=2).reshape(w.shape)
    near &= rank <= MAX_NEAR_PER_BLOCK
    far = escaped & ~near

    panel_of_far, block_of_far, col_of_far, row_of_far = np.nonzero(far)
    far_entries = (block_of_far * BLOCK_WEIGHTS + col_of_far * PANEL_ROWS + row_of_far) | exponent[far] << 24
    near_places = np.nonzero(near)
    near_entries = (near_places[2] * PANEL_ROWS + near_places[3]) | -distance[near] << 9
    near_counts = near.sum(axis=(2, 3)).astype(np.uint8).tobytes()

    table = np.zeros((_table_bytes(panels) // 16, 4), "<u4")
    table[:panels, 0] = base.reshape(-1)
    table[:panels, 1] = np.bincount(panel_of_far, minlength=panels)
    table[:panels, 2] = near.sum(axis=(1, 2, 3))
    prefix = table.tobytes() + _prefix_planes(w, code, layout) + far_entries.astype("<u4").tobytes()
    padding = b"\0" * (len(near_counts) % 2)
    residual = _residual_planes(mantissa, layout) + near_counts + padding + near_entries.astype("<u2").tobytes()
    return prefix, residual, EXACT, dtype


def _window_base(exponent: NDArray[np.int64]) -> int:
    """The base whose window base+1 .. base+7 holds most weights; the lowest on ties."""
    counts = np.bincount(exponent.reshape(-1), minlength=256).cumsum()
    return int(np.argmax(counts[WINDOW:] - counts[:-WINDOW]))


def _prefix_planes(w: NDArray[np.int64], code: NDArray[np.int64], layout: _Layout) -> bytes:
    nibble = (w >> layout.sign_shift << 3 | code)[..., ROW_OF_BYTE]
    top = (w >> layout.residual_bits & 1)[..., ROW_OF_BYTE]
    pairs = nibble[:, :, 0::2] | nibble[:, :, 1::2] << 4
    bits = (top << np.arange(BLOCK_COLS)[:, None]).sum(axis=2, keepdims=True)
    return np.concatenate([pairs, bits], axis=2).astype(np.uint8).tobytes()


def _residual_planes(mantissa: NDArray[np.int64], layout: _Layout) -> bytes:
    panels, blocks = mantissa.shape[:2]
    n_bytes, rest_bits = divmod(layout.residual_bits, 8)
    low = (mantissa & (1 << layout.residual_bits) - 1)[..., ROW_OF_BYTE]
    whole = (low[:, :, :, None] >> 8 * np.arange(n_bytes)[:, None] & 255).reshape(panels, blocks, -1, 64)
    high = low >> 8 * n_bytes
    if rest_bits == 1:
        rest = (high << np.arange(BLOCK_COLS)[:, None]).sum(axis=2, keepdims=True)
    else:
        groups = high.reshape(panels, blocks, 2, 4, 64)
        fourth = groups[:, :, :, 3:] >> np.array([0, 2, 4])[:, None] & 3
        rest = (groups[:, :, :, :3] | fourth << 6).reshape(panels, blocks, 6, 64)
    return np.concatenate([whole, rest], axis=2).astype(np.uint8).tobytes()
