"""Tiles in device memory: where their bytes lie, whether their structure holds, and the tables that kernels read.

A tile's bytes are two ranges of one uint8 tensor, the arena. A *strip* is one panel (64 rows) of one tile.
csrc/c3/FORMAT.md section 5 specifies the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vortex_engine.kernels.support import interpreted

__all__ = ["DeviceMatrix", "DeviceTile", "EncodedTile", "Strips", "device", "make_strips", "upload_tiles"]

RAW, EXACT, INT8, INT4 = 0, 1, 2, 3
BF16, F16, F32 = 1, 2, 3
ITEM_BYTES = {BF16: 2, F16: 2, F32: 4}
RESIDUAL_BITS = {BF16: 6, F16: 9, F32: 22}
MAX_BASE = {BF16: 248, F16: 24, F32: 248}  # a window of 7 exponents above the base ends inside the dtype
PANEL_ROWS, BLOCK_COLS, BLOCK_WEIGHTS = 64, 8, 512
PREFIX_BLOCK_BYTES = 320
GROUP_COLS = 32  # columns of a row that share a scale
INT_HEADER_BYTES, INT_GROUP_BYTES = 256, {INT8: 2112, INT4: 1152}
ALIGNMENT = 16  # of a range in the arena, bytes: what vector loads of every width need
MAX_COLS = 1 << 18  # far escapes store a position of 24 bits

# Columns of the strip table; decode_block.py reads them by these numbers.
PLANES, REST, NEAR, FAR, STARTS, BASE, COL0, N_COLS, VARIANT, N_FIELDS = range(10)


@dataclass(frozen=True)
class _Tile:
    codec: int
    dtype: int
    row0: int
    n_rows: int
    col0: int
    n_cols: int


@dataclass(frozen=True)
class EncodedTile(_Tile):
    """A tile in host memory: ids of its codec and dtype, its place in the matrix and its bytes."""

    prefix: bytes
    residual: bytes

    def placed(self, prefix_offset: int, residual_offset: int) -> DeviceTile:
        """The tile whose bytes were copied to these places of an arena."""
        place = (self.codec, self.dtype, self.row0, self.n_rows, self.col0, self.n_cols)
        return DeviceTile(*place, prefix_offset, len(self.prefix), residual_offset, len(self.residual))


@dataclass(frozen=True)
class DeviceTile(_Tile):
    """A tile whose prefix and residual lie in an arena; offsets and sizes in bytes, rows and columns of the matrix."""

    prefix_offset: int
    prefix_bytes: int
    residual_offset: int
    residual_bytes: int

    @property
    def n_panels(self) -> int:
        return -(-self.n_rows // PANEL_ROWS)

    @property
    def n_blocks(self) -> int:
        """Blocks of 8 columns in one panel."""
        return -(-self.n_cols // BLOCK_COLS)

    @property
    def variant(self) -> int:
        """Codec and dtype as one number: what a kernel branches on once a strip."""
        return self.codec * 4 + self.dtype


@dataclass(frozen=True)
class Strips:
    """Tables of checked tiles on the arena's device.

    Attributes:
        table: [n_strips, N_FIELDS] int64, tile by tile, panel by panel.
        starts: [n, 2] int32; for each block of each exact tile, where its near and far escapes start in their lists;
            the next row is where they end.
    """

    table: Tensor
    starts: Tensor


def device() -> torch.device:
    """Where kernels run: the current CUDA device, or the CPU under the interpreter."""
    return torch.device("cpu") if interpreted() else torch.device("cuda", torch.cuda.current_device())


def upload_tiles(tiles: Sequence[EncodedTile]) -> tuple[Tensor, list[DeviceTile]]:
    """Copies tiles to one arena on the device."""
    data = bytearray()
    placed: list[DeviceTile] = []
    for tile in tiles:
        offsets: list[int] = []
        for part in (tile.prefix, tile.residual):
            offsets.append(len(data))
            data += part + bytes(-len(part) % ALIGNMENT)
        placed.append(tile.placed(*offsets))
    return torch.from_numpy(np.frombuffer(data or bytearray(1), np.uint8).copy()).to(device()), placed


def make_strips(op: str, arena: Tensor, tiles: Sequence[DeviceTile]) -> Strips:
    """Checks the structure of tiles, as a reader must once, and makes the tables with which kernels read them.

    Copies panel tables and escape lists (a few percent of a tile) to the host.

    Raises:
        ValueError: the bytes do not have the structure that codec, dtype and shape promise.
    """
    _require(op, "the arena must be a contiguous uint8 tensor of one dimension", _is_arena(arena), _describe(arena))
    rows: list[NDArray[np.int64]] = []
    starts: list[NDArray[np.int32]] = []
    n_starts = 0
    for tile in tiles:
        _check_place(op, arena, tile)
        if tile.codec == RAW:
            rows.append(_raw_strips(op, tile))
        elif tile.codec in INT_GROUP_BYTES:
            rows.append(_int_strips(op, arena, tile))
        else:
            strips, tile_starts = _exact_strips(op, arena, tile, n_starts)
            rows.append(strips)
            starts.append(tile_starts)
            n_starts += len(tile_starts)
    table = np.concatenate(rows) if rows else np.zeros((0, N_FIELDS), np.int64)
    all_starts = np.concatenate(starts) if starts else np.zeros((1, 2), np.int32)
    return Strips(torch.from_numpy(table).to(arena.device), torch.from_numpy(all_starts).to(arena.device))


class DeviceMatrix:
    """A matrix [rows, cols] whose tiles lie in device memory, checked and ready for `paged_linear`.

    Args:
        arena: uint8 [n_bytes] on the device; the tiles' bytes must not change while the matrix is used.
        tiles: cover the matrix exactly; a tile has several whole panels and all columns, or one panel and some columns.

    Attributes:
        first_strip: [n_panels + 1] int32; the strips of matrix panel p are first_strip[p] .. first_strip[p + 1] - 1 of
            the table, by rising column.
        variants: bit v is set when a tile has variant v.

    Raises:
        ValueError: a tile is broken, or the tiles do not cover a matrix exactly.
    """

    def __init__(self, arena: Tensor, tiles: Sequence[DeviceTile]) -> None:
        op = "paged_linear"
        _require(op, "a matrix must have at least one tile", len(tiles) > 0, len(tiles))
        strips = make_strips(op, arena, tiles)
        self.arena, self.starts = arena, strips.starts
        self.rows = max(tile.row0 + tile.n_rows for tile in tiles)
        self.cols = max(tile.col0 + tile.n_cols for tile in tiles)
        self.variants = sum({1 << tile.variant for tile in tiles})
        panels = np.concatenate([tile.row0 // PANEL_ROWS + np.arange(tile.n_panels) for tile in tiles])
        table = strips.table.cpu().numpy()
        order = np.lexsort((table[:, COL0], panels))
        self._check_cover(op, tiles, panels[order], table[order])
        first = np.searchsorted(panels[order], np.arange(-(-self.rows // PANEL_ROWS) + 1)).astype(np.int32)
        self.table = torch.from_numpy(np.ascontiguousarray(table[order])).to(arena.device)
        self.first_strip = torch.from_numpy(first).to(arena.device)

    def _check_cover(
        self, op: str, tiles: Sequence[DeviceTile], panels: NDArray[np.int64], table: NDArray[np.int64]
    ) -> None:
        for tile in tiles:
            whole_rows = tile.n_rows % PANEL_ROWS == 0 or tile.row0 + tile.n_rows == self.rows
            whole_cols = tile.n_cols % BLOCK_COLS == 0 or tile.col0 + tile.n_cols == self.cols
            aligned = tile.row0 % PANEL_ROWS == 0 and tile.col0 % BLOCK_COLS == 0
            _require(
                op, "a tile must start and end at whole panels and blocks", aligned and whole_rows and whole_cols, tile
            )
        ends = table[:, COL0] + table[:, N_COLS]
        opens = np.concatenate([[True], panels[1:] != panels[:-1]])
        closes = np.concatenate([opens[1:], [True]])
        wanted = np.where(opens, 0, np.concatenate([[0], ends[:-1]]))
        covered = (table[:, COL0] == wanted).all() and (ends[closes] == self.cols).all()
        every_panel = np.array_equal(panels[opens], np.arange(-(-self.rows // PANEL_ROWS)))
        shape = (self.rows, self.cols)
        _require(op, "the tiles must cover the matrix exactly", bool(covered and every_panel), shape)


def _check_place(op: str, arena: Tensor, tile: DeviceTile) -> None:
    known = (RAW, EXACT, INT8, INT4)
    _require(op, "codec must be 0 (raw), 1 (exact), 2 (int8) or 3 (int4)", tile.codec in known, tile.codec)
    _require(op, "dtype must be 1 (bf16), 2 (f16) or 3 (f32)", tile.dtype in ITEM_BYTES, tile.dtype)
    shape = (tile.n_rows, tile.n_cols)
    good = tile.n_rows >= 1 and 1 <= tile.n_cols <= MAX_COLS and tile.row0 >= 0 and tile.col0 >= 0
    _require(op, f"the shape must be positive with at most {MAX_COLS} columns", good, shape)
    for offset, n_bytes in (
        (tile.prefix_offset, tile.prefix_bytes),
        (tile.residual_offset, tile.residual_bytes),
    ):
        inside = 0 <= n_bytes <= arena.numel() and 0 <= offset <= arena.numel() - n_bytes
        place = f"{n_bytes} bytes at {offset} of {arena.numel()}"
        _require(
            op, f"a range must lie in the arena at a multiple of {ALIGNMENT}", inside and offset % ALIGNMENT == 0, place
        )


def _raw_strips(op: str, tile: DeviceTile) -> NDArray[np.int64]:
    panel_bytes = tile.n_cols * PANEL_ROWS * ITEM_BYTES[tile.dtype]
    _expect_sizes(op, tile, tile.n_panels * panel_bytes, 0)
    strips = _empty_strips(tile)
    strips[:, PLANES] = tile.prefix_offset + np.arange(tile.n_panels) * panel_bytes
    return strips


def _int_strips(op: str, arena: Tensor, tile: DeviceTile) -> NDArray[np.int64]:
    _require(op, "an integer tile must decode to f32 (3)", tile.dtype == F32, tile.dtype)
    _require(op, f"an integer tile must start at a multiple of {GROUP_COLS}", tile.col0 % GROUP_COLS == 0, tile.col0)
    panel_bytes = INT_HEADER_BYTES + -(-tile.n_cols // GROUP_COLS) * INT_GROUP_BYTES[tile.codec]
    _expect_sizes(op, tile, tile.n_panels * panel_bytes, 0)
    prefix = arena[tile.prefix_offset : tile.prefix_offset + tile.prefix_bytes]
    units = _host(prefix.view(tile.n_panels, panel_bytes)[:, :INT_HEADER_BYTES], "<f4")
    valid = bool((np.isfinite(units) & (units >= 0)).all())
    _require(op, "row units must be finite and not negative", valid, [float(units.min()), float(units.max())])
    strips = _empty_strips(tile)
    strips[:, PLANES] = tile.prefix_offset + np.arange(tile.n_panels) * panel_bytes
    return strips


def _exact_strips(
    op: str, arena: Tensor, tile: DeviceTile, first_start: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    panels, blocks = tile.n_panels, tile.n_blocks
    n_blocks = panels * blocks
    table_bytes = -(-panels * 16 // 64) * 64
    far_at = table_bytes + n_blocks * PREFIX_BLOCK_BYTES
    counts_at = n_blocks * RESIDUAL_BITS[tile.dtype] * 64
    near_at = counts_at + n_blocks + n_blocks % 2
    if tile.prefix_bytes < far_at or tile.residual_bytes < near_at:
        _expect_sizes(op, tile, far_at, near_at)
    prefix = arena[tile.prefix_offset : tile.prefix_offset + tile.prefix_bytes]
    residual = arena[tile.residual_offset : tile.residual_offset + tile.residual_bytes]

    panel_table = _host(prefix[: panels * 16], "<u4").reshape(panels, 4).astype(np.int64)
    base, n_far, n_near = panel_table[:, 0], panel_table[:, 1], panel_table[:, 2]
    valid = not (base > MAX_BASE[tile.dtype]).any() and not panel_table[:, 3].any()
    wanted = f"a panel's window base must be from 0 to {MAX_BASE[tile.dtype]} and its last word 0"
    _require(op, wanted, valid, base.tolist())
    _expect_sizes(op, tile, far_at + 4 * int(n_far.sum()), near_at + 2 * int(n_near.sum()))
    counts = _host(residual[counts_at : counts_at + n_blocks], "u1").astype(np.int64)
    add_up = bool((counts.reshape(panels, blocks).sum(1) == n_near).all())
    _require(op, "the near escapes of a panel must add up", add_up, n_near.tolist())

    far = _host(prefix[far_at:], "<u4").astype(np.int64)
    far_place = np.repeat(np.arange(panels), n_far) * (blocks * BLOCK_WEIGHTS) + (far & 0xFFFFFF)
    in_panel = bool(((far & 0xFFFFFF) < blocks * BLOCK_WEIGHTS).all())
    _require(
        op, "far escapes must rise and stay in their panel", in_panel and bool((np.diff(far_place) > 0).all()), len(far)
    )
    near = _host(residual[near_at:], "<u2").astype(np.int64)
    near_place = np.repeat(np.arange(n_blocks), counts) * BLOCK_WEIGHTS + (near & 511)
    # No encoder repeats one; the kernel, which sums one-hot products, would not OR them as the specification does.
    _require(op, "near escapes must not repeat a position", len(np.unique(near_place)) == len(near), len(near))

    strips = _empty_strips(tile)
    panel = np.arange(panels)
    strips[:, PLANES] = tile.prefix_offset + table_bytes + panel * blocks * PREFIX_BLOCK_BYTES
    strips[:, REST] = tile.residual_offset + panel * blocks * RESIDUAL_BITS[tile.dtype] * 64
    strips[:, NEAR] = tile.residual_offset + near_at
    strips[:, FAR] = tile.prefix_offset + far_at
    strips[:, STARTS] = first_start + panel * blocks
    strips[:, BASE] = base
    starts = np.zeros((n_blocks + 1, 2), np.int32)
    starts[1:, 0] = counts.cumsum()
    starts[:, 1] = np.searchsorted(far_place, np.arange(n_blocks + 1) * BLOCK_WEIGHTS)
    return strips, starts


def _empty_strips(tile: DeviceTile) -> NDArray[np.int64]:
    strips = np.zeros((tile.n_panels, N_FIELDS), np.int64)
    strips[:, COL0], strips[:, N_COLS], strips[:, VARIANT] = tile.col0, tile.n_cols, tile.variant
    return strips


def _host(part: Tensor, dtype: str) -> NDArray[Any]:
    return np.frombuffer(part.cpu().numpy().tobytes(), dtype)


def _is_arena(arena: Tensor) -> bool:
    return (
        arena.dtype == torch.uint8 and arena.dim() == 1 and arena.is_contiguous() and arena.data_ptr() % ALIGNMENT == 0
    )


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _expect_sizes(op: str, tile: DeviceTile, prefix_bytes: int, residual_bytes: int) -> None:
    got = f"{tile.prefix_bytes} + {tile.residual_bytes}"
    same = (tile.prefix_bytes, tile.residual_bytes) == (prefix_bytes, residual_bytes)
    _require(op, f"ranges must hold {prefix_bytes} + {residual_bytes} bytes", same, got)


def _require(op: str, rule: str, good: bool, value: object) -> None:
    if not good:
        raise ValueError(f"[{op}] {rule}, got {value}")
